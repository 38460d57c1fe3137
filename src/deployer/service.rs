//! The deployer as a value: for the command and for lanes.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::broadcast;

use super::account;
use super::api::{self, Surface};
use super::configuration::Configuration;
use super::nodes::{self, Hash, NewCredential, NodeDetail, NodeStatus, Rules, TokenStatus};
use super::publish::{NodeWatch, Published, Publisher};
use super::refusal::{Outcome, Refusal};
use super::server::{self, Listener};
use super::state_folder::{SHORTEST_TOKEN, StateFolder, new_secret};
use super::store::{self, Store, Work};
use crate::error::{Context, Error, Result};
use crate::provisioning::{DesiredSystemAnswer, Identity, NodeEventReport, NodeState, PhoneHome, PhoneHomeAnswer};
use crate::secret::{Secret, hex, random};

/// A deployer on its state. Copies are the same one; it ends with the last of them.
#[derive(Clone)]
pub struct Deployer(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub rules: Arc<Rules>,
    store: Store,
    publisher: Arc<Publisher>,
    pub admin: Secret,
    /// PEM.
    pub ca: Option<Vec<u8>>,
    _folder: StateFolder,
}

/// What a bootstrap token shall be like; what is absent is as the configuration says.
#[derive(Clone, Debug, Default)]
pub struct TokenOptions {
    pub lifetime: Option<Duration>,
    pub reusable: Option<bool>,
    /// Bound to this node from the beginning.
    pub node: Option<String>,
}

impl Deployer {
    /// Takes up a state folder, which is made where there is none.
    ///
    /// # Errors
    /// Blocked: another deployer uses the folder, or its database is damaged, newer or not ours. Usage: a CA certificate
    /// that cannot be read.
    pub fn open(configuration: Configuration, state: &Path) -> Result<Self> {
        let folder = StateFolder::lock(state)?;
        store::finish_restore(&folder)?;
        let admin = folder.admin_token()?;
        let ca = match &configuration.tls {
            Some(tls) => Some(
                std::fs::read(&tls.ca)
                    .usage(|| format!("failed to read the deployer's `tls.ca`: `{}`", tls.ca.display()))?,
            ),
            None => None,
        };
        let path = state.join(store::DATABASE);
        let connection = store::open(&path)?;
        let said = || format!("failed to read the deployer's database `{}`", path.display());
        let salt = connection
            .query_row("SELECT value FROM meta WHERE name = 'salt'", [], |row| row.get(0))
            .infrastructure(said)?;
        let rules = Arc::new(Rules { configuration, salt });
        let transaction = connection.unchecked_transaction().infrastructure(said)?;
        let mut work = Work { connection: &transaction, now: Timestamp::now(), changed: Vec::new() };
        let taken = nodes::synchronise(&mut work, &rules).and_then(|()| nodes::all_statuses(&transaction));
        let statuses = taken.map_err(|refusal| match refusal.status {
            // The configuration and the state do not go together.
            400..500 => Error::usage("failed to bring the configuration's nodes into the state").with_source(refusal),
            _ => Error::infrastructure(said()).with_source(refusal),
        })?;
        transaction.commit().infrastructure(said)?;
        let publisher = Arc::new(Publisher::new());
        statuses.into_iter().for_each(|status| publisher.publish(status));
        let store = Store::start(connection, publisher.clone())?;
        Ok(Self(Arc::new(Inner { rules, store, publisher, admin, ca, _folder: folder })))
    }

    /// Everything that is served, for whoever has a server of his own.
    pub fn router(&self) -> axum::Router {
        api::router(self.clone(), Surface::Whole)
    }

    /// What anybody may know of it: the CA's certificate, and what netboot needs.
    pub fn public_router(&self) -> axum::Router {
        api::router(self.clone(), Surface::Public)
    }

    /// Serves everything to whoever connects, until `stop` is ready: then requests that are being answered are answered
    /// to their end, for a while.
    ///
    /// # Errors
    /// The listener's own.
    pub async fn serve(&self, listener: impl Listener, stop: impl Future<Output = ()> + Send) -> std::io::Result<()> {
        server::serve(listener, self.router(), stop).await
    }

    /// As [`serve`](Self::serve), but only what anybody may know: the CA's certificate, and what netboot needs.
    pub async fn serve_public(
        &self,
        listener: impl Listener,
        stop: impl Future<Output = ()> + Send,
    ) -> std::io::Result<()> {
        server::serve(listener, self.public_router(), stop).await
    }

    /// As [`serve`](Self::serve), under TLS.
    pub async fn serve_tls(
        &self,
        listener: impl Listener,
        tls: Arc<tokio_rustls::rustls::ServerConfig>,
        stop: impl Future<Output = ()> + Send,
    ) -> std::io::Result<()> {
        server::serve_tls(listener, tls, self.router(), stop).await
    }

    /// What the TLS part of the configuration makes; `None` without one.
    pub fn tls(&self) -> Result<Option<Arc<tokio_rustls::rustls::ServerConfig>>> {
        self.0.rules.configuration.tls.as_ref().map(server::tls_configuration).transpose()
    }

    /// A node from now on: its newest state and every change. One may wait for a node that is not there yet.
    pub fn watch(&self, node: &str) -> NodeWatch {
        self.0.publisher.node(node)
    }

    /// Waits until a node is as it should be. Woken by its changes alone.
    pub async fn wait_for(&self, node: &str, wanted: impl Fn(&NodeStatus) -> bool) -> Outcome<Published> {
        let mut watch = self.watch(node);
        let found = watch.wait_for(|status| status.as_deref().is_some_and(&wanted)).await;
        // This deployer holds the sender.
        found.ok().and_then(|status| status.clone()).ok_or_else(Refusal::storage)
    }

    /// Every change of every node from now on.
    pub fn changes(&self) -> broadcast::Receiver<Published> {
        self.0.publisher.changes()
    }

    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Work<'_>, &Arc<Rules>) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let rules = self.0.rules.clone();
        self.0.store.run(move |state| work(state, &rules)).await
    }

    pub(super) fn hash(&self, secret: &str) -> Hash {
        nodes::hash(&self.0.rules.salt, secret)
    }

    /// What waits to be claimed waits here, for so long at most.
    pub(super) async fn phone_home(
        &self,
        bearer: Option<Hash>,
        request: PhoneHome,
        wait: Duration,
    ) -> Outcome<PhoneHomeAnswer> {
        let answer = self.phone_home_once(bearer, request.clone()).await?;
        if answer.retry_after.is_none() || wait.is_zero() {
            return Ok(answer);
        }
        let claimed = self.wait_for(&answer.node, |status| status.state != NodeState::Discovered);
        let since = Instant::now();
        let claimed = tokio::time::timeout(wait, claimed).await;
        let change = claimed.as_ref().ok().and_then(|change| change.as_ref().ok());
        account::waited(since, change.map(|change| change.at));
        match claimed {
            Ok(_) => self.phone_home_once(bearer, request).await,
            Err(_) => Ok(answer),
        }
    }

    async fn phone_home_once(&self, bearer: Option<Hash>, request: PhoneHome) -> Outcome<PhoneHomeAnswer> {
        let value = new_secret().map_err(|error| internal(&error))?;
        let credential = NewCredential { hash: self.hash(value.expose()), value };
        let answer = self.run(move |work, rules| nodes::phone_home(work, rules, bearer, &request, &credential)).await?;
        account::asked_by(&answer.node);
        Ok(answer)
    }

    pub(super) async fn report(&self, bearer: Option<Hash>, report: NodeEventReport) -> Outcome<()> {
        let node = self
            .run(move |work, _| {
                let node = nodes::node_of_credential(work, bearer)?;
                nodes::report(work, &node, &report)?;
                Ok(node)
            })
            .await?;
        account::asked_by(&node);
        Ok(())
    }

    pub(super) async fn node_of(&self, bearer: Option<Hash>) -> Outcome<String> {
        let node = self.run(move |work, _| nodes::node_of_credential(work, bearer)).await?;
        account::asked_by(&node);
        Ok(node)
    }

    /// Waits for another generation than `known`, for so long at most.
    pub(super) async fn desired_system(
        &self,
        bearer: Option<Hash>,
        known: Option<u64>,
        wait: Duration,
    ) -> Outcome<DesiredSystemAnswer> {
        let node = self.node_of(bearer).await?;
        let mut watch = self.watch(&node);
        if let Some(known) = known {
            let other = watch.wait_for(|status| {
                status.as_deref().is_none_or(|status| status.generation != known || status.state == NodeState::Retired)
            });
            let since = Instant::now();
            // Nothing new is an answer too.
            let other = tokio::time::timeout(wait, other).await;
            let change = other.ok().and_then(|change| change.ok()?.as_ref().map(|change| change.at));
            account::waited(since, change);
        }
        // Whether it still may know, too.
        self.run(move |work, _| {
            let node = nodes::node_of_credential(work, bearer)?;
            nodes::desired_system(work, &node)
        })
        .await
    }

    /// All nodes by name, or those in a state.
    pub async fn list(&self, state: Option<NodeState>) -> Outcome<Vec<NodeStatus>> {
        self.run(move |work, _| nodes::list(work, state)).await
    }

    /// A node with its history.
    pub async fn show(&self, node: &str) -> Outcome<NodeDetail> {
        let node = node.to_owned();
        self.run(move |work, _| nodes::detail(work, &node)).await
    }

    /// Makes a node known before it comes. An empty identity: by its name, as node id.
    pub async fn register(
        &self,
        node: &str,
        class: &str,
        identity: Identity,
        desired_system: Option<&str>,
    ) -> Outcome<NodeStatus> {
        let (node, class, desired) = (node.to_owned(), class.to_owned(), desired_system.map(str::to_owned));
        self.run(move |work, rules| nodes::register(work, rules, &node, &class, &identity, desired.as_deref())).await
    }

    /// Says what a discovered, failed or retired node shall become.
    pub async fn claim(&self, node: &str, class: &str, desired_system: Option<&str>) -> Outcome<NodeStatus> {
        let (node, class, desired) = (node.to_owned(), class.to_owned(), desired_system.map(str::to_owned));
        self.run(move |work, rules| nodes::claim(work, rules, &node, &class, desired.as_deref())).await
    }

    /// Lets a node be installed again when its installer next phones home; of another class where one is given.
    pub async fn reinstall(&self, node: &str, class: Option<&str>) -> Outcome<NodeStatus> {
        let (node, class) = (node.to_owned(), class.map(str::to_owned));
        self.run(move |work, rules| nodes::reinstall(work, rules, &node, class.as_deref())).await
    }

    /// Takes a node out of service: its credential and its tokens are dead.
    pub async fn retire(&self, node: &str) -> Outcome<NodeStatus> {
        let node = node.to_owned();
        self.run(move |work, _| nodes::retire(work, &node)).await
    }

    /// Lets a node run another system; without one, what its class says.
    pub async fn set_desired_system(&self, node: &str, system: Option<&str>) -> Outcome<NodeStatus> {
        let (node, system) = (node.to_owned(), system.map(str::to_owned));
        self.run(move |work, rules| nodes::set_desired_system(work, rules, &node, system.as_deref())).await
    }

    /// Makes a bootstrap token, which is told here and nowhere else.
    pub async fn create_token(&self, options: &TokenOptions) -> Outcome<(TokenStatus, Secret)> {
        let value = new_secret().map_err(|error| internal(&error))?;
        let status = self.admit_token(&value, options).await?;
        Ok((status, value))
    }

    /// Takes a secret that is there already as a bootstrap token.
    ///
    /// # Errors
    /// One that is so short that it could be guessed, or that is a token already.
    pub async fn admit_token(&self, value: &Secret, options: &TokenOptions) -> Outcome<TokenStatus> {
        let request = self.token_request(value, options)?;
        self.run(move |work, _| nodes::create_token(work, &request)).await
    }

    pub(super) fn token_request(&self, value: &Secret, options: &TokenOptions) -> Outcome<nodes::TokenRequest> {
        if value.expose().len() < SHORTEST_TOKEN {
            return Err(Refusal::new(422, "token-too-short", "a bootstrap token could be guessed")
                .detail(format!("it needs {SHORTEST_TOKEN} characters")));
        }
        let configuration = &self.0.rules.configuration;
        let lifetime = options.lifetime.unwrap_or(configuration.token_lifetime);
        let lifetime = jiff::SignedDuration::try_from(lifetime).unwrap_or(jiff::SignedDuration::MAX);
        let expires = Timestamp::now().checked_add(lifetime).unwrap_or(Timestamp::MAX);
        let mut id = [0; 6];
        random(&mut id).map_err(|error| internal(&error))?;
        Ok(nodes::TokenRequest {
            id: hex(&id),
            hash: self.hash(value.expose()),
            expires,
            reusable: options.reusable.unwrap_or(configuration.tokens_reusable && options.node.is_none()),
            node: options.node.clone(),
        })
    }

    /// The node that a machine would be, and where it is.
    pub(super) async fn recognise(&self, identity: Identity) -> Outcome<Option<(String, bool)>> {
        self.run(move |work, _| nodes::recognise(work, &identity)).await
    }

    /// Whether a token has this hash.
    pub(super) async fn is_token(&self, id: &str, hash: Hash) -> Outcome<bool> {
        let id = id.to_owned();
        self.run(move |work, _| nodes::is_token(work, &id, hash)).await
    }

    pub async fn list_tokens(&self) -> Outcome<Vec<TokenStatus>> {
        self.run(move |work, _| nodes::list_tokens(work)).await
    }

    pub async fn revoke_token(&self, id: &str) -> Outcome<()> {
        let id = id.to_owned();
        self.run(move |work, _| nodes::revoke_token(work, &id)).await
    }
}

pub(super) fn internal(error: &Error) -> Refusal {
    tracing::error!(error = error.chain(), "the deployer failed");
    Refusal::new(500, "internal", "the deployer failed; nothing was changed")
}
