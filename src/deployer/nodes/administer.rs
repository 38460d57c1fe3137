//! What administrators do with nodes.

use super::Rules;
use super::history::{self, Cause};
use super::record::{Node, NodeDetail, NodeStatus, all_statuses};
use crate::deployer::configuration::valid_name;
use crate::deployer::identity::normalised;
use crate::deployer::progress::Happening;
use crate::deployer::refusal::{Outcome, Refusal};
use crate::deployer::store::Work;
use crate::provisioning::{Identity, NodeState, VERSION};

pub fn list(work: &Work<'_>, state: Option<NodeState>) -> Outcome<Vec<NodeStatus>> {
    let mut statuses = all_statuses(work.connection)?;
    statuses.retain(|status| state.is_none_or(|state| status.state == state));
    Ok(statuses)
}

pub fn detail(work: &Work<'_>, name: &str) -> Outcome<NodeDetail> {
    let node = Node::get(work, name)?;
    let history = history::of_node(work, name)?;
    Ok(NodeDetail {
        version: VERSION,
        node: node.status,
        disks: node.disks,
        memory: node.memory,
        agent_version: node.agent_version,
        history,
    })
}

fn known_class<'n>(rules: &Rules, class: &'n str) -> Outcome<&'n str> {
    if rules.configuration.classes.contains_key(class) {
        return Ok(class);
    }
    let known: Vec<&str> = rules.configuration.classes.keys().map(String::as_str).collect();
    Err(Refusal::new(422, "unknown-class", "there is no such class")
        .detail(format!("`{class}`; there are: {}", known.join(", "))))
}

fn known_system<'n>(rules: &Rules, system: &'n str) -> Outcome<&'n str> {
    if rules.configuration.systems.contains_key(system) {
        return Ok(system);
    }
    let known: Vec<&str> = rules.configuration.systems.keys().map(String::as_str).collect();
    Err(Refusal::new(422, "unknown-system", "there is no such system")
        .detail(format!("`{system}`; there are: {}", known.join(", "))))
}

/// A node that is known before it comes.
pub fn register(
    work: &mut Work<'_>,
    rules: &Rules,
    name: &str,
    class: &str,
    identity: &Identity,
    desired_system: Option<&str>,
) -> Outcome<NodeStatus> {
    insert(work, rules, name, class, identity, desired_system, |class| Cause::Registered { class })
}

pub(super) fn insert(
    work: &mut Work<'_>,
    rules: &Rules,
    name: &str,
    class: &str,
    identity: &Identity,
    desired_system: Option<&str>,
    cause: impl FnOnce(String) -> Cause,
) -> Outcome<NodeStatus> {
    if !valid_name(name) {
        return Err(Refusal::malformed(
            "a node's name has 1 to 63 letters, digits, `-`, `_` or `.`, and begins with a letter or digit",
        ));
    }
    let class = known_class(rules, class)?;
    let identity = if *identity == Identity::default() {
        Identity { node_id: Some(name.into()), ..Identity::default() }
    } else {
        normalised(identity)?
    };
    for other in all_statuses(work.connection)? {
        let known = &other.identity;
        if other.node == name {
            return Err(Refusal::new(409, "node-exists", "there is such a node already").detail(format!("`{name}`")));
        }
        if (known.node_id.is_some() && known.node_id == identity.node_id)
            || (known.serial.is_some() && known.serial == identity.serial)
            || (identity.serial.is_none() && identity.node_id.is_none())
                && known.macs.iter().any(|mac| identity.macs.contains(mac))
        {
            return Err(Refusal::new(409, "identity-conflict", "another node has this identity")
                .detail(format!("`{}`", other.node)));
        }
    }
    let mut node = Node::new(name, identity, work.now);
    node.status.class = Some(class.to_owned());
    node.follow(Happening::Claimed)?;
    if let Some(system) = desired_system {
        node.desired_by_class = false;
        node.direct(rules, Some(known_system(rules, system)?))?;
    } else {
        node.direct_by_class(rules)?;
    }
    node.save_with(work, None, &cause(class.to_owned()))?;
    Ok(node.status)
}

/// Says what a node shall become: one that was discovered, has failed, or was retired.
pub fn claim(
    work: &mut Work<'_>,
    rules: &Rules,
    name: &str,
    class: &str,
    desired_system: Option<&str>,
) -> Outcome<NodeStatus> {
    let class = known_class(rules, class)?;
    begin(work, rules, name, class, desired_system, Happening::Claimed, Cause::Claimed { class: class.into() })
}

/// Lets a node be installed again. What runs on it keeps its credential until the installer has phoned home.
pub fn reinstall(work: &mut Work<'_>, rules: &Rules, name: &str, class: Option<&str>) -> Outcome<NodeStatus> {
    let class = match (class, Node::get(work, name)?.status.class) {
        (Some(class), _) => class.to_owned(),
        (None, Some(class)) => class,
        (None, None) => return Err(Refusal::malformed("the node has no class yet; claim it")),
    };
    let class = known_class(rules, &class)?;
    let cause = Cause::ReinstallOrdered { class: class.into() };
    begin(work, rules, name, class, None, Happening::Reinstalled, cause)
}

fn begin(
    work: &mut Work<'_>,
    rules: &Rules,
    name: &str,
    class: &str,
    desired_system: Option<&str>,
    happening: Happening<'_>,
    cause: Cause,
) -> Outcome<NodeStatus> {
    let mut node = Node::get(work, name)?;
    let from = node.status.state;
    node.follow(happening)?;
    if node.status.class.as_deref() != Some(class) {
        node.status.class = Some(class.to_owned());
        node.status.hostname = None;
        node.number = None;
        node.desired_by_class = true;
    }
    node.status.active_system = None;
    let redirected = match desired_system {
        Some(system) => {
            node.desired_by_class = false;
            node.direct(rules, Some(known_system(rules, system)?))?
        }
        None => node.direct_by_class(rules)?,
    };
    node.save_with(work, Some(from), &cause)?;
    if let Some(cause) = redirected {
        history::record(work, name, Some(node.status.state), node.status.state, &cause)?;
    }
    Ok(node.status)
}

/// Takes a node out of service: its credential and its tokens are dead. What hardware it was is forgotten, so that what
/// comes when it was claimed anew may be another machine.
pub fn retire(work: &mut Work<'_>, name: &str) -> Outcome<NodeStatus> {
    let mut node = Node::get(work, name)?;
    let from = node.status.state;
    if from == NodeState::Retired {
        return Ok(node.status);
    }
    node.follow(Happening::Retired)?;
    node.credential = None;
    node.status.active_system = None;
    node.status.identity.uuid = None;
    // Of those the MAC addresses stay by which alone it is recognised.
    if node.status.identity.node_id.is_some() || node.status.identity.serial.is_some() {
        node.status.identity.macs.clear();
        work.connection.prepare_cached("DELETE FROM macs WHERE node = ?")?.execute([name])?;
    }
    work.connection
        .prepare_cached("UPDATE tokens SET revoked = ? WHERE node = ? AND revoked IS NULL")?
        .execute((work.now.as_millisecond(), name))?;
    node.save_with(work, Some(from), &Cause::Retired)?;
    Ok(node.status)
}

/// Lets a node run another system; without a name, what its class says.
pub fn set_desired_system(work: &mut Work<'_>, rules: &Rules, name: &str, system: Option<&str>) -> Outcome<NodeStatus> {
    let mut node = Node::get(work, name)?;
    let from = node.status.state;
    let redirected = match system {
        Some(system) => {
            node.desired_by_class = false;
            node.direct(rules, Some(known_system(rules, system)?))?
        }
        None => {
            node.desired_by_class = true;
            node.direct_by_class(rules)?
        }
    };
    match redirected {
        Some(cause) => node.save_with(work, Some(from), &cause)?,
        None => node.save(work)?,
    }
    Ok(node.status)
}
