//! QMP: the `qapi` crate speaks it; this keeps a record of every line and shields the crate from events that it does not
//! know yet, which would end its stream.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use futures_util::StreamExt;
use qapi::futures::{QapiService, QmpStreamTokio};
use qapi::qmp::{self, Event};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, ReadHalf, WriteHalf};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::plug::Plug;
use crate::error::{Context, Error, Result};

type Service = QapiService<QmpStreamTokio<WriteHalf<DuplexStream>>>;

/// A QMP session. Events arrive on the receiver that `connect` gives; it ends when QEMU's side is closed.
pub struct Qmp {
    service: Service,
}

impl Qmp {
    /// Negotiates over a connected monitor socket; every line in either direction is appended to `record`.
    pub async fn connect(stream: UnixStream, record: &Path) -> Result<(Self, mpsc::UnboundedReceiver<Event>)> {
        let record = File::options().create(true).append(true).open(record);
        let record = record.infrastructure(|| "failed to open the QMP record".into())?;
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        tokio::spawn(carry(stream, theirs, record));
        let (read, write) = tokio::io::split(ours);
        let negotiation = QmpStreamTokio::<ReadHalf<DuplexStream>>::open_split(read, write)
            .await
            .infrastructure(|| "failed to hear QEMU's monitor".into())?;
        // Without out-of-band commands answers come in order, whatever the version.
        let stream =
            negotiation.negotiate().await.infrastructure(|| "failed to negotiate with QEMU's monitor".into())?;
        let (service, mut events) = stream.into_parts();
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(event)) = events.next().await {
                if sender.send(event).is_err() {
                    // Nobody listens; the stream still has to be driven for the answers.
                    while events.next().await.is_some() {}
                }
            }
        });
        Ok((Self { service }, receiver))
    }

    /// Lets the guest run.
    pub async fn resume(&self) -> Result<()> {
        self.service.execute(qmp::cont {}).await.map(drop).map_err(|error| failed("cont", error))
    }

    /// Presses the power button.
    pub async fn press_power_button(&self) -> Result<()> {
        self.service
            .execute(qmp::system_powerdown {})
            .await
            .map(drop)
            .map_err(|error| failed("system_powerdown", error))
    }

    /// Pulls the reset line.
    pub async fn reset(&self) -> Result<()> {
        self.service.execute(qmp::system_reset {}).await.map(drop).map_err(|error| failed("system_reset", error))
    }

    /// Stops the guest's processors and clocks.
    pub async fn pause(&self) -> Result<()> {
        self.service.execute(qmp::stop {}).await.map(drop).map_err(|error| failed("stop", error))
    }

    /// Gives a device another place in the boot order, from the next reset on.
    pub async fn set_boot_index(&self, device: &str, index: usize) -> Result<()> {
        let command = qmp::qom_set {
            path: format!("/machine/peripheral/{device}"),
            property: "bootindex".into(),
            value: index.into(),
        };
        self.service.execute(command).await.map(drop).map_err(|error| failed("qom-set", error))
    }

    /// Bounds what goes through a disk, in bytes per second of reads and writes each; 0 for no bound.
    pub async fn throttle(&self, device: &str, bytes_per_second: u64) -> Result<()> {
        let rate = i64::try_from(bytes_per_second).unwrap_or(i64::MAX);
        let none = None;
        #[allow(deprecated, reason = "it has to be given, as absent")]
        let command = qmp::block_set_io_throttle(qmp::BlockIOThrottle {
            device: None,
            id: Some(device.into()),
            bps: 0,
            bps_rd: rate,
            bps_wr: rate,
            iops: 0,
            iops_rd: 0,
            iops_wr: 0,
            bps_max: none,
            bps_max_length: none,
            bps_rd_max: none,
            bps_rd_max_length: none,
            bps_wr_max: none,
            bps_wr_max_length: none,
            group: None,
            iops_max: none,
            iops_max_length: none,
            iops_rd_max: none,
            iops_rd_max_length: none,
            iops_size: none,
            iops_wr_max: none,
            iops_wr_max_length: none,
        });
        self.service.execute(command).await.map(drop).map_err(|error| failed("block_set_io_throttle", error))
    }

    /// Prepares for saving or loading. `memory_is_shared`: the memory is a file already, and not saved a second time.
    pub async fn prepare_migration(&self, memory_is_shared: bool) -> Result<()> {
        let capability = |capability, state| qmp::MigrationCapabilityStatus { capability, state };
        let command = qmp::migrate_set_capabilities {
            capabilities: vec![
                capability(qmp::MigrationCapability::events, true),
                capability(qmp::MigrationCapability::x_ignore_shared, memory_is_shared),
            ],
        };
        let answer = self.service.execute(command).await;
        answer.map(drop).map_err(|error| failed("migrate-set-capabilities", error))
    }

    /// Begins to send the machine's state to whoever listens on that socket.
    pub async fn migrate(&self, socket: &Path) -> Result<()> {
        let uri = Some(format!("unix:{}", socket.display()));
        let command = qmp::migrate { channels: None, detach: None, resume: None, uri };
        self.service.execute(command).await.map(drop).map_err(|error| failed("migrate", error))
    }

    /// Begins to listen on that socket for a machine's state.
    pub async fn migrate_incoming(&self, socket: &Path) -> Result<()> {
        let uri = Some(format!("unix:{}", socket.display()));
        let command = qmp::migrate_incoming { channels: None, exit_on_error: None, uri };
        self.service.execute(command).await.map(drop).map_err(|error| failed("migrate-incoming", error))
    }

    /// Why saving or loading failed, in QEMU's words.
    pub async fn migration_error(&self) -> Option<String> {
        self.service.execute(qmp::query_migrate {}).await.ok()?.error_desc
    }

    /// Plugs something in.
    pub async fn plug(&self, plug: &Plug) -> Result<()> {
        let (what, answer) = match plug {
            Plug::Network(options) => {
                ("netdev_add", self.service.execute(read::<qmp::netdev_add>(options)?).await.map(drop))
            }
            Plug::Disk(options) => {
                ("blockdev-add", self.service.execute(read::<qmp::blockdev_add>(options)?).await.map(drop))
            }
            Plug::Device(options) => {
                ("device_add", self.service.execute(read::<qmp::device_add>(options)?).await.map(drop))
            }
        };
        answer.map_err(|error| failed(what, error))
    }

    /// The host ports that QEMU picked: (guest port, host port).
    pub async fn forwards(&self) -> Result<Vec<(u16, u16)>> {
        let command = qmp::human_monitor_command { command_line: "info usernet".into(), cpu_index: None };
        let table = self.service.execute(command).await.map_err(|error| failed("info usernet", error))?;
        Ok(parse_forwards(&table))
    }
}

/// As the crate has the command.
fn read<C: serde::de::DeserializeOwned>(options: &serde_json::Value) -> Result<C> {
    C::deserialize(options).infrastructure(|| format!("failed to put `{options}` as QMP has it"))
}

fn failed(command: &str, error: qapi::ExecuteError) -> Error {
    Error::infrastructure(format!("QEMU refused `{command}`")).with_source(error.to_string())
}

/// The host ports that QEMU picked, from what `info usernet` says: (guest port, host port).
///
/// Rows look like `  TCP[HOST_FORWARD]  13  127.0.0.1 35529  10.0.2.15  22  0  0`.
pub fn parse_forwards(table: &str) -> Vec<(u16, u16)> {
    table
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["TCP[HOST_FORWARD]", _, _, host_port, _, guest_port, ..] => {
                    Some((guest_port.parse().ok()?, host_port.parse().ok()?))
                }
                _ => None,
            }
        })
        .collect()
}

/// Carries lines between QEMU and the crate, writing each down.
async fn carry(qemu: UnixStream, crate_side: DuplexStream, mut record: File) {
    let (from_qemu, mut to_qemu) = qemu.into_split();
    let (from_crate, mut to_crate) = tokio::io::split(crate_side);
    let mut from_qemu = BufReader::new(from_qemu).lines();
    let mut from_crate = BufReader::new(from_crate).lines();
    let mut crate_speaks = true;
    loop {
        let alive = tokio::select! {
            line = from_qemu.next_line() => match line {
                Ok(Some(line)) => {
                    write_down(&mut record, "qemu", &line);
                    !is_understood(&line) || send(&mut to_crate, &line).await
                }
                Ok(None) | Err(_) => false,
            },
            line = from_crate.next_line(), if crate_speaks => match line {
                Ok(Some(line)) => {
                    write_down(&mut record, "bootproof", &line);
                    send(&mut to_qemu, &line).await
                }
                Ok(None) | Err(_) => {
                    crate_speaks = false;
                    true
                }
            },
        };
        if !alive {
            return;
        }
    }
}

async fn send(stream: &mut (impl AsyncWriteExt + Unpin), line: &str) -> bool {
    let mut bytes = line.as_bytes().to_vec();
    bytes.push(b'\n');
    stream.write_all(&bytes).await.is_ok()
}

/// The record is evidence of how we drove QEMU; the verdict does not stand on it, so a failure to write is no failure.
fn write_down(record: &mut File, from: &str, line: &str) {
    let at = jiff::Timestamp::now();
    let entry = format!("{{\"at\":\"{at:.6}\",\"from\":\"{from}\",\"message\":{line}}}\n");
    let _ = record.write_all(entry.as_bytes());
}

/// False for an event that this version of the crate cannot read.
fn is_understood(line: &str) -> bool {
    !line.contains("\"event\"")
        || serde_json::from_str::<serde_json::Value>(line)
            .is_ok_and(|value| value.get("event").is_none() || serde_json::from_value::<Event>(value).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_read_back_from_the_table() {
        let table = "Hub -1 (lan):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  TCP[HOST_FORWARD]  13       127.0.0.1 35529       10.0.2.15    22     0     0\r\n  UDP[236 sec]  50  10.0.2.15 68 10.0.2.2 67 0 0\r\n";
        assert_eq!(parse_forwards(table), [(22, 35529)]);
    }

    #[test]
    fn an_unknown_event_is_kept_from_the_crate() {
        assert!(is_understood(r#"{"return": {"event": 1}}"#));
        assert!(is_understood(r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}"#));
        assert!(!is_understood(r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "FROM_THE_FUTURE"}"#));
    }
}
