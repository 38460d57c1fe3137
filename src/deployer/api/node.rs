//! What machines ask.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;

use super::{Stopping, body, bundles};
use crate::deployer::nodes::Hash;
use crate::deployer::refusal::{Outcome, Refusal};
use crate::deployer::service::Deployer;
use crate::provisioning::{BUNDLES, DESIRED_SYSTEM, NODE_EVENTS, PHONE_HOME, PhoneHome};

/// Nobody waits longer, whatever is asked for.
pub const LONGEST_WAIT: u64 = 300;

pub fn router() -> Router<Deployer> {
    Router::new()
        .route(PHONE_HOME, post(phone_home))
        .route(NODE_EVENTS, post(report))
        .route(DESIRED_SYSTEM, get(desired_system))
        .route(&format!("{BUNDLES}/{{digest}}"), get(bundles::download))
}

/// The hash of what the request carries.
pub fn bearer(deployer: &Deployer, headers: &HeaderMap) -> Outcome<Option<Hash>> {
    Ok(body::bearer(headers)?.map(|secret| deployer.hash(secret)))
}

#[derive(Deserialize)]
struct Patience {
    /// Seconds.
    wait: Option<u64>,
}

/// Ready when the server is about to end.
pub async fn stopped(stopping: Option<Extension<Stopping>>) {
    match stopping {
        // The sender sends nothing: it goes.
        Some(Extension(Stopping(mut stopping))) => drop(stopping.changed().await),
        None => std::future::pending().await,
    }
}

async fn phone_home(
    State(deployer): State<Deployer>,
    query: Result<Query<Patience>, axum::extract::rejection::QueryRejection>,
    stopping: Option<Extension<Stopping>>,
    headers: HeaderMap,
    body: Body,
) -> Outcome<Response> {
    let Query(Patience { wait }) = query.map_err(|_| Refusal::malformed("`wait` has to be a whole number"))?;
    let wait = Duration::from_secs(wait.unwrap_or(0).min(LONGEST_WAIT));
    let bearer = bearer(&deployer, &headers)?;
    let request: PhoneHome = body::parse(&body::read(body).await?)?;
    let answer = tokio::select! {
        answer = deployer.phone_home(bearer, request.clone(), wait) => answer,
        () = stopped(stopping) => deployer.phone_home(bearer, request, Duration::ZERO).await,
    };
    match answer {
        Ok(answer) => Ok(body::json(StatusCode::OK, &answer)),
        Err(refusal) => {
            // Whoever tries tokens is seen.
            tracing::warn!(code = refusal.code, "a phone-home was refused");
            Err(refusal)
        }
    }
}

async fn report(State(deployer): State<Deployer>, headers: HeaderMap, body: Body) -> Outcome<Response> {
    let bearer = bearer(&deployer, &headers)?;
    // A stranger's body is not even read.
    if bearer.is_none() {
        return Err(Refusal::new(401, "credential-missing", "this needs the node's credential"));
    }
    let report = body::parse(&body::read(body).await?)?;
    deployer.report(bearer, report).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
struct Known {
    known: Option<u64>,
    /// Seconds.
    wait: Option<u64>,
}

async fn desired_system(
    State(deployer): State<Deployer>,
    query: Result<Query<Known>, axum::extract::rejection::QueryRejection>,
    stopping: Option<Extension<Stopping>>,
    headers: HeaderMap,
) -> Outcome<Response> {
    let Query(Known { known, wait }) =
        query.map_err(|_| Refusal::malformed("`known` and `wait` have to be whole numbers"))?;
    let bearer = bearer(&deployer, &headers)?;
    let wait = Duration::from_secs(wait.unwrap_or(0).min(LONGEST_WAIT));
    let answer = tokio::select! {
        answer = deployer.desired_system(bearer, known, wait) => answer?,
        () = stopped(stopping) => deployer.desired_system(bearer, None, Duration::ZERO).await?,
    };
    Ok(body::json(StatusCode::OK, &answer))
}
