//! Checkpoints of images: found, or made by booting a machine that is nobody's, before the first machine of a run starts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::machines::{self, Surroundings};
use super::networks::Networks;
use super::steps::RunningMachine;
use crate::checkpoint::{CONSOLES, Checkpoint, CheckpointKey, CheckpointStore, Found, MEMORY, Making, cap};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::event::{Kind, Reporter};
use crate::image::{Boot, BuiltImage, ImageProgress};
use crate::lane::model::{
    Action, Expectation, Expected, Lane, Machine as MachineDefinition, Network, Ready, Start, Step,
};
use crate::lane::units::Size;
use crate::machine::qemu;
use crate::machine::{RunFolders, WaitHandle};
use crate::marker::{Wait, WaitProgress};
use crate::plan::model::Accelerator;
use crate::secret::Secrets;

/// Changes with how machines are laid out.
const LAYOUT: u32 = 1;
/// What a checkpoint takes beside the memory: devices, and what a boot writes to the disk.
const BESIDE_MEMORY: Size = Size::mebibytes(256);
/// The machine that is saved. No name that a lane could see.
const NAME: &str = "checkpoint";

/// Makes checkpoints and finds them again.
pub struct Checkpoints<'a> {
    pub work_root: &'a Path,
    pub project_root: &'a Path,
    pub lane: &'a Lane,
    pub images: &'a BTreeMap<String, BuiltImage>,
    pub accelerator: Accelerator,
    /// Deadlines are stretched by this.
    pub factor: f64,
    pub qemu_version: &'a str,
    /// Where what is seen while one is made goes: the proof root, or what stands for it.
    pub evidence: &'a Path,
    pub progress: &'a dyn ImageProgress,
    pub cancel: &'a CancellationToken,
}

/// By the keys' digests; why one cannot be had.
type Asked = BTreeMap<String, Result<Arc<Checkpoint>, (ErrorKind, String)>>;

impl Checkpoints<'_> {
    /// Those that machines of the lane begin from, by the machines' names.
    ///
    /// # Errors
    /// Budget: there is no room for one. Infrastructure: one could not be made. A machine that may boot instead is left out
    /// then, and an event says why.
    pub async fn prepare(&self, reporter: &Reporter) -> Result<BTreeMap<String, Arc<Checkpoint>>> {
        let mut asked = BTreeMap::new();
        let mut prepared = BTreeMap::new();
        for (name, machine) in &self.lane.machines {
            if machine.start.is_boot() {
                continue;
            }
            match self.once(machine, &mut asked, reporter).await {
                Ok(checkpoint) => drop(prepared.insert(name.clone(), checkpoint)),
                Err(error) if machine.start == Start::CheckpointOrBoot && error.kind() != ErrorKind::Interrupted => {
                    let reason = error.chain();
                    reporter.for_machine(name).warning(None, Kind::CheckpointUnavailable { reason });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(prepared)
    }

    /// The machine's checkpoint; whether it can be had is found out once for all machines that share it.
    async fn once(
        &self,
        machine: &MachineDefinition,
        asked: &mut Asked,
        reporter: &Reporter,
    ) -> Result<Arc<Checkpoint>> {
        let key = self.key(machine)?;
        let digest = key.digest();
        if let Some(known) = asked.get(&digest) {
            return known.clone().map_err(|(kind, reason)| Error::new(kind, reason));
        }
        let outcome = self.ensure(machine, &key, reporter).await.map(Arc::new);
        let known = outcome.as_ref().map(Arc::clone).map_err(|error| (error.kind(), error.chain()));
        asked.insert(digest, known);
        outcome
    }

    fn image(&self, machine: &MachineDefinition) -> Result<&BuiltImage> {
        let image = self.images.get(&machine.image);
        image.ok_or_else(|| Error::infrastructure(format!("image `{}` was not prepared", machine.image)))
    }

    fn ready(&self, machine: &MachineDefinition) -> Ready {
        self.lane.images.get(&machine.image).and_then(|image| image.ready.clone()).unwrap_or_default()
    }

    fn key(&self, machine: &MachineDefinition) -> Result<CheckpointKey> {
        let image = self.image(machine)?;
        let cannot = |why: &str| {
            Error::usage(format!("the image `{}` cannot have a checkpoint: {why}", machine.image))
                .hint("leave the machine's `start` out, so that it boots")
        };
        let Boot::Kernel { kernel, initramfs, .. } = &image.boot else {
            return Err(cannot("its boot loader decides what the kernel is told, and a fork has to be told its own"));
        };
        if !image.shares.is_empty() {
            return Err(cannot("it reads folders of the host, and QEMU cannot save that"));
        }
        let mut ready = self.ready(machine);
        // What is done with forks does not change what they are forked from.
        ready.reseed = true;
        ready.restart.clear();
        let mut kernel_parameters = machine.kernel_parameters.clone();
        kernel_parameters.push(format!("markers:{}", self.lane.markers.prefix));
        let stands = |path: &Path| crate::checkpoint::standing(path);
        Ok(CheckpointKey {
            version: LAYOUT,
            image: image.digest.clone(),
            cpus: machine.cpus,
            memory: machine.memory,
            firmware: machine.firmware,
            console: machine.console,
            kernel_parameters,
            ready,
            accelerator: self.accelerator.as_str().into(),
            qemu: format!("{} {}", self.qemu_version, stands(&program_path())),
            processor: match self.accelerator {
                Accelerator::Kvm => crate::checkpoint::host_processor(),
                Accelerator::Tcg => String::new(),
            },
            // An image's digest covers the recipe; these are what really boots.
            agent: format!("{} {}", stands(kernel), stands(initramfs)),
        })
    }

    /// Finds it, or makes it.
    async fn ensure(
        &self,
        machine: &MachineDefinition,
        key: &CheckpointKey,
        reporter: &Reporter,
    ) -> Result<Checkpoint> {
        let began = Instant::now();
        let image = &machine.image;
        let store = CheckpointStore::open(self.work_root, cap()?)?;
        let waiting = || self.progress.stage(image, "waiting for another bootproof that makes its checkpoint");
        let (checkpoint, made) = match store.find(key, self.cancel, waiting).await? {
            Found::Checkpoint(checkpoint) => (checkpoint, false),
            Found::Nothing { making, damaged } => {
                if let Some(reason) = damaged {
                    let text = format!("a checkpoint of the image `{image}` is made anew: {reason}");
                    reporter.warning(None, Kind::Note { text });
                }
                store.make_room(Size(machine.memory.bytes() + BESIDE_MEMORY.bytes()))?;
                self.progress.stage(image, "booting a machine for its checkpoint");
                (self.make(machine, making).await.map_err(|error| self.explain(image, error))?, true)
            }
        };
        let ready = Kind::CheckpointReady {
            image: image.clone(),
            digest: checkpoint.digest.clone(),
            made: checkpoint.manifest.made.clone(),
            made_now: made,
            duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        reporter.info(None, ready);
        Ok(checkpoint)
    }

    fn explain(&self, image: &str, error: Error) -> Error {
        if error.kind() == ErrorKind::Interrupted {
            return error;
        }
        let console = self.making_evidence(image).join("machines").join(NAME).join("console.raw");
        let source = error.chain();
        Error::new(error.kind(), format!("failed to make a checkpoint of the image `{image}`"))
            .with_source(source)
            .hint(format!("the console is in `{}`", console.display()))
    }

    fn making_evidence(&self, image: &str) -> PathBuf {
        self.evidence.join("checkpoints").join(image)
    }

    async fn make(&self, machine: &MachineDefinition, making: Making) -> Result<Checkpoint> {
        let id = format!("checkpoint-{}", crate::proof::random_id()?);
        let folders = RunFolders::create(self.work_root, &id)?;
        let made = self.boot_and_save(machine, &making.folder, &id, &folders).await;
        folders.remove(false);
        let command_line = made?;
        let image = machine.image.clone();
        let finished = tokio::task::spawn_blocking(move || making.finish(&image, &command_line));
        finished.await.map_err(|error| Error::infrastructure("finishing a checkpoint failed").with_source(error))?
    }

    async fn boot_and_save(
        &self,
        machine: &MachineDefinition,
        folder: &Path,
        id: &str,
        folders: &RunFolders,
    ) -> Result<String> {
        let ready = self.ready(machine);
        let lane = self.making_lane(machine, &ready);
        let memory = folder.join(MEMORY);
        let (queue, reports) = sync_channel(1024);
        // The run's log tells that it was made; what the console showed is in its files.
        let drain = std::thread::spawn(move || while reports.recv().is_ok() {});
        let reporter = Reporter::new(queue);
        let evidence = self.making_evidence(&machine.image);
        let secrets = Secrets::resolve(&lane.secrets, self.project_root)?;
        let surroundings = Surroundings {
            run: id,
            lane: &lane,
            work_root: self.work_root,
            project_root: self.project_root,
            evidence: &evidence,
            accelerator: self.accelerator,
            factor: self.factor,
            reporter: &reporter,
            networks: &Networks::default(),
            secrets: &secrets,
            checkpoints: &BTreeMap::new(),
            ca_url: None,
            making: Some(&memory),
            libvirt: None,
            recorded: false,
        };
        let started = machines::start(&surroundings, folders, self.images).await?;
        let running = started.get(NAME).expect("the lane has this machine");
        let saved = tokio::select! {
            saved = save_when_ready(running, &lane.steps, ready.within.scaled(self.factor).duration(), folder) => saved,
            () = self.cancel.cancelled() => Err(Error::new(ErrorKind::Interrupted, "interrupted while making a checkpoint")),
        };
        let ended = machines::end(&started).await;
        drop((started, reporter));
        let _ = drain.join();
        saved?;
        if let Some(error) = ended.into_iter().next() {
            return Err(error);
        }
        let consoles = evidence.join("machines").join(NAME);
        for console in CONSOLES {
            let from = consoles.join(console);
            if from.exists() {
                std::fs::copy(&from, folder.join(console))
                    .map_err(|error| Error::storage(error, format!("failed to keep `{}`", from.display())))?;
            }
        }
        let command_line = consoles.join(machines::KERNEL_COMMAND_LINE);
        std::fs::read_to_string(&command_line).infrastructure(|| format!("failed to read `{}`", command_line.display()))
    }

    /// One machine in no network, with no disk but the image's.
    fn making_lane(&self, machine: &MachineDefinition, ready: &Ready) -> Lane {
        let expectation = |marker: &String| Expectation {
            what: Expected::Marker { name: marker.clone(), arguments: BTreeMap::new() },
            within: ready.within,
        };
        let step = Step {
            name: "ready".into(),
            on: vec![NAME.into()],
            within: ready.within,
            gate: None,
            always: false,
            action: Action::Expect {
                expectations: ready.markers.iter().map(expectation).collect(),
                forbid: Vec::new(),
                across_reboot: false,
            },
        };
        let machine = MachineDefinition {
            networks: BTreeMap::new(),
            network: Network { none: true, ..Network::default() },
            disks: Vec::new(),
            ..machine.clone()
        };
        Lane {
            name: NAME.into(),
            images: self.lane.images.clone(),
            networks: BTreeMap::new(),
            secrets: BTreeMap::new(),
            machines: BTreeMap::from([(NAME.into(), machine)]),
            deployer: None,
            steps: vec![step],
            controls: BTreeMap::new(),
            ..self.lane.clone()
        }
    }
}

async fn save_when_ready(machine: &RunningMachine, steps: &[Step], within: Duration, folder: &Path) -> Result<()> {
    let Some(Action::Expect { expectations, forbid, .. }) = steps.first().map(|step| &step.action) else {
        return Err(Error::infrastructure("nothing tells when the machine is ready"));
    };
    // Nothing to wait for would be waited for for ever.
    let nothing = expectations.is_empty();
    let wait = if nothing { Wait::watch() } else { Wait::new(expectations, forbid) };
    let mut wait = machine.state.start_wait(wait);
    let ready = async {
        if !nothing {
            marked(&mut wait).await?;
        }
        let channel = machine.machine.agent();
        let channel = channel.ok_or_else(|| Error::infrastructure("there is no way into the machine"))?;
        channel.ready().await.infrastructure(|| "the guest's agent does not answer".into())?;
        // Whoever answers this has heard our answer to its greeting, and has nothing more to say: no fork says it again.
        channel.ping().await.infrastructure(|| "the guest's agent does not answer".into())?;
        // The session stays: a fork hears that another host asks for one, and begins anew with that. Were it closed, a fork
        // could learn of that only after it has begun anew, and do so twice.
        Ok(())
    };
    tokio::select! {
        ended = tokio::time::timeout(within, ready) => match ended {
            Ok(ended) => ended?,
            Err(_) => return Err(Error::infrastructure(format!("it was not ready within {}s", within.as_secs()))),
        },
        () = machine.state.until_off() => {
            let why = machine.state.off().map(|(_, detail)| detail).unwrap_or_default();
            return Err(Error::infrastructure("the machine went off before it was ready").with_source(why));
        }
    }
    machine.machine.pause(true).await?;
    machine.machine.save(folder.into()).await
}

/// Until all that is waited for has been seen.
async fn marked(wait: &mut WaitHandle) -> Result<()> {
    loop {
        match wait.next().await {
            None => return Ok(()),
            Some(WaitProgress::Ended(end)) => return Err(Error::infrastructure(end.message)),
            Some(_) => {}
        }
    }
}

/// The program as it will be found.
fn program_path() -> PathBuf {
    let program = qemu::program();
    if program.components().count() > 1 {
        return program;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(&program)).find(|path| path.exists()).unwrap_or(program)
}
