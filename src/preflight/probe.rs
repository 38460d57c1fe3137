//! Booting a probe guest under KVM.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::lane::model::{ConsoleDevice, Firmware, Network};
use crate::lane::units::Size;
use crate::machine::qemu::{self, DirectKernel, ProcessPlace, QemuDefinition, QemuProcess};
use crate::machine::registry::{MachineRecord, RECORD_VERSION};
use crate::machine::{FirstBoot, RunFolders};
use crate::plan::model::Accelerator;

/// How long a probe guest may take. A guest that works is there in well under a second; one that hangs never is.
pub const PROBE_BOUND: Duration = Duration::from_secs(10);

/// The kernel and initramfs that a probe boots: those of the `tiny` image.
pub struct ProbeGuest {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
}

/// Boots the guest; what happened, or why it counts as not working.
pub async fn boot_under_kvm(work_root: &Path, guest: &ProbeGuest) -> Result<String, String> {
    let run = format!("probe-{}", std::process::id());
    let folders = RunFolders::create(work_root, &run).map_err(|error| error.chain())?;
    let outcome = boot_in(&folders, &run, work_root, guest).await;
    folders.remove(false);
    outcome
}

async fn boot_in(folders: &RunFolders, run: &str, work_root: &Path, guest: &ProbeGuest) -> Result<String, String> {
    let definition = QemuDefinition {
        name: "kvm-probe".into(),
        accelerator: Accelerator::Kvm,
        cpus: 1,
        memory: Size::mebibytes(256),
        firmware: Firmware::Bios,
        uefi: None,
        direct_kernel: Some(DirectKernel {
            kernel: guest.kernel.clone(),
            initramfs: guest.initramfs.clone(),
            parameters: Vec::new(),
        }),
        disks: Vec::new(),
        medium: None,
        identity: qemu::Identity::default(),
        clock: None,
        links: Vec::new(),
        network: Network { none: true, ..Network::default() },
        line: None,
        guest_agent: false,
        shares: Vec::new(),
        console: ConsoleDevice::Serial,
        relay: PathBuf::new(),
        pluggable: false,
        memory_file: None,
    };
    let place = ProcessPlace {
        runtime: folders.runtime().into(),
        evidence: folders.scratch().join("evidence"),
        record_path: crate::machine::registry::folder(work_root).join(format!("{run}.json")),
        record: MachineRecord {
            version: RECORD_VERSION,
            run: "probe".into(),
            lane: "probe".into(),
            machine: "kvm-probe".into(),
            keeper_pid: 0,
            qemu_pid: 0,
            started: crate::event::wall_clock(),
            memory: definition.memory.bytes(),
            control: folders.runtime().join("keeper.sock"),
            kept: false,
            evidence: folders.scratch().join("evidence"),
            console: folders.runtime().join("console.sock"),
            forwards: Vec::new(),
            ssh: None,
        },
        run_folder: folders.scratch().into(),
    };
    let began = Instant::now();
    let started = QemuProcess::start(&qemu::program(), &definition, FirstBoot::Disk, &place).await;
    // An abort at once is the most common way of not working: QEMU's own last words say more than ours.
    let mut process = started.map_err(|error| if place.stderr().exists() { died(&place) } else { error.chain() })?;
    process.qmp.resume().await.map_err(|error| error.chain())?;
    let console = process.console.try_clone().map_err(|error| error.to_string())?;
    // Ends with the first marker, or with QEMU: the socket is closed then.
    let marker = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(console).split(b'\n');
        lines.any(|line| line.is_ok_and(|line| line.windows(21).any(|part| part == b"BOOTPROOF_MARKER boot")))
    });
    let outcome = tokio::select! {
        seen = marker => match seen {
            Ok(true) => Ok(format!("a probe guest booted under KVM in {} ms", began.elapsed().as_millis())),
            Ok(false) | Err(_) => Err(died(&place)),
        },
        _ = process.keeper.exited() => Err(died(&place)),
        () = tokio::time::sleep(PROBE_BOUND) => {
            Err(format!("`/dev/kvm` opens, but a probe guest did not reach its first marker within {} s", PROBE_BOUND.as_secs()))
        }
    };
    process.keeper.kill().await;
    process.keeper.exited().await;
    outcome
}

fn died(place: &ProcessPlace) -> String {
    let said = std::fs::read_to_string(place.stderr()).unwrap_or_default();
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing");
    format!("`/dev/kvm` opens, but QEMU ended under it and said `{last}`")
}
