//! The normalised lane: what a lane file means once it has been read, checked and overridden.
//!
//! This is the form that is persisted (`lane.json`, inside `plan.json`): every step carries its `kind`, every default is
//! filled in. A lane *file* may be terser; `document` reads that and produces this.

mod channel;
mod checkpoint;
mod condition;
mod deployer;
mod fault;
mod nix_image;
mod topology;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use channel::{
    ChannelKind, DEFAULT_CHANNEL_BOUND, DialogueLine, LoginDevice, MachineChannel, SshChoice, SshHostKey,
};
pub use checkpoint::{Ready, Start};
pub use condition::{Condition, UnitState};
pub use deployer::{DeployerAction, LaneDeployer};
pub use fault::{DiskEffect, DiskOperations, Fault, LinkEffects, PowerFault, ProcessSignal, Schedule, ScheduledFault};
pub use nix_image::NixImage;
pub use topology::{Attachment, HOST, LibvirtNetwork, NetworkBoot, SwitchedNetwork};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lane::units::{Share, Shift, Size, Span};

/// The newest lane format that this version reads and the one it writes.
pub const LANE_VERSION: u32 = 1;

/// One runnable proof: machines, steps, deadlines, gates, budgets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lane {
    pub version: u32,
    pub name: String,
    /// The profile that this lane proves.
    pub profile: Option<String>,
    pub summary: String,
    pub tier: Tier,
    /// Bound on the whole run, before it is scaled by the accelerator's factor.
    pub deadline: Span,
    pub requires: Requires,
    pub budget: Budget,
    pub markers: MarkerRules,
    pub failure_patterns: FailurePatternRules,
    /// The share of weighted gates, in percent, below which the run fails.
    pub minimum_score: Option<u8>,
    /// What the chance in link faults follows from.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Secrets by name; everything else refers to them as `${secret:NAME}` and never holds a value.
    pub secrets: BTreeMap<String, SecretSource>,
    pub images: BTreeMap<String, Image>,
    /// Layer-2 networks between machines, by name.
    #[serde(default)]
    pub networks: BTreeMap<String, SwitchedNetwork>,
    pub machines: BTreeMap<String, Machine>,
    /// What machines phone home to.
    #[serde(default)]
    pub deployer: Option<LaneDeployer>,
    pub steps: Vec<Step>,
    pub controls: BTreeMap<String, Control>,
}

/// The seed of a lane that gives none.
pub const DEFAULT_SEED: u64 = 1;

fn default_seed() -> u64 {
    DEFAULT_SEED
}

/// What a check costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// No machine.
    Host,
    Single,
    /// Several machines.
    Site,
    /// Hardware or hours.
    Full,
}

/// What a host must have before the lane may start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Requires {
    /// The lane says nothing useful without KVM.
    pub kvm: bool,
    /// Guests start guests.
    pub nested: bool,
    /// The host's architecture as `uname -m` gives it.
    pub arch: Option<String>,
    /// Free memory on the host; the machines' own memory when absent.
    pub memory: Option<Size>,
    /// Commands that must be in the search path.
    pub tools: Vec<String>,
}

/// Bounds on what the run may take from the host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Disk under the work root.
    pub disk: Option<Size>,
    /// Guest memory in all.
    pub memory: Option<Size>,
}

pub const DEFAULT_MARKER_PREFIX: &str = "BOOTPROOF_MARKER";

/// How markers look on this lane's consoles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MarkerRules {
    pub prefix: String,
    /// A product's own name for a marker -> the lane's name for it.
    pub aliases: BTreeMap<String, String>,
    /// Only markers with a valid `crc` count: set where every marker comes from our agent.
    pub require_crc: bool,
}

impl Default for MarkerRules {
    fn default() -> Self {
        Self { prefix: DEFAULT_MARKER_PREFIX.into(), aliases: BTreeMap::new(), require_crc: false }
    }
}

/// What the lane adds to the built-in failure patterns, or silences of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FailurePatternRules {
    /// Name -> regular expression over one decoded console line.
    pub add: BTreeMap<String, String>,
    /// Names of built-in patterns that do not end a wait in this lane.
    pub silence: Vec<String>,
}

/// Where a secret's value comes from when the run needs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SecretSource {
    /// An environment variable of the run.
    Environment { variable: String },
    /// A file on the host.
    File { path: PathBuf },
    /// 32 random bytes in hexadecimal, made anew for each run.
    Generated {},
}

/// Where a machine's bits come from: a recipe per source, one of which the plan picks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Image {
    pub tiny: Option<TinyImage>,
    pub debian: Option<DebianImage>,
    pub nix: Option<NixImage>,
    pub disk: Option<DiskImage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iso: Option<IsoImage>,
    /// For machines that begin as forks of its checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<Ready>,
}

/// A kernel, and an initramfs with the agent as init.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TinyImage {
    /// A kernel image; the distribution's newest cloud kernel when absent.
    pub kernel: Option<PathBuf>,
    /// Its modules (`lib/modules/<release>`), where `kernel` is given and the drivers are not built in.
    pub modules: Option<PathBuf>,
}

/// A disk image built from Debian packages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DebianImage {
    pub suite: String,
    /// Packages beyond the base system and the kernel.
    #[serde(default)]
    pub packages: Vec<String>,
    /// A folder, laid over the root file system; beside the lane file or below the project's root.
    #[serde(default)]
    pub files: Option<PathBuf>,
    /// Commands run inside the new root once packages and files are there.
    #[serde(default)]
    pub commands: Vec<String>,
    /// Absent, and the cloud kernel: machines of QEMU's need no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelFlavour>,
    /// Size of the root file system.
    #[serde(default = "default_debian_size")]
    pub size: Size,
}

pub fn default_debian_size() -> Size {
    Size::gibibytes(2)
}

/// A disk image that exists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskImage {
    pub path: PathBuf,
    /// Hexadecimal SHA-512 of the file.
    #[serde(default)]
    pub sha512: Option<String>,
}

/// A medium that machines boot from: as a CD, beside whatever disks they have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum IsoImage {
    /// One that exists.
    File {
        path: PathBuf,
        /// Hexadecimal SHA-512 of the file.
        #[serde(default)]
        sha512: Option<String>,
    },
    /// Our installer, built from Debian packages.
    Installer {
        suite: String,
        /// Packages of the live system, beyond those that installing takes.
        #[serde(default)]
        packages: Vec<String>,
        #[serde(default)]
        kernel: KernelFlavour,
    },
}

/// Which of the distribution's kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KernelFlavour {
    /// With drivers for real hardware.
    #[default]
    Generic,
    /// For virtual machines alone: smaller.
    Cloud,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    #[default]
    Qemu,
    /// A domain of libvirt's.
    Libvirt,
    /// Plays a recorded console stream; no machine is started.
    Recorder,
}

impl Backend {
    /// Whether a virtual machine is started, rather than a recording played.
    pub fn is_virtual(self) -> bool {
        match self {
            Backend::Qemu | Backend::Libvirt => true,
            Backend::Recorder => false,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    #[default]
    Bios,
    Uefi,
}

/// Which device the guest's `/dev/console` is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ConsoleDevice {
    /// ttyS0, a 16550: there from the firmware on.
    #[default]
    Serial,
    /// hvc0, virtio: faster, and there only once the guest has its driver.
    Virtio,
}

/// One host under test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Machine {
    pub backend: Backend,
    /// A name from the lane's `images`, or the built-in `tiny`.
    pub image: String,
    pub cpus: u32,
    pub memory: Size,
    pub firmware: Firmware,
    /// Disks beside the image's own.
    pub disks: Vec<Disk>,
    /// Added to the kernel's command line.
    pub kernel_parameters: Vec<String>,
    pub network: Network,
    /// Its places in the lane's networks, by the network's name.
    pub networks: BTreeMap<String, Attachment>,
    /// Its firmware boots from those of its networks that name a boot file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_boot: Option<NetworkBoot>,
    pub console: ConsoleDevice,
    /// Bound on what is recorded of each console.
    pub console_limit: Size,
    /// DMI's serial number, where it is not the machine's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// How wrong the hardware clock is whenever the machine is switched on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clock: Option<Shift>,
    /// For the recorder: the stream to play; `-` is standard input.
    pub recording: Option<PathBuf>,
    #[serde(skip_serializing_if = "Start::is_boot")]
    pub start: Start,
    /// The way into the guest.
    #[serde(skip_serializing_if = "MachineChannel::is_agent")]
    pub channel: MachineChannel,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            backend: Backend::Qemu,
            image: "tiny".into(),
            cpus: 1,
            memory: Size::mebibytes(256),
            firmware: Firmware::Bios,
            disks: Vec::new(),
            kernel_parameters: Vec::new(),
            network: Network::default(),
            networks: BTreeMap::new(),
            network_boot: None,
            console: ConsoleDevice::Serial,
            console_limit: Size::gibibytes(1),
            serial: None,
            clock: None,
            recording: None,
            start: Start::Boot,
            channel: MachineChannel::default(),
        }
    }
}

/// An empty disk, made for the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Becomes the serial number: `/dev/disk/by-id/virtio-<name>` in the guest. At most 20 characters.
    pub name: String,
    pub size: Size,
    /// What becomes of writes that the guest has not flushed.
    #[serde(default)]
    pub write_cache: WriteCache,
    /// The share of unflushed blocks that a power cut leaves; none when absent.
    #[serde(default)]
    pub survives: Option<Share>,
    /// A fault of the lane makes its requests fail.
    #[serde(default)]
    pub fallible: bool,
}

impl Disk {
    /// What the server has to do; where a part survives, a log of all writes does it instead.
    pub fn forgets(&self) -> WriteCache {
        if self.survives.is_some() { WriteCache::Host } else { self.write_cache }
    }

    /// Whether a server between QEMU and the file plays the disk: only that can lose writes or fail requests.
    pub fn is_served(&self) -> bool {
        self.fallible || self.forgets() != WriteCache::Host
    }
}

/// Where a disk keeps what was written to it and not flushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WriteCache {
    /// In the host's page cache: a power cut of the machine loses nothing.
    #[default]
    Host,
    /// In a cache of the disk's own: a power cut loses what was not flushed, as on real hardware.
    Volatile,
    /// As `volatile`, and flushes are acknowledged but not done: a disk that lies.
    Lying,
}

/// The user-mode network: nothing is reachable but what is named here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// No network card at all.
    pub none: bool,
    /// The guest may reach whatever the host reaches. Off by default: guests are hermetic.
    pub internet: bool,
    /// Guest TCP ports that the host can reach; QEMU picks the host's ports, and an event says which.
    pub forward: Vec<u16>,
    /// Addresses in the guest's network (`10.0.2.100:8080`) -> services on the host (`127.0.0.1:9000`).
    pub services: BTreeMap<String, String>,
}

/// One thing that a lane does or waits for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Unique within the lane.
    pub name: String,
    /// The machines it happens on; every machine when the lane file does not say.
    pub on: Vec<String>,
    /// Bound on the step, before scaling. For `expect`, the sum of its parts; for `hold`, the hold itself.
    pub within: Span,
    pub gate: Option<Gate>,
    /// Done even after an earlier step has failed: for collecting what is needed to understand the failure.
    #[serde(default)]
    pub always: bool,
    pub action: Action,
}

/// A named check that decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    pub name: String,
    /// Fails the run; otherwise the gate counts towards the score with its weight.
    #[serde(default = "default_true")]
    pub hard: bool,
    #[serde(default = "default_weight")]
    pub weight: u32,
}

fn default_true() -> bool {
    true
}

fn default_weight() -> u32 {
    1
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// Wait for these, in this order, on each machine.
    Expect {
        expectations: Vec<Expectation>,
        /// Markers that end the wait as a failure when they appear.
        forbid: Vec<String>,
        /// The machine may reboot meanwhile.
        #[serde(default)]
        across_reboot: bool,
    },
    /// Wait until something is so in the guest, as its agent is told.
    Await {
        condition: Condition,
    },
    /// Run a command in the guest.
    Exec {
        command: Command,
    },
    /// Run a command on the host.
    Host {
        command: Command,
    },
    /// One HTTP request, carried into the machine by its channel.
    Http {
        /// `http://127.0.0.1:8080/health`: the address is the guest's.
        url: String,
        method: String,
        headers: BTreeMap<String, String>,
        body: Option<String>,
        status: u16,
        response: TextCheck,
        /// From the host's place in that network instead; the address is then a machine's name or address.
        #[serde(default)]
        network: Option<String>,
    },
    /// One TCP connection, carried into the machine by its channel.
    Tcp {
        /// `127.0.0.1:6379`: the address is the guest's.
        address: String,
        send: Option<String>,
        response: TextCheck,
        /// As for `Http`.
        #[serde(default)]
        network: Option<String>,
    },
    /// Copy a file into the guest (`to` is the guest's path).
    CopyIn {
        from: PathBuf,
        to: String,
    },
    /// Copy the running program into a folder of the guest, with the libraries that it is linked with: it runs there whatever
    /// the guest's own are.
    CopyProgram {
        to: String,
    },
    /// Copy a file out of the guest, into `artifacts/<machine>/<to>`.
    CopyOut {
        from: String,
        to: PathBuf,
    },
    Power {
        action: PowerAction,
    },
    /// An orderly reboot from inside; done when the machine's next epoch answers.
    Reboot {},
    /// Begin a fault; the step's name is the fault's.
    Fault {
        fault: Fault,
    },
    /// End faults; all that are active when the list is empty.
    Heal {
        faults: Vec<String>,
    },
    /// Begin and end faults on a schedule. Not scaled.
    Schedule {
        schedule: Schedule,
    },
    /// Speak with the lane's deployer, or wait for what machines tell it.
    Deployer {
        action: DeployerAction,
    },
    /// Save the machines as they are now, all at the same moment, under a name.
    Checkpoint {
        name: String,
    },
    /// Let the machines go back to where they were when a checkpoint of that name was made.
    Restore {
        name: String,
    },
    /// Let time pass while the failure patterns watch. Not scaled.
    Hold {
        duration: Span,
    },
    /// Any executable on the host: context as JSON on standard input, result as JSON on standard output.
    Script {
        command: Command,
    },
    /// These at the same time; the first failure ends the others.
    Parallel {
        steps: Vec<Step>,
    },
}

/// What a machine must show before the wait goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    pub what: Expected,
    /// Bound from the previous expectation (or the step's start), before scaling.
    pub within: Span,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Expected {
    /// A marker by name, with arguments that must be there.
    Marker { name: String, arguments: BTreeMap<String, String> },
    /// A regular expression over one decoded console line, for images that know nothing of markers.
    Console { pattern: String },
}

/// A command and what its outcome must be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    pub argv: Vec<String>,
    pub environment: BTreeMap<String, String>,
    pub stdin: Option<String>,
    /// The exit status that it must have.
    pub status: i32,
    pub stdout: TextCheck,
    pub stderr: TextCheck,
}

/// What a text must be. All that is given must hold; trailing white space is ignored by `equals`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TextCheck {
    pub equals: Option<String>,
    pub contains: Option<String>,
    /// A regular expression.
    pub matches: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PowerAction {
    /// Press the power button and wait for the machine to go off.
    Shutdown,
    /// Wait for the machine to go off by itself.
    AwaitOff,
    /// Cut the power.
    Cut,
    /// The reset line.
    Reset,
    /// Switch on again.
    On,
    /// Switch on again, and boot the image's medium whatever the disks hold: an installation over an old one.
    OnMedium,
}

/// A planted bug: the lane with these settings must fail at the gate named here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Control {
    #[serde(default)]
    pub summary: Option<String>,
    /// Path in the lane (`machines.node01.kernel_parameters`) -> value.
    #[serde(default)]
    pub set: BTreeMap<String, serde_json::Value>,
    /// The gate, or the name of the step where it has none.
    pub fails_at: String,
}
