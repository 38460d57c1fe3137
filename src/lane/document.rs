//! A lane file as it is written: terse, with defaults left out. The JSON Schema that editors use comes from these types.
//!
//! What may be wrong with a value alone stands in its type; what depends on other parts is checked by `normalise`.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::await_document::AwaitDocument;
use super::channel_document::ChannelForm;
use super::deployer_document::{DeployerDocument, DeployerStepDocument};
use super::disturbance_document::{AttachmentDocument, FaultDocument, ScheduleDocument, SwitchedNetworkDocument};
use super::model::{
    Backend, Budget, ConsoleDevice, Firmware, KernelFlavour, NetworkBoot, PowerAction, Requires, Start, TextCheck,
    Tier, WriteCache,
};
use super::reader::Spanned;
use super::units::{Share, Shift, Size, Span};

/// Entries by name, in the order of their names.
pub type Named<T> = BTreeMap<Spanned<String>, Spanned<T>>;

/// One runnable proof: machines, steps, deadlines, gates, budgets.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "bootproof lane", rename = "Lane")]
pub struct LaneDocument {
    /// The address of the JSON Schema, for editors.
    #[serde(rename = "$schema", default)]
    #[allow(dead_code, reason = "there so that editors may have it")]
    pub schema: Option<String>,
    /// The format of this file: 1.
    #[allow(dead_code, reason = "checked before anything else is read")]
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    pub lane: Spanned<Header>,
    /// What a host must have before the lane may start.
    #[serde(default)]
    pub requires: Requires,
    /// Bounds on what the run may take from the host.
    #[serde(default)]
    pub budget: Budget,
    #[serde(default)]
    pub markers: MarkersDocument,
    #[serde(default)]
    pub failure_patterns: FailurePatternsDocument,
    /// Secrets by name. Commands, HTTP headers and bodies refer to them as `${secret:NAME}`.
    #[serde(default)]
    pub secrets: Named<SecretDocument>,
    /// Images by name. `tiny` (a kernel, and the agent as init) is built in.
    #[serde(default)]
    pub images: Named<ImageDocument>,
    /// Layer-2 networks between the machines, by name, switched by the run itself. The name `host` is not one.
    #[serde(default)]
    pub networks: Named<SwitchedNetworkDocument>,
    /// The hosts under test by name. A name becomes the host's name and a folder's.
    #[serde(default)]
    pub machines: Named<MachineDocument>,
    /// What machines phone home to, in the run's own process.
    #[serde(default)]
    pub deployer: Option<Spanned<DeployerDocument>>,
    /// What the lane does and waits for, in this order.
    #[serde(default)]
    pub steps: Vec<Spanned<StepDocument>>,
    /// Planted bugs by name: the lane with these settings must fail at the gate named.
    #[serde(default)]
    pub controls: Named<ControlDocument>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Lower-case letters, digits and hyphens; the file's name without its extension.
    pub name: Spanned<String>,
    /// The profile that this lane proves.
    #[serde(default)]
    pub profile: Option<Spanned<String>>,
    /// What is proven, in one line.
    pub summary: Spanned<String>,
    /// What the check costs; follows from the number of machines when left out.
    #[serde(default)]
    pub tier: Option<Spanned<Tier>>,
    /// Bound on the whole run, `10m` when left out; stretched for a slow accelerator.
    #[serde(default)]
    pub deadline: Option<Spanned<Span>>,
    /// The share of weighted gates, in percent, below which the run fails.
    #[serde(default)]
    #[schemars(range(max = 100))]
    pub minimum_score: Option<Spanned<u8>>,
    /// What the chance in link faults follows from, 1 when left out: the same seed and frames, the same fate of each.
    #[serde(default)]
    pub seed: Option<u64>,
}

/// How markers look on this lane's consoles.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MarkersDocument {
    /// The word that a marker line begins with; `BOOTPROOF_MARKER` when left out.
    #[serde(default)]
    pub prefix: Option<Spanned<String>>,
    /// A product's own name for a marker -> the lane's name for it.
    #[serde(default)]
    pub aliases: BTreeMap<Spanned<String>, Spanned<String>>,
    /// Only markers with a valid `crc` count: set where every marker comes from our agent.
    #[serde(default)]
    pub require_crc: bool,
}

/// What the lane adds to the built-in failure patterns, or silences of them.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FailurePatternsDocument {
    /// Name -> regular expression over one decoded console line; a match ends any wait.
    #[serde(default)]
    pub add: BTreeMap<Spanned<String>, Spanned<String>>,
    /// Names of built-in patterns that do not end a wait in this lane.
    #[serde(default)]
    pub silence: Vec<Spanned<String>>,
}

/// Where a secret's value comes from when the run needs it: exactly one of these.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{ "required": ["environment"] }, { "required": ["file"] }, { "required": ["generated"] }]))]
pub struct SecretDocument {
    /// An environment variable of the run.
    #[serde(default)]
    pub environment: Option<Spanned<String>>,
    /// A file on the host, from the lane file's folder.
    #[serde(default)]
    pub file: Option<Spanned<String>>,
    /// `true`: 32 random bytes in hexadecimal, made anew for each run.
    #[serde(default)]
    pub generated: Option<Spanned<bool>>,
}

/// Where a machine's bits come from: a recipe per source, one of which the plan picks.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageDocument {
    #[serde(default)]
    pub tiny: Option<TinyDocument>,
    #[serde(default)]
    pub debian: Option<DebianDocument>,
    /// What Nix builds, or has built. A string is a flake output (`.#nixosConfigurations.node`, from the project's root) or
    /// a store path.
    #[serde(default)]
    pub nix: Option<Spanned<Terse<String, NixImageDocument>>>,
    #[serde(default)]
    pub disk: Option<DiskImageDocument>,
    #[serde(default)]
    pub iso: Option<Spanned<IsoDocument>>,
    /// For machines that begin as forks of a checkpoint of the image: when it is ready to be saved.
    #[serde(default)]
    pub ready: Option<Spanned<ReadyDocument>>,
}

/// When a machine of the image is ready to be saved, and what its forks need.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadyDocument {
    /// Markers that it has to emit, in this order; that its agent answers is enough when left out.
    #[serde(default)]
    pub markers: Vec<Spanned<String>>,
    /// Bound on all of them together, 2m when left out; stretched for a slow accelerator.
    #[serde(default)]
    pub within: Option<Spanned<Span>>,
    /// Units of systemd's that draw randomness of their own: restarted in each fork.
    #[serde(default)]
    pub restart: Vec<Spanned<String>>,
    /// `true` when left out: forks give their kernel new randomness. Without it they all draw the same, for a control.
    #[serde(default)]
    pub reseed: Option<bool>,
}

/// What Nix builds: an output of a flake, or what an attribute of a Nix file stands for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{ "required": ["reference"] }, { "required": ["file"] }]))]
pub struct NixImageDocument {
    /// A flake output or a store path, as in the short form.
    #[serde(default)]
    pub reference: Option<Spanned<String>>,
    /// A Nix file, from the lane file's folder.
    #[serde(default)]
    pub file: Option<Spanned<String>>,
    /// An attribute path in `file`; what the file itself stands for when left out.
    #[serde(default)]
    pub attribute: Option<Spanned<String>>,
    /// The output to boot; the first in which anything boots when left out.
    #[serde(default)]
    pub output: Option<Spanned<String>>,
    /// How many derivations are built at a time; the host's number of processors when left out.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub jobs: Option<Spanned<u32>>,
    /// How many processors each may take; the host's number when left out.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub cores: Option<Spanned<u32>>,
}

/// A kernel, and an initramfs with the agent as init.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TinyDocument {
    /// A kernel image, from the lane file's folder; the distribution's newest cloud kernel when left out.
    #[serde(default)]
    pub kernel: Option<Spanned<String>>,
    /// Its modules (`lib/modules/<release>`), where `kernel` is given and the drivers are not built in.
    #[serde(default)]
    pub modules: Option<Spanned<String>>,
}

/// A disk image built from Debian packages.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DebianDocument {
    pub suite: Spanned<String>,
    /// Packages beyond the base system and the kernel.
    #[serde(default)]
    pub packages: Vec<Spanned<String>>,
    /// A folder, from the lane file's own, laid over the root file system.
    #[serde(default)]
    pub files: Option<Spanned<String>>,
    /// Commands run by a shell inside the new root once packages and files are there.
    #[serde(default)]
    pub commands: Vec<Spanned<String>>,
    /// `cloud` drives virtual machines alone, `generic` real hardware too. `cloud` when left out.
    #[serde(default)]
    pub kernel: Option<KernelFlavour>,
    /// Size of the root file system, `2GiB` when left out.
    #[serde(default)]
    pub size: Option<Spanned<Size>>,
}

/// A disk image that exists.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskImageDocument {
    /// A qcow2 or raw file, from the lane file's folder.
    pub path: Spanned<String>,
    /// Hexadecimal SHA-512 of the file.
    #[serde(default)]
    pub sha512: Option<Spanned<String>>,
}

/// A medium to boot from, for machines with empty disks: a file that exists, or our installer, built from packages.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{ "required": ["path"] }, { "required": ["suite"] }]))]
pub struct IsoDocument {
    /// A file, from the lane file's folder.
    #[serde(default)]
    pub path: Option<Spanned<String>>,
    /// With `path`: hexadecimal SHA-512 of the file.
    #[serde(default)]
    pub sha512: Option<Spanned<String>>,
    /// The Debian suite that the installer is built from.
    #[serde(default)]
    pub suite: Option<Spanned<String>>,
    /// With `suite`: packages of the live system, beyond those that installing takes.
    #[serde(default)]
    pub packages: Vec<Spanned<String>>,
    /// With `suite`: `generic` drives real hardware too, `cloud` virtual machines alone. `generic` when left out.
    #[serde(default)]
    pub kernel: Option<Spanned<KernelFlavour>>,
}

/// One host under test.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MachineDocument {
    /// `qemu` when left out.
    #[serde(default)]
    pub backend: Backend,
    /// A name from the lane's `images`; the built-in `tiny` when left out.
    #[serde(default)]
    pub image: Option<Spanned<String>>,
    /// 1 when left out.
    #[serde(default)]
    #[schemars(range(min = 1, max = 255))]
    pub cpus: Option<Spanned<u32>>,
    /// `256MiB` when left out.
    #[serde(default)]
    pub memory: Option<Spanned<Size>>,
    /// `bios` when left out.
    #[serde(default)]
    pub firmware: Firmware,
    /// Empty disks, made for the run, beside the image's own.
    #[serde(default)]
    pub disks: Vec<Spanned<DiskDocument>>,
    /// Added to the kernel's command line.
    #[serde(default)]
    pub kernel_parameters: Vec<Spanned<String>>,
    #[serde(default)]
    pub network: Option<Spanned<NetworkDocument>>,
    /// The lane's networks that the machine is in: their names, or a table from name to place. The card of the user-mode
    /// network is then only there where `network` says something.
    #[serde(default)]
    pub networks: Option<Spanned<AttachmentsForm>>,
    /// Whether the firmware boots from the network: before the disks (`first`), or where none of them boots (`last`). The
    /// machine then boots what the deployer serves (`netboot`), and `image` is left out.
    #[serde(default)]
    pub network_boot: Option<Spanned<NetworkBoot>>,
    /// `serial` when left out.
    #[serde(default)]
    pub console: ConsoleDevice,
    /// Bound on what is recorded of each console, `1GiB` when left out.
    #[serde(default)]
    pub console_limit: Option<Spanned<Size>>,
    /// DMI's serial number, by which a deployer knows it; the machine's name when left out.
    #[serde(default)]
    pub serial: Option<Spanned<String>>,
    /// How wrong its hardware clock is whenever it is switched on; right when left out.
    #[serde(default)]
    pub clock: Option<Spanned<Shift>>,
    /// For the backend `recorder`: the stream to play, from the lane file's folder; `-` is standard input.
    #[serde(default)]
    pub recording: Option<Spanned<String>>,
    /// `boot` when left out. `checkpoint`: as a fork of the image's checkpoint, which is made where there is none, and
    /// `checkpoint-or-boot`: the same, or by booting where none can be had.
    #[serde(default)]
    pub start: Option<Spanned<Start>>,
    /// The way into the guest, `agent` when left out: `backdoor` is the root shell that images for tests of NixOS' put on
    /// hvc0; a table says more.
    #[serde(default)]
    pub channel: Option<Spanned<ChannelForm>>,
}

/// Places in networks: the networks' names, or a table from name to place.
pub type AttachmentsForm = Terse<Vec<Spanned<String>>, Named<AttachmentDocument>>;

/// An empty disk, made for the run.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskDocument {
    /// At most 20 characters; the guest finds the disk at `/dev/disk/by-id/virtio-<name>`.
    #[schemars(length(max = 20))]
    pub name: Spanned<String>,
    pub size: Spanned<Size>,
    /// What becomes of writes that the guest has not flushed when the power is cut: `host` keeps them, `volatile` loses
    /// them, `lying` loses them and those that were flushed too. `host` when left out.
    #[serde(default)]
    pub write_cache: WriteCache,
    /// With a `volatile` cache: the share of unflushed blocks that a power cut leaves, each drawn from the lane's seed.
    #[serde(default)]
    pub survives: Option<Spanned<Share>>,
}

/// The user-mode network: nothing is reachable but what is named here.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkDocument {
    /// No network card at all.
    #[serde(default)]
    pub none: bool,
    /// The guest may reach whatever the host reaches. Off when left out: guests are hermetic.
    #[serde(default)]
    pub internet: bool,
    /// Guest TCP ports that the host can reach; QEMU picks the host's ports, and an event says which.
    #[serde(default)]
    pub forward: Vec<Spanned<u16>>,
    /// Addresses in the guest's network (`10.0.2.100:8080`) -> services on the host (`127.0.0.1:9000`).
    #[serde(default)]
    pub services: BTreeMap<Spanned<String>, Spanned<String>>,
}

/// One thing that a lane does or waits for: exactly one action, and what goes with every action.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [
    { "required": ["expect"] }, { "required": ["exec"] }, { "required": ["host"] }, { "required": ["http"] },
    { "required": ["tcp"] }, { "required": ["copy"] }, { "required": ["power"] }, { "required": ["reboot"] },
    { "required": ["hold"] }, { "required": ["script"] }, { "required": ["parallel"] }, { "required": ["fault"] },
    { "required": ["heal"] }, { "required": ["schedule"] }, { "required": ["deployer"] },
    { "required": ["checkpoint"] }, { "required": ["restore"] }, { "required": ["await"] }
]))]
pub struct StepDocument {
    /// Unique within the lane; made from the action when left out.
    #[serde(default)]
    pub name: Option<Spanned<String>>,
    /// The machines it happens on; every machine when left out.
    #[serde(default)]
    pub on: Option<Spanned<Vec<Spanned<String>>>>,
    /// Bound on the step, stretched for a slow accelerator. In an `expect` step, the bound of each expectation that has
    /// none of its own. When left out: 60s for each expectation, `await`, `exec`, `host`, `copy`, `power`, `fault` and `heal`, 30s
    /// for `http` and `tcp`, 2m for `reboot`,
    /// `checkpoint` and `restore`, 5m for `script`; `parallel` takes the longest of its steps.
    #[serde(default)]
    pub within: Option<Spanned<Span>>,
    /// Makes the step a named check that decides.
    #[serde(default)]
    pub gate: Option<Spanned<GateForm>>,
    /// Done even after an earlier step has failed: for collecting what is needed to understand the failure.
    #[serde(default)]
    pub always: bool,
    /// Wait for these, in this order, on each machine. A string is a marker's name.
    #[serde(default)]
    pub expect: Option<Spanned<Vec<Spanned<ExpectationForm>>>>,
    /// In an `expect` step: markers that end the wait as a failure when they appear.
    #[serde(default)]
    pub forbid: Option<Spanned<Vec<Spanned<String>>>>,
    /// With `expect`: the machine may reboot meanwhile.
    #[serde(default)]
    pub across_reboot: Option<Spanned<bool>>,
    /// Wait until a file, a unit of systemd's or a port of the guest's is as said; the agent is told and does not poll.
    #[serde(default)]
    pub r#await: Option<Spanned<AwaitDocument>>,
    /// Run a command in the guest.
    #[serde(default)]
    pub exec: Option<Spanned<CommandForm>>,
    /// Run a command on the host, in the project's root.
    #[serde(default)]
    pub host: Option<Spanned<CommandForm>>,
    /// One HTTP request, carried into the machine by its channel. A string is a URL that must answer 200.
    #[serde(default)]
    pub http: Option<Spanned<Terse<String, HttpDocument>>>,
    /// One TCP connection, carried into the machine by its channel. A string is an address that must accept.
    #[serde(default)]
    pub tcp: Option<Spanned<Terse<String, TcpDocument>>>,
    /// Copy a file into or out of the guest: one of the two sides begins with `guest:`.
    #[serde(default)]
    pub copy: Option<Spanned<CopyDocument>>,
    /// Switch the machine, or wait for it to go off.
    #[serde(default)]
    pub power: Option<Spanned<PowerAction>>,
    /// `true`: an orderly reboot from inside; done when the machine's next epoch answers.
    #[serde(default)]
    pub reboot: Option<Spanned<bool>>,
    /// Save the machines as they are, all at the same moment, under this name.
    #[serde(default)]
    pub checkpoint: Option<Spanned<String>>,
    /// Let the machines go back to where they were when the checkpoint of this name was made.
    #[serde(default)]
    pub restore: Option<Spanned<String>>,
    /// Let this much time pass while the failure patterns watch. Never stretched.
    #[serde(default)]
    pub hold: Option<Spanned<Span>>,
    /// Any executable on the host: context as JSON on standard input, result as JSON on standard output.
    #[serde(default)]
    pub script: Option<Spanned<CommandForm>>,
    /// These at the same time; the first failure ends the others.
    #[serde(default)]
    pub parallel: Option<Spanned<Vec<Spanned<StepDocument>>>>,
    /// Begin a fault. It has the step's name, and lasts until it is healed or the run ends.
    #[serde(default)]
    pub fault: Option<Spanned<FaultDocument>>,
    /// Speak with the lane's deployer, or wait for what machines tell it.
    #[serde(default)]
    pub deployer: Option<Spanned<DeployerStepDocument>>,
    /// End faults, by the names of the steps that began them; `["all"]` ends all.
    #[serde(default)]
    pub heal: Option<Spanned<Vec<Spanned<String>>>>,
    /// Begin and end faults that are drawn from a seed; whatever is left is healed at the end. Never stretched.
    #[serde(default)]
    pub schedule: Option<Spanned<ScheduleDocument>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GateDocument {
    pub name: Spanned<String>,
    /// `true` when left out: its failure fails the run. Otherwise the gate counts towards the score.
    #[serde(default)]
    pub hard: Option<bool>,
    /// Its share of the score, 1 when left out.
    #[serde(default)]
    pub weight: Option<Spanned<u32>>,
}

/// A gate: its name, or a table.
pub type GateForm = Terse<String, GateDocument>;

/// What is expected: a marker's name, or a table.
pub type ExpectationForm = Terse<String, ExpectationDocument>;

/// What a machine must show before the wait goes on: a marker or a line.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{ "required": ["marker"] }, { "required": ["console"] }]))]
pub struct ExpectationDocument {
    /// A marker by name.
    #[serde(default)]
    pub marker: Option<Spanned<String>>,
    /// Arguments that the marker must carry.
    #[serde(default)]
    pub arguments: BTreeMap<String, String>,
    /// A regular expression over one decoded console line, for images that know nothing of markers.
    #[serde(default)]
    pub console: Option<Spanned<String>>,
    /// Bound from the previous expectation, or from the step's start.
    #[serde(default)]
    pub within: Option<Spanned<Span>>,
}

/// A command: its words, or a table with `argv`.
pub type CommandForm = Terse<Vec<Spanned<String>>, CommandDocument>;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandDocument {
    /// The program and its arguments. No shell is between: where one is wanted, `["sh", "-c", "..."]`.
    pub argv: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    pub environment: BTreeMap<Spanned<String>, Spanned<String>>,
    #[serde(default)]
    pub stdin: Option<Spanned<String>>,
    /// The exit status that it must have, 0 when left out.
    #[serde(default)]
    pub status: i32,
    #[serde(default)]
    pub stdout: Option<Spanned<TextCheck>>,
    #[serde(default)]
    pub stderr: Option<Spanned<TextCheck>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpDocument {
    /// `http://127.0.0.1:8080/health`: the address is the guest's.
    pub url: Spanned<String>,
    /// `GET` when left out.
    #[serde(default)]
    pub method: Option<Spanned<String>>,
    #[serde(default)]
    pub headers: BTreeMap<Spanned<String>, Spanned<String>>,
    #[serde(default)]
    pub body: Option<Spanned<String>>,
    /// The status that it must have, 200 when left out.
    #[serde(default)]
    pub status: Option<Spanned<u16>>,
    #[serde(default)]
    pub response: Option<Spanned<TextCheck>>,
    /// Ask from the host's place in this network, without an agent; the address is a machine's name or address there.
    #[serde(default)]
    pub network: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TcpDocument {
    /// `127.0.0.1:6379`: the address is the guest's.
    pub address: Spanned<String>,
    #[serde(default)]
    pub send: Option<Spanned<String>>,
    #[serde(default)]
    pub response: Option<Spanned<TextCheck>>,
    /// Ask from the host's place in this network, without an agent; the address is a machine's name or address there.
    #[serde(default)]
    pub network: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CopyDocument {
    /// A file on the host, from the lane file's folder, or `guest:/path`; or `${program}`, the bootproof that runs the lane, and
    /// `to` is the folder for it and its libraries.
    pub from: Spanned<String>,
    /// `guest:/path`, or a path below the proof's `artifacts/<machine>/`.
    pub to: Spanned<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ControlDocument {
    /// What is broken, in one line.
    #[serde(default)]
    pub summary: Option<String>,
    /// Path in the lane (`"machines.node01.kernel_parameters"`, in quotes) -> value. Steps go by name, gate or number.
    pub set: Spanned<BTreeMap<Spanned<String>, serde_json::Value>>,
    /// The gate, or the name of the step where it has none.
    pub fails_at: Spanned<String>,
}

/// A short form for what is common, and a table for the rest.
#[derive(Debug, JsonSchema)]
#[schemars(untagged, inline)]
pub enum Terse<S, T> {
    Short(S),
    Full(T),
}

impl<'de, S: Deserialize<'de> + Short, T: Deserialize<'de>> Deserialize<'de> for Terse<S, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TerseVisitor(PhantomData))
    }
}

/// How the short form is called in an error.
pub trait Short {
    const EXPECTED: &'static str;
}

impl Short for String {
    const EXPECTED: &'static str = "a string or a table";
}

impl<T> Short for Vec<T> {
    const EXPECTED: &'static str = "an array or a table";
}

struct TerseVisitor<S, T>(PhantomData<(S, T)>);

impl<'de, S: Deserialize<'de> + Short, T: Deserialize<'de>> Visitor<'de> for TerseVisitor<S, T> {
    type Value = Terse<S, T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(S::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        S::deserialize(text.into_deserializer())
            .map(Terse::Short)
            .map_err(|_: E| E::invalid_type(de::Unexpected::Str(text), &self))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
        S::deserialize(SeqAccessDeserializer::new(items)).map(Terse::Short)
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(entries)).map(Terse::Full)
    }
}
