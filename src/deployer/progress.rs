//! Where a node is, and what may come next. Pure.

use serde::{Deserialize, Serialize};

use crate::provisioning::{NodeEvent, NodeState, Stage};

/// How far an installation has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Installation {
    #[default]
    NotBegun,
    BundleDownloaded,
    DiskLaidOut,
    SystemInstalled,
    /// The installed system has come up at least once.
    Booted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub state: NodeState,
    pub installation: Installation,
    /// What ran on the machine when it last phoned home since it was claimed.
    pub stage: Option<Stage>,
}

/// What happens to a node.
#[derive(Clone, Copy, Debug)]
pub enum Happening<'a> {
    /// It has phoned home, and it is known what it shall become.
    PhonedHome(Stage),
    Reported(&'a NodeEvent),
    /// It is decided what it shall become.
    Claimed,
    /// It shall be installed again.
    Reinstalled,
    /// It shall run something else.
    Redirected,
    Retired,
}

/// Why it cannot happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Impossible {
    /// Not from this state.
    Transition,
    /// It is installed, and is not installed again unless that is asked for.
    AlreadyInstalled,
    Retired,
}

impl Position {
    pub const NEW: Self = Self { state: NodeState::Discovered, installation: Installation::NotBegun, stage: None };

    /// Whether the machine's own disk is what it boots from: its system stands there, and it is not told to be installed
    /// again. What has been installed and has not come up yet is there too.
    pub fn has_its_system(self) -> bool {
        match self.state {
            NodeState::Installed | NodeState::Active | NodeState::Retired => true,
            NodeState::Installing => self.installation >= Installation::SystemInstalled,
            // The installer would be refused; before that it may begin anew.
            NodeState::Failed => self.installation == Installation::Booted,
            NodeState::Discovered | NodeState::Claimed => false,
        }
    }

    fn at(self, state: NodeState, installation: Installation) -> Self {
        Self { state, installation, ..self }
    }

    /// Where the node is afterwards. `desired`: the name of the system that it shall run.
    pub fn after(self, happening: Happening<'_>, desired: Option<&str>) -> Result<Self, Impossible> {
        let claimed = Self { state: NodeState::Claimed, ..Self::NEW };
        match happening {
            Happening::PhonedHome(stage) => match self.state {
                NodeState::Retired => Err(Impossible::Retired),
                _ if self.installation == Installation::Booted => Err(Impossible::AlreadyInstalled),
                NodeState::Installed | NodeState::Active => Err(Impossible::AlreadyInstalled),
                // Whatever it had begun, it begins anew.
                NodeState::Discovered | NodeState::Claimed | NodeState::Installing | NodeState::Failed => {
                    Ok(Self { stage: Some(stage), ..claimed })
                }
            },
            Happening::Claimed => match self.state {
                NodeState::Discovered | NodeState::Claimed | NodeState::Failed | NodeState::Retired => Ok(claimed),
                NodeState::Installed | NodeState::Active => Err(Impossible::AlreadyInstalled),
                NodeState::Installing => Err(Impossible::Transition),
            },
            Happening::Reinstalled => match self.state {
                NodeState::Discovered => Err(Impossible::Transition),
                NodeState::Claimed
                | NodeState::Installing
                | NodeState::Installed
                | NodeState::Active
                | NodeState::Failed
                | NodeState::Retired => Ok(claimed),
            },
            // What is active is not what is desired any more.
            Happening::Redirected => match self.state {
                NodeState::Active => Ok(self.at(NodeState::Installed, self.installation)),
                NodeState::Retired => Err(Impossible::Retired),
                NodeState::Discovered
                | NodeState::Claimed
                | NodeState::Installing
                | NodeState::Installed
                | NodeState::Failed => Ok(self),
            },
            Happening::Retired => Ok(Self { state: NodeState::Retired, ..Self::NEW }),
            Happening::Reported(event) => self.reported(event, desired),
        }
    }

    fn reported(self, event: &NodeEvent, desired: Option<&str>) -> Result<Self, Impossible> {
        use Installation as At;
        use NodeState as State;
        let installer = self.stage == Some(Stage::Installer);
        let up = self.installation == At::Booted;
        match (self.state, event) {
            (State::Retired, _) => Err(Impossible::Retired),
            (State::Discovered, _) => Err(Impossible::Transition),
            // Not what it was before it was claimed anew.
            (_, NodeEvent::Failed { .. }) if self.stage.is_some() => Ok(self.at(State::Failed, self.installation)),
            (State::Claimed | State::Installing, NodeEvent::BundleDownloaded) if installer => {
                Ok(self.at(State::Installing, At::BundleDownloaded))
            }
            (State::Installing, NodeEvent::DiskLayoutComplete)
                if matches!(self.installation, At::BundleDownloaded | At::DiskLaidOut) =>
            {
                Ok(self.at(State::Installing, At::DiskLaidOut))
            }
            (State::Installing, NodeEvent::SystemInstalled)
                if matches!(self.installation, At::DiskLaidOut | At::SystemInstalled) =>
            {
                Ok(self.at(State::Installing, At::SystemInstalled))
            }
            // The credential that it reports with was on its disk: that it is installed is shown, whatever report was lost.
            (State::Installing, NodeEvent::Booted) => Ok(self.at(State::Installed, At::Booted)),
            (State::Claimed, NodeEvent::Booted) if self.stage == Some(Stage::Installed) => {
                Ok(self.at(State::Installed, At::Booted))
            }
            (State::Failed, NodeEvent::Booted)
                if self.installation >= At::SystemInstalled || self.stage == Some(Stage::Installed) =>
            {
                Ok(self.at(State::Installed, At::Booted))
            }
            // It runs what it ran before.
            (State::Installed | State::Active, NodeEvent::Booted) => Ok(self),
            (State::Installed | State::Active | State::Failed, NodeEvent::Activating { .. }) if up => {
                Ok(self.at(State::Installed, At::Booted))
            }
            (State::Installed | State::Active | State::Failed, NodeEvent::Active { system }) if up => {
                Ok(self.running(Some(system), desired))
            }
            (State::Installed | State::Active | State::Failed, NodeEvent::RolledBack { active, .. }) if up => {
                Ok(self.running(active.as_deref(), desired))
            }
            (
                State::Claimed | State::Installing | State::Installed | State::Active | State::Failed,
                NodeEvent::BundleDownloaded
                | NodeEvent::DiskLayoutComplete
                | NodeEvent::SystemInstalled
                | NodeEvent::Booted
                | NodeEvent::Activating { .. }
                | NodeEvent::Active { .. }
                | NodeEvent::RolledBack { .. }
                | NodeEvent::Failed { .. },
            ) => Err(Impossible::Transition),
        }
    }

    /// It may tell of a system that was desired before.
    fn running(self, system: Option<&str>, desired: Option<&str>) -> Self {
        let desired_runs = system.is_some() && system == desired;
        self.at(if desired_runs { NodeState::Active } else { NodeState::Installed }, Installation::Booted)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(system: &str) -> NodeEvent {
        NodeEvent::Active { system: system.into() }
    }

    fn failed() -> NodeEvent {
        NodeEvent::Failed { during: "disk-layout".into(), reason: "no disk".into() }
    }

    fn follow(happenings: &[Happening<'_>]) -> Result<Position, Impossible> {
        happenings.iter().try_fold(Position::NEW, |position, happening| position.after(*happening, Some("web")))
    }

    use Happening::{Claimed, PhonedHome, Redirected, Reinstalled, Reported, Retired};
    use NodeEvent::{Booted, BundleDownloaded, DiskLayoutComplete, SystemInstalled};

    const INSTALL: [Happening<'_>; 5] = [
        PhonedHome(Stage::Installer),
        Reported(&BundleDownloaded),
        Reported(&DiskLayoutComplete),
        Reported(&SystemInstalled),
        Reported(&Booted),
    ];

    fn state_after(more: &[Happening<'_>]) -> Result<NodeState, Impossible> {
        follow(&[&INSTALL, more].concat()).map(|position| position.state)
    }

    #[test]
    fn the_way_from_discovery_to_active() {
        let states: Vec<NodeState> = (1..=5).map(|length| follow(&INSTALL[..length]).unwrap().state).collect();
        use NodeState::{Active, Claimed, Installed, Installing};
        assert_eq!(states, [Claimed, Installing, Installing, Installing, Installed]);
        assert_eq!(state_after(&[Reported(&named("web"))]), Ok(Active));
        assert_eq!(state_after(&[Reported(&named("web")), Reported(&Booted)]), Ok(Active), "after a reboot");
        assert_eq!(state_after(&[Reported(&named("old"))]), Ok(Installed), "it is not what is desired");
        assert_eq!(state_after(&[Reported(&named("web")), Redirected]), Ok(Installed));
        let back = |active: Option<&str>| NodeEvent::RolledBack {
            system: "web".into(),
            active: active.map(str::to_owned),
            reason: "unhealthy".into(),
        };
        assert_eq!(state_after(&[Reported(&named("web")), Reported(&back(None))]), Ok(Installed));
        assert_eq!(state_after(&[Reported(&back(Some("web")))]), Ok(Active), "what it went back to is desired again");
    }

    #[test]
    fn steps_of_an_installation_have_their_order() {
        let begun = PhonedHome(Stage::Installer);
        for wrong in [
            &[begun, Reported(&DiskLayoutComplete)][..],
            &[begun, Reported(&BundleDownloaded), Reported(&SystemInstalled)],
            &[begun, Reported(&Booted)],
            &[Reported(&BundleDownloaded)],
            &[Claimed, Reported(&BundleDownloaded)],
            &[begun, Reported(&BundleDownloaded), Claimed],
            &[Reinstalled],
        ] {
            assert_eq!(follow(wrong), Err(Impossible::Transition), "{wrong:?}");
        }
        assert_eq!(state_after(&[Reported(&BundleDownloaded)]), Err(Impossible::Transition));
    }

    #[test]
    fn what_is_installed_is_only_installed_again_when_told() {
        assert_eq!(state_after(&[PhonedHome(Stage::Installer)]), Err(Impossible::AlreadyInstalled));
        assert_eq!(state_after(&[Claimed]), Err(Impossible::AlreadyInstalled));
        let broken = failed();
        let after_failure = &[Reported(&broken), PhonedHome(Stage::Installer)];
        assert_eq!(state_after(after_failure), Err(Impossible::AlreadyInstalled), "its system is on the disk");
        assert_eq!(state_after(&[Reinstalled, PhonedHome(Stage::Installer)]), Ok(NodeState::Claimed));
        assert_eq!(state_after(&[Reinstalled, Reported(&Booted)]), Err(Impossible::Transition), "the old system");
        assert_eq!(state_after(&[Reinstalled, Reported(&broken)]), Err(Impossible::Transition), "the old system");
        assert_eq!(state_after(&[Retired, PhonedHome(Stage::Installer)]), Err(Impossible::Retired));
        assert_eq!(state_after(&[Retired, Claimed, PhonedHome(Stage::Installer)]), Ok(NodeState::Claimed));
    }

    #[test]
    fn an_interrupted_or_failed_installation_begins_anew() {
        for length in 1..INSTALL.len() {
            let again = follow(&[&INSTALL[..length], &INSTALL[..1]].concat()).unwrap();
            assert_eq!((again.state, again.installation), (NodeState::Claimed, Installation::NotBegun));
        }
        let broken = failed();
        let begin = [INSTALL[0], INSTALL[1], Reported(&broken)];
        assert_eq!(follow(&begin).unwrap().state, NodeState::Failed);
        assert_eq!(follow(&[&begin[..], &INSTALL].concat()).unwrap().state, NodeState::Installed);
        assert_eq!(follow(&[&begin[..], &[Reported(&Booted)]].concat()), Err(Impossible::Transition));
    }

    #[test]
    fn a_machine_that_has_its_system_is_enrolled() {
        let enrolled = [PhonedHome(Stage::Installed), Reported(&Booted)];
        assert_eq!(follow(&enrolled).unwrap().state, NodeState::Installed);
        let mixed = [PhonedHome(Stage::Installed), Reported(&BundleDownloaded)];
        assert_eq!(follow(&mixed), Err(Impossible::Transition));
    }

    fn any_happening() -> impl Strategy<Value = u8> {
        0u8..15
    }

    proptest! {
        /// However things come: active is only what runs what is desired, and nothing reports from the grave.
        #[test]
        fn whatever_happens_the_states_mean_what_they_say(sequence in proptest::collection::vec(any_happening(), 0..60)) {
            let (web, old, broken) = (named("web"), named("old"), failed());
            let activating = NodeEvent::Activating { system: "web".into() };
            let back = NodeEvent::RolledBack { system: "web".into(), active: None, reason: "unhealthy".into() };
            let mut position = Position::NEW;
            for number in sequence {
                let happening = match number {
                    0 => PhonedHome(Stage::Installer),
                    1 => PhonedHome(Stage::Installed),
                    2 => Claimed,
                    3 => Reinstalled,
                    4 => Redirected,
                    5 => Retired,
                    6 => Reported(&BundleDownloaded),
                    7 => Reported(&DiskLayoutComplete),
                    8 => Reported(&SystemInstalled),
                    9 => Reported(&Booted),
                    10 => Reported(&web),
                    11 => Reported(&old),
                    12 => Reported(&broken),
                    _ => Reported(if number == 13 { &back } else { &activating }),
                };
                let before = position;
                if let Ok(after) = position.after(happening, Some("web")) {
                    if after.state == NodeState::Active && before.state != NodeState::Active {
                        prop_assert_eq!(number, 10);
                    }
                    if before.state == NodeState::Retired {
                        prop_assert!(matches!(number, 2 | 3 | 5));
                    }
                    if matches!(after.state, NodeState::Installed | NodeState::Active) {
                        prop_assert_eq!(after.installation, Installation::Booted);
                    }
                    position = after;
                }
            }
        }
    }
}
