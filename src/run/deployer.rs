//! The lane's deployer: in the run's own process, at the host's address in one of the run's networks.
//!
//! What always holds: what happens to nodes goes to the log as it happens; its state is the run's own and ends with it, and
//! what remains is the nodes' history, an artifact without secrets.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use futures_util::StreamExt;
use tokio::sync::{Mutex, broadcast, oneshot};
use tokio::task::JoinHandle;

use super::deployer_account::{self, DeployerAccount};
use super::networks::Networks;
use crate::deployer::{
    self, Cause, Configuration, ConfigurationDocument, Deployer, NodeStatus, Published, Refusal, TlsDocument,
    TokenOptions,
};
use crate::error::{Context, Error, Result};
use crate::event::{FailureReason, Kind, Reporter};
use crate::lane::model::{DeployerAction, LaneDeployer};
use crate::provisioning::{BUNDLES, NodeEvent, NodeState};
use crate::run::steps::{StepEnd, StepResult};
use crate::secret::{Secret, Secrets};

/// Connections that may come before the next is accepted.
const BACKLOG: usize = 64;
/// Where the deployer serves what machines boot over the network.
const NETBOOT_FILES: &str = "/netboot/files/";
const HISTORY: &str = "artifacts/deployer/nodes.json";

/// The deployer of a run.
pub struct RunDeployer {
    lane: LaneDeployer,
    document: ConfigurationDocument,
    /// What paths in the document are relative to.
    project_root: PathBuf,
    state: PathBuf,
    /// With TLS: where machines fetch the CA from, and its pin.
    ca_url: Option<String>,
    networks: Arc<Networks>,
    reporter: Reporter,
    serving: Mutex<Option<Serving>>,
}

struct Serving {
    deployer: Deployer,
    stop: oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<()>>,
    told: JoinHandle<()>,
    account: Arc<DeployerAccount>,
}

impl RunDeployer {
    /// Starts it. `bundles`: a class's root file system, for classes whose image the lane builds. `folder`: for its state.
    ///
    /// # Errors
    /// Usage: a configuration that does not hold. Infrastructure: no room for its state.
    pub async fn start(
        lane: &LaneDeployer,
        bundles: impl IntoIterator<Item = (String, PathBuf)>,
        project_root: &Path,
        folder: &Path,
        networks: Arc<Networks>,
        secrets: &Secrets,
        reporter: &Reporter,
    ) -> Result<Self> {
        let mut document = lane.configuration.clone();
        for (class, bundle) in bundles {
            if let Some(class) = document.classes.get_mut(&class) {
                class.bundle = Some(bundle);
            }
        }
        let ca_url = match lane.tls {
            true => Some(make_own_ca(lane, folder, &networks, &mut document)?),
            false => None,
        };
        let run = Self {
            lane: lane.clone(),
            document,
            project_root: project_root.into(),
            state: folder.join("deployer"),
            ca_url,
            networks,
            reporter: reporter.clone(),
            serving: Mutex::default(),
        };
        let serving = run.serve().await?;
        for name in &lane.tokens {
            let value = Secret::new(secrets.fill(&format!("${{secret:{name}}}"))?.to_string());
            serving.deployer.admit_token(&value, &TokenOptions::default()).await.map_err(|refusal| {
                Error::usage(format!("the secret `{name}` cannot be a bootstrap token")).with_source(refusal)
            })?;
        }
        *run.serving.lock().await = Some(serving);
        Ok(run)
    }

    async fn serve(&self) -> Result<Serving> {
        let failed = || format!("failed to start the deployer in the network `{}`", self.lane.network);
        let configuration = Configuration::resolve(&self.document, &self.project_root, &self.state.join("packed"))?;
        let deployer = Deployer::open(configuration, &self.state)?;
        let listener = self.networks.listen(&self.lane.network, self.lane.port, BACKLOG).infrastructure(failed)?;
        let account = Arc::<DeployerAccount>::default();
        let told = tokio::spawn(tell(self.reporter.clone(), deployer.changes(), account.clone()));
        let (stop, stopped) = oneshot::channel();
        let tls = deployer.tls()?;
        let server = tokio::spawn({
            let (plain, router) = (self.served(deployer.public_router()), self.served(deployer.router()));
            let router = if self.lane.damage_bundles { router.layer(middleware::from_fn(damage)) } else { router };
            let router = router.layer(middleware::from_fn_with_state(account.clone(), deployer_account::count));
            async move {
                let stopped = async {
                    let _ = stopped.await;
                };
                match tls {
                    Some(tls) => deployer::serve_both(listener, tls, router, plain, stopped).await,
                    None => deployer::serve(listener, router, stopped).await,
                }
            }
        });
        Ok(Serving { deployer, stop, server, told, account })
    }

    /// What is served, with the bug in it that the lane plants for who boots over the network.
    fn served(&self, router: Router) -> Router {
        let kernel = self.document.netboot.as_ref().filter(|_| self.lane.damage_kernel);
        let Some(name) = kernel.and_then(|netboot| netboot.kernel.file_name()) else { return router };
        let path = format!("{NETBOOT_FILES}{}", name.to_string_lossy());
        router.layer(middleware::from_fn_with_state(path, damage_kernel))
    }

    /// Where machines fetch its CA's certificate from, with the pin: what `bootproof.ca_cert_url` has to be. `None` without
    /// TLS.
    pub fn ca_url(&self) -> Option<String> {
        self.ca_url.clone()
    }

    /// Does what a step says.
    pub async fn act(&self, action: &DeployerAction) -> StepResult {
        if let DeployerAction::Restart {} = action {
            return self.restart().await.map_err(StepEnd::from);
        }
        let deployer = match self.serving.lock().await.as_ref() {
            Some(serving) => serving.deployer.clone(),
            None => return Err(Error::infrastructure("the deployer is not running").into()),
        };
        match action {
            DeployerAction::AwaitState { node, state, system } => {
                let reached = |status: &NodeStatus| {
                    status.state == *state
                        && system.as_ref().is_none_or(|system| status.active_system.as_ref() == Some(system))
                };
                let over = |status: &NodeStatus| reached(status) || status.state == NodeState::Failed;
                let status = deployer.wait_for(node, over).await.map_err(refused)?;
                if reached(&status) { Ok(()) } else { Err(self.why_failed(&deployer, node).await) }
            }
            DeployerAction::AwaitRollBack { node, system } => {
                let mut watch = deployer.watch(node);
                loop {
                    // What is not there yet, is not there yet.
                    let history = deployer.show(node).await.map(|detail| detail.history).unwrap_or_default();
                    let gone = history.iter().any(|entry| match &entry.cause {
                        Cause::Reported { report: NodeEvent::RolledBack { system: rejected, .. }, .. } => {
                            rejected == system
                        }
                        _ => false,
                    });
                    if gone {
                        return Ok(());
                    }
                    if watch.changed().await.is_err() {
                        return Err(Error::infrastructure("the deployer ended").into());
                    }
                }
            }
            DeployerAction::Desire { node, system } => done(deployer.set_desired_system(node, Some(system)).await),
            DeployerAction::Claim { node, class } => done(deployer.claim(node, class, None).await),
            DeployerAction::Reinstall { node } => done(deployer.reinstall(node, None).await),
            DeployerAction::Retire { node } => done(deployer.retire(node).await),
            DeployerAction::Restart {} => Ok(()),
        }
    }

    async fn why_failed(&self, deployer: &Deployer, node: &str) -> StepEnd {
        let history = deployer.show(node).await.map(|detail| detail.history).unwrap_or_default();
        let said = history.iter().rev().find_map(|entry| match &entry.cause {
            Cause::Reported { report: NodeEvent::Failed { during, reason }, .. } => Some(format!("{during}: {reason}")),
            _ => None,
        });
        let said = said.unwrap_or_else(|| "it did not say why".into());
        StepEnd::Failed(FailureReason::Refused, format!("node `{node}` failed at {said}"))
    }

    async fn restart(&self) -> Result<()> {
        let mut serving = self.serving.lock().await;
        if let Some(old) = serving.take() {
            old.end(&self.reporter).await?;
        }
        *serving = Some(self.serve().await?);
        self.reporter.info(None, Kind::Note { text: "deployer: ended and started again".into() });
        Ok(())
    }

    /// Ends it, and leaves the nodes' history among the artifacts.
    pub async fn end(&self, root: &Path) -> Result<()> {
        let Some(serving) = self.serving.lock().await.take() else { return Ok(()) };
        let failed = || "failed to keep the deployer's nodes".to_string();
        let mut details = Vec::new();
        for status in
            serving.deployer.list(None).await.map_err(|refusal| Error::infrastructure(failed()).with_source(refusal))?
        {
            details.extend(serving.deployer.show(&status.node).await.ok());
        }
        serving.end(&self.reporter).await?;
        let path = root.join(HISTORY);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).infrastructure(failed)?;
        }
        crate::proof::write_json_atomic(&path, &details)?;
        super::artifacts::report(root, HISTORY, &self.reporter).infrastructure(failed)
    }
}

/// A CA for this run alone, whose key ends with the run's folders; the URL of its certificate.
fn make_own_ca(
    lane: &LaneDeployer,
    folder: &Path,
    networks: &Networks,
    document: &mut ConfigurationDocument,
) -> Result<String> {
    let host = networks.host(&lane.network)?;
    let made = deployer::make_ca(&folder.join("deployer-ca"), "bootproof run")?;
    document.tls = Some(TlsDocument {
        ca: made.certificate,
        ca_key: Some(made.key),
        names: vec![host.to_string()],
        ..TlsDocument::default()
    });
    Ok(format!("http://{host}:{}/ca.pem#sha256={}", lane.port, made.pin))
}

impl Serving {
    async fn end(self, reporter: &Reporter) -> Result<()> {
        let Self { deployer, stop, server, told, account } = self;
        told.abort();
        let _ = stop.send(());
        let served = server.await.infrastructure(|| "the deployer failed".into())?;
        reporter.info(None, account.told());
        drop(deployer);
        served.infrastructure(|| "the deployer failed to serve".into())
    }
}

fn done(outcome: std::result::Result<NodeStatus, Refusal>) -> StepResult {
    outcome.map(|_| ()).map_err(refused)
}

fn refused(refusal: Refusal) -> StepEnd {
    StepEnd::Failed(FailureReason::Refused, format!("the deployer refused: {refusal}"))
}

/// Changes the first byte of a bundle on its way out.
async fn damage(request: Request, next: Next) -> Response {
    let is_bundle = request.uri().path().starts_with(BUNDLES);
    let response = next.run(request).await;
    if !is_bundle || !response.status().is_success() {
        return response;
    }
    let (head, body) = response.into_parts();
    let mut first = true;
    let damaged = body.into_data_stream().map(move |piece| {
        let piece = piece?;
        if piece.is_empty() || !std::mem::take(&mut first) {
            return Ok::<Bytes, axum::Error>(piece);
        }
        let mut bytes = piece.to_vec();
        bytes[0] ^= 1;
        Ok(bytes.into())
    });
    Response::from_parts(head, Body::from_stream(damaged))
}

/// Blots out what a kernel is known by, for BIOS and UEFI: its first kibibyte.
async fn damage_kernel(State(kernel): State<String>, request: Request, next: Next) -> Response {
    let is_kernel = request.uri().path() == kernel;
    let response = next.run(request).await;
    if !is_kernel || !response.status().is_success() {
        return response;
    }
    let (head, body) = response.into_parts();
    let mut left = 1024;
    let damaged = body.into_data_stream().map(move |piece| {
        let mut bytes = piece?.to_vec();
        let count = bytes.len().min(left);
        bytes[..count].fill(0);
        left -= count;
        Ok::<Bytes, axum::Error>(bytes.into())
    });
    Response::from_parts(head, Body::from_stream(damaged))
}

/// Every change of a node, into the log.
async fn tell(reporter: Reporter, mut changes: broadcast::Receiver<Published>, account: Arc<DeployerAccount>) {
    let mut known = std::collections::BTreeMap::new();
    loop {
        let status = match changes.recv().await {
            Ok(status) => status,
            // Only what was in between is not told.
            Err(broadcast::error::RecvError::Lagged(_)) => continue,
            Err(broadcast::error::RecvError::Closed) => return,
        };
        let now = (status.state, status.active_system.clone());
        if known.insert(status.node.clone(), now.clone()).as_ref() == Some(&now) {
            continue;
        }
        let running = status.active_system.as_ref().map(|system| format!(", runs {system}")).unwrap_or_default();
        let state = serde_json::to_value(status.state).ok();
        let state = state.as_ref().and_then(|state| state.as_str()).unwrap_or_default();
        reporter.info(None, Kind::Note { text: format!("deployer: {} is {state}{running}", status.node) });
        account.change_told(status.at.elapsed());
    }
}
