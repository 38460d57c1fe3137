//! Lanes and plans as text for people. What is printed here is all in the JSON as well.

use std::fmt::Write as _;

use super::model::{Accelerator, AcceleratorRequest, BackendMode, ImageSource, LockState, Plan};
use crate::lane::all_steps;
use crate::lane::model::{
    Action, Backend, Command, DeployerAction, Disk, Expected, Fault, Firmware, Lane, Machine, PowerAction,
    SecretSource, Start, Step, Tier, WriteCache,
};
use crate::lane::units::{Size, Span};
use crate::machine::capabilities::{self, Missing};
use crate::machine::libvirt::Target;

macro_rules! names {
    ($type:ty { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.pad(match self { $(Self::$variant => $name),+ })
            }
        }
    };
}

names!(ImageSource { Tiny => "tiny", Debian => "debian", Nix => "nix", Disk => "disk", Iso => "iso" });
names!(AcceleratorRequest { Auto => "auto", Kvm => "kvm", Tcg => "tcg" });
names!(Accelerator { Kvm => "kvm", Tcg => "tcg" });
names!(Tier { Host => "host", Single => "single", Site => "site", Full => "full" });
names!(PowerAction { Shutdown => "shutdown", AwaitOff => "await-off", Cut => "cut", Reset => "reset", On => "on", OnMedium => "on-medium" });

/// An action on one line: `exec etcdctl endpoint health`.
pub fn action_text(action: &Action) -> String {
    let text = match action {
        Action::Expect { expectations, forbid, across_reboot } => {
            let mut parts: Vec<String> = expectations
                .iter()
                .map(|expectation| match &expectation.what {
                    Expected::Marker { name, arguments } => {
                        let arguments: String =
                            arguments.iter().map(|(key, value)| format!(" {key}={value}")).collect();
                        format!("marker {name}{arguments}")
                    }
                    Expected::Console { pattern } => format!("line /{pattern}/"),
                })
                .collect();
            parts.extend(forbid.iter().map(|marker| format!("never {marker}")));
            let across = if *across_reboot { ", across reboots" } else { "" };
            format!("expect {}{across}", parts.join(", "))
        }
        Action::Await { condition } => format!("await {condition}"),
        Action::Exec { command } => format!("exec {}", command_text(command)),
        Action::Host { command } => format!("host {}", command_text(command)),
        Action::Script { command } => format!("script {}", command_text(command)),
        Action::Http { url, method, status, network, .. } => {
            format!("http {method} {url} answers {status}{}", through(network))
        }
        Action::Tcp { address, network, .. } => format!("tcp {address}{}", through(network)),
        Action::CopyProgram { to } => format!("copy this program to guest:{to}"),
        Action::CopyIn { from, to } => format!("copy {} to guest:{to}", from.display()),
        Action::CopyOut { from, to } => format!("copy guest:{from} to {}", to.display()),
        Action::Power { action } => format!("power {action}"),
        Action::Reboot {} => "reboot".into(),
        Action::Checkpoint { name } => format!("checkpoint {name}"),
        Action::Restore { name } => format!("restore {name}"),
        Action::Hold { duration } => format!("hold {duration}"),
        Action::Fault { fault } => format!("fault: {fault}{}", link_ends(fault)),
        Action::Heal { faults } if faults.is_empty() => "heal all faults".into(),
        Action::Heal { faults } => format!("heal {}", faults.join(", ")),
        Action::Deployer { action } => deployer_text(action),
        Action::Schedule { schedule } => {
            let names: Vec<&str> = schedule.faults.iter().map(|scheduled| scheduled.name.as_str()).collect();
            format!(
                "faults for {} from seed {}, one in {}, for {} to {}: {}",
                schedule.duration,
                schedule.seed,
                schedule.every,
                schedule.shortest,
                schedule.longest,
                names.join(", ")
            )
        }
        Action::Parallel { steps } => {
            let steps: Vec<String> = steps.iter().map(|step| action_text(&step.action)).collect();
            format!("parallel [{}]", steps.join(" | "))
        }
    };
    let mut line: String = visible(&text.replace('\n', " ")).chars().take(400).collect();
    line.truncate(line.trim_end().len());
    line
}

fn deployer_text(action: &DeployerAction) -> String {
    match action {
        DeployerAction::AwaitState { node, state, system } => {
            let state = serde_json::to_value(state).ok();
            let state = state.as_ref().and_then(|state| state.as_str()).unwrap_or_default();
            let running = system.as_ref().map(|system| format!(" and runs {system}")).unwrap_or_default();
            format!("deployer: {node} is {state}{running}")
        }
        DeployerAction::AwaitRollBack { node, system } => format!("deployer: {node} goes back from {system}"),
        DeployerAction::Desire { node, system } => format!("deployer: {node} shall run {system}"),
        DeployerAction::Claim { node, class } => format!("deployer: {node} becomes a {class}"),
        DeployerAction::Reinstall { node } => format!("deployer: {node} may be installed again"),
        DeployerAction::Retire { node } => format!("deployer: {node} is retired"),
        DeployerAction::Restart {} => "deployer: ended and started again".into(),
    }
}

fn through(network: &Option<String>) -> String {
    network.as_ref().map(|network| format!(" on the network {network}")).unwrap_or_default()
}

fn link_ends(fault: &Fault) -> String {
    match fault {
        Fault::Link { from, to, both_ways, .. } => {
            format!(" {} {} {}", from.join(", "), if *both_ways { "<->" } else { "->" }, to.join(", "))
        }
        _ => String::new(),
    }
}

/// As people read it, and without the blank that would make two words of it.
fn approximate(size: Size) -> String {
    bytesize::ByteSize(size.bytes()).to_string().replace(' ', "")
}

/// A lane's values may hold anything, and this goes to a terminal: only line feeds stay of what controls one.
fn visible(text: &str) -> String {
    text.chars().map(|character| if character.is_control() && character != '\n' { ' ' } else { character }).collect()
}

fn command_text(command: &Command) -> String {
    let words: Vec<String> = command
        .argv
        .iter()
        .map(|word| match word.contains(char::is_whitespace) || word.is_empty() {
            true => format!("'{}'", first_line(word)),
            false => word.clone(),
        })
        .collect();
    words.join(" ")
}

/// A script's first line stands for it; several on one line would read as one command.
fn first_line(word: &str) -> String {
    let mut lines = word.lines().filter(|line| !line.trim().is_empty());
    let first = lines.next().unwrap_or_default();
    if lines.next().is_some() { format!("{first} …") } else { first.into() }
}

/// The lane as `lane show` prints it.
pub fn lane_text(lane: &Lane) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}: {}", lane.name, lane.summary);
    if let Some(profile) = &lane.profile {
        let _ = writeln!(text, "  profile   {profile}");
    }
    let _ = writeln!(text, "  tier      {}", lane.tier);
    let _ = writeln!(text, "  deadline  {}", lane.deadline);
    let requires = requirements(lane);
    if !requires.is_empty() {
        let _ = writeln!(text, "  requires  {}", requires.join(", "));
    }
    if let Some(score) = lane.minimum_score {
        let _ = writeln!(text, "  score     at least {score}%");
    }
    secrets_text(&mut text, lane);
    networks_text(&mut text, lane);
    machines_text(&mut text, lane);
    let bounds: Vec<Span> = lane.steps.iter().map(|step| step.within).collect();
    steps_text(&mut text, lane, &bounds);
    if !lane.controls.is_empty() {
        text.push_str("\ncontrols (each must fail at its gate)\n");
        let width = lane.controls.keys().map(String::len).max().unwrap_or(0);
        for (name, control) in &lane.controls {
            let summary = control.summary.as_deref().map(|summary| format!("  {summary}")).unwrap_or_default();
            let _ = writeln!(text, "  {name:width$}  fails at {}{summary}", control.fails_at);
        }
    }
    visible(&text)
}

/// The plan as `plan` prints it.
pub fn plan_text(plan: &Plan) -> String {
    let lane = &plan.lane;
    let mut text = String::new();
    let _ = writeln!(text, "plan of {}: {}", lane.name, lane.summary);
    let _ = writeln!(text, "  digest       {}", plan.digest());
    if let Some(control) = &plan.control {
        let gate = lane.controls.get(control).map_or("", |control| control.fails_at.as_str());
        let _ = writeln!(text, "  control      {control}: must fail at {gate}");
    }
    let accelerator = &plan.accelerator;
    let (requested, factor) = (accelerator.requested, accelerator.deadline_factor);
    let _ = match accelerator.mode {
        Some(mode) => writeln!(text, "  accelerator  {mode} (requested {requested}, deadlines times {factor})"),
        None => writeln!(
            text,
            "  accelerator  unproven: the run proves it first, and stretches deadlines if need be (requested {requested})"
        ),
    };
    if let Some(uri) = &plan.libvirt_uri {
        let _ = writeln!(text, "  libvirt      {uri}");
        let remote = Target::new(uri).is_remote();
        for Missing { machine, need, why } in capabilities::missing(lane, remote) {
            let who = machine.unwrap_or_else(|| "the lane".into());
            let _ = writeln!(text, "  blocked      {who} needs {need}, which libvirt lacks: {why}");
        }
    }
    match plan.backend_mode {
        BackendMode::Real => {}
        BackendMode::Record => text.push_str("  mode         record: nothing is started, and the run is blocked\n"),
        BackendMode::Disabled => text.push_str("  mode         disabled: the run is blocked\n"),
    }
    let _ = writeln!(text, "  deadline     {}", plan.deadline);
    let _ = writeln!(text, "  memory       {} for guests", plan.memory_peak);
    let _ = writeln!(text, "  disk         {} at most", approximate(plan.disk_peak));
    let requires = requirements(lane);
    if !requires.is_empty() {
        let _ = writeln!(text, "  requires     {}", requires.join(", "));
    }
    secrets_text(&mut text, lane);
    if !plan.images.is_empty() {
        text.push_str("\nimages\n");
        let width = plan.images.keys().map(String::len).max().unwrap_or(0);
        for (name, image) in &plan.images {
            let state = if image.present {
                "there already".to_owned()
            } else {
                format!("to be built, {} of disk at most", approximate(image.build_disk))
            };
            let lock = match image.lock {
                LockState::Locked => ", locked",
                LockState::Drifted => ", newer than the image lock",
                LockState::Unlocked => ", not in the image lock",
                LockState::NotNeeded => "",
            };
            let digest = image.digest.as_ref().unwrap_or(&image.recipe_digest);
            let _ = writeln!(text, "  {name:width$}  {}  {}  {state}{lock}", image.source, shortened(digest));
        }
    }
    networks_text(&mut text, lane);
    machines_text(&mut text, lane);
    steps_text(&mut text, lane, &plan.step_deadlines);
    schedules_text(&mut text, lane);
    visible(&text)
}

fn shortened(digest: &str) -> &str {
    digest.get(..19).unwrap_or(digest)
}

fn requirements(lane: &Lane) -> Vec<String> {
    let requires = &lane.requires;
    let mut parts = Vec::new();
    if requires.kvm {
        parts.push("kvm".into());
    }
    if requires.nested {
        parts.push("nested machines".into());
    }
    parts.extend(requires.arch.clone());
    parts.extend(requires.memory.map(|memory| format!("{memory} of memory")));
    parts.extend(requires.tools.iter().cloned());
    parts
}

fn secrets_text(text: &mut String, lane: &Lane) {
    if lane.secrets.is_empty() {
        return;
    }
    text.push_str("\nsecrets\n");
    for (name, source) in &lane.secrets {
        let source = match source {
            SecretSource::Environment { variable } => format!("from the environment variable {variable}"),
            SecretSource::File { path } => format!("from the file {}", path.display()),
            SecretSource::Generated {} => "made anew for the run".into(),
        };
        let _ = writeln!(text, "  {name}  {source}");
    }
}

fn machines_text(text: &mut String, lane: &Lane) {
    if lane.machines.is_empty() {
        return;
    }
    text.push_str("\nmachines\n");
    for (name, machine) in &lane.machines {
        let _ = writeln!(text, "  {name}  {}", machine_text(machine));
    }
}

fn machine_text(machine: &Machine) -> String {
    if machine.backend == Backend::Recorder {
        let recording = machine.recording.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        return format!("plays {recording}");
    }
    let mut parts = vec![
        format!("image {}", machine.image),
        format!("{} {}", machine.cpus, if machine.cpus == 1 { "cpu" } else { "cpus" }),
        machine.memory.to_string(),
        match machine.firmware {
            Firmware::Bios => "bios".into(),
            Firmware::Uefi => "uefi".into(),
        },
    ];
    match machine.start {
        Start::Boot => {}
        Start::Checkpoint => parts.push("forked from its image's checkpoint".into()),
        Start::CheckpointOrBoot => parts.push("forked from its image's checkpoint where one can be had".into()),
    }
    if !machine.channel.is_agent() {
        parts.push(format!("entered by {}", machine.channel.kind()));
    }
    parts.extend(machine.disks.iter().map(disk_text));
    parts.extend(machine.networks.iter().map(|(name, place)| format!("{} in network {name}", place.address)));
    let network = &machine.network;
    if network.none && machine.networks.is_empty() {
        parts.push("no network".into());
    }
    if network.internet {
        parts.push("may reach the internet".into());
    }
    parts.extend(network.forward.iter().map(|port| format!("port {port} from the host")));
    parts.extend(network.services.iter().map(|(guest, host)| format!("{guest} is the host's {host}")));
    if !machine.kernel_parameters.is_empty() {
        parts.push(format!("kernel parameters {}", machine.kernel_parameters.join(" ")));
    }
    parts.join(", ")
}

fn disk_text(disk: &Disk) -> String {
    let cache = match (disk.write_cache, disk.survives) {
        (WriteCache::Host, _) => String::new(),
        (WriteCache::Volatile, None) => " that forgets what is not flushed".into(),
        (WriteCache::Volatile, Some(share)) => format!(" that keeps {share} of what is not flushed"),
        (WriteCache::Lying, _) => " that lies about flushes".into(),
    };
    format!("disk {} {}{cache}", disk.name, disk.size)
}

fn networks_text(text: &mut String, lane: &Lane) {
    if lane.networks.is_empty() {
        return;
    }
    text.push_str("\nnetworks\n");
    for (name, network) in &lane.networks {
        let recorded =
            if network.capture { format!(", recorded up to {}", network.capture_limit) } else { String::new() };
        let (subnet, prefix, host) = (network.subnet, network.prefix, network.host());
        let _ = writeln!(text, "  {name}  {subnet}/{prefix}, the host is {host}{recorded}");
    }
}

fn steps_text(text: &mut String, lane: &Lane, bounds: &[Span]) {
    text.push_str("\nsteps\n");
    let width = lane.steps.iter().map(|step| step.name.len()).max().unwrap_or(0);
    for (index, (step, bound)) in lane.steps.iter().zip(bounds).enumerate() {
        let _ = writeln!(text, "  {:>2}  {:width$}  {}", index + 1, step.name, step_text(lane, step, *bound));
    }
}

/// What each schedule comes to: the same in every run.
fn schedules_text(text: &mut String, lane: &Lane) {
    for step in all_steps(&lane.steps) {
        let Action::Schedule { schedule } = &step.action else { continue };
        let _ = writeln!(text, "\nschedule {} (from its seed {})", step.name, schedule.seed);
        for drawn in super::draw(schedule) {
            let scheduled = &schedule.faults[drawn.fault];
            let machine = drawn.machine.map(|machine| format!(" on {machine}")).unwrap_or_default();
            let seconds = |span: Span| format!("{:>9.3}s", span.duration().as_secs_f64());
            let begins = seconds(drawn.begins);
            let until = if scheduled.fault.lasts() { format!(" to {}", seconds(drawn.ends)) } else { " ".repeat(14) };
            let (name, fault, ends) = (&scheduled.name, &scheduled.fault, link_ends(&scheduled.fault));
            let _ = writeln!(text, "  {begins}{until}  {name}: {fault}{machine}{ends}");
        }
    }
}

fn step_text(lane: &Lane, step: &Step, bound: Span) -> String {
    let mut line = action_text(&step.action);
    let everywhere = step.on.len() == lane.machines.len();
    if !step.on.is_empty() && !everywhere {
        let _ = write!(line, " on {}", step.on.join(", "));
    }
    if !matches!(step.action, Action::Hold { .. }) {
        let _ = write!(line, " within {bound}");
    }
    if step.always {
        line.push_str(", always");
    }
    if let Some(gate) = &step.gate {
        let _ = match gate.hard {
            true => write!(line, "  [gate {}]", gate.name),
            false => write!(line, "  [gate {}, weight {}]", gate.name, gate.weight),
        };
    }
    line
}
