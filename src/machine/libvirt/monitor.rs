//! The run's side of a holder: orders and answers, and what the domain does by itself. Every line is written down.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use super::protocol::{Order, Outcome, Said};
use crate::error::{Context, Error, Result};

type Answer = oneshot::Sender<std::result::Result<Outcome, String>>;

/// Takes orders for one domain. Dropping every copy closes the connection to its holder.
#[derive(Clone)]
pub struct Monitor {
    orders: mpsc::UnboundedSender<(Order, Answer)>,
}

impl Monitor {
    /// `record`: takes every line. What the domain does comes through the queue, which ends with the holder.
    pub fn start(holder: UnixStream, record: &Path) -> Result<(Self, mpsc::UnboundedReceiver<Said>)> {
        let file = OpenOptions::new().create(true).append(true).open(record);
        let file = file.infrastructure(|| format!("failed to write `{}`", record.display()))?;
        let (orders, order_queue) = mpsc::unbounded_channel();
        let (sender, happened) = mpsc::unbounded_channel();
        tokio::spawn(carry(holder, order_queue, sender, file));
        Ok((Self { orders }, happened))
    }

    /// # Errors
    /// Infrastructure: libvirt refused, or the holder is gone.
    pub async fn order(&self, order: Order, what: &str) -> Result<Outcome> {
        let gone = || Error::infrastructure(format!("libvirt failed to {what}: its domain is gone"));
        let (sender, answer) = oneshot::channel();
        self.orders.send((order, sender)).map_err(|_| gone())?;
        let answer = answer.await.map_err(|_| gone())?;
        answer.map_err(|message| Error::infrastructure(format!("libvirt failed to {what}")).with_source(message))
    }

    pub async fn done(&self, order: Order, what: &str) -> Result<()> {
        self.order(order, what).await.map(drop)
    }
}

async fn carry(
    holder: UnixStream,
    mut orders: mpsc::UnboundedReceiver<(Order, Answer)>,
    happened: mpsc::UnboundedSender<Said>,
    mut record: File,
) {
    let (from_holder, mut to_holder) = holder.into_split();
    let mut from_holder = BufReader::new(from_holder).lines();
    let mut waiting = std::collections::VecDeque::new();
    loop {
        tokio::select! {
            line = from_holder.next_line() => {
                let Ok(Some(line)) = line else { return };
                write_down(&mut record, "holder", &line);
                match serde_json::from_str(&line) {
                    Ok(Said::Answer(answer)) => {
                        if let Some(sender) = waiting.pop_front() {
                            let sender: Answer = sender;
                            // Whoever asked may have given up.
                            let _ = sender.send(answer);
                        }
                    }
                    Ok(said) => drop(happened.send(said)),
                    Err(_) => return,
                }
            }
            order = orders.recv() => {
                let Some((order, answer)) = order else { return };
                let mut line = serde_json::to_string(&order).expect("an order is plain data");
                write_down(&mut record, "bootproof", &line);
                line.push('\n');
                if to_holder.write_all(line.as_bytes()).await.is_err() {
                    return;
                }
                waiting.push_back(answer);
            }
        }
    }
}

/// Best effort: the record is for people.
fn write_down(record: &mut File, who: &str, line: &str) {
    let at = jiff::Timestamp::now();
    let _ = writeln!(record, "{{\"at\":\"{at:.6}\",\"from\":\"{who}\",\"message\":{line}}}");
}
