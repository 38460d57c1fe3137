//! The lane's deployer, and the steps that speak with it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Checker, join};
use crate::deployer::ConfigurationDocument;
use crate::lane::deployer_document::{DeployerDocument, DeployerStepDocument};
use crate::lane::document::{MachineDocument, Named};
use crate::lane::model::{DebianImage, DeployerAction, Image, LaneDeployer, Machine, SwitchedNetwork};
use crate::lane::problem::Problem;
use crate::lane::reader::Spanned;

const PORT: u16 = 8080;
const ACTIONS: &str = "`state`, `rolled_back`, `desired_system`, `claim`, `reinstall`, `retire` and `restart`";

impl Checker<'_> {
    pub(super) fn deployer(
        &mut self,
        deployer: &Spanned<DeployerDocument>,
        networks: &BTreeMap<String, SwitchedNetwork>,
        images: &BTreeMap<String, Image>,
    ) -> LaneDeployer {
        let names = || networks.keys().map(String::as_str);
        let network = match &deployer.network {
            Some(name) if networks.contains_key(&name.value) => name.value.clone(),
            Some(name) => {
                let problem = Problem::new(format!("the lane has no network `{}`", name.value)).at(name.place.clone());
                self.report(problem.nearest(name, names()));
                String::new()
            }
            None => match (names().next(), names().nth(1)) {
                (Some(only), None) => only.to_owned(),
                (first, _) => {
                    let text = if first.is_none() {
                        "the lane has no network that a deployer could be reached by"
                    } else {
                        "the lane has several networks"
                    };
                    let hint =
                        if first.is_none() { "add one: `[networks.lan]`" } else { "say which: `network = \"NAME\"`" };
                    self.report(Problem::new(text).at(deployer.place.clone()).hint(hint));
                    String::new()
                }
            },
        };
        for token in &deployer.tokens {
            if !self.secrets.contains(&token.value) {
                self.report(
                    Problem::new(format!("the lane has no secret `{}`", token.value))
                        .at(token.place.clone())
                        .hint(format!("a new one for each run: `secrets.{} = {{ generated = true }}`", token.value)),
                );
            }
        }
        for (class, image) in &deployer.images {
            if !deployer.classes.contains_key(&class.value) {
                let problem = Problem::new(format!("there is no class `{}`", class.value)).at(class.place.clone());
                self.report(problem.nearest(class, deployer.classes.keys().map(String::as_str)));
            }
            match images.get(&image.value) {
                None => {
                    let problem =
                        Problem::new(format!("the lane has no image `{}`", image.value)).at(image.place.clone());
                    self.report(problem.nearest(image, images.keys().map(String::as_str)));
                }
                Some(known) if known.debian.is_none() => self.report(
                    Problem::new(format!("the image `{}` is not built from Debian packages", image.value))
                        .at(image.place.clone())
                        .hint("only such a one can be installed: `images.NAME.debian`"),
                ),
                Some(_) => {}
            }
        }
        if let Some(name) = &deployer.netboot {
            self.netboot_image(name, images);
        }
        let from_folder = |path: &std::path::PathBuf| join(self.surroundings.folder, path);
        let mut classes = deployer.classes.clone();
        for class in classes.values_mut() {
            class.bundle = class.bundle.as_ref().map(from_folder);
            class.configuration = class.configuration.as_ref().map(from_folder);
        }
        let mut systems = deployer.systems.clone();
        for system in systems.values_mut() {
            system.bundle = system.bundle.as_ref().map(from_folder);
            system.folder = system.folder.as_ref().map(from_folder);
        }
        LaneDeployer {
            network,
            port: deployer.port.as_ref().map_or(PORT, |port| port.value),
            tokens: deployer.tokens.iter().map(|token| token.value.clone()).collect(),
            images: deployer.images.iter().map(|(class, image)| (class.value.clone(), image.value.clone())).collect(),
            netboot: deployer.netboot.as_ref().map(|image| image.value.clone()),
            damage_kernel: deployer.damage_kernel,
            damage_bundles: deployer.damage_bundles,
            tls: deployer.tls,
            configuration: ConfigurationDocument {
                version: 1,
                default_class: deployer.default_class.clone(),
                allow_unauthenticated: deployer.allow_unauthenticated,
                binary_cache: deployer.binary_cache.clone(),
                classes,
                systems,
                nodes: deployer.nodes.clone(),
                ..Default::default()
            },
        }
    }

    /// A machine that speaks TLS to a deployer that does not would ask for ever.
    pub(super) fn deployer_urls(
        &mut self,
        machines: &Named<MachineDocument>,
        deployer: &LaneDeployer,
        networks: &BTreeMap<String, SwitchedNetwork>,
    ) {
        let Some(network) = networks.get(&deployer.network).filter(|_| !deployer.tls) else { return };
        let under_tls = format!("bootproof.deployer_url=https://{}:{}", network.host(), deployer.port);
        for parameter in machines.values().flat_map(|machine| &machine.kernel_parameters) {
            if **parameter == under_tls {
                self.report(
                    Problem::new("the lane's deployer speaks no TLS")
                        .at(parameter.place.clone())
                        .hint("add `tls = true` to `[deployer]`, or write `http://`"),
                );
            }
        }
    }

    /// Systems are packed with zstd, which the agent leaves to the machine's own program.
    pub(super) fn systems_can_be_unpacked(
        &mut self,
        deployer: &Spanned<DeployerDocument>,
        machines: &BTreeMap<String, Machine>,
        images: &BTreeMap<String, Image>,
    ) {
        if deployer.systems.is_empty() {
            return;
        }
        let installed = deployer.images.values().map(|image| image.value.as_str());
        let asks = |machine: &Machine| {
            machine.kernel_parameters.iter().any(|parameter| parameter.starts_with("bootproof.deployer_url="))
        };
        let enrolled = machines.values().filter(|machine| asks(machine)).map(|machine| machine.image.as_str());
        let names: BTreeSet<&str> = installed.chain(enrolled).collect();
        let lacks = |debian: &DebianImage| {
            let name = |package: &str| package.split(['=', '/']).next() == Some("zstd");
            !debian.packages.iter().any(|package| name(package))
        };
        for name in names {
            if images.get(name).and_then(|image| image.debian.as_ref()).is_some_and(lacks) {
                self.report(
                    Problem::new(format!(
                        "a machine with the image `{name}` cannot unpack what the deployer lets it run"
                    ))
                    .at(deployer.place.clone())
                    .hint(format!("add `zstd` to the packages: `images.{name}.debian.packages`")),
                );
            }
        }
    }

    pub(super) fn deployer_step(
        &mut self,
        step: &Spanned<DeployerStepDocument>,
        there: bool,
    ) -> (DeployerAction, String) {
        if !there {
            self.report(Problem::new("the lane has no deployer").at(step.place.clone()).hint("add one: `[deployer]`"));
        }
        let node = step.node.as_ref().map(|node| node.value.clone()).unwrap_or_default();
        let set = |flag: &Option<Spanned<bool>>| flag.as_ref().is_some_and(|flag| flag.value);
        let mut actions = Vec::new();
        if let Some(state) = &step.state {
            let system = step.system.as_ref().map(|system| system.value.clone());
            actions.push((DeployerAction::AwaitState { node: node.clone(), state: state.value, system }, "await"));
        }
        if let Some(system) = &step.rolled_back {
            let action = DeployerAction::AwaitRollBack { node: node.clone(), system: system.value.clone() };
            actions.push((action, "await-roll-back"));
        }
        if let Some(system) = &step.desired_system {
            actions.push((DeployerAction::Desire { node: node.clone(), system: system.value.clone() }, "desire"));
        }
        if let Some(class) = &step.claim {
            actions.push((DeployerAction::Claim { node: node.clone(), class: class.value.clone() }, "claim"));
        }
        if set(&step.reinstall) {
            actions.push((DeployerAction::Reinstall { node: node.clone() }, "reinstall"));
        }
        if set(&step.retire) {
            actions.push((DeployerAction::Retire { node: node.clone() }, "retire"));
        }
        if set(&step.restart) {
            actions.push((DeployerAction::Restart {}, "restart"));
        }
        let one = actions.len() == 1;
        if !one {
            self.report(
                Problem::new("a `deployer` step does exactly one thing")
                    .at(step.place.clone())
                    .hint(format!("one of {ACTIONS}")),
            );
        }
        let (action, name) = actions.into_iter().next().unwrap_or((DeployerAction::Restart {}, "restart"));
        let needs_node = !matches!(action, DeployerAction::Restart {});
        if needs_node != step.node.is_some() && there && one {
            let text = if needs_node { "this needs a `node`" } else { "a restart is not about one node" };
            self.report(Problem::new(text).at(step.place.clone()));
        }
        if let (Some(system), None) = (&step.system, &step.state) {
            self.report(Problem::new("`system` belongs to a `state`").at(system.place.clone()));
        }
        (action, format!("deployer-{name}"))
    }
}
