//! Saving the state of a machine, and loading it: QEMU's migration, whose other end is a file of ours.
//!
//! Over a unix socket: every version of QEMU can do that, and under its sandbox too. What was sent is only kept once QEMU has
//! said that it was all.

use std::path::{Path, PathBuf};

use qapi::qmp::{Event, MigrationStatus};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::qmp::Qmp;
use crate::error::{Context, Error, Result};

/// A state that is to be saved.
pub struct Saving {
    /// Free, and short enough for a socket.
    pub socket: PathBuf,
    /// What takes the state; made, and on the disk when this has ended well.
    pub state: PathBuf,
    /// The memory is a file that the guest has written to all along.
    pub memory_is_shared: bool,
}

impl Saving {
    /// Events that come in between are lost: a guest that is paused makes none that mean anything.
    pub async fn save(self, qmp: &Qmp, events: &mut mpsc::UnboundedReceiver<Event>) -> Result<()> {
        let _ = std::fs::remove_file(&self.socket);
        let listener = UnixListener::bind(&self.socket)
            .infrastructure(|| format!("failed to listen on `{}`", self.socket.display()))?;
        qmp.prepare_migration(self.memory_is_shared).await?;
        let sent = async {
            qmp.migrate(&self.socket).await.map_err(not_migratable)?;
            completed(qmp, events).await.map_err(not_migratable)
        };
        let taken = async {
            let failed = |error| Error::storage(error, format!("failed to write `{}`", self.state.display()));
            let (mut stream, _) = listener.accept().await.map_err(failed)?;
            let mut file = tokio::fs::File::create(&self.state).await.map_err(failed)?;
            tokio::io::copy(&mut stream, &mut file).await.map_err(failed)?;
            file.sync_all().await.map_err(failed)
        };
        let saved = tokio::try_join!(sent, taken).map(drop);
        let _ = std::fs::remove_file(&self.socket);
        saved
    }
}

/// Gives a QEMU that waits for a state (`-incoming defer`) what was saved; the guest stays paused.
pub async fn load(
    qmp: &Qmp,
    events: &mut mpsc::UnboundedReceiver<Event>,
    socket: &Path,
    state: &Path,
    memory_is_shared: bool,
) -> Result<()> {
    let failed = || format!("failed to read `{}`", state.display());
    let mut file = tokio::fs::File::open(state).await.infrastructure(failed)?;
    let _ = std::fs::remove_file(socket);
    qmp.prepare_migration(memory_is_shared).await?;
    qmp.migrate_incoming(socket).await?;
    let mut stream = UnixStream::connect(socket)
        .await
        .infrastructure(|| "failed to reach a QEMU that waits for its state".into())?;
    let given = async {
        // QEMU hangs up early on a state that it cannot take; why is told by its monitor.
        let _ = tokio::io::copy(&mut file, &mut stream).await;
        let _ = stream.shutdown().await;
        Ok(())
    };
    let loaded = tokio::try_join!(given, completed(qmp, events)).map(drop);
    let _ = std::fs::remove_file(socket);
    loaded
}

/// Waits until QEMU says how it came out.
async fn completed(qmp: &Qmp, events: &mut mpsc::UnboundedReceiver<Event>) -> Result<()> {
    loop {
        let Some(event) = events.recv().await else {
            return Err(Error::infrastructure("QEMU ended in the middle of it"));
        };
        let Event::MIGRATION { data, .. } = event else { continue };
        match data.status {
            MigrationStatus::completed => return Ok(()),
            MigrationStatus::failed | MigrationStatus::cancelled => {
                let reason = qmp.migration_error().await.unwrap_or_else(|| "it did not say why".into());
                return Err(Error::infrastructure("QEMU could not do it").with_source(reason));
            }
            _ => {}
        }
    }
}

fn not_migratable(error: Error) -> Error {
    Error::infrastructure("the machine cannot be saved").with_source(error.chain())
}
