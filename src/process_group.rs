//! Process groups for commands on the host, which end with whoever started them, however that ends.
//!
//! A parent-death signal would follow the spawning thread and reach one process only. So each group has a leader of ours
//! that waits for the end of a pipe, which only this process holds open, and then kills the group.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::error::{Context, Error, Result};

/// A process group, which is killed when this is dropped, unless it was said to have ended.
pub struct ProcessGroup {
    number: Pid,
    leader: Child,
    has_ended: bool,
}

impl ProcessGroup {
    /// Starts the leader; whoever is to belong to the group is spawned into it by its number.
    pub fn new() -> Result<Self> {
        let failed = || "failed to start `sh`, which ends commands that are left".to_owned();
        let leader = Command::new("sh")
            .args(["-c", "read -r ended || kill -s KILL 0"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .infrastructure(failed)?;
        let number = leader.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let number = number.ok_or_else(|| Error::infrastructure(failed()))?;
        Ok(Self { number, leader, has_ended: false })
    }

    pub fn number(&self) -> i32 {
        self.number.as_raw_nonzero().get()
    }

    /// Already gone is as good.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.number, signal);
    }

    /// The command has ended by itself: what it has left in the background on purpose stays.
    pub async fn ended(&mut self) {
        self.has_ended = true;
        if let Some(mut stdin) = self.leader.stdin.take() {
            // A leader that is gone needs no word.
            let _ = stdin.write_all(b"ended\n").await;
        }
        let _ = self.leader.wait().await;
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if !self.has_ended {
            self.signal(Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_the_pipe_ends_the_group() {
        let mut group = ProcessGroup::new().unwrap();
        let mut command = Command::new("sh");
        let mut member = command.args(["-c", "sleep 1000"]).process_group(group.number()).spawn().unwrap();
        // As when this process is killed.
        drop(group.leader.stdin.take());
        let status = member.wait().await.unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    }

    #[tokio::test]
    async fn what_a_command_has_left_on_purpose_stays() {
        let mut group = ProcessGroup::new().unwrap();
        let mut command = Command::new("cat");
        let mut member = command.stdin(Stdio::piped()).process_group(group.number()).spawn().unwrap();
        group.ended().await;
        drop(group);
        drop(member.stdin.take());
        assert!(member.wait().await.unwrap().success(), "it ends by itself");
    }
}
