//! The agent's side of the conversation with the deployer: for the installer, and for the system that it installed.
//!
//! What always holds: no token and no credential is printed; nothing of a bundle is used before its digest was found right.

mod client;
mod download;
#[cfg(test)]
mod testing;

pub use client::{Deployer, Pause, Refusal, Token, Trouble, first_pause, report};
