//! What administrators ask.

use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, Path, Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::node::{LONGEST_WAIT, stopped};
use super::replay::{self, Answered};
use super::types::{
    ClaimRequest, DesiredSystemRequest, NewToken, NodeList, RegisterRequest, ReinstallRequest, TokenList,
    TokenRequestBody,
};
use super::{Stopping, body};
use crate::deployer::nodes::{self, Rules, TokenStatus};
use crate::deployer::refusal::{Outcome, Refusal};
use crate::deployer::service::{Deployer, TokenOptions, internal};
use crate::deployer::state_folder::new_secret;
use crate::deployer::store::Work;
use crate::provisioning::{Identity, NodeState, VERSION};
use crate::secret::{Secret, hex};

pub const NODES: &str = "/api/v1/admin/nodes";
pub const TOKENS: &str = "/api/v1/admin/tokens";

pub fn router(deployer: &Deployer) -> Router<Deployer> {
    Router::new()
        .route(NODES, get(list).post(register))
        .route(&format!("{NODES}/{{node}}"), get(show))
        .route(&format!("{NODES}/{{node}}/claim"), post(claim))
        .route(&format!("{NODES}/{{node}}/reinstall"), post(reinstall))
        .route(&format!("{NODES}/{{node}}/retire"), post(retire))
        .route(&format!("{NODES}/{{node}}/desired-system"), put(set_desired_system))
        .route(TOKENS, get(list_tokens).post(create_token))
        .route(&format!("{TOKENS}/{{token}}"), delete(revoke_token))
        .route_layer(middleware::from_fn_with_state(deployer.clone(), authenticate))
}

async fn authenticate(State(deployer): State<Deployer>, request: Request, next: Next) -> Response {
    let presented = match body::bearer(request.headers()) {
        Ok(Some(presented)) => presented,
        Ok(None) => return Refusal::new(401, "admin-token-missing", "this needs the admin token").into_response(),
        Err(refusal) => return refusal.into_response(),
    };
    // Of equal lengths, and unlike each other in every bit where one of the secrets differs in one.
    let digests = [presented, deployer.0.admin.expose()].map(|secret| Sha256::digest(secret.as_bytes()));
    if !bool::from(digests[0].as_slice().ct_eq(digests[1].as_slice())) {
        tracing::warn!(path = request.uri().path(), "a wrong admin token");
        return Refusal::new(401, "admin-token-wrong", "this is not the admin token").into_response();
    }
    next.run(request).await
}

/// What a request is apart from its key and its bearer.
struct Asked {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    bytes: Bytes,
}

impl Asked {
    async fn read(request: Request) -> Outcome<Self> {
        let (parts, body) = request.into_parts();
        let bytes = body::read(body).await?;
        Ok(Self { method: parts.method, uri: parts.uri, headers: parts.headers, bytes })
    }

    fn parse<T: serde::de::DeserializeOwned>(&self) -> Outcome<T> {
        body::parse(&self.bytes)
    }

    fn digest(&self) -> [u8; 32] {
        let line = format!("{} {}\n", self.method, self.uri);
        Sha256::new().chain_update(line).chain_update(&self.bytes).finalize().into()
    }

    /// Does it, once where it has a key.
    async fn once<T: Serialize>(
        &self,
        deployer: &Deployer,
        status: StatusCode,
        request: impl FnOnce(&mut Work<'_>, &Rules) -> Outcome<T> + Send + 'static,
    ) -> Outcome<Answered> {
        let (key, digest) = (replay::key(&self.headers)?, self.digest());
        deployer
            .run(move |work, rules| {
                let answer = |work: &mut Work<'_>| {
                    let body = serde_json::to_value(request(work, rules)?)?;
                    Ok(Answered { status: status.as_u16(), body })
                };
                match key {
                    Some(key) => replay::once(work, &key, &digest, answer),
                    None => answer(work),
                }
            })
            .await
    }
}

fn respond(answered: &Answered) -> Response {
    let status = StatusCode::from_u16(answered.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if answered.body == Value::Null {
        return status.into_response();
    }
    let mut response = body::json(status, &answered.body);
    if !status.is_success() {
        super::bundles::set(&mut response, header::CONTENT_TYPE, "application/problem+json");
    }
    response
}

#[derive(Deserialize)]
struct Filter {
    state: Option<NodeState>,
}

async fn list(
    State(deployer): State<Deployer>,
    query: Result<Query<Filter>, axum::extract::rejection::QueryRejection>,
) -> Outcome<Response> {
    let Query(filter) = query.map_err(|_| Refusal::malformed("`state` is none that a node can have"))?;
    let nodes = deployer.list(filter.state).await?;
    Ok(body::json(StatusCode::OK, &NodeList { version: VERSION, nodes }))
}

#[derive(Deserialize)]
struct Awaited {
    state: Option<NodeState>,
    /// Seconds.
    wait: Option<u64>,
}

/// With a state to wait for: once the node is there, or has failed, or after that time as it is then.
async fn show(
    State(deployer): State<Deployer>,
    Path(node): Path<String>,
    query: Result<Query<Awaited>, axum::extract::rejection::QueryRejection>,
    stopping: Option<Extension<Stopping>>,
) -> Outcome<Response> {
    let Query(Awaited { state, wait }) =
        query.map_err(|_| Refusal::malformed("`state` is one that a node can have, and `wait` a whole number"))?;
    let wait = Duration::from_secs(wait.unwrap_or(0).min(LONGEST_WAIT));
    if let Some(state) = state
        && !wait.is_zero()
    {
        let arrived = deployer.wait_for(&node, |status| status.state == state || status.state == NodeState::Failed);
        tokio::select! {
            // As it is then: what is shown says whether it has come to that.
            _ = tokio::time::timeout(wait, arrived) => {}
            () = stopped(stopping) => {}
        }
    }
    Ok(body::json(StatusCode::OK, &deployer.show(&node).await?))
}

async fn register(State(deployer): State<Deployer>, request: Request) -> Outcome<Response> {
    let asked = Asked::read(request).await?;
    let body: RegisterRequest = asked.parse()?;
    let identity = Identity {
        node_id: body.matches.node_id,
        serial: body.matches.serial,
        uuid: None,
        macs: body.matches.mac.into_iter().collect(),
    };
    let answered = asked.once(&deployer, StatusCode::CREATED, move |work, rules| {
        nodes::register(work, rules, &body.node, &body.class, &identity, body.desired_system.as_deref())
    });
    Ok(respond(&answered.await?))
}

async fn claim(State(deployer): State<Deployer>, Path(node): Path<String>, request: Request) -> Outcome<Response> {
    let asked = Asked::read(request).await?;
    let body: ClaimRequest = asked.parse()?;
    let answered = asked.once(&deployer, StatusCode::OK, move |work, rules| {
        nodes::claim(work, rules, &node, &body.class, body.desired_system.as_deref())
    });
    Ok(respond(&answered.await?))
}

async fn reinstall(State(deployer): State<Deployer>, Path(node): Path<String>, request: Request) -> Outcome<Response> {
    let asked = Asked::read(request).await?;
    let body: ReinstallRequest = asked.parse()?;
    let answered = asked.once(&deployer, StatusCode::OK, move |work, rules| {
        nodes::reinstall(work, rules, &node, body.class.as_deref())
    });
    Ok(respond(&answered.await?))
}

async fn retire(State(deployer): State<Deployer>, Path(node): Path<String>, request: Request) -> Outcome<Response> {
    let asked = Asked::read(request).await?;
    let answered = asked.once(&deployer, StatusCode::OK, move |work, _| nodes::retire(work, &node));
    Ok(respond(&answered.await?))
}

async fn set_desired_system(
    State(deployer): State<Deployer>,
    Path(node): Path<String>,
    request: Request,
) -> Outcome<Response> {
    let asked = Asked::read(request).await?;
    let body: DesiredSystemRequest = asked.parse()?;
    let answered = asked.once(&deployer, StatusCode::OK, move |work, rules| {
        nodes::set_desired_system(work, rules, &node, body.system.as_deref())
    });
    Ok(respond(&answered.await?))
}

async fn list_tokens(State(deployer): State<Deployer>) -> Outcome<Response> {
    let tokens = deployer.list_tokens().await?;
    Ok(body::json(StatusCode::OK, &TokenList { version: VERSION, tokens }))
}

/// The token is kept nowhere. So that a request that comes again can be told the same one, it is derived from what only
/// whoever asks and this deployer have together: the admin token, the salt, and the key.
async fn create_token(State(deployer): State<Deployer>, request: Request) -> Outcome<Response> {
    let asked = Asked::read(request).await?;
    let body: TokenRequestBody = asked.parse()?;
    let value = match replay::key(&asked.headers)? {
        Some(key) => derived(&deployer, &key, &asked.digest()),
        None => new_secret().map_err(|error| internal(&error))?,
    };
    let options =
        TokenOptions { lifetime: body.lifetime.map(Duration::from_secs), reusable: body.reusable, node: body.node };
    if options.lifetime.is_some_and(|lifetime| lifetime.is_zero()) {
        return Err(Refusal::malformed("`lifetime` is 0 seconds: the token would never be good"));
    }
    let request = deployer.token_request(&value, &options)?;
    let (hash, begun) = (request.hash, Timestamp::now());
    let answered =
        asked.once(&deployer, StatusCode::CREATED, move |work, _| nodes::create_token(work, &request)).await?;
    if answered.status != 201 {
        return Ok(respond(&answered));
    }
    let token: TokenStatus = serde_json::from_value(answered.body)?;
    // Told before, to whoever had another admin token then: what is derived now is not it.
    if token.created < begun && !deployer.is_token(&token.id, hash).await? {
        return Err(Refusal::new(409, "replay-impossible", "this token was told once and cannot be told again")
            .detail("the admin token was changed since; make another with a new `Idempotency-Key`"));
    }
    let told = NewToken { version: VERSION, token, value: value.expose().to_owned() };
    Ok(body::json(StatusCode::CREATED, &told))
}

fn derived(deployer: &Deployer, key: &str, digest: &[u8; 32]) -> Secret {
    let hash = Sha256::new()
        .chain_update(b"bootproof bootstrap token 1\0")
        .chain_update(Sha256::digest(deployer.0.admin.expose().as_bytes()))
        .chain_update(&deployer.0.rules.salt)
        .chain_update(digest)
        .chain_update(key.as_bytes())
        .finalize();
    Secret::new(hex(&hash))
}

async fn revoke_token(
    State(deployer): State<Deployer>,
    Path(token): Path<String>,
    request: Request,
) -> Outcome<Response> {
    let asked = Asked::read(request).await?;
    let answered = asked.once(&deployer, StatusCode::NO_CONTENT, move |work, _| nodes::revoke_token(work, &token));
    Ok(respond(&answered.await?))
}
