//! This process's consumers and the deliveries in their hands, as the writer thread knows them, and how a
//! delivery is settled. Knows no SQL.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc;

use super::audience::Audience;
use super::command::{CALL_LIMIT, Claim, Handle, Request};
use super::outgoing::Outgoing;
use super::store::Taken;
use crate::broker::{BoxFuture, Delivery, Publish, Queue, Route, Settle, Stale, Unstored, Until};
use crate::error::{Error, Result};

/// A consumer of this process.
pub(super) struct Member {
    pub(super) queue: Queue,
    /// The queue's name, for its deliveries.
    name: Arc<str>,
    pub(super) deliveries: mpsc::Sender<Result<Claimed>>,
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
        deliveries: mpsc::Sender<Result<Claimed>>,
    ) -> Self {
        Self {
            name: queue.name().into(),
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
        for taken in taken {
            // A message that was deleted with its queue while it ran has left its place in the table to this one.
            self.settled(taken.seq);
            let Some(member) = self.consumers.get_mut(&consumer) else {
                return;
            };
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
                queue: Arc::clone(&member.name),
                armed: true,
            };
            let claimed = Claimed {
                taken,
                stale: stale.clone(),
                settle,
            };
            // The channel has a place for each slot; if the consumer was dropped, so is this, which gives it back.
            let _ = member.deliveries.try_send(Ok(claimed));
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

/// A message that was claimed for a consumer, on its way there.
pub(super) struct Claimed {
    taken: Taken,
    stale: Stale,
    settle: SqliteSettle,
}

impl Claimed {
    pub(super) fn delivery(self) -> Delivery {
        let queue = Arc::clone(&self.settle.queue);
        self.taken
            .delivery(&queue, self.stale, Box::new(self.settle))
    }
}

/// Settles one delivery through the writer thread.
struct SqliteSettle {
    handle: Handle,
    claim: Claim,
    queue: Arc<str>,
    /// Whether dropping it must give the message back.
    armed: bool,
}

impl Settle for SqliteSettle {
    fn ack(&mut self, first: Vec<Publish>, until: Until) -> BoxFuture<'_, Result<(), Unstored>> {
        // Nothing of it can be refused.
        let is_plain = first
            .iter()
            .all(|publish| matches!(publish.route, Route::Reply(_)));
        let patience = first.iter().map(|publish| publish.deadline).max();
        let patience = patience.unwrap_or(CALL_LIMIT).min(10 * CALL_LIMIT);
        let now = SystemTime::now();
        let first = first.into_iter().map(|publish| Outgoing::new(publish, now));
        let request = first.collect::<Result<_>>().map(|first| Request::Settle {
            claim: self.claim,
            queue: Arc::clone(&self.queue),
            first,
        });
        let request = match request {
            Ok(request) if is_plain && until == Until::Sent => {
                let posted = self.handle.try_post(request);
                return Box::pin(std::future::ready(self.settled(posted)));
            }
            request => request,
        };
        Box::pin(async move {
            let done = self.handle.call_within(request?, patience).await;
            self.settled(done.map(drop))
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
    fn settled(&mut self, done: Result<()>) -> Result<(), Unstored> {
        self.armed = done.is_err();
        done.map_err(|error| self.void(error).into())
    }

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
