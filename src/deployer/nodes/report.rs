//! What nodes report.

use rusqlite::OptionalExtension;
use sha2::{Digest, Sha256};

use super::history::Cause;
use super::record::Node;
use crate::deployer::progress::Happening;
use crate::deployer::refusal::{Outcome, Refusal};
use crate::deployer::store::Work;
use crate::provisioning::{NodeEvent, NodeEventReport};

/// Bytes of a report's id.
const LONGEST_ID: usize = 128;

/// Takes a report. One that was taken before changes nothing.
pub fn report(work: &mut Work<'_>, node: &str, report: &NodeEventReport) -> Outcome<()> {
    if report.id.is_empty() || report.id.len() > LONGEST_ID || report.id.chars().any(char::is_control) {
        return Err(Refusal::malformed(format!(
            "a report's `id` has 1 to {LONGEST_ID} bytes and no control characters"
        )));
    }
    let digest: [u8; 32] = Sha256::digest(serde_json::to_vec(&report.report)?).into();
    let before: Option<Vec<u8>> = work
        .connection
        .prepare_cached("SELECT digest FROM reports WHERE node = ? AND id = ?")?
        .query_row([node, &report.id], |row| row.get(0))
        .optional()?;
    match before {
        Some(before) if before == digest => return Ok(()),
        Some(_) => {
            return Err(Refusal::new(409, "report-id-used", "another report of this node has this id")
                .detail(format!("`{}`", report.id)));
        }
        None => {}
    }
    let mut node = Node::get(work, node)?;
    let from = node.status.state;
    node.follow(Happening::Reported(&report.report))?;
    match &report.report {
        NodeEvent::Active { system } => node.status.active_system = Some(system.clone()),
        NodeEvent::RolledBack { active, .. } => node.status.active_system.clone_from(active),
        // It is installed: no token opens the way to another installation.
        NodeEvent::Booted => {
            work.connection
                .prepare_cached("UPDATE tokens SET spent = ? WHERE node = ? AND spent IS NULL")?
                .execute((work.now.as_millisecond(), &node.status.node))?;
        }
        NodeEvent::BundleDownloaded
        | NodeEvent::DiskLayoutComplete
        | NodeEvent::SystemInstalled
        | NodeEvent::Activating { .. }
        | NodeEvent::Failed { .. } => {}
    }
    node.status.seen = Some(work.now);
    let cause = Cause::Reported { id: report.id.clone(), report: report.report.clone() };
    node.save_with(work, Some(from), &cause)?;
    work.connection.prepare_cached("INSERT INTO reports (node, id, digest) VALUES (?, ?, ?)")?.execute((
        &node.status.node,
        &report.id,
        &digest[..],
    ))?;
    Ok(())
}
