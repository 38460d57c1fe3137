//! Leaving in an orderly way.

use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::system::{RebootCommand, reboot};

use super::stream::Stream;
use crate::agent::say;
use crate::channel::protocol::{Outcome, RefusalReason, Role};

/// How long the answer may take to reach the host before the guest leaves without it.
const ANSWER: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
pub enum Way {
    Off,
    Reboot,
}

impl Way {
    fn outcome(self) -> Outcome {
        match self {
            Way::Off => Outcome::PoweringOff,
            Way::Reboot => Outcome::Rebooting,
        }
    }
}

pub fn leave(stream: &Stream, way: Way) {
    match stream.session.agent.role {
        Role::Init => {
            stream.finish(&way.outcome());
            stream.session.outgoing().flush(ANSWER);
            leave_as_init(stream, way);
        }
        Role::Service => ask_init(stream, way),
    }
}

fn leave_as_init(stream: &Stream, way: Way) {
    rustix::fs::sync();
    stream.session.agent.markers().drain();
    let command = match way {
        Way::Off => RebootCommand::PowerOff,
        Way::Reboot => RebootCommand::Restart,
    };
    if let Err(error) = reboot(command) {
        say(&format!("failed to leave: {error}"));
    }
}

fn ask_init(stream: &Stream, way: Way) {
    let verb = match way {
        Way::Off => "poweroff",
        Way::Reboot => "reboot",
    };
    let refuse = |reason, detail: &str| stream.refuse(reason, format!("failed to run `systemctl {verb}`: {detail}"));
    let asked = Command::new("systemctl").args(["--no-block", verb]).stdin(Stdio::null()).output();
    match asked {
        Ok(output) if output.status.success() => stream.finish(&way.outcome()),
        Ok(output) => {
            let detail = String::from_utf8_lossy(&output.stderr);
            refuse(RefusalReason::Other, detail.trim().lines().next().unwrap_or("it failed without a word"));
        }
        Err(error) => refuse(RefusalReason::from_error(&error), &error.to_string()),
    }
}
