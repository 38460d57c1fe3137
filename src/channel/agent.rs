//! The way through our agent, as one of several.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::client::{AgentChannel, Execution};
use super::command::{Channel, Command, CommandControl, FileContent, Input, Output};
use super::error::ChannelError;
use super::protocol::{ExecRequest, ExitStatus};
use crate::lane::model::ChannelKind;

impl Channel for AgentChannel {
    fn kind(&self) -> ChannelKind {
        ChannelKind::Agent
    }

    fn ready(&self) -> BoxFuture<'_, Result<(), ChannelError>> {
        async { AgentChannel::ready(self).await.map(drop) }.boxed()
    }

    fn forget_session(&self, reason: &str) {
        AgentChannel::forget_session(self, reason);
    }

    fn exec(&self, request: ExecRequest) -> BoxFuture<'_, Result<Command, ChannelError>> {
        async { AgentChannel::exec(self, request).await.map(Command::from) }.boxed()
    }

    fn read_file<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Result<FileContent, ChannelError>> {
        async move {
            let reader = AgentChannel::read_file(self, path).await?;
            let mode = reader.mode();
            Ok(FileContent { reader: Box::new(reader), mode })
        }
        .boxed()
    }

    fn write_file<'a>(&'a self, path: &'a str, mode: u32, source: Input) -> BoxFuture<'a, Result<u64, ChannelError>> {
        AgentChannel::write_file(self, path, mode, source).boxed()
    }
}

impl From<Execution> for Command {
    fn from(mut execution: Execution) -> Self {
        let stdin = execution.stdin.take().map(|stdin| Box::new(stdin) as Output);
        let pipe = |pipe: Option<super::PipeReader>| -> Input {
            match pipe {
                Some(pipe) => Box::new(pipe),
                None => Box::new(tokio::io::empty()),
            }
        };
        let (stdout, stderr) = (pipe(execution.stdout.take()), pipe(execution.stderr.take()));
        Command::new(stdin, stdout, stderr, Box::new(execution))
    }
}

impl CommandControl for Execution {
    fn wait(&self) -> BoxFuture<'_, Result<ExitStatus, ChannelError>> {
        Execution::wait(self).boxed()
    }

    fn cancel(&self) {
        Execution::cancel(self);
    }
}
