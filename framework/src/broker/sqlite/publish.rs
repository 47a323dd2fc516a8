//! Brings a message to its queues within a transaction, by the way that its route says.

use std::collections::BTreeSet;

use super::batch::{Batch, DAY};
use super::catalog::{self, QueueRow};
use super::fault::Failed;
use super::joins::{self, Progress};
use super::outgoing::{Outgoing, Parking};
use super::store;
use crate::broker::join::{note_missing, warn_of_hostile};
use crate::broker::{Queue, Route, is_join, is_reply_queue, routing};
use crate::error::Error;

/// How long a dead letter is kept, in milliseconds.
const DEAD_LETTERS_KEPT: i64 = 30 * DAY;

impl Batch<'_> {
    pub(super) fn publish(&mut self, outgoing: &Outgoing) -> Result<(), Failed> {
        match &outgoing.route {
            Route::Queue(queue) => match self.queue(queue)? {
                Some(row) => self.store(queue, row, None, outgoing)?,
                None => return Err(unroutable(&outgoing.route)),
            },
            Route::Reply(queue) => {
                if is_reply_queue(queue)
                    && let Some(row) = self.queue(queue)?
                {
                    self.store(queue, row, None, outgoing)?;
                }
            }
            Route::Join { join, .. } if !is_join(join) => warn_of_hostile(join),
            Route::Join { join, parts, fire } => {
                let progress = joins::put(self.db, join, outgoing, self.now)?;
                if progress.is_none() {
                    note_missing(join);
                }
                self.fire(join, progress, *parts, *fire)?;
            }
            Route::Exchange {
                exchange,
                routing_key,
            } => {
                let Some(bindings) = catalog::bindings(self.db, exchange)? else {
                    return Err(Failed::Said(Error::Refused {
                        what: outgoing.route.to_string(),
                        reason: "there is no such exchange: declare it first".into(),
                    }));
                };
                let queues: BTreeSet<String> = bindings
                    .into_iter()
                    .filter(|(_, binding)| {
                        routing::matches(binding, routing_key, &outgoing.headers)
                    })
                    .map(|(queue, _)| queue)
                    .collect();
                if queues.is_empty() {
                    return Err(unroutable(&outgoing.route));
                }
                for queue in queues {
                    if let Some(row) = self.queue(&queue)? {
                        self.store(&queue, row, Some((exchange, routing_key)), outgoing)?;
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn open_join(&mut self, parking: &Parking) -> Result<(), Failed> {
        if self.queue(&parking.queue)?.is_none() {
            return Err(unroutable(&parking.body.route));
        }
        joins::open(self.db, parking, self.now)?;
        Ok(())
    }

    /// Publishes the body of a join that is complete.
    pub(super) fn fire(
        &mut self,
        join: &str,
        progress: Option<Progress>,
        parts: u32,
        fire: bool,
    ) -> Result<(), Failed> {
        let complete = |progress: Progress| progress.there >= progress.wanted.max(parts);
        if !progress.is_some_and(|progress| fire || complete(progress)) {
            return Ok(());
        }
        let Some((queue, body)) = joins::take_body(self.db, join, self.now)? else {
            return Ok(());
        };
        if self.queue(&queue)?.is_none() {
            self.declare(&Queue::new(&queue))?;
            self.queues.remove(&queue);
        }
        self.publish(&body)
    }

    pub(super) fn queue(&mut self, name: &str) -> Result<Option<QueueRow>, Failed> {
        if let Some(row) = self.queues.get(name) {
            return Ok(*row);
        }
        let row = catalog::find_queue(self.db, name)?;
        self.queues.insert(name.to_owned(), row);
        Ok(row)
    }

    fn store(
        &mut self,
        queue: &str,
        row: QueueRow,
        exchange: Option<(&str, &str)>,
        outgoing: &Outgoing,
    ) -> Result<(), Failed> {
        let priority = outgoing.priority.min(row.max_priority.unwrap_or(u8::MAX));
        let prune_at = row.dead.then_some(self.now + DEAD_LETTERS_KEPT);
        store::insert(self.db, queue, priority, prune_at, exchange, outgoing)?;
        if !self.touched.contains(queue) {
            self.touched.insert(queue.to_owned());
        }
        Ok(())
    }
}

fn unroutable(route: &Route) -> Failed {
    Failed::Said(Error::Unroutable {
        route: route.to_string(),
    })
}
