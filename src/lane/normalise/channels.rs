//! Ways into machines, and that no step asks for more than its machine's way can do.

use super::Checker;
use crate::lane::channel_document::{ChannelForm, ChannelName, LoginDocument, SshDocument};
use crate::lane::document::{MachineDocument, Terse};
use crate::lane::model::{
    Action, Backend, ConsoleDevice, DEFAULT_CHANNEL_BOUND, DialogueLine, LoginDevice, MachineChannel, Start,
};
use crate::lane::problem::Problem;
use crate::lane::reader::Spanned;
use crate::lane::tree::Place;
use crate::lane::units::Span;
use crate::secret::placeholders;

/// As agetty asks, and as most others do.
const USER_PROMPT: &str = "login: ";
const PASSWORD_PROMPT: &str = "assword: ";
const PROMPTS: [&str; 2] = ["# ", "$ "];
const REFUSALS: [&str; 4] =
    ["Login incorrect", "Authentication failure", "Authentication token manipulation error", "Login timed out"];

impl Checker<'_> {
    pub(super) fn channel(&mut self, machine: &MachineDocument, start: Start) -> MachineChannel {
        let Some(given) = &machine.channel else { return MachineChannel::default() };
        let channel = self.channel_form(given);
        if channel.is_agent() {
            return channel;
        }
        let kind = channel.kind();
        let problem = if machine.backend == Backend::Recorder {
            Some(("no way leads into a recording".to_owned(), "leave `channel` out"))
        } else if !start.is_boot() {
            Some((
                format!("a fork is given its names by its agent, and `{kind}` is the way into this machine"),
                "leave `start` or `channel` out",
            ))
        } else if channel.line() == Some(LoginDevice::Virtio) && machine.console == ConsoleDevice::Virtio {
            Some((
                "hvc0 cannot be both the guest's console and the way into it".into(),
                "leave `console` out: it is `serial` then",
            ))
        } else {
            None
        };
        if let Some((problem, hint)) = problem {
            self.report(Problem::new(problem).at(given.place.clone()).hint(hint));
        }
        channel
    }

    fn channel_form(&mut self, given: &Spanned<ChannelForm>) -> MachineChannel {
        let document = match &given.value {
            Terse::Short(ChannelName::Agent) => return MachineChannel::Agent {},
            Terse::Short(ChannelName::Backdoor) => {
                return MachineChannel::Backdoor { within: DEFAULT_CHANNEL_BOUND };
            }
            Terse::Short(ChannelName::GuestAgent) => {
                return MachineChannel::GuestAgent { within: DEFAULT_CHANNEL_BOUND };
            }
            Terse::Short(ChannelName::Ssh) => return self.ssh(&SshDocument::default(), &given.place),
            Terse::Full(document) => document,
        };
        match (&document.backdoor, &document.serial, &document.ssh, &document.guest_agent) {
            (Some(backdoor), None, None, None) => {
                MachineChannel::Backdoor { within: self.channel_bound(backdoor.within.as_ref()) }
            }
            (None, Some(login), None, None) => self.login(login),
            (None, None, Some(ssh), None) => self.ssh(ssh, &ssh.place),
            (None, None, None, Some(agent)) => {
                MachineChannel::GuestAgent { within: self.channel_bound(agent.within.as_ref()) }
            }
            _ => {
                self.report(
                    Problem::new("exactly one way leads into a machine")
                        .at(given.place.clone())
                        .hint("write `\"agent\"`, `\"backdoor\"`, `\"ssh\"`, `\"guest-agent\"`, or a table of one: `{ serial = {} }`"),
                );
                MachineChannel::default()
            }
        }
    }

    pub(super) fn channel_bound(&mut self, within: Option<&Spanned<Span>>) -> Span {
        let Some(within) = within else { return DEFAULT_CHANNEL_BOUND };
        self.not_zero(within);
        within.value
    }

    fn login(&mut self, login: &LoginDocument) -> MachineChannel {
        let dialogue = match &login.dialogue {
            None => self.user_and_password(login),
            Some(dialogue) => {
                for given in [&login.user, &login.password].into_iter().flatten() {
                    self.report(
                        Problem::new("a dialogue says itself what is typed")
                            .at(given.place.clone())
                            .hint("leave `user` and `password` out, or `dialogue`"),
                    );
                }
                let lines = dialogue
                    .iter()
                    .map(|line| DialogueLine { expect: self.printed(&line.expect), send: self.typed(&line.send) });
                lines.collect()
            }
        };
        let prompts = match &login.prompts {
            None => PROMPTS.map(str::to_owned).to_vec(),
            Some(prompts) => {
                if prompts.is_empty() {
                    self.report(
                        Problem::new("without a prompt nobody can tell when the shell asks")
                            .at(prompts.place.clone())
                            .hint("name one, or leave `prompts` out"),
                    );
                }
                prompts.iter().map(|prompt| self.printed(prompt)).collect()
            }
        };
        let refusals = match &login.refusals {
            None => REFUSALS.map(str::to_owned).to_vec(),
            Some(refusals) => refusals.iter().map(|refusal| self.printed(refusal)).collect(),
        };
        let within = self.channel_bound(login.within.as_ref());
        MachineChannel::Serial { device: login.device, dialogue, prompts, refusals, within }
    }

    fn user_and_password(&mut self, login: &LoginDocument) -> Vec<DialogueLine> {
        let user = login.user.as_ref().map_or_else(|| "root".into(), |user| self.typed(user));
        let mut dialogue = vec![DialogueLine { expect: USER_PROMPT.into(), send: user }];
        if let Some(password) = &login.password {
            if placeholders(password).next().is_none() {
                self.report(
                    Problem::new("a password stands in no lane file")
                        .at(password.place.clone())
                        .hint("name a secret: `password = \"${secret:NAME}\"`"),
                );
            }
            dialogue.push(DialogueLine { expect: PASSWORD_PROMPT.into(), send: self.typed(password) });
        }
        dialogue
    }

    /// What the guest prints: never empty, which would be there at once.
    fn printed(&mut self, text: &Spanned<String>) -> String {
        if text.is_empty() {
            self.report(Problem::new("nothing is printed before anything").at(text.place.clone()));
        }
        self.without_secrets(text, "what a guest prints")
    }

    fn typed(&mut self, text: &Spanned<String>) -> String {
        if text.contains(char::is_control) {
            self.report(Problem::new("what is typed is one line").at(text.place.clone()));
        }
        self.with_secrets(text)
    }

    /// That what the agent alone can do is asked of no other way.
    pub(super) fn channel_fits<'m>(
        &mut self,
        what: &str,
        place: &Place,
        on: impl Iterator<Item = (&'m String, &'m MachineChannel)>,
    ) {
        for (name, channel) in on {
            if !channel.is_agent() {
                let kind = channel.kind();
                self.report(
                    Problem::new(format!("{what}, and `{kind}` is the way into `{name}`"))
                        .at(place.clone())
                        .hint("say `on` which machine, or leave its `channel` out: it is the agent then"),
                );
            }
        }
    }
}

/// What only the agent does, in words; `None` where any way will do.
pub(super) fn agents_alone(action: &Action) -> Option<&'static str> {
    match action {
        Action::Http { network: None, .. } | Action::Tcp { network: None, .. } => {
            Some("a connection inside a machine is made by its agent")
        }
        Action::Await { .. } => Some("what happens in a machine is told by its agent"),
        Action::Reboot {} => Some("an orderly reboot is done by the agent"),
        Action::Checkpoint { .. } | Action::Restore { .. } => {
            Some("a machine that goes back to a checkpoint is told so by its agent")
        }
        Action::Fault { fault } if fault.needs_guest() => Some("this fault is done by the agent"),
        Action::Expect { .. }
        | Action::Exec { .. }
        | Action::Host { .. }
        | Action::Http { .. }
        | Action::Tcp { .. }
        | Action::CopyIn { .. }
        | Action::CopyProgram { .. }
        | Action::CopyOut { .. }
        | Action::Power { .. }
        | Action::Fault { .. }
        | Action::Heal { .. }
        | Action::Schedule { .. }
        | Action::Deployer { .. }
        | Action::Hold { .. }
        | Action::Script { .. }
        | Action::Parallel { .. } => None,
    }
}
