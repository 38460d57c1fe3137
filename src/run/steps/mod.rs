//! What each kind of step does, on one machine or on the host.
//!
//! A step's work knows nothing of deadlines, cancellation or gates: the executor wraps it. It ends with `StepEnd`: done,
//! or why not. What always holds: output that is kept stands in a file of the proof, events only point to it; secrets are
//! put in at the moment of use and taken out of everything that is kept.

mod awaiting;
pub mod check;
mod checkpoint;
mod copy;
mod dial;
mod exec;
mod expect;
mod host;
mod http;
mod power;
mod script;
mod tcp;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use awaiting::ANSWER;
pub use expect::expect;

use self::check::Mismatch;
use self::dial::Origin;
use crate::channel::{AgentChannel, Channel, ChannelError, RefusalReason};
use crate::error::Error;
use crate::event::{Evidence, Failure, FailureReason, Kind, Reporter, Severity};
use crate::lane::model::{Action, Fault, PowerFault, Step};
use crate::lane::units::Shift;
use crate::machine::{Machine, MachineState};
use crate::marker::Wait;
use crate::run::deployer::RunDeployer;
use crate::run::faults::{self, Faults};
use crate::secret::Secrets;

/// A machine of the run.
#[derive(Clone)]
pub struct RunningMachine {
    pub state: Arc<MachineState>,
    pub machine: Arc<dyn Machine>,
    /// How wrong its clock is, on purpose.
    pub clock: Option<Shift>,
}

/// What every step may use.
pub struct StepContext {
    pub run: String,
    pub lane: String,
    pub machines: BTreeMap<String, RunningMachine>,
    pub reporter: Reporter,
    /// The proof root.
    pub root: PathBuf,
    /// What relative paths in the normalised lane are relative to.
    pub lane_directory: PathBuf,
    pub secrets: Secrets,
    /// Deadlines are stretched by this.
    pub factor: f64,
    /// What the run disturbs at present, and its networks.
    pub faults: Faults,
    /// What machines phone home to.
    pub deployer: Option<RunDeployer>,
    /// Where the lane's own checkpoints are kept for as long as it runs.
    pub checkpoints: PathBuf,
}

/// Why a step's work did not end well.
pub enum StepEnd {
    /// The product is not as it must be.
    Failed(FailureReason, String),
    /// As `Failed`, with all that is known.
    Because(Box<Failure>),
    /// The step says itself that it does not apply.
    Skipped(String),
    /// The way into the guest was lost; what happened to the machine explains it better.
    ChannelLost(String),
}

pub type StepResult = Result<(), StepEnd>;

impl From<Mismatch> for StepEnd {
    fn from(mismatch: Mismatch) -> Self {
        StepEnd::Failed(mismatch.reason, mismatch.message)
    }
}

impl From<Error> for StepEnd {
    fn from(error: Error) -> Self {
        StepEnd::Failed(FailureReason::Harness, error.chain())
    }
}

impl From<ChannelError> for StepEnd {
    fn from(error: ChannelError) -> Self {
        match error {
            ChannelError::Lost { reason } | ChannelError::Closed { reason } => StepEnd::ChannelLost(reason),
            ChannelError::Version { .. } | ChannelError::Protocol { .. } | ChannelError::Source { .. } => {
                StepEnd::Failed(FailureReason::Harness, error.to_string())
            }
            ChannelError::Refused { reason: RefusalReason::Invalid, .. } => {
                StepEnd::Failed(FailureReason::Harness, error.to_string())
            }
            ChannelError::Refused { .. }
            | ChannelError::NotReady
            | ChannelError::NeverGreeted { .. }
            | ChannelError::Authentication { .. }
            | ChannelError::HostKey { .. } => StepEnd::Failed(FailureReason::Refused, error.to_string()),
            ChannelError::Cancelled => StepEnd::Failed(FailureReason::Cancelled, error.to_string()),
        }
    }
}

impl StepContext {
    pub fn machine(&self, name: &str) -> Result<&RunningMachine, StepEnd> {
        let missing = || StepEnd::Failed(FailureReason::Harness, format!("there is no machine `{name}` in this run"));
        self.machines.get(name).ok_or_else(missing)
    }

    /// The way into a machine, once the guest answers.
    pub async fn channel(&self, machine: &RunningMachine) -> Result<Arc<dyn Channel>, StepEnd> {
        let name = machine.state.name();
        let missing = || StepEnd::Failed(FailureReason::Refused, format!("there is no way into machine `{name}`"));
        let channel = machine.machine.channel().ok_or_else(missing)?;
        channel.ready().await?;
        Ok(channel)
    }

    /// The agent in a machine, once it answers: for what other ways cannot do.
    pub async fn agent(&self, machine: &RunningMachine) -> Result<AgentChannel, StepEnd> {
        let name = machine.state.name();
        let missing = || StepEnd::Failed(FailureReason::Refused, format!("no agent leads into machine `{name}`"));
        let agent = machine.machine.agent().ok_or_else(missing)?;
        agent.ready().await?;
        Ok(agent)
    }

    fn fill(&self, text: &str) -> Result<String, StepEnd> {
        Ok(self.secrets.fill(text)?.to_string())
    }

    fn fill_all(&self, words: &[String]) -> Result<Vec<String>, StepEnd> {
        words.iter().map(|word| self.fill(word)).collect()
    }

    fn fill_environment(&self, environment: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, StepEnd> {
        environment.iter().map(|(name, value)| Ok((name.clone(), self.fill(value)?))).collect()
    }

    /// Keeps output in the proof, without secrets; `None` when there is nothing to keep.
    fn keep_output(&self, file: &str, bytes: &[u8]) -> Result<Option<Evidence>, StepEnd> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let bytes = self.secrets.redact_bytes(bytes);
        let path = self.root.join(file);
        let written =
            path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&path, &bytes));
        written.map_err(|error| Error::storage(error, format!("failed to keep `{file}`")))?;
        Ok(Some(Evidence { file: file.into(), offset: 0, length: bytes.len() as u64 }))
    }

    /// Tells of a file below `artifacts/` that is whole now.
    fn report_artifact(&self, file: &str) -> Result<(), StepEnd> {
        let failed = |error| Error::infrastructure(format!("failed to read the artifact `{file}`")).with_source(error);
        Ok(crate::run::artifacts::report(&self.root, file, &self.reporter).map_err(failed)?)
    }
}

/// Whether the step happens once on the host rather than on each of its machines.
pub fn happens_on_host(action: &Action) -> bool {
    match action {
        Action::Http { network, .. } | Action::Tcp { network, .. } => network.is_some(),
        // A fault is one thing, wherever it happens.
        Action::Fault { .. } | Action::Heal { .. } | Action::Schedule { .. } | Action::Deployer { .. } => true,
        Action::Host { .. } | Action::Script { .. } | Action::Parallel { .. } => true,
        // All machines at the same moment.
        Action::Checkpoint { .. } | Action::Restore { .. } => true,
        Action::Expect { .. }
        | Action::Await { .. }
        | Action::Exec { .. }
        | Action::CopyIn { .. }
        | Action::CopyProgram { .. }
        | Action::CopyOut { .. }
        | Action::Power { .. }
        | Action::Reboot {}
        | Action::Hold { .. } => false,
    }
}

/// The watch that runs beside a step on a machine: failure patterns and the machine's end break it off.
pub fn watch_for(action: &Action) -> Wait {
    use crate::lane::model::PowerAction::{AwaitOff, Cut, On, OnMedium, Reset, Shutdown};
    match action {
        Action::Power { action: Shutdown | AwaitOff | Cut } => Wait::watch().until_off(),
        Action::Fault { fault: Fault::Power { action: PowerFault::Cut | PowerFault::Shutdown } } => {
            Wait::watch().until_off()
        }
        Action::Fault { fault: Fault::Power { action: PowerFault::Reset } } => {
            Wait::watch().across_reboot().until_off()
        }
        Action::Power { action: Reset | On | OnMedium } | Action::Reboot {} | Action::Restore { .. } => {
            Wait::watch().across_reboot().until_off()
        }
        _ => Wait::watch(),
    }
}

/// Does a step's work on one machine, which the executor ends soon after the deadline. `expect` is its own wait and is not done here.
pub async fn on_machine(
    context: &StepContext,
    index: usize,
    step: &Step,
    machine: &RunningMachine,
    deadline: Duration,
) -> StepResult {
    match &step.action {
        Action::Await { condition } => awaiting::wait(context, index, condition, deadline, machine).await,
        Action::Exec { command } => exec::exec(context, index, command, machine).await,
        Action::Http { .. } | Action::Tcp { .. } => request(context, index, &step.action, Origin::Agent(machine)).await,
        Action::CopyIn { from, to } => copy::copy_in(context, from, to, machine).await,
        Action::CopyProgram { to } => copy::copy_program(context, to, machine).await,
        Action::CopyOut { from, to } => copy::copy_out(context, from, to, machine).await,
        Action::Power { action } => power::power(*action, machine).await,
        Action::Reboot {} => power::reboot(context, machine).await,
        Action::Hold { duration } => {
            tokio::time::sleep(duration.duration()).await;
            Ok(())
        }
        Action::Expect { .. }
        | Action::Fault { .. }
        | Action::Heal { .. }
        | Action::Schedule { .. }
        | Action::Deployer { .. }
        | Action::Checkpoint { .. }
        | Action::Restore { .. }
        | Action::Host { .. }
        | Action::Script { .. }
        | Action::Parallel { .. } => {
            Err(StepEnd::Failed(FailureReason::Harness, "this kind of step does not happen on a machine".into()))
        }
    }
}

/// One `http` or `tcp`.
async fn request(context: &StepContext, index: usize, action: &Action, origin: Origin<'_>) -> StepResult {
    match action {
        Action::Http { url, method, headers, body, status, response, network: _ } => {
            let request = http::Request { url, method, headers, body: body.as_deref() };
            http::http(context, index, request, *status, response, origin).await
        }
        Action::Tcp { address, send, response, network: _ } => {
            tcp::tcp(context, index, address, send.as_deref(), response, origin).await
        }
        _ => Err(StepEnd::Failed(FailureReason::Harness, "this is no request".into())),
    }
}

/// Does a step's work on the host.
pub async fn on_host(context: &StepContext, index: usize, step: &Step) -> StepResult {
    match &step.action {
        Action::Host { command } => host::host(context, index, command).await,
        Action::Script { command } => script::script(context, index, step, command).await,
        Action::Http { network: Some(network), .. } | Action::Tcp { network: Some(network), .. } => {
            request(context, index, &step.action, Origin::Network(network)).await
        }
        Action::Fault { fault } => {
            let machines = step.on.iter().map(|name| context.machine(name)).collect::<Result<Vec<_>, _>>()?;
            context.faults.begin(context, &correlated(context, index), &step.name, fault, &machines).await
        }
        Action::Heal { faults } => context.faults.heal(context, &correlated(context, index), faults).await,
        Action::Deployer { action } => match &context.deployer {
            Some(deployer) => deployer.act(action).await,
            None => Err(Error::infrastructure("the run has no deployer").into()),
        },
        Action::Checkpoint { name } => checkpoint::save(context, step, name).await,
        Action::Restore { name } => checkpoint::restore(context, step, name).await,
        Action::Schedule { schedule } => {
            faults::schedule(context, &correlated(context, index), &step.name, schedule).await
        }
        _ => Err(StepEnd::Failed(FailureReason::Harness, "this kind of step does not happen on the host".into())),
    }
}

fn correlated(context: &StepContext, index: usize) -> Reporter {
    context.reporter.correlated(format!("step:{index}"))
}

/// Reports a finished command in its machine's name.
fn report_command(reporter: &Reporter, epoch: Option<u32>, kind: Kind) {
    reporter.report(Severity::Info, epoch, kind);
}
