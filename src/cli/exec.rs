//! `bootproof exec`: boot an image, run one command, give back its output and exit status. No lane, no proof.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::Context;
use super::planning::PlanArguments;
use super::print::print_error;
use crate::channel::{ExecRequest, ExitStatus, RefusalReason};
use crate::checkpoint::Checkpoint;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::event::{Report, Reporter};
use crate::image::{BuiltImage, ImageProgress, ImageRequest, ImageStore};
use crate::lane::Catalog;
use crate::lane::model::{Image, Lane, Machine, MarkerRules, Network, TinyImage};
use crate::lane::units::{Size, Span};
use crate::machine::{RunFolders, WaitHandle};
use crate::marker::{Wait, WaitProgress};
use crate::plan;
use crate::plan::model::Accelerator;
use crate::preflight::accelerator::{self, Choice, Prober};
use crate::preflight::{self};
use crate::run::machines::{self, Surroundings};
use crate::run::{Checkpoints, Networks, RunningMachine};
use crate::secret::Secrets;

/// For anything that is ours and not the command's.
const OUR_FAILURE: u8 = 125;

/// A shell's status for a command that SIGPIPE has ended.
const BROKEN_PIPE: u8 = 128 + 13;

const AFTER_HELP: &str = "\
Examples:
  bootproof exec -- uname -r
  bootproof exec --image node -- systemctl --failed
  bootproof exec --image node --start checkpoint -- hostname
  bootproof exec --image ./disk.qcow2 -- sh -c 'cat >/tmp/copy' <file

The exit code is the command's own; 125 is for whatever went wrong on our side.";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// `tiny`, an image of one of the project's lanes, or a disk image's path
    #[arg(long, default_value = "tiny", value_name = "IMAGE")]
    image: String,
    /// The guest's processors
    #[arg(long, default_value = "1", value_name = "COUNT")]
    cpus: u32,
    /// The guest's memory; 256MiB for `tiny`, 1GiB for others when not given
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<Size>,
    /// Bound on boot and command together, stretched where there is no KVM
    #[arg(long, default_value = "5m", value_name = "SPAN", value_parser = parse_span)]
    deadline: Span,
    /// Set a variable for the command; may be given again
    #[arg(long, short, value_name = "NAME=VALUE")]
    env: Vec<String>,
    #[command(flatten)]
    plan: PlanArguments,
    /// The command and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

fn parse_size(text: &str) -> Result<Size, String> {
    text.parse()
}

fn parse_span(text: &str) -> Result<Span, String> {
    text.parse()
}

pub fn run(context: &Context, arguments: Arguments) -> Result<ExitCode> {
    let environment = environment(&arguments.env)?;
    let runtime = super::runtime()?;
    let outcome = runtime.block_on(boot_and_run(context, &arguments, environment));
    // Standard input may still be waited for; nobody needs that any more.
    runtime.shutdown_background();
    match outcome {
        Ok(status) => Ok(ExitCode::from(status)),
        Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
        Err(error) => {
            print_error(context, &error);
            Ok(ExitCode::from(OUR_FAILURE))
        }
    }
}

fn environment(given: &[String]) -> Result<BTreeMap<String, String>> {
    let split = |text: &String| {
        let (name, value) = text.split_once('=').ok_or_else(|| {
            Error::usage(format!("`{text}` is not `NAME=VALUE`")).hint("write it like `--env LANG=C`")
        })?;
        Ok((name.to_owned(), value.to_owned()))
    };
    given.iter().map(split).collect()
}

async fn boot_and_run(context: &Context, arguments: &Arguments, environment: BTreeMap<String, String>) -> Result<u8> {
    let cancel = CancellationToken::new();
    let _signals = crate::run::SignalWatch::start(cancel.clone(), |_| {})?;
    let stopped = || Error::new(ErrorKind::Interrupted, "stopped before the command had ended");
    // Everything in there heeds `cancel`; what was started is ended before it returns.
    let status = prepare_and_run(context, arguments, environment, &cancel).await;
    if cancel.is_cancelled() { Err(stopped()) } else { status }
}

async fn prepare_and_run(
    context: &Context,
    arguments: &Arguments,
    environment: BTreeMap<String, String>,
    cancel: &CancellationToken,
) -> Result<u8> {
    let progress = Said { quiet: context.quiet };
    let lane = lane_for(context, arguments)?;
    let (name, image) = lane.images.iter().next().expect("the lane has one image");
    let store = ImageStore::open(&context.work_root, &context.project_root)?;
    let qemu_version = preflight::qemu_version(&context.work_root).ok_or_else(|| {
        Error::blocked("QEMU was not found").hint("install it (`make setup`, or `apt-get install qemu-system-x86`)")
    })?;
    let prober = Prober {
        work_root: &context.work_root,
        project_root: &context.project_root,
        store: &store,
        qemu_version: &qemu_version,
        progress: &progress,
        cancel,
    };
    let choice = accelerator::choose(arguments.plan.request(), &prober).await;
    refuse_unproven_kvm(&arguments.plan, &choice)?;
    let request = ImageRequest {
        name: name.clone(),
        image: image.clone(),
        source: plan::choose_source(name, image, arguments.plan.source())?,
        base_directory: context.project_root.clone(),
        locked: arguments.plan.locked,
    };
    let built = store.ensure(&request, &progress, cancel.clone()).await?;

    let id = format!("exec-{}", crate::proof::random_id()?);
    let folders = RunFolders::create(&context.work_root, &id)?;
    let machine = OneMachine {
        id: &id,
        lane: &lane,
        images: BTreeMap::from([(name.clone(), built)]),
        mode: choice.mode,
        qemu_version: &qemu_version,
    };
    let outcome = machine.boot_and_run(context, arguments, environment, &folders, cancel).await;
    let outcome = outcome.map_err(|error| keep_evidence(&context.work_root, &folders, &id, error));
    folders.remove(false);
    outcome
}

/// The machine of one `exec`, ready to be started.
struct OneMachine<'a> {
    id: &'a str,
    lane: &'a Lane,
    images: BTreeMap<String, BuiltImage>,
    mode: Accelerator,
    qemu_version: &'a str,
}

impl OneMachine<'_> {
    async fn boot_and_run(
        self,
        context: &Context,
        arguments: &Arguments,
        environment: BTreeMap<String, String>,
        folders: &RunFolders,
        cancel: &CancellationToken,
    ) -> Result<u8> {
        let (queue, reports) = sync_channel(1024);
        // Nothing is kept of what happens but the console: facts are taken in so that nobody waits.
        let drain = std::thread::spawn(move || drain(&reports));
        let reporter = Reporter::new(queue);
        let surroundings = Surroundings {
            run: self.id,
            lane: self.lane,
            work_root: &context.work_root,
            project_root: &context.project_root,
            evidence: &evidence_folder(folders),
            accelerator: self.mode,
            reporter: &reporter,
            networks: &Networks::default(),
            secrets: &Secrets::resolve(&self.lane.secrets, &context.project_root)?,
            ca_url: None,
            factor: accelerator::deadline_factor(self.mode),
            checkpoints: &self.checkpoints(context, &evidence_folder(folders), &reporter, cancel).await?,
            making: None,
            libvirt: None,
            recorded: false,
        };
        let machines = machines::start(&surroundings, folders, &self.images).await?;
        let machine = machines.values().next().expect("the lane has one machine");
        let deadline = arguments.deadline.scaled(accelerator::deadline_factor(self.mode));
        let command =
            ExecRequest { argv: arguments.command.clone(), environment, stdin: true, ..ExecRequest::default() };
        let outcome = tokio::select! {
            outcome = in_guest(machine, command) => outcome,
            () = tokio::time::sleep(deadline.duration()) => {
                Err(Error::infrastructure(format!("the command did not end within {deadline}")))
            }
            () = cancel.cancelled() => Err(Error::new(ErrorKind::Interrupted, "stopped")),
        };
        machines::end(&machines).await;
        drop((machines, reporter));
        let _ = drain.join();
        outcome
    }
}

impl OneMachine<'_> {
    /// What the machine begins from, where it does not boot.
    async fn checkpoints(
        &self,
        context: &Context,
        evidence: &Path,
        reporter: &Reporter,
        cancel: &CancellationToken,
    ) -> Result<BTreeMap<String, Arc<Checkpoint>>> {
        let checkpoints = Checkpoints {
            work_root: &context.work_root,
            project_root: &context.project_root,
            lane: self.lane,
            images: &self.images,
            accelerator: self.mode,
            factor: accelerator::deadline_factor(self.mode),
            qemu_version: self.qemu_version,
            evidence,
            progress: &Said { quiet: context.quiet },
            cancel,
        };
        checkpoints.prepare(reporter).await
    }
}

/// Goes with the run's folders, unless something has to be explained by it.
fn evidence_folder(folders: &RunFolders) -> PathBuf {
    folders.scratch().join("evidence")
}

/// Moves what the console has recorded to where it stays, and points the error to it.
fn keep_evidence(work_root: &Path, folders: &RunFolders, id: &str, error: Error) -> Error {
    if error.kind() == ErrorKind::Interrupted {
        return error;
    }
    let kept = work_root.join("exec").join(id);
    let moved =
        std::fs::create_dir_all(work_root.join("exec")).and_then(|()| std::fs::rename(evidence_folder(folders), &kept));
    if moved.is_err() {
        return error;
    }
    let console = kept.join("machines").join("guest").join("console.raw");
    let length = std::fs::metadata(&console).map_or(0, |facts| facts.len());
    let said = crate::console::excerpt(&console, length, 8, 0).ok();
    let said = said.map(|excerpt| excerpt.lines.join("\n")).filter(|text| !text.trim().is_empty());
    let error = error.hint(format!("the console is in `{}`", console.display()));
    match said {
        Some(text) => error.hint(format!("the console's last lines:\n{text}")),
        None => error,
    }
}

/// `--accel kvm` on a host where it does not work is refused, not replaced.
fn refuse_unproven_kvm(arguments: &PlanArguments, choice: &Choice) -> Result<()> {
    use crate::plan::model::AcceleratorRequest;
    if arguments.request() == AcceleratorRequest::Kvm && choice.mode != Accelerator::Kvm {
        return Err(Error::blocked(format!("KVM is asked for and does not work here: {}", choice.detail))
            .hint("use `--accel auto` or `--accel tcg`"));
    }
    Ok(())
}

/// A lane of one machine, which is all that a command needs.
fn lane_for(context: &Context, arguments: &Arguments) -> Result<Lane> {
    let image = find_image(context, &arguments.image)?;
    let memory =
        arguments.memory.unwrap_or(if image.tiny.is_some() { Size::mebibytes(256) } else { Size::gibibytes(1) });
    // Nothing reaches the guest's network and there is no disk beside the image's: a `tiny` need not look for either.
    let network = Network { none: true, ..Network::default() };
    let kernel_parameters = if image.tiny.is_some() { vec!["bootproof.channel_only".into()] } else { Vec::new() };
    let machine = Machine {
        image: "image".into(),
        cpus: arguments.cpus,
        memory,
        network,
        kernel_parameters,
        start: arguments.plan.start(),
        ..Machine::default()
    };
    Ok(Lane {
        version: crate::lane::model::LANE_VERSION,
        name: "exec".into(),
        profile: None,
        summary: "one command in one image".into(),
        tier: crate::lane::model::Tier::Single,
        deadline: arguments.deadline,
        requires: Default::default(),
        budget: Default::default(),
        markers: MarkerRules::default(),
        failure_patterns: Default::default(),
        minimum_score: None,
        seed: crate::lane::model::DEFAULT_SEED,
        secrets: BTreeMap::new(),
        images: BTreeMap::from([("image".into(), image)]),
        networks: BTreeMap::new(),
        machines: BTreeMap::from([("guest".into(), machine)]),
        steps: Vec::new(),
        deployer: None,
        controls: BTreeMap::new(),
    })
}

fn find_image(context: &Context, wanted: &str) -> Result<Image> {
    if wanted == "tiny" {
        return Ok(Image { tiny: Some(TinyImage::default()), ..Image::default() });
    }
    if wanted.contains('/') || [".qcow2", ".raw", ".img"].iter().any(|ending| wanted.ends_with(ending)) {
        let here = std::env::current_dir().infrastructure(|| "failed to find the working directory".into())?;
        let disk = crate::lane::model::DiskImage { path: here.join(wanted), sha512: None };
        return Ok(Image { disk: Some(disk), ..Image::default() });
    }
    let (lanes, _) = Catalog::scan(&context.project_root)?.check();
    let mut names: Vec<String> = vec!["tiny".into()];
    for lane in lanes {
        if let Some(image) = lane.images.get(wanted) {
            return Ok(image.clone());
        }
        names.extend(lane.images.into_keys());
    }
    names.sort();
    names.dedup();
    Err(Error::usage(format!("there is no image `{wanted}`"))
        .hint(format!("there are: {}; a disk image is named by its path", names.join(", "))))
}

/// Waits for the agent, runs the command, and carries its streams.
async fn in_guest(machine: &RunningMachine, command: ExecRequest) -> Result<u8> {
    let mut watch = machine.state.start_wait(Wait::watch());
    tokio::select! {
        biased;
        error = trouble(&mut watch) => Err(error),
        status = command_in_guest(machine, command) => match status {
            Err(error) if error.kind() == ErrorKind::Infrastructure => {
                // A machine that is just going down explains a lost channel better than the channel can.
                let patience = std::time::Duration::from_secs(1);
                Err(tokio::time::timeout(patience, trouble(&mut watch)).await.unwrap_or(error))
            }
            status => status,
        },
    }
}

async fn trouble(watch: &mut WaitHandle) -> Error {
    loop {
        match watch.next().await {
            Some(WaitProgress::Ended(end)) => return Error::infrastructure(end.message),
            Some(_) => {}
            None => return Error::infrastructure("the machine went off"),
        }
    }
}

async fn command_in_guest(machine: &RunningMachine, command: ExecRequest) -> Result<u8> {
    let program = command.argv.first().cloned().unwrap_or_default();
    let channel = machine.machine.channel().ok_or_else(|| Error::infrastructure("there is no way into the machine"))?;
    channel.ready().await.infrastructure(|| "the guest does not answer".into())?;
    let mut execution = match channel.exec(command).await {
        Ok(execution) => execution,
        // As a shell says it: not found, and found but not to be run.
        Err(error) if error.is_refused(RefusalReason::NotFound) => {
            eprintln!("bootproof: `{program}` was not found in the guest");
            return Ok(127);
        }
        Err(error) if error.is_refused(RefusalReason::PermissionDenied) => {
            eprintln!("bootproof: `{program}` may not be run in the guest");
            return Ok(126);
        }
        Err(error) => return Err(error).infrastructure(|| format!("failed to start `{program}` in the guest")),
    };
    if let Some(mut stdin) = execution.stdin.take() {
        tokio::spawn(async move {
            // A terminal is for the user, not for a command that cannot have it.
            if !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
                let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut stdin).await;
            }
            let _ = stdin.shutdown().await;
        });
    }
    let (stdout, stderr) = (execution.stdout.take(), execution.stderr.take());
    let carried =
        async { tokio::try_join!(carry(stdout, tokio::io::stdout()), carry(stderr, tokio::io::stderr())).map(drop) };
    let status = async { Ok(execution.wait().await) };
    let status = match tokio::try_join!(carried, status) {
        Ok(((), status)) => status,
        Err(error) => {
            execution.cancel();
            // As a command ends whose reader goes away.
            return match error.kind() {
                std::io::ErrorKind::BrokenPipe => Ok(BROKEN_PIPE),
                _ => Err(error).infrastructure(|| format!("failed to pass on what `{program}` says")),
            };
        }
    };
    match status.infrastructure(|| format!("`{program}` was lost in the guest"))? {
        ExitStatus::Code(code) => Ok(u8::try_from(code & 0xff).unwrap_or(OUR_FAILURE)),
        status @ ExitStatus::Signal(_) => Ok(u8::try_from(status.shell_code()).unwrap_or(OUR_FAILURE)),
    }
}

/// Fails when what comes cannot be passed on; that no more comes is told by the command's end.
async fn carry(from: Option<impl AsyncRead + Unpin>, mut to: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    let mut bytes = vec![0; 32 << 10];
    loop {
        let count = match from.read(&mut bytes).await {
            Ok(0) | Err(_) => return to.flush().await,
            Ok(count) => count,
        };
        to.write_all(&bytes[..count]).await?;
        to.flush().await?;
    }
}

fn drain(reports: &Receiver<Report>) {
    while reports.recv().is_ok() {}
}

/// Says on standard error what takes long.
struct Said {
    quiet: bool,
}

impl ImageProgress for Said {
    fn stage(&self, image: &str, what: &str) {
        if !self.quiet {
            eprintln!("image {image}: {what}");
        }
    }

    fn warning(&self, image: &str, text: &str) {
        eprintln!("warning: image {image}: {text}");
    }
}
