//! What the configuration says of nodes, brought into the state when a deployer starts.

use super::Rules;
use super::administer::insert;
use super::history::{self, Cause};
use super::record::{Node, names};
use crate::deployer::refusal::Outcome;
use crate::deployer::store::Work;
use crate::provisioning::NodeState;

/// Nodes of the configuration are there, and every node's desired system is what it is called now. A node's class is
/// another from its next installation on.
pub fn synchronise(work: &mut Work<'_>, rules: &Rules) -> Outcome<()> {
    for (name, configured) in &rules.configuration.nodes {
        let desired = configured.desired_system.as_deref();
        let Some(mut node) = Node::load(work.connection, name)? else {
            let cause = |class| Cause::Configured { class };
            insert(work, rules, name, &configured.class, &configured.identity, desired, cause)?;
            continue;
        };
        if node.status.class.as_deref() == Some(&configured.class) || node.status.state == NodeState::Retired {
            continue;
        }
        let from = node.status.state;
        node.status.class = Some(configured.class.clone());
        node.save_with(work, Some(from), &Cause::Configured { class: configured.class.clone() })?;
    }
    for name in names(work.connection)? {
        let mut node = Node::get(work, &name)?;
        if node.status.state == NodeState::Retired {
            continue;
        }
        let from = node.status.state;
        if let Some(cause) = node.direct_by_class(rules)? {
            node.status.changed = work.now;
            node.save(work)?;
            history::record(work, &name, Some(from), node.status.state, &cause)?;
        }
    }
    Ok(())
}
