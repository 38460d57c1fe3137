//! Booting from the network: what is served, what DHCP says of it, and who asks.

use std::collections::BTreeMap;

use super::Checker;
use super::machines::BUILT_IN;
use crate::lane::document::{MachineDocument, Named};
use crate::lane::model::{Backend, Image, IsoImage, LaneDeployer, Machine, SwitchedNetwork};
use crate::lane::problem::Problem;
use crate::lane::reader::Spanned;

/// What the script of the lane's deployer is asked with: settings that iPXE fills in.
const WHO_ASKS: &str = "mac=${netX/mac}&serial=${serial}&uuid=${uuid}";
/// The longest that a DHCP option holds, in bytes.
const LONGEST: usize = 255;

impl Checker<'_> {
    pub(super) fn boot_file(&mut self, file: &Spanned<String>, dhcp: bool) -> String {
        let plain = file.bytes().all(|byte| byte.is_ascii_graphic());
        if !plain || !(1..=LONGEST).contains(&file.len()) {
            self.report(
                Problem::new("this is not the URL of a boot file")
                    .at(file.place.clone())
                    .label(format!("at most {LONGEST} characters of ASCII, without blanks"))
                    .hint("write it like `http://10.0.2.1:8080/netboot/ipxe?mac=${netX/mac}`"),
            );
        }
        if !dhcp {
            self.report(
                Problem::new("nothing tells the machines of this boot file")
                    .at(file.place.clone())
                    .hint("add `dhcp = true`"),
            );
        }
        self.without_secrets(file, "what DHCP says")
    }

    /// Only of a kernel with all it needs in initrds something can be served.
    pub(super) fn netboot_image(&mut self, name: &Spanned<String>, images: &BTreeMap<String, Image>) {
        let Some(image) = images.get(&name.value) else {
            let problem = Problem::new(format!("the lane has no image `{}`", name.value)).at(name.place.clone());
            let known = images.keys().map(String::as_str).filter(|name| *name != BUILT_IN).chain([BUILT_IN]);
            return self.report(problem.nearest(name, known));
        };
        let installer = matches!(image.iso, Some(IsoImage::Installer { .. }));
        if !installer && image.tiny.is_none() && image.nix.is_none() {
            self.report(
                Problem::new(format!("the image `{}` cannot be booted over the network", name.value))
                    .at(name.place.clone())
                    .hint("an installer (`iso = { suite = \"bookworm\" }`) can, and a kernel with an initramfs: `tiny`, `nix`"),
            );
        }
    }

    /// Has DHCP name the deployer's script, and checks that whoever boots from a network is told something.
    pub(super) fn network_boots(
        &mut self,
        documents: &Named<MachineDocument>,
        networks: &mut BTreeMap<String, SwitchedNetwork>,
        machines: &BTreeMap<String, Machine>,
        deployer: Option<&LaneDeployer>,
    ) {
        let served = deployer.and_then(|deployer| deployer.netboot.as_ref());
        if let (Some(deployer), Some(_)) = (deployer, served)
            && let Some(network) = networks.get_mut(&deployer.network).filter(|network| network.dhcp)
        {
            let script = format!("http://{}:{}/netboot/ipxe?{WHO_ASKS}", network.host(), deployer.port);
            network.boot_file.get_or_insert(script);
        }
        for (name, document) in documents {
            let Some(when) = &document.network_boot else { continue };
            let Some(machine) = machines.get(&name.value) else { continue };
            let mut report =
                |text: String, hint: &str| self.report(Problem::new(text).at(when.place.clone()).hint(hint));
            if machine.backend == Backend::Recorder {
                report("a recording is in no network".into(), "leave `network_boot` out");
                continue;
            }
            let named =
                machine.networks.keys().any(|name| networks.get(name).is_some_and(|one| one.boot_file.is_some()));
            if !named && served.is_some() {
                report(
                    format!("no network tells `{}` what to boot", name.value),
                    "the machine has to be in a network with `dhcp = true` and the deployer's `netboot`",
                );
            }
            match (served, &document.image) {
                (None, _) => report(
                    format!("there is nothing that `{}` could boot from a network", name.value),
                    "name the image that the deployer serves: `[deployer]` with `netboot = \"IMAGE\"`",
                ),
                (Some(served), Some(image)) if image.value != *served => self.report(
                    Problem::new(format!("`{}` boots what the deployer serves, which is `{served}`", name.value))
                        .at(image.place.clone())
                        .hint("leave `image` out"),
                ),
                (Some(_), _) => {}
            }
        }
    }
}
