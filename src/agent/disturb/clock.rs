//! Jumps of the guest's wall clock.

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

const NANOSECONDS: i128 = 1_000_000_000;

/// Lets it jump by so many milliseconds.
pub fn shift(milliseconds: i64) -> Result<String, String> {
    let now = clock_gettime(ClockId::Realtime);
    let now = i128::from(now.tv_sec) * NANOSECONDS + i128::from(now.tv_nsec);
    jump(now + i128::from(milliseconds) * 1_000_000)
}

/// Sets it to so many milliseconds since 1970.
pub fn set(milliseconds: i64) -> Result<String, String> {
    jump(i128::from(milliseconds) * 1_000_000)
}

fn jump(nanoseconds: i128) -> Result<String, String> {
    let seconds = i64::try_from(nanoseconds.div_euclid(NANOSECONDS)).map_err(|_| "that is no time".to_owned())?;
    // Less than a thousand million: it fits.
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.rem_euclid(NANOSECONDS) as i64 };
    clock_settime(ClockId::Realtime, time).map_err(|error| format!("failed to set the clock: {error}"))?;
    Ok(String::new())
}
