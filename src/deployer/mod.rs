//! The deployer: machines phone home to it, and it tells them what to become.
//!
//! `bootproof deployer serve` runs it by itself; a lane has one in its own process, on one of its networks.
//!
//! What always holds:
//! - A state that was answered survives a kill at any instant (`store`); a node's state changes only as `progress`
//!   allows, and its history tells every change (`nodes`).
//! - Tokens and credentials are kept as salted hashes, compared in constant time, and stand in no log and no error.
//! - Nothing polls: whoever waits for a node, here or over HTTP, is woken by the change.
//! - One client that stalls, sends garbage or sends too much holds up nobody else (`server`).

mod account;
mod api;
mod bundle;
mod client;
mod configuration;
mod identity;
mod nodes;
mod progress;
mod publish;
mod refusal;
mod server;
mod service;
mod state_folder;
mod store;

pub use account::{Account, accounted};
pub use api::{
    ClaimRequest, DesiredSystemRequest, NewToken, NodeList, RegisterRequest, ReinstallRequest, TokenList,
    TokenRequestBody, openapi,
};
pub use bundle::pack;
pub use client::{Answer, Client};
pub use configuration::*;
pub use nodes::{Cause, HistoryEntry, NodeDetail, NodeStatus, TokenStatus};
pub use publish::{NodeWatch, Published};
pub use refusal::{Outcome, Refusal};
pub use server::{Listener, TlsFiles, make_ca, serve, serve_both, tls_configuration};
pub use service::{Deployer, TokenOptions};
pub use state_folder::{ADMIN_TOKEN, read_token, write_private};
pub use store::{SCHEMA_VERSION, back_up, restore};
