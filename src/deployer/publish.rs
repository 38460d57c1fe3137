//! Who waits for nodes, and hears of their changes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{broadcast, watch};

use super::nodes::NodeStatus;

/// Changes that a slow listener may lag behind.
const BACKLOG: usize = 1024;

/// A node's newest state; `None` while there is no such node.
pub type NodeWatch = watch::Receiver<Option<Arc<NodeStatus>>>;

pub struct Publisher {
    nodes: Mutex<HashMap<String, watch::Sender<Option<Arc<NodeStatus>>>>>,
    changes: broadcast::Sender<Arc<NodeStatus>>,
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
    pub fn changes(&self) -> broadcast::Receiver<Arc<NodeStatus>> {
        self.changes.subscribe()
    }

    pub fn publish(&self, status: NodeStatus) {
        let status = Arc::new(status);
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.entry(status.node.clone()).or_insert_with(|| watch::Sender::new(None)).send_replace(Some(status.clone()));
        drop(nodes);
        // Nobody need listen.
        let _ = self.changes.send(status);
    }
}
