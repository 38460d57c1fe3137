//! A machine says who it is, and is told what to become.

use rusqlite::OptionalExtension;

use super::access::{self, Bearer, Hash};
use super::history::Cause;
use super::record::Node;
use super::{Rules, SharedRules};
use crate::deployer::configuration::{fill_pattern, valid_hostname, valid_name};
use crate::deployer::identity::{contradicts, is_same_machine, normalised};
use crate::deployer::progress::Happening;
use crate::deployer::refusal::{Outcome, Refusal};
use crate::deployer::store::Work;
use crate::provisioning::{
    Assignment, Identity, InstallMethod, InstallPlan, NodeState, PhoneHome, PhoneHomeAnswer, Stage, VERSION,
};
use crate::secret::Secret;

/// Seconds after which a machine that waits for its class asks again.
const RETRY_AFTER: u64 = 5;

/// What the node is given if it is given one.
pub struct NewCredential {
    pub value: Secret,
    pub hash: Hash,
}

/// One transaction: who comes, which node that is, what it shall become.
pub fn phone_home(
    work: &mut Work<'_>,
    rules: &SharedRules,
    bearer: Option<Hash>,
    request: &PhoneHome,
    credential: &NewCredential,
) -> Outcome<PhoneHomeAnswer> {
    let bearer = access::bearer(work, bearer)?;
    if matches!(bearer, Bearer::Nobody) && !rules.configuration.allow_unauthenticated {
        return Err(Refusal::new(401, "token-missing", "this needs a bootstrap token")
            .detail("the kernel parameter `bootproof.bootstrap_token` holds it"));
    }
    let identity = normalised(&request.identity)?;
    if let Some(hostname) = request.hostname.as_deref().filter(|hostname| !valid_hostname(hostname)) {
        let shown: String = hostname.chars().take(80).flat_map(char::escape_default).collect();
        return Err(Refusal::new(400, "invalid-hostname", "this can be no host name").detail(format!("`{shown}`")));
    }
    let (mut node, from) = match find(work, &identity)? {
        Some(name) => {
            let node = Node::get(work, &name)?;
            let from = node.status.state;
            (node, Some(from))
        }
        None => (Node::new(&free_name(work, &identity)?, identity.clone(), work.now), None),
    };
    let known_as = node.status.node.clone();
    if !is_same_machine(&node.status.identity, &identity) {
        tracing::warn!(node = known_as, comes = ?identity, known = ?node.status.identity, "identity conflict");
        return Err(Refusal::new(409, "identity-conflict", "another machine has this identity").detail(format!(
            "`{known_as}` has another board or other network cards; give this machine a `bootproof.node_id` of its own, \
             or retire and claim the node if the machine was replaced"
        )));
    }
    match &bearer {
        Bearer::Node(owner) if *owner != known_as => {
            return Err(Refusal::new(403, "wrong-node", "this credential is another node's"));
        }
        // It is up and only says so.
        Bearer::Node(_) if request.stage == Stage::Installed && from != Some(NodeState::Retired) => {
            learn(&mut node, &identity, request, work);
            node.save(work)?;
            return Ok(PhoneHomeAnswer { version: VERSION, node: known_as, assignment: None, retry_after: None });
        }
        Bearer::Node(_) | Bearer::Nobody | Bearer::Token(_) => {}
    }
    learn(&mut node, &identity, request, work);
    if node.status.class.is_none() {
        node.status.class = rules.configuration.default_class.clone();
    }
    let class = node.status.class.clone();
    let known = class.as_ref().is_some_and(|class| rules.configuration.classes.contains_key(class));
    if !known || from == Some(NodeState::Retired) {
        return wait(work, node, from, request, &bearer);
    }
    node.follow(Happening::PhonedHome(request.stage))?;
    let plan = plan(work, rules, &mut node, request)?;
    let redirected = node.direct_by_class(rules)?;
    // A report is known by its id among those that came with one credential; with the next, ids may come again.
    work.connection.prepare_cached("DELETE FROM reports WHERE node = ?")?.execute([&known_as])?;
    node.credential = Some(credential.hash.0.to_vec());
    let cause = Cause::PhonedHome { stage: request.stage, firmware: request.firmware, credential: true };
    node.save_with(work, from, &cause)?;
    if let Some(cause) = redirected {
        super::history::record(work, &known_as, Some(node.status.state), node.status.state, &cause)?;
    }
    if let Bearer::Token(token) = &bearer {
        token.bind(work, &known_as)?;
    }
    let assignment = Assignment { credential: credential.value.expose().to_owned(), plan };
    Ok(PhoneHomeAnswer { version: VERSION, node: known_as, assignment: Some(assignment), retry_after: None })
}

/// Nothing says what it shall become.
fn wait(
    work: &mut Work<'_>,
    mut node: Node,
    from: Option<NodeState>,
    request: &PhoneHome,
    bearer: &Bearer,
) -> Outcome<PhoneHomeAnswer> {
    match node.status.state {
        NodeState::Retired => {
            return Err(Refusal::new(403, "node-retired", "the node is retired")
                .detail(format!("`{}` can be claimed anew", node.status.node)));
        }
        NodeState::Discovered => {}
        // Its class was taken out of the configuration.
        NodeState::Claimed | NodeState::Installing | NodeState::Installed | NodeState::Active | NodeState::Failed => {
            return Err(Refusal::new(409, "unknown-class", "the node's class is not in the configuration")
                .detail(format!("`{}`", node.status.class.as_deref().unwrap_or_default())));
        }
    }
    let name = node.status.node.clone();
    // It asks again and again: only the first time is history.
    if from.is_none() {
        let cause = Cause::PhonedHome { stage: request.stage, firmware: request.firmware, credential: false };
        node.save_with(work, None, &cause)?;
    } else {
        node.save(work)?;
    }
    if let Bearer::Token(token) = bearer {
        token.bind(work, &name)?;
    }
    Ok(PhoneHomeAnswer { version: VERSION, node: name, assignment: None, retry_after: Some(RETRY_AFTER) })
}

fn learn(node: &mut Node, identity: &Identity, request: &PhoneHome, work: &Work<'_>) {
    let known = &mut node.status.identity;
    for (known, comes) in [
        (&mut known.node_id, &identity.node_id),
        (&mut known.serial, &identity.serial),
        (&mut known.uuid, &identity.uuid),
    ] {
        if known.is_none() {
            known.clone_from(comes);
        }
    }
    known.macs.extend(identity.macs.iter().cloned());
    known.macs.sort();
    known.macs.dedup();
    node.status.firmware = Some(request.firmware);
    node.status.seen = Some(work.now);
    node.disks.clone_from(&request.disks);
    node.memory = request.memory.min(i64::MAX as u64);
    node.agent_version.clone_from(&request.agent_version);
}

/// The node that a machine would be, and whether it has its system; none where several might.
pub fn recognise(work: &Work<'_>, identity: &Identity) -> Outcome<Option<(String, bool)>> {
    let found = match find(work, identity) {
        Err(refusal) if refusal.status == 409 => None,
        found => found?,
    };
    found.map(|name| Node::get(work, &name).map(|node| (name, node.position().has_its_system()))).transpose()
}

/// The node that this identity is. The strongest sign that finds one decides; one that a stronger sign contradicts is
/// another.
fn find(work: &Work<'_>, identity: &Identity) -> Outcome<Option<String>> {
    let mut signs: Vec<(&str, Vec<&str>)> = Vec::new();
    if let Some(node_id) = &identity.node_id {
        signs.push(("SELECT name FROM nodes WHERE node_id = ?", vec![node_id]));
    }
    if let Some(serial) = &identity.serial {
        signs.push(("SELECT name FROM nodes WHERE serial = ?", vec![serial]));
    }
    if !identity.macs.is_empty() {
        let macs = identity.macs.iter().map(String::as_str).collect();
        signs.push(("SELECT node FROM macs WHERE mac = ?", macs));
    }
    for (sql, values) in signs {
        let mut statement = work.connection.prepare_cached(sql)?;
        let mut names: Vec<String> = Vec::new();
        for value in values {
            for name in statement.query_map([value], |row| row.get(0))? {
                names.push(name?);
            }
        }
        names.sort();
        names.dedup();
        let mut candidates = Vec::new();
        for name in names {
            let node = Node::get(work, &name)?;
            if !contradicts(&node.status.identity, identity) {
                candidates.push(node);
            }
        }
        if candidates.len() > 1 {
            candidates.retain(|node| is_same_machine(&node.status.identity, identity));
            // Of those that it may be, the one whose board it has, or else the one that has no stronger sign.
            let known = |node: &Node| identity.uuid.is_some() && node.status.identity.uuid == identity.uuid;
            let bare = |node: &Node| {
                let known = &node.status.identity;
                known.node_id.is_none() && (known.serial.is_none() || identity.serial.is_some())
            };
            if candidates.iter().filter(|node| known(node)).count() == 1 {
                candidates.retain(known);
            } else if candidates.iter().filter(|node| bare(node)).count() == 1 {
                candidates.retain(bare);
            }
            if candidates.len() != 1 {
                return Err(Refusal::new(409, "identity-conflict", "this identity may be one of several nodes")
                    .detail("give the machine a `bootproof.node_id` of its own"));
            }
        }
        if let Some(node) = candidates.pop() {
            return Ok(Some(node.status.node));
        }
    }
    Ok(None)
}

/// A name for a machine that nothing names: what it is recognised by.
fn free_name(work: &Work<'_>, identity: &Identity) -> Outcome<String> {
    let sign = identity.node_id.as_ref().or(identity.serial.as_ref());
    let plain = match sign {
        Some(sign) => plain_name(sign),
        None => identity.macs.first().map(|mac| mac.replace(':', "")).unwrap_or_default(),
    };
    let plain = if valid_name(&plain) { plain } else { "node".into() };
    let mut taken = work.connection.prepare_cached("SELECT 1 FROM nodes WHERE name = ?")?;
    for number in 1u32.. {
        let name = if number == 1 { plain.clone() } else { format!("{}-{number}", &plain[..plain.len().min(52)]) };
        if taken.query_row([&name], |_| Ok(())).optional()?.is_none() {
            return Ok(name);
        }
    }
    Err(Refusal::storage())
}

/// Letters, digits and single hyphens, in lower case.
fn plain_name(text: &str) -> String {
    let mut plain = String::new();
    for character in text.chars().take(63) {
        match character.to_ascii_lowercase() {
            character @ ('a'..='z' | '0'..='9') => plain.push(character),
            _ if !plain.is_empty() && !plain.ends_with('-') => plain.push('-'),
            _ => {}
        }
    }
    plain.trim_end_matches('-').to_owned()
}

fn plan(work: &Work<'_>, rules: &Rules, node: &mut Node, request: &PhoneHome) -> Outcome<InstallPlan> {
    let name = node.status.class.clone().unwrap_or_default();
    let class = rules.configuration.classes.get(&name).ok_or_else(Refusal::storage)?;
    if request.stage == Stage::Installer && matches!(class.method, InstallMethod::Existing {}) {
        return Err(Refusal::new(409, "nothing-to-install", "the node's class has no system to install")
            .detail(format!("`classes.{name}` has neither `bundle` nor `configuration`")));
    }
    if node.number.is_none() && class.hostname.contains("{number}") {
        let last: Option<u32> = work
            .connection
            .prepare_cached("SELECT max(number) FROM nodes WHERE class = ?")?
            .query_row([&name], |row| row.get(0))?;
        node.number = Some(last.unwrap_or(0) + 1);
    }
    let hostname = request.hostname.clone().or_else(|| node.status.hostname.clone()).unwrap_or_else(|| {
        let identity = &node.status.identity;
        let filled = fill_pattern(&class.hostname, |value| match value {
            "serial" => identity.serial.as_deref().map(plain_name),
            "mac" => identity.macs.first().map(|mac| mac.replace(':', "")),
            "number" => node.number.map(|number| format!("{number:02}")),
            _ => Some(plain_name(&node.status.node)),
        });
        filled.filter(|name| valid_hostname(name)).unwrap_or_else(|| plain_name(&node.status.node))
    });
    node.status.hostname = Some(hostname.clone());
    Ok(InstallPlan {
        class: name,
        hostname,
        disk: class.disk.clone(),
        wipe: class.wipe,
        layout: class.layout.clone(),
        method: class.method.clone(),
        kernel_parameters: class.kernel_parameters.clone(),
        files: class.files.clone(),
        binary_cache: rules.configuration.binary_cache.clone(),
    })
}
