//! Looks at a queue of the file: its rows are read beside the writer thread, and nothing is claimed.

use std::time::SystemTime;

use super::catalog;
use super::command::{Handle, Request};
use super::outgoing::Outgoing;
use super::store::{self, Cursor};
use super::{Reader, SqliteBroker};
use crate::broker::{BoxFuture, Browse, Delivery, Publish, Settle, Stale, Unstored, Until};
use crate::error::{Error, Result};

/// Starts at the queue's head.
pub(super) async fn start(broker: &SqliteBroker, queue: &str) -> Result<Box<dyn Browse>> {
    let (what, name) = (what(queue), queue.to_owned());
    let found = broker
        .reader
        .read(what.clone(), move |db| catalog::find_queue(db, &name));
    if found.await?.is_none() {
        let reason = "there is no such queue".into();
        return Err(Error::Refused { what, reason });
    }
    Ok(Box::new(Look {
        handle: broker.handle.clone(),
        reader: broker.reader.clone(),
        queue: queue.to_owned(),
        behind: None,
    }))
}

fn what(queue: &str) -> String {
    format!("a look at queue `{queue}`")
}

struct Look {
    handle: Handle,
    reader: Reader,
    queue: String,
    behind: Option<Cursor>,
}

impl Browse for Look {
    fn next(&mut self, limit: usize) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        Box::pin(async move {
            let (name, behind) = (self.queue.clone(), self.behind);
            let found = self.reader.read(what(&self.queue), move |db| {
                store::look(db, &name, behind, limit)
            });
            let mut shown = Vec::new();
            for (taken, print) in found.await? {
                self.behind = Some((taken.priority, taken.seq));
                let settle = Shown {
                    handle: self.handle.clone(),
                    queue: self.queue.clone(),
                    seq: taken.seq,
                    print,
                };
                shown.push(taken.delivery(&self.queue, Stale::never(), Box::new(settle)));
            }
            Ok(shown)
        })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// A message that was shown, and is where it was.
struct Shown {
    handle: Handle,
    queue: String,
    seq: i64,
    print: u64,
}

impl Settle for Shown {
    fn ack(&mut self, first: Vec<Publish>, _: Until) -> BoxFuture<'_, Result<(), Unstored>> {
        Box::pin(async move {
            let now = SystemTime::now();
            let first: Vec<_> = first
                .into_iter()
                .map(|publish| Outgoing::new(publish, now))
                .collect::<Result<_>>()?;
            let request = Request::Take {
                seq: self.seq,
                queue: self.queue.clone(),
                print: self.print,
                first,
            };
            self.handle.call(request).await?;
            Ok(())
        })
    }

    fn release(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}
