//! One transaction: carries out requests that came together, then claims what there is room for
//! (`harvest.rs`). Changes nothing outside the database, so that a rollback leaves nothing to undo.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rusqlite::Connection;

use super::audience;
use super::catalog::{self, QueueRow};
use super::command::{Claim, Request};
use super::consume::Members;
use super::fault::Failed;
use super::joins;
use super::lease;
use super::outgoing::Outgoing;
use super::process;
use super::store;
use crate::broker::join::KEPT;
use crate::broker::{Channel, Queue, Route};
use crate::error::Error;

/// Milliseconds in a day.
pub(super) const DAY: i64 = 24 * 3600 * 1000;
/// How long a cancelled call's id is kept once the call is due.
const CANCELLED_KEPT: i64 = 2 * DAY;
/// How long a join is kept that nobody uses.
const JOINS_KEPT: i64 = KEPT.as_millis() as i64;

/// Who this process is to the others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    /// Its row's id.
    pub(super) id: i64,
    /// Where it is woken.
    pub(super) port: u16,
}

/// How a request is undone that fails when part of it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guard {
    /// With all others of its batch, which is carried out again. Few fail like that, and a savepoint for each costs more.
    Rollback,
    /// Alone.
    Savepoint,
}

/// A transaction under way.
pub(super) struct Batch<'a> {
    pub(super) db: &'a Connection,
    pub(super) me: Identity,
    pub(super) now: i64,
    pub(super) members: &'a Members,
    guard: Guard,
    /// Whether there is something in it that only a rollback of all of it undoes.
    pub(super) is_spoiled: bool,
    /// Queues looked up so far: a batch is mostly publishes to few queues.
    pub(super) queues: HashMap<String, Option<QueueRow>>,
    /// Queues that have got something.
    pub(super) touched: BTreeSet<String>,
    /// Deliveries that this batch ended, each with its consumer.
    pub(super) done: BTreeMap<i64, u64>,
    pub(super) leaving: BTreeSet<u64>,
    /// Whether all other processes are to be woken.
    announce: bool,
    /// Ports of processes that listen to something announced.
    listening: BTreeSet<u16>,
    /// The last cancellation that an answer of this batch contains.
    pub(super) cancelled_until: i64,
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        db: &'a Connection,
        me: Identity,
        now: i64,
        members: &'a Members,
        guard: Guard,
    ) -> Self {
        Self {
            db,
            me,
            now,
            members,
            guard,
            is_spoiled: false,
            queues: HashMap::new(),
            touched: BTreeSet::new(),
            done: BTreeMap::new(),
            leaving: BTreeSet::new(),
            announce: false,
            listening: BTreeSet::new(),
            cancelled_until: 0,
        }
    }

    /// Carries out one request, wholly or not at all.
    pub(super) fn apply(&mut self, request: &Request) -> Result<Vec<String>, Failed> {
        match request {
            Request::Publish(outgoing) => match &outgoing.route {
                // One statement needs no savepoint, and these are most of all requests.
                Route::Queue(_) | Route::Reply(_) => self.publish(outgoing)?,
                Route::Exchange { .. } | Route::Join { .. } => {
                    self.guarded(|batch| batch.publish(outgoing))?;
                }
            },
            Request::Settle {
                claim,
                queue,
                first,
            } => self.settle(*claim, queue, first)?,
            Request::Release(claim) => self.release(*claim)?,
            Request::Take {
                seq,
                queue,
                print,
                first,
            } => self.guarded(|batch| batch.take(*seq, queue, *print, first))?,
            Request::OpenJoin(parking) => self.guarded(|batch| batch.open_join(parking))?,
            Request::CheckJoin { join, parts, fire } => self.guarded(|batch| {
                let progress = joins::progress(batch.db, join, 0, batch.now)?;
                batch.fire(join, progress, *parts, *fire)
            })?,
            Request::CloseJoin(join) => joins::close(self.db, join)?,
            Request::Cancel(id, due) => {
                store::cancel(self.db, id, self.now.max(*due))?;
                self.announce = true;
            }
            Request::Cancellations(_) => {
                let known = store::cancelled(self.db, 0, usize::MAX)?;
                self.cancelled_until = known.last().map_or(0, |(seq, _)| *seq);
                return Ok(known.into_iter().map(|(_, id)| id).collect());
            }
            Request::Announce {
                channel,
                key,
                envelope,
                body,
            } => {
                let (on, message) = ((&**channel, &**key), (&**envelope, body.as_slice()));
                let ports = audience::announce(self.db, self.me.id, self.now, on, message)?;
                self.listening.extend(ports);
            }
            Request::Prune => {
                store::prune(self.db, self.now, self.now - CANCELLED_KEPT)?;
                joins::prune(self.db, self.now - JOINS_KEPT)?;
                for owner in process::missing(self.db)? {
                    let back = process::give_back(self.db, owner, false)?;
                    self.touched.extend(back);
                }
            }
            Request::TakeLease { name, holder, .. } => {
                let taken = self.takes_part()? && lease::take(self.db, self.me.id, name, *holder)?;
                return Ok(taken.then(|| name.clone()).into_iter().collect());
            }
            Request::WriteLease {
                name,
                holder,
                value,
            } => {
                if !lease::write(self.db, self.me.id, name, *holder, value)? {
                    return Err(Failed::Said(Error::Stale {
                        queue: name.clone(),
                    }));
                }
            }
            Request::Sync => process::touch(self.db, self.me.id)?,
            // Looked at when the transaction is committed.
            Request::Allow { .. } | Request::Flush => {}
            Request::FreeLease { name, holder } => {
                lease::free(self.db, self.me.id, name, *holder)?;
            }
            rare => self.guarded(|batch| batch.apply_rare(rare))?,
        }
        Ok(Vec::new())
    }

    /// Whether the others know this process. They may have taken it for dead, which it has not noticed yet: what it
    /// took then would be nobody's.
    pub(super) fn takes_part(&self) -> rusqlite::Result<bool> {
        process::takes_part(self.db, self.me.id)
    }

    /// What changes queues, consumers or processes rather than messages.
    fn apply_rare(&mut self, request: &Request) -> Result<(), Failed> {
        self.queues.clear();
        match request {
            Request::Declare(queue) => self.declare(queue)?,
            Request::DeclareExchange(exchange) => self.declare_exchange(exchange)?,
            Request::Subscribe { number, queue, .. } => {
                self.declare(queue)?;
                process::add_consumer(self.db, self.me.id, *number, queue.name())?;
            }
            Request::Unsubscribe(number) => {
                process::remove_consumer(self.db, self.me.id, *number)?;
                self.leaving.insert(*number);
                if let Some(member) = self.members.consumers.get(number)
                    && member.queue.exclusive
                    && !process::is_consumed(self.db, member.queue.name())?
                {
                    // What its worker still runs is not taken from under it.
                    catalog::delete_queue(self.db, member.queue.name(), true)?;
                }
            }
            Request::Delete(queue) => catalog::delete_queue(self.db, queue, false)?,
            Request::Replies { address, .. } => {
                catalog::add_reply_queue(self.db, self.me.id, address)?;
            }
            Request::Rescue(dead) => {
                if let Some(back) = process::remove_process(self.db, dead.id, true)? {
                    // Clients that exit without closing leave nothing behind that anyone would miss.
                    if !back.is_empty() {
                        tracing::info!(queues = ?back, "a process died: its deliveries are back");
                    }
                    self.touched.extend(back);
                }
            }
            Request::Rejoin => {
                process::add_process(self.db, self.me.id, self.me.port, self.now)?;
                for (number, member) in &self.members.consumers {
                    if self.leaving.contains(number) {
                        continue;
                    }
                    self.declare(&member.queue)?;
                    process::add_consumer(self.db, self.me.id, *number, member.queue.name())?;
                }
                for (number, ear) in &self.members.audience.ears {
                    self.listen(*number, &ear.channel, &ear.name)?;
                }
            }
            Request::Listen {
                number,
                channel,
                name,
                ..
            } => self.listen(*number, channel, name)?,
            Request::Unlisten(number) => {
                audience::remove_listener(self.db, self.me.id, *number)?;
                self.announce = true;
            }
            // All others are carried out by `apply`.
            _ => {}
        }
        Ok(())
    }

    fn listen(&mut self, number: u64, channel: &Channel, name: &str) -> Result<(), Failed> {
        // The others are to know that they are heard.
        self.announce = true;
        match audience::add_listener(self.db, self.me.id, number, channel, name)? {
            true => Ok(()),
            false => Err(Failed::Said(Error::Refused {
                what: format!("to listen as `{name}`"),
                reason: "somebody else has that name".into(),
            })),
        }
    }

    pub(super) fn declare(&self, queue: &Queue) -> Result<(), Failed> {
        if let Some(difference) = catalog::declare_queue(self.db, self.me.id, queue)? {
            tracing::warn!(
                queue = queue.name(),
                "the queue is used as it is: {difference}"
            );
        }
        for binding in &queue.bindings {
            self.declare_exchange(&binding.exchange)?;
            catalog::bind(self.db, queue.name(), binding)?;
        }
        Ok(())
    }

    fn declare_exchange(&self, exchange: &crate::broker::Exchange) -> Result<(), Failed> {
        let (wanted, kind) = (
            exchange.kind().as_str(),
            catalog::declare_exchange(self.db, exchange)?,
        );
        if kind != wanted {
            tracing::warn!(
                exchange = exchange.name(),
                "the exchange is used as it is: its kind is {kind}, not {wanted}"
            );
        }
        Ok(())
    }

    fn settle(&mut self, claim: Claim, queue: &str, first: &[Outgoing]) -> Result<(), Failed> {
        let stale = || {
            Failed::Said(Error::Stale {
                queue: queue.to_owned(),
            })
        };
        let consumer = self.holder(claim).ok_or_else(stale)?;
        if first.is_empty() {
            let settled = store::settle(self.db, self.me.id, claim.seq)?;
            self.done.insert(claim.seq, consumer);
            return if settled { Ok(()) } else { Err(stale()) };
        }
        self.guarded(|batch| {
            if !store::settle(batch.db, batch.me.id, claim.seq)? {
                batch.done.insert(claim.seq, consumer);
                return Err(stale());
            }
            first
                .iter()
                .try_for_each(|outgoing| batch.publish(outgoing))
        })?;
        self.done.insert(claim.seq, consumer);
        Ok(())
    }

    fn take(
        &mut self,
        seq: i64,
        queue: &str,
        print: u64,
        first: &[Outgoing],
    ) -> Result<(), Failed> {
        if !store::take(self.db, queue, seq, print)? {
            return Err(Failed::Said(Error::Stale {
                queue: queue.to_owned(),
            }));
        }
        first.iter().try_for_each(|outgoing| self.publish(outgoing))
    }

    /// Gives a delivery back; no error if it has been settled, which its guard cannot always know.
    fn release(&mut self, claim: Claim) -> Result<(), Failed> {
        let Some(consumer) = self.holder(claim) else {
            return Ok(());
        };
        if let Some(queue) = store::release(self.db, self.me.id, claim.seq)? {
            if self.queue(&queue)?.is_some() {
                self.touched.insert(queue);
            } else {
                store::discard(self.db, claim.seq)?;
            }
        }
        self.done.insert(claim.seq, consumer);
        Ok(())
    }

    fn holder(&self, claim: Claim) -> Option<u64> {
        self.members
            .holder(claim)
            .filter(|_| !self.done.contains_key(&claim.seq))
    }

    /// Runs `work`, of which nothing is to be left if it fails: what it did is undone, or the batch is spoiled.
    pub(super) fn guarded<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        if self.guard == Guard::Rollback {
            let before = self.db.total_changes();
            let outcome = work(self);
            self.is_spoiled |= outcome.is_err() && self.db.total_changes() != before;
            return outcome;
        }
        let run = |sql: &str| self.db.prepare_cached(sql)?.execute([]);
        run("SAVEPOINT request")?;
        let db = self.db;
        let outcome = work(self);
        let run = |sql: &str| db.prepare_cached(sql)?.execute([]);
        // Some errors roll the whole transaction back, its savepoints too.
        if outcome.is_err() && !db.is_autocommit() {
            run("ROLLBACK TO request")?;
        }
        if !db.is_autocommit() {
            run("RELEASE request")?;
        }
        outcome
    }

    /// The ports of the processes for which this batch has left something.
    pub(super) fn ports(&self) -> Result<BTreeSet<u16>, rusqlite::Error> {
        let mut ports = self.listening.clone();
        for queue in &self.touched {
            let waiting = process::waiting_ports(self.db, self.me.id, queue)?;
            let is_news = !waiting.is_empty()
                && (store::has_ready(self.db, queue)?
                    || store::next_due(self.db, queue)?.is_some());
            if is_news {
                ports.extend(waiting);
            }
        }
        if self.announce {
            ports.extend(process::other_ports(self.db, self.me.id)?);
        }
        Ok(ports)
    }

    /// The deliveries that this batch ended.
    pub(super) fn into_done(self) -> impl Iterator<Item = i64> {
        self.done.into_keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::sqlite::consume::Member;
    use crate::broker::sqlite::harvest::Appetite;
    use crate::broker::sqlite::outgoing::tests::outgoing;
    use crate::broker::sqlite::schema;

    #[test]
    fn what_fails_when_part_of_it_is_done_spoils_its_batch_or_is_undone() {
        let (db, members) = (schema::in_memory(), Members::default());
        let me = Identity { id: 1, port: 0 };
        let batch = |guard| Batch::new(&db, me, 0, &members, guard);
        batch(Guard::Savepoint)
            .apply(&Request::Declare(Queue::new("q")))
            .expect("declared");
        batch(Guard::Savepoint)
            .apply(&Request::Publish(outgoing("q", 10)))
            .expect("stored");
        let look = || store::look(&db, "q", None, 9).expect("read");
        let (taken, print) = look().remove(0);
        let take = |print| Request::Take {
            seq: taken.seq,
            queue: "q".into(),
            print,
            first: vec![outgoing("nowhere", 10)],
        };

        let mut alone = batch(Guard::Savepoint);
        assert!(alone.apply(&take(print)).is_err() && !alone.is_spoiled);
        assert_eq!(look().len(), 1);
        let mut with_all = batch(Guard::Rollback);
        assert!(with_all.apply(&take(print + 1)).is_err() && !with_all.is_spoiled);
        assert!(with_all.apply(&take(print)).is_err() && with_all.is_spoiled);
        assert_eq!(look().len(), 0, "until it is rolled back");
    }

    #[test]
    fn who_was_taken_for_dead_takes_nothing_and_what_nobody_has_comes_back() {
        let (db, mut members) = (schema::in_memory(), Members::default());
        let (sender, _deliveries) = tokio::sync::mpsc::channel(2);
        let member = Member::new(Queue::new("q"), 1, sender);
        members.consumers.insert(1, member);
        let me = Identity { id: 1, port: 0 };
        let lease = || Request::TakeLease {
            name: "l".into(),
            holder: 1,
            granted: tokio::sync::oneshot::channel().0,
        };
        let mut batch = Batch::new(&db, me, 0, &members, Guard::Rollback);
        for request in [
            Request::Declare(Queue::new("q")),
            Request::Publish(outgoing("q", 10)),
        ] {
            batch.apply(&request).expect("done");
        }
        assert!(!batch.takes_part().expect("read"));
        assert!(batch.apply(&lease()).expect("no lease").is_empty());

        // As an earlier version could leave it.
        assert_eq!(store::claim(&db, 7, "q", 1).expect("claimed").len(), 1);
        assert!(lease::take(&db, 7, "l", 1).expect("taken"));
        process::add_process(&db, 1, 0, 0).expect("added");
        let mut batch = Batch::new(&db, me, 0, &members, Guard::Rollback);
        batch.apply(&Request::Prune).expect("pruned");
        assert!(batch.takes_part().expect("read"));
        assert_eq!(batch.apply(&lease()).expect("a lease"), ["l"]);
        let harvest = batch.harvest(&Appetite::default()).expect("harvested");
        assert_eq!(harvest.deliveries.len(), 1);
    }
}
