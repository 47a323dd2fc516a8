//! One transaction: carries out requests that came together, then claims for the consumers that have free
//! slots. Changes nothing outside the database, so that a rollback leaves nothing to undo.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use rusqlite::Connection;

use super::catalog::{self, QueueRow};
use super::command::{Claim, Outgoing, Parking, Request};
use super::consume::Members;
use super::fault::Failed;
use super::joins::{self, Progress};
use super::lease;
use super::process;
use super::store::{self, Taken};
use crate::broker::join::{KEPT, warn_of_hostile};
use crate::broker::{Queue, Route, is_join, is_reply_queue, routing};
use crate::error::Error;
use crate::message::Message;

/// Milliseconds in a day.
const DAY: i64 = 24 * 3600 * 1000;
/// How long a dead letter is kept.
const DEAD_LETTERS_KEPT: i64 = 30 * DAY;
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

/// What this process could take at the moment.
#[derive(Debug, Default, Clone)]
pub(super) struct Appetite {
    /// Its reply queue, how many replies there is room for, and whether some are known to wait.
    pub(super) replies: Option<(String, usize, bool)>,
    /// The last cancellation seen and how many there is room for.
    pub(super) cancellations: Option<(i64, usize)>,
}

/// What a transaction took for this process; to be handed out once it is committed.
#[derive(Default)]
pub(super) struct Harvest {
    pub(super) deliveries: Vec<(u64, Vec<Taken>)>,
    /// For each consumer that was looked after: whether it is hungry now and when to look again.
    pub(super) appetites: Vec<(u64, bool, Option<i64>)>,
    pub(super) replies: Vec<Message>,
    /// Whether replies may wait that there was no room for.
    pub(super) replies_left: bool,
    pub(super) cancelled: Vec<(i64, String)>,
    /// Whether cancelled ids may wait that there was no room for.
    pub(super) cancelled_left: bool,
}

/// A transaction under way.
pub(super) struct Batch<'a> {
    db: &'a Connection,
    me: Identity,
    now: i64,
    members: &'a Members,
    /// Queues looked up so far: a batch is mostly publishes to few queues.
    queues: HashMap<String, Option<QueueRow>>,
    /// Queues that have got something.
    touched: BTreeSet<String>,
    /// Deliveries that this batch ended, each with its consumer.
    done: BTreeMap<i64, u64>,
    leaving: BTreeSet<u64>,
    /// Whether other processes are to be told of a cancelled call.
    announce: bool,
    /// The last cancellation that an answer of this batch contains.
    pub(super) cancelled_until: i64,
}

impl<'a> Batch<'a> {
    pub(super) fn new(db: &'a Connection, me: Identity, now: i64, members: &'a Members) -> Self {
        Self {
            db,
            me,
            now,
            members,
            queues: HashMap::new(),
            touched: BTreeSet::new(),
            done: BTreeMap::new(),
            leaving: BTreeSet::new(),
            announce: false,
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
            Request::Prune => {
                store::prune(self.db, self.now, self.now - CANCELLED_KEPT)?;
                joins::prune(self.db, self.now - JOINS_KEPT)?;
            }
            Request::TakeLease { name, holder, .. } => {
                let taken = lease::take(self.db, self.me.id, name, *holder)?;
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
            Request::FreeLease { name, holder } => {
                lease::free(self.db, self.me.id, name, *holder)?;
            }
            rare => self.guarded(|batch| batch.apply_rare(rare))?,
        }
        Ok(Vec::new())
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
                    self.declare(&member.queue)?;
                    process::add_consumer(self.db, self.me.id, *number, member.queue.name())?;
                }
            }
            // All others are carried out by `apply`.
            _ => {}
        }
        Ok(())
    }

    fn declare(&self, queue: &Queue) -> Result<(), Failed> {
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

    fn publish(&mut self, outgoing: &Outgoing) -> Result<(), Failed> {
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

    fn open_join(&mut self, parking: &Parking) -> Result<(), Failed> {
        if self.queue(&parking.queue)?.is_none() {
            return Err(unroutable(&parking.body.route));
        }
        joins::open(self.db, parking, self.now)?;
        Ok(())
    }

    /// Publishes the body of a join that is complete.
    fn fire(
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

    fn queue(&mut self, name: &str) -> Result<Option<QueueRow>, Failed> {
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

    fn settle(&mut self, claim: Claim, queue: &str, first: &Arc<[Outgoing]>) -> Result<(), Failed> {
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
    pub(super) fn release(&mut self, claim: Claim) -> Result<(), Failed> {
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

    /// Runs `work` in a savepoint: what it did is undone if it fails.
    pub(super) fn guarded<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, Failed>,
    ) -> Result<T, Failed> {
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

    /// Takes what this process has room for.
    pub(super) fn harvest(&mut self, appetite: &Appetite) -> Result<Harvest, Failed> {
        let mut harvest = Harvest::default();
        for (number, member) in &self.members.consumers {
            let freed = self
                .done
                .values()
                .filter(|holder| *holder == number)
                .count();
            let free = member.free() + freed;
            let news = member.check || freed > 0 || self.touched.contains(member.queue.name());
            if free == 0 || !news || self.leaving.contains(number) {
                continue;
            }
            let queue = member.queue.name();
            store::promote(self.db, queue, self.now)?;
            let taken = store::claim(self.db, self.me.id, queue, free)?;
            // Noted in the transaction that found too little: who publishes later, sees it.
            let hungry = taken.len() < free;
            if hungry != member.hungry {
                process::set_hungry(self.db, self.me.id, *number, hungry)?;
            }
            let due = if hungry {
                store::next_due(self.db, queue)?
            } else {
                None
            };
            harvest.appetites.push((*number, hungry, due));
            if !taken.is_empty() {
                harvest.deliveries.push((*number, taken));
            }
        }
        if let Some((address, room, waiting)) = &appetite.replies
            && (*waiting || self.touched.contains(address))
        {
            harvest.replies = store::take_replies(self.db, address, *room)?;
            harvest.replies_left = harvest.replies.len() == *room;
        }
        if let Some((seen, room)) = appetite.cancellations {
            harvest.cancelled = store::cancelled(self.db, seen, room)?;
            harvest.cancelled_left = harvest.cancelled.len() == room;
        }
        Ok(harvest)
    }

    /// The ports of the processes for which this batch has left something.
    pub(super) fn ports(&self) -> Result<BTreeSet<u16>, rusqlite::Error> {
        let mut ports = BTreeSet::new();
        for queue in &self.touched {
            let news =
                store::has_ready(self.db, queue)? || store::next_due(self.db, queue)?.is_some();
            if news {
                ports.extend(process::waiting_ports(self.db, self.me.id, queue)?);
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

fn unroutable(route: &Route) -> Failed {
    Failed::Said(Error::Unroutable {
        route: route.to_string(),
    })
}
