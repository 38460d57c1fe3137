//! One run, from its first event to its seal.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::checkpoints::Checkpoints;
use super::control::Control;
use super::debugging::Debugging;
use super::deployer::RunDeployer;
use super::dispatcher::{Dispatcher, Observer};
use super::faults::Faults;
use super::libvirt::LibvirtPlace;
use super::machines::{self, Surroundings};
use super::networks::Networks;
use super::signals::SignalWatch;
use super::steps::{RunningMachine, StepContext};
use super::{environment, executor, netboot, record, resources};
use crate::attach;
use crate::budget::{Admission, BudgetDocument};
use crate::checkpoint::Checkpoint;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{Finding, Kind, LOG_VERSION, Reporter, Severity, Verdict};
use crate::image::{BuiltImage, ImageProgress, ImageRequest, ImageStore};
use crate::machine::RunFolders;
use crate::machine::libvirt::{self, Target};
use crate::plan::Plan;
use crate::plan::model::{Accelerator, BackendMode, LockState};
use crate::preflight::{self, PreflightInputs, accelerator};
use crate::proof::environment::{EnvironmentLibvirt, ExecutionModel};
use crate::proof::{self, ProofRoot, SealRequest};
use crate::report::{self, Story};
use crate::secret::Secrets;

/// What a run is to do beside its plan.
pub struct RunOptions {
    pub plan: Plan,
    /// Absolute.
    pub work_root: PathBuf,
    /// What relative paths in the plan's lane are relative to.
    pub project_root: PathBuf,
    /// Whether to leave the machines up.
    pub keep: Keep,
    /// Where images, checkpoints and the accelerator's proof are: the work root, or a folder for this run alone.
    pub caches: PathBuf,
    /// To stand still where a step fails.
    pub debugging: Option<Debugging>,
    /// Image versions other than the lock's are an error.
    pub locked: bool,
    /// What started the run, where a runner or a check did.
    pub started_by: Option<ExecutionModel>,
    /// What happens where the host has no room for it now.
    pub admission: Admission,
    /// How long it waits for room at most.
    pub wait_at_most: Duration,
    /// What the work root may take.
    pub budget: BudgetDocument,
}

/// When machines outlive their run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    #[default]
    Never,
    /// When its verdict is not a good one.
    OnFailure,
    Always,
}

/// What a run leaves.
pub struct RunOutcome {
    pub root: PathBuf,
    pub verdict: Verdict,
    pub story: Story,
    /// Machines that were kept, by name.
    pub kept: Vec<String>,
    /// What went wrong after the verdict was decided: reports that could not be written.
    pub warnings: Vec<Error>,
}

/// Runs the plan. `observer` is told of every event once it is on disk; `progress` of image builds.
///
/// # Errors
/// Only when there can be no proof: the proof root or its log cannot be created, or the seal not be written.
pub async fn run(options: RunOptions, observer: Observer, progress: Arc<dyn ImageProgress>) -> Result<RunOutcome> {
    let began = Instant::now();
    let plan = &options.plan;
    let root = ProofRoot::create(&options.work_root, &plan.lane.name)?;
    proof::write_json_atomic(&root.path().join(proof::root::LANE_FILE), &plan.lane)?;
    proof::write_json_atomic(&root.path().join(proof::root::PLAN_FILE), plan)?;
    let cancel = CancellationToken::new();
    let (decider, decided) = tokio::sync::mpsc::unbounded_channel();
    let deciding: Observer = Box::new(move |event, view| {
        if matches!(event.event, Kind::StepsEnded {}) {
            // Nobody has to ask.
            let _ = decider.send(report::decide(view).verdict);
        }
    });
    let dispatcher = Dispatcher::start(&root.events(), began, vec![observer, deciding], cancel.clone())?;
    let reporter = dispatcher.reporter();
    reporter.info(None, run_started(plan, &root));
    reporter.info(None, Kind::StepsPlanned { steps: executor::summaries(&plan.lane.steps) });
    let interrupted = reporter.clone();
    let signals = SignalWatch::start(cancel.clone(), move |signal| {
        interrupted.error(None, Kind::Interrupted { signal: signal.into() });
    })?;

    let mut session = Session {
        options: &options,
        root: &root,
        reporter: &reporter,
        cancel: &cancel,
        progress: progress.as_ref(),
        facts: environment::Facts { started_by: options.started_by, ..Default::default() },
        kept: Vec::new(),
        decided,
    };
    if let Err(error) = session.perform().await {
        session.report_error(&error);
    }
    let Session { facts, kept, .. } = session;
    let trouble = dispatcher.trouble();
    drop(reporter);
    let view = tokio::task::spawn_blocking(move || dispatcher.close()).await;
    let view = view.map_err(|error| Error::infrastructure("the dispatcher failed").with_source(error))?;

    let mut warnings = Vec::new();
    warnings.extend(
        proof::write_json_atomic(&root.path().join(proof::root::ENVIRONMENT_FILE), &facts.into_environment()).err(),
    );
    warnings.extend(readable_consoles(&root, plan));
    let (story, failed) = proof::write_reports(root.path(), &view);
    warnings.extend(failed);
    let verdict = if trouble.get().is_some() { log_verdict(&trouble.get()) } else { story.result.verdict };
    proof::seal(root.path(), SealRequest { run: root.run(), lane: &plan.lane.name, verdict })?;
    root.publish()?;
    drop(signals);
    Ok(RunOutcome { root: root.path().into(), verdict, story, kept, warnings })
}

/// A log that could not be written forbids `passed`, whatever the rest says.
fn log_verdict(trouble: &Option<Arc<Error>>) -> Verdict {
    match trouble.as_ref().map(|error| error.kind()) {
        Some(ErrorKind::Budget) => Verdict::Budget,
        _ => Verdict::Infrastructure,
    }
}

fn run_started(plan: &Plan, root: &ProofRoot) -> Kind {
    let lane = &plan.lane;
    let control = plan.control.as_ref().and_then(|name| lane.controls.get(name));
    Kind::RunStarted {
        log_version: LOG_VERSION,
        run: root.run().into(),
        lane: lane.name.clone(),
        profile: lane.profile.clone(),
        summary: lane.summary.clone(),
        control: plan.control.clone(),
        control_fails_at: control.map(|control| control.fails_at.clone()),
        plan_digest: plan.digest(),
        tool_version: env!("CARGO_PKG_VERSION").into(),
        minimum_score: lane.minimum_score,
    }
}

/// How long a libvirt may take to say what it is.
const LIBVIRT_BOUND: Duration = Duration::from_secs(60);

struct Session<'a> {
    options: &'a RunOptions,
    root: &'a ProofRoot,
    reporter: &'a Reporter,
    cancel: &'a CancellationToken,
    progress: &'a dyn ImageProgress,
    facts: environment::Facts,
    kept: Vec<String>,
    /// The verdict as it stands when the steps are over.
    decided: tokio::sync::mpsc::UnboundedReceiver<Verdict>,
}

/// What the accelerator's proof came to.
struct Chosen {
    mode: Accelerator,
    factor: f64,
    detail: String,
}

impl Session<'_> {
    async fn perform(&mut self) -> Result<()> {
        let plan = &self.options.plan;
        if plan.backend_mode == BackendMode::Disabled {
            return Err(Error::blocked("the backend is disabled: nothing is started")
                .hint("leave out `--backend-mode disabled` (or BOOTPROOF_BACKEND_MODE)"));
        }
        if plan.backend_mode == BackendMode::Record {
            return self.record().await;
        }
        let store = ImageStore::open(&self.options.caches, &self.options.project_root)?;
        let qemu_version = preflight::qemu_version(&self.options.caches);
        self.facts.qemu_version.clone_from(&qemu_version);
        let needs_qemu = plan.lane.machines.values().any(|machine| machine.backend.is_virtual());
        let chosen = self.choose_accelerator(&store, qemu_version.as_deref(), needs_qemu).await?;
        if self.cancel.is_cancelled() {
            return Ok(());
        }
        let libvirt = self.ask_libvirt().await?;
        let inputs = PreflightInputs {
            work_root: &self.options.work_root,
            qemu_version: qemu_version.as_deref(),
            accelerator: chosen.mode,
            accelerator_detail: &chosen.detail,
            libvirt: libvirt.as_ref().map(|place| &place.host),
            image_findings: image_findings(plan),
        };
        let findings = preflight::check(plan, &inputs);
        let surroundings = resources::Surroundings {
            options: self.options,
            root: self.root,
            reporter: self.reporter,
            cancel: self.cancel,
        };
        let Some(held) = surroundings.admit(findings).await? else { return Ok(()) };
        let outcome = self.perform_admitted(&store, &chosen, qemu_version.as_deref(), libvirt.as_ref()).await;
        // After an error, too, it is good to know what was taken.
        held.end(self.reporter);
        outcome
    }

    /// With room for all that it may take.
    async fn perform_admitted(
        &mut self,
        store: &ImageStore,
        chosen: &Chosen,
        qemu_version: Option<&str>,
        libvirt: Option<&LibvirtPlace>,
    ) -> Result<()> {
        let plan = &self.options.plan;
        let secrets = Secrets::resolve(&plan.lane.secrets, &self.options.project_root)?;
        let images = self.prepare_images(store).await?;
        if self.cancel.is_cancelled() {
            return Ok(());
        }
        let checkpoints = self.prepare_checkpoints(&images, chosen, qemu_version).await?;
        if self.cancel.is_cancelled() {
            return Ok(());
        }
        if let Some(LibvirtPlace { target, .. }) = libvirt {
            self.sweep(target).await?;
        }
        self.facts.started = true;
        self.drive(&images, &checkpoints, chosen, secrets, libvirt).await
    }

    /// Starts the machines, runs the steps, ends (or keeps) the machines.
    async fn drive(
        &mut self,
        images: &BTreeMap<String, BuiltImage>,
        checkpoints: &BTreeMap<String, Arc<Checkpoint>>,
        chosen: &Chosen,
        secrets: Secrets,
        libvirt: Option<&LibvirtPlace>,
    ) -> Result<()> {
        let plan = &self.options.plan;
        let folders = RunFolders::create(&self.options.work_root, self.root.run())?;
        let networks = match Networks::start(&plan.lane, folders.runtime(), self.root.path(), self.reporter) {
            Ok(networks) => Arc::new(networks),
            Err(error) => {
                folders.remove(false);
                return Err(error);
            }
        };
        let deployer = match self.start_deployer(images, &folders, &networks, &secrets).await {
            Ok(deployer) => deployer,
            Err(error) => {
                folders.remove(false);
                return Err(error);
            }
        };
        let surroundings = Surroundings {
            run: self.root.run(),
            lane: &plan.lane,
            work_root: &self.options.work_root,
            project_root: &self.options.project_root,
            evidence: self.root.path(),
            accelerator: chosen.mode,
            reporter: self.reporter,
            networks: &networks,
            secrets: &secrets,
            ca_url: deployer.as_ref().and_then(RunDeployer::ca_url),
            factor: chosen.factor,
            checkpoints,
            making: None,
            libvirt,
            recorded: false,
        };
        let machines = match machines::start(&surroundings, &folders, images).await {
            Ok(machines) => machines,
            Err(error) => {
                folders.remove(false);
                return Err(error);
            }
        };
        let context = StepContext {
            run: self.root.run().into(),
            lane: plan.lane.name.clone(),
            machines,
            reporter: self.reporter.clone(),
            root: self.root.path().into(),
            lane_directory: self.options.project_root.clone(),
            secrets,
            factor: chosen.factor,
            faults: Faults::new(networks),
            deployer,
            checkpoints: folders.scratch().join(".checkpoints"),
        };
        let control = match Control::start(attach::run_socket(folders.runtime()), context.machines.clone()) {
            Ok(control) => Some(control),
            Err(error) => {
                let note = format!("nobody can get into the run's machines meanwhile: {}", error.chain());
                self.reporter.warning(None, Kind::Note { text: note });
                None
            }
        };
        let deadline = plan.lane.deadline.scaled(chosen.factor).duration();
        executor::execute(&context, &plan.lane.steps, deadline, self.options.debugging.as_ref(), self.cancel).await;
        self.reporter.report(Severity::Debug, None, Kind::StepsEnded {});
        let keep = match self.options.keep {
            Keep::Never => false,
            Keep::Always => true,
            Keep::OnFailure => self.stands_badly().await,
        };
        // Ctrl-C means: nothing left running, also where the machines were to be kept.
        let keep = keep && !self.cancel.is_cancelled();
        if let Some(control) = control {
            control.end().await;
        }
        context.faults.end(&context, keep).await;
        if keep {
            self.keep(&context.machines).await;
        }
        for error in machines::end(&context.machines).await {
            self.reporter
                .error(None, Kind::InfrastructureFailed { what: "ending a machine".into(), detail: error.chain() });
        }
        let ended = match &context.deployer {
            Some(deployer) => deployer.end(self.root.path()).await,
            None => Ok(()),
        };
        let closed = context.faults.networks.close(self.root.path(), self.reporter);
        folders.remove(!self.kept.is_empty());
        ended.and(closed)
    }

    /// The lane's deployer, where it has one, before the first machine could phone home.
    async fn start_deployer(
        &self,
        images: &BTreeMap<String, BuiltImage>,
        folders: &RunFolders,
        networks: &Arc<Networks>,
        secrets: &Secrets,
    ) -> Result<Option<RunDeployer>> {
        let Some(lane) = &self.options.plan.lane.deployer else { return Ok(None) };
        let store = ImageStore::open(&self.options.caches, &self.options.project_root)?;
        let mut bundles = Vec::new();
        for (class, image) in &lane.images {
            let Some(request) = self.image_request(image) else { continue };
            bundles.push((class.clone(), store.bundle(&request, self.progress, self.cancel.clone()).await?.path));
        }
        let mut lane = lane.clone();
        if let Some((name, image)) = lane.netboot.as_ref().and_then(|name| images.get_key_value(name)) {
            let host = self.options.plan.lane.networks.get(&lane.network).map(|network| network.host());
            let https = host.filter(|_| lane.tls).map(|host| format!("https://{host}:{}", lane.port));
            lane.configuration.netboot = Some(netboot::document(name, image, https)?);
        }
        let (root, scratch) = (&self.options.project_root, folders.scratch());
        RunDeployer::start(&lane, bundles, root, scratch, networks.clone(), secrets, self.reporter).await.map(Some)
    }

    /// Whether the verdict is not a good one, now that the steps are over.
    async fn stands_badly(&mut self) -> bool {
        tokio::select! {
            verdict = self.decided.recv() => verdict.is_none_or(|verdict| verdict.exit_code() != 0),
            // A log that cannot be written tells nobody anything, and cancels.
            () = self.cancel.cancelled() => false,
        }
    }

    async fn keep(&mut self, machines: &BTreeMap<String, RunningMachine>) {
        for (name, machine) in machines {
            if machine.state.off().is_some() {
                continue;
            }
            let folder = machines::kept_folder(&self.options.work_root, self.root.run(), name);
            match machine.machine.keep(folder).await {
                Ok(pid) => {
                    self.reporter.for_machine(name).info(None, Kind::MachineKept { pid, name: name.clone() });
                    self.kept.push(name.clone());
                }
                Err(error) => {
                    let note = format!("machine `{name}` could not be kept: {}", error.chain());
                    self.reporter.warning(None, Kind::Note { text: note });
                }
            }
        }
    }

    /// Writes down what would be started, and says what speaks against it; nothing is started, so nothing is proven.
    async fn record(&mut self) -> Result<()> {
        let plan = &self.options.plan;
        let store = ImageStore::open(&self.options.caches, &self.options.project_root)?;
        let qemu_version = preflight::qemu_version(&self.options.caches);
        self.facts.qemu_version.clone_from(&qemu_version);
        let asked = self.ask_libvirt().await;
        let mode = plan.accelerator.mode.unwrap_or(Accelerator::Tcg);
        let inputs = PreflightInputs {
            work_root: &self.options.work_root,
            qemu_version: qemu_version.as_deref(),
            accelerator: mode,
            accelerator_detail: "nothing is started to prove it",
            libvirt: asked.as_ref().ok().and_then(|place| place.as_ref()).map(|place| &place.host),
            image_findings: image_findings(plan),
        };
        let mut findings = preflight::check(plan, &inputs);
        let libvirt = match asked {
            Ok(libvirt) => libvirt,
            Err(error) => {
                let (message, remedy) = (error.chain(), error.hints().first().cloned());
                findings.push(Finding { check: "libvirt".into(), blocking: false, message, remedy });
                None
            }
        };
        let images = self.images_that_are_there(&store).await?;
        let secrets = Secrets::resolve(&plan.lane.secrets, &self.options.project_root)?;
        let folders = RunFolders::create(&self.options.work_root, self.root.run())?;
        let surroundings = Surroundings {
            run: self.root.run(),
            lane: &plan.lane,
            work_root: &self.options.work_root,
            project_root: &self.options.project_root,
            evidence: self.root.path(),
            accelerator: mode,
            reporter: self.reporter,
            networks: &Networks::planned(&plan.lane, folders.runtime()),
            secrets: &secrets,
            ca_url: None,
            factor: accelerator::deadline_factor(mode),
            checkpoints: &BTreeMap::new(),
            making: None,
            libvirt: libvirt.as_ref(),
            recorded: true,
        };
        let recorded = record::record(&surroundings, &folders, &images).await;
        folders.remove(false);
        recorded?;
        findings.push(Finding {
            check: "backend-mode".into(),
            blocking: true,
            message: "the backend only records: what it would have started is in the proof, under `machines/`".into(),
            remedy: Some("leave out `--backend-mode record` (or BOOTPROOF_BACKEND_MODE) to run it".into()),
        });
        self.reporter.info(None, Kind::PreflightFinished { findings });
        Ok(())
    }

    /// The lane's images without building any: what is not there is named as it would be.
    async fn images_that_are_there(&self, store: &ImageStore) -> Result<BTreeMap<String, BuiltImage>> {
        let mut images = BTreeMap::new();
        for (name, planned) in &self.options.plan.images {
            let image = match self.image_request(name).filter(|_| planned.present) {
                Some(request) => store.ensure(&request, self.progress, self.cancel.clone()).await?,
                None => BuiltImage::unbuilt(name, planned.source),
            };
            images.insert(name.clone(), image);
        }
        Ok(images)
    }

    /// Asks the libvirt that machines are to run under what it is.
    async fn ask_libvirt(&mut self) -> Result<Option<LibvirtPlace>> {
        let Some(uri) = &self.options.plan.libvirt_uri else { return Ok(None) };
        let target = Target::new(uri);
        if target.is_remote() {
            // Nothing can be booted there, whatever it says: preflight tells why.
            return Ok(None);
        }
        let asked = target.clone();
        let asking = tokio::task::spawn_blocking(move || libvirt::describe(&asked));
        let late =
            |_| Error::blocked(format!("libvirt at `{target}` does not answer within {}s", LIBVIRT_BOUND.as_secs()));
        let asked = tokio::time::timeout(LIBVIRT_BOUND, asking).await.map_err(late)?;
        let host = asked.infrastructure(|| "asking libvirt failed".into())??;
        self.facts.libvirt = Some(EnvironmentLibvirt {
            uri: uri.clone(),
            version: host.version.clone(),
            hypervisor_version: host.hypervisor.clone(),
        });
        Ok(Some(LibvirtPlace { target, host }))
    }

    /// Ends what killed runs have left there.
    async fn sweep(&self, target: &Target) -> Result<()> {
        let (target, work_root) = (target.clone(), self.options.work_root.clone());
        let swept = tokio::task::spawn_blocking(move || libvirt::prune(&target, &work_root, false)).await;
        for left in swept.infrastructure(|| "sweeping libvirt failed".into())?? {
            let text = format!("the domain `{}` was left by a run that is gone: it was ended", left.domain);
            self.reporter.warning(None, Kind::Note { text });
        }
        Ok(())
    }

    /// Proves the accelerator, unless it is known or was named.
    async fn choose_accelerator(
        &mut self,
        store: &ImageStore,
        qemu_version: Option<&str>,
        needed: bool,
    ) -> Result<Chosen> {
        let request = self.options.plan.accelerator.requested;
        let choice = match qemu_version {
            Some(version) if needed => {
                let prober = accelerator::Prober {
                    work_root: &self.options.caches,
                    project_root: &self.options.project_root,
                    store,
                    qemu_version: version,
                    progress: self.progress,
                    cancel: self.cancel,
                };
                accelerator::choose(request, &prober).await
            }
            // Without QEMU, or without a machine that needs it, there is nothing to prove; preflight says the rest.
            _ => accelerator::Choice::unneeded(),
        };
        // A recording plays as fast as it is read.
        let factor = if needed { accelerator::deadline_factor(choice.mode) } else { 1.0 };
        if needed {
            self.facts.accelerator = Some((choice.clone(), factor));
            let kind = Kind::AcceleratorChosen {
                mode: choice.mode.as_str().into(),
                proven_by: choice.proven_by.into(),
                detail: choice.detail.clone(),
                deadline_factor: factor,
            };
            if choice.fell_back { self.reporter.warning(None, kind) } else { self.reporter.info(None, kind) }
        }
        Ok(Chosen { mode: choice.mode, factor, detail: choice.detail })
    }

    /// What machines begin from that do not boot.
    async fn prepare_checkpoints(
        &self,
        images: &BTreeMap<String, BuiltImage>,
        chosen: &Chosen,
        qemu_version: Option<&str>,
    ) -> Result<BTreeMap<String, Arc<Checkpoint>>> {
        let checkpoints = Checkpoints {
            work_root: &self.options.caches,
            project_root: &self.options.project_root,
            lane: &self.options.plan.lane,
            images,
            accelerator: chosen.mode,
            factor: chosen.factor,
            qemu_version: qemu_version.unwrap_or_default(),
            evidence: self.root.path(),
            progress: self.progress,
            cancel: self.cancel,
        };
        checkpoints.prepare(self.reporter).await
    }

    fn image_request(&self, name: &str) -> Option<ImageRequest> {
        let plan = &self.options.plan;
        Some(ImageRequest {
            name: name.into(),
            image: plan.lane.images.get(name)?.clone(),
            source: plan.images.get(name)?.source,
            base_directory: self.options.project_root.clone(),
            locked: self.options.locked,
        })
    }

    async fn prepare_images(&mut self, store: &ImageStore) -> Result<BTreeMap<String, BuiltImage>> {
        let plan = &self.options.plan;
        let mut images = BTreeMap::new();
        for name in plan.images.keys() {
            let Some(request) = self.image_request(name) else { continue };
            let began = Instant::now();
            let built = store.ensure(&request, self.progress, self.cancel.clone()).await?;
            let ready = Kind::ImageReady {
                image: name.clone(),
                source: built.source.to_string(),
                digest: built.digest.clone(),
                lock: lock_name(built.lock).into(),
                built: built.built,
                duration_ms: milliseconds(began.elapsed()),
            };
            if built.lock == LockState::Drifted {
                self.reporter.warning(None, ready);
            } else {
                self.reporter.info(None, ready);
            }
            self.facts.images.insert(name.clone(), built.clone());
            images.insert(name.clone(), built);
        }
        Ok(images)
    }

    /// An error that ended the run before its steps could say anything.
    fn report_error(&self, error: &Error) {
        let detail = match error.hints() {
            [] => error.chain(),
            hints => format!("{} (hint: {})", error.chain(), hints.join("; ")),
        };
        let kind = match error.kind() {
            // Stopped on the user's word, which is in the log already.
            _ if self.cancel.is_cancelled() => return,
            ErrorKind::Blocked | ErrorKind::Usage => {
                let finding = Finding {
                    check: "preparation".into(),
                    blocking: true,
                    message: error.chain(),
                    remedy: error.hints().first().cloned(),
                };
                Kind::PreflightFinished { findings: vec![finding] }
            }
            ErrorKind::Budget => Kind::BudgetCrossed { what: detail, limit: 0, used: 0 },
            ErrorKind::Infrastructure => Kind::InfrastructureFailed { what: "preparation".into(), detail },
            ErrorKind::Interrupted => Kind::Interrupted { signal: detail },
        };
        self.reporter.error(None, kind);
    }
}

fn lock_name(lock: LockState) -> &'static str {
    match lock {
        LockState::Locked => "locked",
        LockState::Drifted => "drifted",
        LockState::Unlocked => "unlocked",
        LockState::NotNeeded => "not-needed",
    }
}

/// What the images that have to be built first miss on this host.
fn image_findings(plan: &Plan) -> Vec<Finding> {
    let mut sources: Vec<_> = plan.images.values().filter(|image| !image.present).map(|image| image.source).collect();
    sources.sort_by_key(ToString::to_string);
    sources.dedup();
    sources.into_iter().flat_map(crate::image::missing_tools).collect()
}

/// Writes the readable text of every console beside its raw bytes.
fn readable_consoles(root: &ProofRoot, plan: &Plan) -> Vec<Error> {
    let mut errors = Vec::new();
    for name in plan.lane.machines.keys() {
        for console in ["console", "console-hvc0"] {
            let raw = root.path().join("machines").join(name).join(format!("{console}.raw"));
            match std::fs::metadata(&raw) {
                // The second console of a guest that never used it says nothing: no file is clearer than two empty ones.
                Ok(facts) if facts.len() == 0 && console != "console" => drop(std::fs::remove_file(&raw)),
                Ok(_) => errors.extend(crate::console::decode_file(&raw, &raw.with_extension("log")).err()),
                Err(_) => {}
            }
        }
    }
    errors
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
