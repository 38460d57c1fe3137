//! The installer: from a machine with nothing on its disks to one that boots a system of its own.
//!
//! It runs in a live system when the kernel's command line has `bootproof.deployer_url`. Each step says on the console what it
//! did, as a marker, only once it has happened. What always holds:
//! - No disk but the one that the plan means is ever opened for writing, and that one only if it is empty, or the plan says
//!   `wipe`, or the installation that was begun on it is our own.
//! - Nothing of a bundle is used before its digest was found right.
//! - The disk does not boot before everything is on it: a machine whose power is cut boots the medium again and begins anew.
//! - No token and no credential is printed, or put on a command line.

mod addresses;
mod disks;
mod layout;
pub(super) mod machine;
mod mark;
mod nixos;
pub(super) mod parameters;
mod root;
mod runner;
mod system;

use std::path::Path;

use parameters::Parameters;
use runner::{Runner, System};

use super::configuration::AgentConfiguration;
use super::deployer::{self, Deployer, Refusal, Token, report};
use super::http::{Client, Request, Trust};
use super::kernel_parameters::KernelParameters;
use super::marker::MarkerJournal;
use super::say;
use crate::provisioning::{Bundle, InstallMethod, InstallPlan, NodeEvent, PhoneHome, Stage, VERSION};

const CA_LIMIT: u64 = 1 << 20;

/// Why there is no installation.
enum End {
    Refused(Refusal),
    /// What was being done, and why that failed.
    Failed(&'static str, String),
}

/// Adds what was being done.
trait During<T> {
    fn during(self, what: &'static str) -> Result<T, End>;
}

impl<T> During<T> for Result<T, String> {
    fn during(self, what: &'static str) -> Result<T, End> {
        self.map_err(|reason| End::Failed(what, reason))
    }
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Whether the kernel's command line asks for it.
pub fn is_wanted(parameters: &KernelParameters) -> bool {
    parameters.value("bootproof.deployer_url").is_some()
}

/// Installs, and reboots; comes back only when that came to nothing, which it has said by then.
pub fn run() -> Result<u8, String> {
    let kernel_parameters = KernelParameters::read();
    let mut installer = Installer { markers: MarkerJournal::of_this_boot(), node: None, work: None };
    let parameters = match Parameters::read(&kernel_parameters) {
        None => return Err("there is nothing to install from: the kernel has no `bootproof.deployer_url`".into()),
        Some(parameters) => parameters,
    };
    installer.mark("pre-install.boot", &[]);
    let off_on_failure = parameters.as_ref().is_ok_and(|parameters| parameters.off_on_failure);
    let end = match parameters {
        Err(reason) => End::Failed("parameters", reason),
        Ok(parameters) => {
            match installer.install(&parameters, kernel_parameters.value("bootproof.network").is_some()) {
                Ok(()) => return reboot(rustix::system::RebootCommand::Restart, &installer.markers),
                Err(end) => end,
            }
        }
    };
    installer.tell(&end);
    if off_on_failure {
        return reboot(rustix::system::RebootCommand::PowerOff, &installer.markers);
    }
    say("the machine stays up, so that it can be looked at");
    Ok(1)
}

fn reboot(how: rustix::system::RebootCommand, markers: &MarkerJournal) -> Result<u8, String> {
    rustix::fs::sync();
    markers.drain();
    rustix::system::reboot(how).map_err(|error| format!("failed to leave the live system: {error}"))?;
    Ok(0)
}

struct Installer {
    markers: MarkerJournal,
    /// As the deployer calls it.
    node: Option<String>,
    /// The deployer and the credential for it, once there is one.
    work: Option<(Deployer, Token)>,
}

impl Installer {
    fn mark(&self, name: &str, arguments: &[(String, String)]) {
        // What the lane calls the machine wins over what the deployer does.
        let node = if self.markers.has_node() { None } else { self.node.as_deref() };
        if let Err(error) = self.markers.emit(name, node, arguments) {
            say(&format!("failed to emit the marker `{name}`: {error}"));
        }
    }

    fn tell(&self, end: &End) {
        match end {
            End::Refused(refusal) => {
                say(&format!("install.refused: {refusal}"));
                let arguments =
                    [("code".to_owned(), refusal.code.clone()), ("status".to_owned(), refusal.status.to_string())];
                self.mark("install.refused", &arguments);
            }
            End::Failed(during, reason) => {
                say(&format!("install.failed: {during}: {reason}"));
                if let Some((deployer, credential)) = &self.work {
                    let event = NodeEvent::Failed { during: (*during).into(), reason: reason.clone() };
                    if let Err(reason) = deployer.report_last(&report(&identifier("failed"), event), credential) {
                        say(&format!("failed to tell the deployer: {reason}"));
                    }
                }
                let reason: String = reason.chars().take(300).collect();
                self.mark("install.failed", &[("during".into(), (*during).into()), ("reason".into(), reason)]);
            }
        }
    }

    fn report(&self, name: &str, event: NodeEvent) -> Result<(), End> {
        match &self.work {
            Some((deployer, credential)) => Ok(deployer.report(&report(&identifier(name), event), credential)?),
            None => Ok(()),
        }
    }

    fn install(&mut self, parameters: &Parameters, addresses_given: bool) -> Result<(), End> {
        let runner = &System;
        let root = Path::new("/");
        name_devices(runner).during("device-names")?;
        addresses::wait_for_one(root, addresses_given).during("network")?;
        let trust = trust(parameters).during("ca-certificate")?;
        let ca_certificate = trust.pem().map(str::to_owned);
        let deployer = Deployer { client: Client::new(trust, say), url: parameters.deployer.clone(), say };
        let disks = disks::find(root, runner).during("disks")?;
        let message = PhoneHome {
            version: VERSION,
            identity: machine::identity(root, parameters.node_id.clone()),
            stage: Stage::Installer,
            firmware: machine::firmware(root),
            hostname: parameters.hostname.clone(),
            disks: disks.iter().map(|found| found.disk.clone()).collect(),
            memory: machine::memory(root).0,
            agent_version: env!("CARGO_PKG_VERSION").into(),
        };
        let (node, assignment) = deployer.phone_home(&message, parameters.bootstrap_token.as_ref())?;
        self.node = Some(node.clone());
        let plan = assignment.plan;
        self.mark("pre-install.phone-home.complete", &[("class".into(), plan.class.clone())]);
        let credential = Token::new(assignment.credential.clone());
        self.work = Some((deployer, credential));
        let configuration = AgentConfiguration {
            version: 1,
            deployer_url: parameters.deployer_text.clone(),
            ca_certificate,
            credential: assignment.credential,
            node,
            binary_cache: plan.binary_cache.clone().or_else(|| parameters.binary_cache.clone()),
        };
        if plan.method == (InstallMethod::Existing {}) {
            let reason =
                "the plan is for a machine that has its system already, and this one boots a medium".to_owned();
            return Err(End::Failed("method", reason));
        }
        // Before anything is fetched: a disk that will not do is told at once.
        let disk = disks::choose(&disks, &plan.disk, plan.wipe).during("disk-selection")?;
        match &plan.method {
            // Told above.
            InstallMethod::Existing {} => {}
            InstallMethod::Tree { system } => {
                self.fetch(system)?;
                layout::begin(disk, &plan).during("disk-layout")?;
                self.mark("install.disk-layout.begun", &[disk_argument(disk), found_argument(disk)].concat());
                let layout = layout::lay_out(runner, disk, &plan, random_uuid()).during("disk-layout")?;
                self.mark("install.disk-layout.complete", &disk_argument(disk));
                self.report("disk-layout", NodeEvent::DiskLayoutComplete)?;
                layout::mount(runner, &layout).during("mount")?;
                system::unpack(runner, &system::bundle_path()).during("unpack")?;
                let _ = std::fs::remove_file(system::bundle_path());
                let target = Path::new(layout::TARGET);
                system::configure(target, &plan, &layout, &configuration).during("configure")?;
                let inherited = self.inherited(parameters, &plan);
                system::make_bootable(runner, target, &plan, &layout, &inherited).during("boot-loader")?;
                layout::unmount(runner).during("unmount")?;
            }
            InstallMethod::Nixos { configuration: flake, attribute } => {
                nixos::is_possible(runner).during("method")?;
                self.fetch(flake)?;
                nixos::unpack(runner, &system::bundle_path()).during("unpack")?;
                nixos::lay_out(runner, attribute, &disk.device).during("disko")?;
                self.mark("install.disk-layout.complete", &disk_argument(disk));
                self.report("disk-layout", NodeEvent::DiskLayoutComplete)?;
                nixos::install(runner, attribute, configuration.binary_cache.as_deref()).during("nixos-install")?;
                let text = serde_json::to_string_pretty(&configuration).map_err(|error| error.to_string());
                root::Root::open(Path::new(layout::TARGET))
                    .and_then(|root| root.write(super::configuration::CONFIGURATION, text?.as_bytes(), 0o600))
                    .during("configure")?;
                layout::unmount(runner).during("unmount")?;
            }
        }
        self.mark("install.system.complete", &[]);
        // The system is there, whoever hears of it: its own agent tells it again.
        if let Some((deployer, credential)) = &self.work
            && let Err(reason) =
                deployer.report_last(&report(&identifier("system-installed"), NodeEvent::SystemInstalled), credential)
        {
            say(&format!("failed to tell the deployer that the system is installed: {reason}"));
        }
        self.mark("reboot", &[]);
        Ok(())
    }

    fn fetch(&self, bundle: &Bundle) -> Result<(), End> {
        let (_, available) = machine::memory(Path::new("/"));
        if bundle.size >= available {
            let reason = format!(
                "the bundle has {} MiB, and {} MiB of memory are free: the machine cannot hold it",
                bundle.size >> 20,
                available >> 20
            );
            return Err(End::Failed("download", reason));
        }
        if let Some((deployer, credential)) = &self.work {
            deployer.download(bundle, &system::bundle_path(), credential, None)?.during("download")?;
        }
        self.mark("install.bundle-downloaded", &[("bytes".into(), bundle.size.to_string())]);
        self.report("bundle-downloaded", NodeEvent::BundleDownloaded)
    }

    fn inherited(&self, parameters: &Parameters, plan: &InstallPlan) -> Vec<String> {
        let node = self.markers.node().unwrap_or(&plan.hostname);
        let mut inherited = parameters.inherited.clone();
        inherited.push(format!("bootproof.node={node}"));
        inherited
    }
}

fn disk_argument(disk: &disks::FoundDisk) -> [(String, String); 1] {
    let name = disk.disk.by_id.first().cloned().unwrap_or_else(|| disk.device.display().to_string());
    [("disk".into(), name)]
}

/// What was on the disk when it was begun with.
fn found_argument(disk: &disks::FoundDisk) -> [(String, String); 1] {
    let found = match (disk.unfinished, disk.disk.signatures.is_empty()) {
        (true, _) => "unfinished",
        (false, true) => "empty",
        (false, false) => "other",
    };
    [("found".into(), found.into())]
}

/// Of a report: the same boot's same report has the same one, however often it is sent.
fn identifier(name: &str) -> String {
    format!("{}-{name}", super::serve::boot_id())
}

/// Version 4.
fn random_uuid() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default().trim().to_owned()
}

/// `/dev/disk/by-id` as udev makes it. It ends again: while partitions are made nobody else may look at the disk.
fn name_devices(runner: &dyn Runner) -> Result<(), String> {
    if Path::new("/run/systemd/system").exists() {
        // A live system with an init of its own has done it.
        return Ok(());
    }
    runner.run("/lib/systemd/systemd-udevd", &["--daemon", "--resolve-names=never"], None)?;
    runner.run("udevadm", &["trigger", "--action=add", "--subsystem-match=block", "--settle"], None)?;
    runner.run("udevadm", &["control", "--exit"], None).map(drop)
}

/// Whom to believe: the CA that the parameters name, else the system's.
pub(super) fn trust(parameters: &Parameters) -> Result<Trust, String> {
    let Some(url) = &parameters.ca_certificate else { return Ok(Trust::of_system()) };
    let pin = match url.fragment.as_deref() {
        None => None,
        Some(fragment) => Some(
            fragment
                .strip_prefix("sha256=")
                .ok_or("what stands behind the `#` of `bootproof.ca_cert_url` is not `sha256=...`")?,
        ),
    };
    let client = Client::new(Trust::of_system(), say);
    let mut said = false;
    let mut pause = deployer::first_pause();
    loop {
        let fetched = client.send(&Request::get(url)).map_err(|failure| failure.0).and_then(|mut response| {
            if response.status != 200 {
                return Err(format!("the server answered {}", response.status));
            }
            response.text(CA_LIMIT).map_err(|error| error.to_string())
        });
        match fetched {
            Ok(bytes) => {
                return Trust::of_ca(&bytes, pin)
                    .map_err(|reason| format!("the CA certificate cannot be used: {reason}"));
            }
            Err(reason) => {
                if !std::mem::replace(&mut said, true) {
                    say(&format!("failed to fetch the CA certificate: {reason}; trying again"));
                }
                pause.wait();
            }
        }
    }
}
