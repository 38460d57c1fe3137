//! The process that holds one domain: it creates it, hears of it, and drives it for the run.
//!
//! libvirt ends a domain that was created with `VIR_DOMAIN_START_AUTODESTROY` when the connection goes that created it. That
//! is this process's: the machine's keeper ends it with the run, and the kernel with the keeper. A machine that is kept has
//! its keeper and its holder still. When libvirt itself goes away, what it leaves running is ended here, where it can be.

use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::net::unix::OwnedWriteHalf;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::sys;

use super::events;
use super::protocol::{Order, Outcome, Said};

/// A daemon that says nothing for so long is gone: seconds between questions, and how many may stay unanswered.
const KEEP_ALIVE: (i32, u32) = (10, 6);

/// Runs the holder on a listening socket that it inherited, until its domain is gone.
pub fn main(socket: RawFd) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let held = runtime.and_then(|runtime| {
        let held = runtime.block_on(hold(socket));
        // A call that libvirt never answers must not keep this process.
        runtime.shutdown_background();
        held
    });
    match held {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The domain, and QEMU's process where that is on this host.
struct Held {
    domain: Domain,
    process: Option<OwnedFd>,
    // What the domain is held by.
    connection: Connect,
}

async fn hold(socket: RawFd) -> io::Result<()> {
    let mut termination = signal(SignalKind::terminate())?;
    // SAFETY: the keeper gave this descriptor for this purpose, and nothing else in this process knows of it.
    let listener = unsafe { std::os::unix::net::UnixListener::from_raw_fd(socket) };
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let stream = tokio::select! {
        stream = listener.accept() => stream?.0,
        _ = termination.recv() => return Ok(()),
    };
    let (from_run, mut to_run) = stream.into_split();
    let mut from_run = BufReader::new(from_run).lines();
    let Some(line) = from_run.next_line().await? else { return Ok(()) };
    let Order::Start { uri, xml, local } = serde_json::from_str(&line)? else {
        return Err(io::Error::other("the first order is not the domain's start"));
    };
    let (sender, mut happened) = mpsc::unbounded_channel();
    let started = blocking(move || start(&uri, &xml, local, sender)).await?;
    let (held, outcome) = match started {
        Ok(started) => started,
        Err(message) => {
            say(&mut to_run, &Said::Answer(Err(message.clone()))).await;
            return Err(io::Error::other(message));
        }
    };
    let held = std::sync::Arc::new(held);
    say(&mut to_run, &Said::Answer(Ok(outcome))).await;
    let mut run_is_there = true;
    loop {
        tokio::select! {
            said = happened.recv() => {
                // The callbacks hold the other end for as long as this process lives.
                let Some(said) = said else { return Ok(()) };
                if matches!(said, Said::ConnectionLost { .. }) {
                    held.end_process();
                }
                say(&mut to_run, &said).await;
                match said {
                    Said::Stopped { .. } => return Ok(()),
                    Said::ConnectionLost { reason } => return Err(io::Error::other(reason)),
                    _ => {}
                }
            }
            line = from_run.next_line(), if run_is_there => match line {
                Ok(Some(line)) => {
                    let order: Order = serde_json::from_str(&line)?;
                    let held = held.clone();
                    let answer = blocking(move || held.obey(order)).await?;
                    say(&mut to_run, &Said::Answer(answer)).await;
                }
                // Whether the machine goes on without its run is the keeper's to say.
                Ok(None) | Err(_) => run_is_there = false,
            },
            _ = termination.recv() => {
                let held = held.clone();
                // Its end is told by libvirt, as any other.
                if let Err(message) = blocking(move || held.obey(Order::Destroy {})).await? {
                    return Err(io::Error::other(message));
                }
            }
        }
    }
}

async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(call).await.map_err(io::Error::other)
}

/// The run may be gone: then nobody hears it, and that is no reason to fail.
async fn say(to_run: &mut OwnedWriteHalf, said: &Said) {
    let mut line = serde_json::to_vec(said).expect("what is said is plain data");
    line.push(b'\n');
    let _ = to_run.write_all(&line).await;
}

fn start(uri: &str, xml: &str, local: bool, happened: mpsc::UnboundedSender<Said>) -> Result<(Held, Outcome), String> {
    events::start().map_err(|error| message(&error))?;
    let connection = Connect::open(Some(uri)).map_err(|error| message(&error))?;
    // A driver that is in this process has nobody to keep alive.
    let _ = connection.set_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1);
    events::hear_of_loss(&connection, happened.clone())?;
    let flags = sys::VIR_DOMAIN_START_PAUSED | sys::VIR_DOMAIN_START_AUTODESTROY;
    let domain = Domain::create_xml(&connection, xml, flags).map_err(|error| message(&error))?;
    // Its processors stand still: nothing has happened yet that could be missed.
    events::hear_of_domain(&connection, &domain, happened)?;
    let uuid = domain.get_uuid_string().map_err(|error| message(&error))?;
    let (pid, command_line) = match local.then(|| find_qemu(&uuid)).flatten() {
        Some((pid, command_line)) => (Some(pid), command_line),
        None => (None, Vec::new()),
    };
    let process = pid.and_then(|pid| {
        let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
        pidfd_open(pid, PidfdFlags::empty()).ok()
    });
    if !domain.is_active().map_err(|error| message(&error))? {
        return Err("the domain ended as soon as it was created".into());
    }
    Ok((Held { domain, process, connection }, Outcome::Started { pid, command_line }))
}

/// QEMU's process and command line: the one that was given the domain's UUID.
fn find_qemu(uuid: &str) -> Option<(u32, Vec<String>)> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let bytes = fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<String> =
            bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        let given = words.windows(2).any(|pair| pair[0] == "-uuid" && pair[1] == uuid);
        let count = words.len().saturating_sub(1);
        given.then(|| (pid, words.into_iter().take(count).collect()))
    })
}

impl Held {
    fn obey(&self, order: Order) -> Result<Outcome, String> {
        let domain = &self.domain;
        let done = match order {
            Order::Start { .. } => return Err("the domain was started already".into()),
            Order::Resume {} => domain.resume().map(drop),
            Order::Pause {} => domain.suspend().map(drop),
            Order::Reset {} => domain.reset().map(drop),
            Order::PressPowerButton {} => domain.shutdown_flags(sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN).map(drop),
            Order::Destroy {} => domain.destroy(),
            Order::Throttle { device, bytes_per_second } => return throttle(domain, &device, bytes_per_second),
            Order::Monitor { line } => {
                let text = domain.qemu_monitor_command(&line, sys::VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP);
                return text.map(|text| Outcome::Text { text }).map_err(|error| message(&error));
            }
        };
        done.map(|()| Outcome::Done {}).map_err(|error| message(&error))
    }

    /// Ends what libvirt, which is gone, has left running; returns when it has ended.
    fn end_process(&self) {
        let Some(process) = &self.process else { return };
        if pidfd_send_signal(process, Signal::KILL).is_ok() {
            while poll(&mut [PollFd::new(process, PollFlags::IN)], None) == Err(rustix::io::Errno::INTR) {}
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Ends the domain, if it is still there.
        let _ = self.connection.close();
    }
}

/// Of reads and writes each, as under QEMU.
fn throttle(domain: &Domain, device: &str, bytes_per_second: u64) -> Result<Outcome, String> {
    let device = std::ffi::CString::new(device).map_err(|error| error.to_string())?;
    let mut parameters = std::ptr::null_mut();
    let (mut count, mut room) = (0, 0);
    let mut failed = false;
    for name in [sys::VIR_DOMAIN_BLOCK_IOTUNE_READ_BYTES_SEC, sys::VIR_DOMAIN_BLOCK_IOTUNE_WRITE_BYTES_SEC] {
        // SAFETY: libvirt owns the array that it makes and grows; the name is a constant of its own.
        let added = unsafe {
            sys::virTypedParamsAddULLong(&mut parameters, &mut count, &mut room, name.as_ptr(), bytes_per_second)
        };
        failed |= added < 0;
    }
    // SAFETY: the domain lives as long as the call, and the array is the one that was just made.
    let set = unsafe {
        let set = if failed {
            -1
        } else {
            sys::virDomainSetBlockIoTune(domain.as_ptr(), device.as_ptr(), parameters, count, 0)
        };
        sys::virTypedParamsFree(parameters, count);
        set
    };
    if set < 0 { Err(message(&virt::error::Error::last_error())) } else { Ok(Outcome::Done {}) }
}

pub(super) fn message(error: &virt::error::Error) -> String {
    error.message().trim().to_owned()
}
