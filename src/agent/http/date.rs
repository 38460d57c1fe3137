//! Points in time as protocols write them, in seconds since 1970.

/// `Sun, 06 Nov 1994 08:49:37 GMT`: the header `Date`.
pub fn of_header(text: &str) -> Option<i64> {
    let mut words = text.split_once(", ")?.1.split(' ');
    let day: i64 = words.next()?.parse().ok()?;
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let name = words.next()?;
    let month = i64::try_from(months.iter().position(|month| *month == name)?).ok()? + 1;
    let year: i64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    (words.next()? == "GMT").then_some(())?;
    seconds(year, month, day, hour, minute, second)
}

/// `YYMMDDHHMMSSZ`, or with four digits of the year: certificates.
pub fn of_certificate(text: &str, four_digits: bool) -> Option<i64> {
    let digits = text.strip_suffix('Z')?;
    let (year, rest) = digits.split_at_checked(if four_digits { 4 } else { 2 })?;
    let year: i64 = year.parse().ok()?;
    let year = match four_digits {
        true => year,
        false if year < 50 => 2000 + year,
        false => 1900 + year,
    };
    let part = |index: usize| rest.get(index * 2..index * 2 + 2)?.parse::<i64>().ok();
    seconds(year, part(0)?, part(1)?, part(2)?, part(3)?, part(4)?)
}

fn seconds(year: i64, month: i64, day: i64, hour: i64, minute: i64, second: i64) -> Option<i64> {
    let plausible = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second)
        && (1900..=9999).contains(&year);
    // Days since 1970 of the proleptic Gregorian calendar, with years that begin in March.
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    plausible.then_some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_each_form() {
        assert_eq!(of_header("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(of_header("Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800));
        assert_eq!(of_header("yesterday"), None);
        assert_eq!(of_certificate("700101000000Z", false), Some(0));
        assert_eq!(of_certificate("491231235959Z", false), Some(2_524_607_999));
        assert_eq!(of_certificate("20500101000000Z", true), Some(2_524_608_000));
        assert_eq!(of_certificate("20501301000000Z", true), None);
    }
}
