//! HTTP: paths, bodies, and who may ask what. What is asked for is done elsewhere.
//!
//! What always holds: every answer that is no success is a `Problem`; bodies are bounded in bytes and time; no header
//! and no body is ever logged.

mod admin;
mod body;
mod bundles;
mod netboot;
mod node;
mod openapi;
mod replay;
mod types;

use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::refusal::Refusal;
use super::service::Deployer;
pub use openapi::openapi;
pub use types::{
    ClaimRequest, DesiredSystemRequest, NewToken, NodeList, RegisterRequest, ReinstallRequest, TokenList,
    TokenRequestBody,
};

/// How much of it is served.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    Whole,
    /// What anybody may know.
    Public,
}

/// The server is about to end: nothing is waited for any more.
#[derive(Clone)]
pub struct Stopping(pub tokio::sync::watch::Receiver<()>);

pub fn router(deployer: Deployer, surface: Surface) -> Router {
    let public = Router::new()
        .merge(netboot::router())
        .route("/ca.pem", get(authority))
        .route("/api/v1/openapi.json", get(|| async { ([(header::CONTENT_TYPE, "application/json")], openapi()) }));
    let router = match surface {
        Surface::Whole => public.merge(node::router()).merge(admin::router(&deployer)),
        Surface::Public => public,
    };
    router
        .fallback(move || async move {
            match surface {
                Surface::Whole => Refusal::new(404, "no-such-path", "there is nothing at this path"),
                Surface::Public => Refusal::new(403, "tls-required", "this is not served without TLS"),
            }
        })
        .method_not_allowed_fallback(|| async {
            Refusal::new(405, "method-not-allowed", "this path does not know this method")
        })
        .layer(middleware::from_fn(log))
        .with_state(deployer)
}

async fn authority(State(deployer): State<Deployer>) -> Response {
    match &deployer.0.ca {
        Some(pem) => ([(header::CONTENT_TYPE, "application/x-pem-file")], pem.clone()).into_response(),
        None => Refusal::new(404, "no-ca", "this deployer has no CA").into_response(),
    }
}

/// The path alone: a query may tell more.
async fn log(request: Request, next: Next) -> Response {
    let (method, path, begin) = (request.method().clone(), request.uri().path().to_owned(), Instant::now());
    let response = next.run(request).await;
    tracing::debug!(%method, path, status = response.status().as_u16(), elapsed = ?begin.elapsed(), "request");
    response
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.problem()).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("5"));
        }
        response
    }
}
