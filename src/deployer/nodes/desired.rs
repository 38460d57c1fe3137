//! What nodes shall run.

use super::Rules;
use super::history::Cause;
use super::record::Node;
use crate::deployer::progress::Happening;
use crate::deployer::refusal::Outcome;
use crate::deployer::store::Work;
use crate::provisioning::{DesiredSystemAnswer, VERSION};

impl Node {
    /// Lets it run a system of the configuration, or none in particular. What is desired already stays as it is. Does
    /// not write the node; gives what is to be written with it.
    pub(super) fn direct(&mut self, rules: &Rules, system: Option<&str>) -> Outcome<Option<Cause>> {
        let definition = system.and_then(|name| rules.configuration.systems.get(name));
        if self.status.desired_system.as_deref() == system && self.desired_definition.as_ref() == definition {
            return Ok(None);
        }
        self.follow(Happening::Redirected)?;
        self.status.desired_system = system.map(str::to_owned);
        self.desired_definition = definition.cloned();
        self.status.generation += 1;
        Ok(Some(Cause::DesiredSystemChanged { system: system.map(str::to_owned), generation: self.status.generation }))
    }

    /// What its class says, unless it was told otherwise.
    pub(super) fn direct_by_class(&mut self, rules: &Rules) -> Outcome<Option<Cause>> {
        let class = self.status.class.as_ref().and_then(|class| rules.configuration.classes.get(class));
        match class {
            Some(class) if self.desired_by_class => self.direct(rules, class.desired_system.as_deref()),
            _ => {
                let current = self.status.desired_system.clone();
                // It may mean something else than it did, or nothing: then what it meant stays.
                match current {
                    Some(name) if rules.configuration.systems.contains_key(&name) => self.direct(rules, Some(&name)),
                    _ => Ok(None),
                }
            }
        }
    }
}

/// What the node shall run now.
pub fn desired_system(work: &Work<'_>, node: &str) -> Outcome<DesiredSystemAnswer> {
    let node = Node::get(work, node)?;
    Ok(DesiredSystemAnswer { version: VERSION, generation: node.status.generation, system: node.desired_definition })
}
