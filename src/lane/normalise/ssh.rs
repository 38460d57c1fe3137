//! SSH into machines: whose keys, and by which network.

use std::collections::BTreeMap;

use super::Checker;
use crate::lane::channel_document::{ChannelDocument, SshDocument};
use crate::lane::document::{MachineDocument, Named, Terse};
use crate::lane::model::{Backend, Machine, MachineChannel, SshChoice, SshHostKey};
use crate::lane::problem::Problem;
use crate::lane::reader::Spanned;
use crate::lane::tree::Place;

const PORT: u16 = 22;
const ROOT: &str = "root";
/// In place of a host key.
const CONSOLE: &str = "console";

impl Checker<'_> {
    pub(super) fn ssh(&mut self, ssh: &SshDocument, place: &Place) -> MachineChannel {
        let port = ssh.port.as_ref().map_or(PORT, |port| port.value);
        if port == 0 {
            self.report(Problem::new("there is no port 0").at(place.clone()));
        }
        let user = ssh.user.as_ref().map_or(ROOT, |user| user.value.as_str()).to_owned();
        if user.is_empty() || user.contains(|character: char| character.is_whitespace() || character.is_control()) {
            self.report(Problem::new(format!("`{}` is no user", user.escape_debug())).at(place.clone()));
        }
        if let Some(key) = &ssh.key
            && !self.secrets.contains(&key.value)
        {
            self.report(
                Problem::new(format!("the lane has no secret `{}`", key.value))
                    .at(key.place.clone())
                    .hint(format!("declare it: `secrets.{} = {{ file = \"id_ed25519\" }}`", key.value)),
            );
        }
        if let (Some(user), None) = (&ssh.user, &ssh.key)
            && user.value != ROOT
        {
            self.report(
                Problem::new(format!("nobody knows where the keys of `{}` are in the guest", user.value))
                    .at(user.place.clone())
                    .hint("name the secret that is its private key (`key`), or log in as `root`"),
            );
        }
        let host_key = match &ssh.host_key {
            None => SshHostKey::HandedIn,
            Some(key) if key.value == CONSOLE => SshHostKey::Console,
            Some(key) => self.host_key(key),
        };
        MachineChannel::Ssh(SshChoice {
            user,
            port,
            network: ssh.network.as_ref().map(|network| network.value.clone()),
            key: ssh.key.as_ref().map(|key| key.value.clone()),
            host_key,
            within: self.channel_bound(ssh.within.as_ref()),
        })
    }

    fn host_key(&mut self, key: &Spanned<String>) -> SshHostKey {
        let mut words = key.split_ascii_whitespace();
        let kind = words.next().unwrap_or_default();
        let known = kind == "ssh-ed25519" || kind.starts_with("ecdsa-sha2-nistp");
        if !known || words.next().is_none_or(|body| !body.starts_with("AAAA")) {
            self.report(
                Problem::new("this is no host key that can be compared")
                    .at(key.place.clone())
                    .label("`ssh-ed25519 AAAA...`, `ecdsa-sha2-nistp256 AAAA...`, or `console`")
                    .hint("it stands in the guest's `/etc/ssh/ssh_host_ed25519_key.pub`"),
            );
        }
        SshHostKey::Given { key: key.value.clone() }
    }

    /// Finds the network by which each machine is reached, once its places are known: the one that is named, its first, or
    /// its user-mode network, from which the port is forwarded.
    pub(super) fn reached_by_ssh(
        &mut self,
        documents: &Named<MachineDocument>,
        machines: &mut BTreeMap<String, Machine>,
    ) {
        for (name, document) in documents {
            let Some(machine) = machines.get_mut(&name.value) else { continue };
            let Machine { channel: MachineChannel::Ssh(choice), network: user_mode, networks, backend, .. } = machine
            else {
                continue;
            };
            let Some(given) = document.channel.as_ref().filter(|_| *backend != Backend::Recorder) else { continue };
            if let Terse::Full(ChannelDocument { ssh: Some(ssh), .. }) = &given.value
                && let Some(network) = &ssh.network
                && !networks.contains_key(&network.value)
            {
                self.report(
                    Problem::new(format!("the machine is not in the network `{}`", network.value))
                        .at(network.place.clone())
                        .nearest(network, networks.keys().map(String::as_str)),
                );
                continue;
            }
            if choice.network.is_none() {
                choice.network = networks.keys().next().cloned();
            }
            if choice.network.is_some() {
                continue;
            }
            if user_mode.none {
                self.report(
                    Problem::new("a machine without a network cannot be reached by SSH")
                        .at(given.place.clone())
                        .hint("put it into one (`networks`), or leave `network.none` out"),
                );
            }
            if !user_mode.forward.contains(&choice.port) {
                user_mode.forward.push(choice.port);
            }
        }
    }
}
