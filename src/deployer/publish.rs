//! Who waits for nodes, and hears of their changes.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{broadcast, watch};

use super::nodes::NodeStatus;

/// Changes that a slow listener may lag behind.
const BACKLOG: usize = 1024;

/// A node's newest state; `None` while there is no such node.
pub type NodeWatch = watch::Receiver<Option<Published>>;

/// A node as it is since a moment.
#[derive(Clone, Debug)]
pub struct Published {
    pub status: Arc<NodeStatus>,
    /// When it was told, which is once it was durable.
    pub at: Instant,
}

impl Deref for Published {
    type Target = NodeStatus;

    fn deref(&self) -> &NodeStatus {
        &self.status
    }
}

pub struct Publisher {
    nodes: Mutex<HashMap<String, watch::Sender<Option<Published>>>>,
    changes: broadcast::Sender<Published>,
}

impl Publisher {
    pub fn new() -> Self {
        Self { nodes: Mutex::default(), changes: broadcast::Sender::new(BACKLOG) }
    }

    /// What it was at first, and every change from then on. One may wait for a node that is not there yet.
    pub fn node(&self, name: &str) -> NodeWatch {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = nodes.get(name) {
            return sender.subscribe();
        }
        // What nobody waits for any more and what never came is not kept for ever.
        nodes.retain(|_, sender| sender.receiver_count() > 0 || sender.borrow().is_some());
        nodes.entry(name.to_owned()).or_insert_with(|| watch::Sender::new(None)).subscribe()
    }

    /// Every change of every node.
    pub fn changes(&self) -> broadcast::Receiver<Published> {
        self.changes.subscribe()
    }

    pub fn publish(&self, status: NodeStatus) {
        let published = Published { status: Arc::new(status), at: Instant::now() };
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = nodes.entry(published.node.clone()).or_insert_with(|| watch::Sender::new(None));
        sender.send_replace(Some(published.clone()));
        drop(nodes);
        // Nobody need listen.
        let _ = self.changes.send(published);
    }
}
