//! This process's consumers and the deliveries in their hands, as the writer thread knows them, and how a
//! delivery is settled. Knows no SQL.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::audience::Audience;
use super::command::{CALL_LIMIT, Claim, Handle, Outgoing, Request};
use super::store::Taken;
use crate::broker::{BoxFuture, Delivery, Publish, Queue, Settle, Stale, Unstored};
use crate::error::{Error, Result};

/// How long a settlement that met a full disk or a locked file waits before it tries again.
const SETTLE_PAUSE: Duration = Duration::from_millis(250);

/// A consumer of this process.
pub(super) struct Member {
    pub(super) queue: Queue,
    pub(super) deliveries: mpsc::Sender<Result<Delivery>>,
    pub(super) slots: usize,
    pub(super) outstanding: usize,
    /// What its row says: that it is to be woken when its queue gets something. It stays so when the slots are full,
    /// which costs no write, until it is woken in vain.
    pub(super) hungry: bool,
    /// Whether it was woken in vain.
    pub(super) disturbed: bool,
    /// Whether its queue may have something for it.
    pub(super) check: bool,
    /// When the earliest delayed message of its queue is due.
    pub(super) next_due: Option<i64>,
}

impl Member {
    pub(super) fn new(
        queue: Queue,
        slots: usize,
        deliveries: mpsc::Sender<Result<Delivery>>,
    ) -> Self {
        Self {
            queue,
            deliveries,
            slots,
            outstanding: 0,
            hungry: false,
            disturbed: false,
            check: true,
            next_due: None,
        }
    }

    pub(super) fn free(&self) -> usize {
        self.free_without(0)
    }

    /// How many more it may have when so many are settled: it may have more than it is allowed now.
    pub(super) fn free_without(&self, settled: usize) -> usize {
        let outstanding = self.outstanding.saturating_sub(settled);
        self.slots.saturating_sub(outstanding)
    }
}

/// A delivery that is not settled.
struct Held {
    claim: u64,
    consumer: u64,
}

/// All consumers and unsettled deliveries of this process.
#[derive(Default)]
pub(super) struct Members {
    pub(super) consumers: BTreeMap<u64, Member>,
    held: HashMap<i64, Held>,
    claims: u64,
    pub(super) audience: Audience,
}

impl Members {
    /// The consumer that got this delivery, or `None` if the delivery is settled or void.
    pub(super) fn holder(&self, claim: Claim) -> Option<u64> {
        let held = self.held.get(&claim.seq)?;
        (held.claim == claim.number).then_some(held.consumer)
    }

    /// Frees the slot of a delivery that is settled, given back or void.
    pub(super) fn settled(&mut self, seq: i64) {
        if let Some(held) = self.held.remove(&seq)
            && let Some(member) = self.consumers.get_mut(&held.consumer)
        {
            member.outstanding = member.outstanding.saturating_sub(1);
        }
    }

    /// Hands claimed messages to a consumer.
    pub(super) fn deliver(
        &mut self,
        consumer: u64,
        taken: Vec<Taken>,
        handle: &Handle,
        stale: &Stale,
    ) {
        let Some(member) = self.consumers.get_mut(&consumer) else {
            return;
        };
        for taken in taken {
            self.claims += 1;
            let claim = Claim {
                seq: taken.seq,
                number: self.claims,
            };
            let held = Held {
                claim: claim.number,
                consumer,
            };
            self.held.insert(taken.seq, held);
            member.outstanding += 1;
            let settle = SqliteSettle {
                handle: handle.clone(),
                claim,
                queue: member.queue.name().to_owned(),
                armed: true,
            };
            let delivery = taken.delivery(member.queue.name(), stale.clone(), Box::new(settle));
            // The channel has a place for each slot; if the consumer was dropped, so is the delivery,
            // which gives it back.
            let _ = member.deliveries.try_send(Ok(delivery));
        }
    }

    /// Forgets all deliveries: the broker has given their messages to others.
    pub(super) fn void(&mut self) {
        self.held.clear();
        for member in self.consumers.values_mut() {
            member.outstanding = 0;
            member.hungry = false;
            member.check = true;
        }
    }

    /// Ends every consumer with the reason why it gets nothing any more.
    pub(super) fn fail(&mut self, reason: impl Fn(&Queue) -> Error) {
        for (_, member) in std::mem::take(&mut self.consumers) {
            let _ = member.deliveries.try_send(Err(reason(&member.queue)));
        }
    }
}

/// Settles one delivery through the writer thread.
struct SqliteSettle {
    handle: Handle,
    claim: Claim,
    queue: String,
    /// Whether dropping it must give the message back.
    armed: bool,
}

impl Settle for SqliteSettle {
    fn ack(&mut self, first: Vec<Publish>) -> BoxFuture<'_, Result<(), Unstored>> {
        Box::pin(async move {
            let patience = first.iter().map(|publish| publish.deadline).max();
            let patience = patience.unwrap_or(CALL_LIMIT).min(10 * CALL_LIMIT);
            let until = Instant::now() + patience;
            let now = SystemTime::now();
            let first: Arc<[Outgoing]> = first
                .into_iter()
                .map(|publish| Outgoing::new(publish, now))
                .collect::<Result<_>>()?;
            loop {
                let request = Request::Settle {
                    claim: self.claim,
                    queue: self.queue.clone(),
                    first: Arc::clone(&first),
                };
                match self.handle.call(request).await {
                    // Both mean that nothing was done. Whoever waited too long for an answer cannot
                    // know, and asking again could meet its own success as a stale delivery.
                    Err(Error::Blocked { .. } | Error::Unavailable { .. })
                        if Instant::now() + SETTLE_PAUSE < until =>
                    {
                        tokio::time::sleep(SETTLE_PAUSE).await;
                    }
                    done => {
                        self.armed = done.is_err();
                        return done.map(drop).map_err(|error| self.void(error).into());
                    }
                }
            }
        })
    }

    fn release(mut self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move {
            let done = self.handle.call(Request::Release(self.claim)).await;
            self.armed = done.is_err();
            done.map(drop).map_err(|error| self.void(error))
        })
    }
}

impl SqliteSettle {
    /// A closed broker has given back what it held: to its holder, the delivery is void.
    fn void(&self, error: Error) -> Error {
        match error {
            Error::Closed { .. } => Error::Stale {
                queue: self.queue.to_string(),
            },
            error => error,
        }
    }
}

impl Drop for SqliteSettle {
    fn drop(&mut self) {
        if self.armed {
            // Without effect where an earlier request of ours has settled it after all.
            self.handle.post(Request::Release(self.claim));
        }
    }
}
