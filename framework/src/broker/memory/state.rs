//! All that a memory broker knows, behind one lock: queues, exchanges, who consumes, what was cancelled, joins.
//! Nothing in here waits, so that each operation is atomic.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tracing::warn;

use super::joins::Joins;
use super::journal::Journal;
use super::lease::Leases;
use super::queue::{MemoryQueue, Stored};
use crate::broker::{
    Binding, Delivery, Exchange, ExchangeKind, Publish, Queue, Route, is_join, is_reply_queue,
    join::warn_of_hostile, routing,
};
use crate::error::{Error, Result};

/// How long a cancelled call is remembered once it is due.
const CANCELLATION_MEMORY: Duration = Duration::from_secs(2 * 24 * 60 * 60);
/// How names of dead-letter queues end.
const DEAD: &str = ".dead";
/// Stands for times that the clock cannot express, as tokio's own does.
const FAR_FUTURE: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// Who takes messages from a queue.
#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) queue: String,
    pub(super) exclusive: bool,
    pub(super) slots: usize,
    pub(super) unsettled: usize,
    pub(super) deliveries: mpsc::Sender<Result<Delivery>>,
    /// Wakes its pump, its only listener.
    pub(super) wake: Arc<Notify>,
}

/// What the broker knows.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) closed: bool,
    pub(super) queues: HashMap<String, MemoryQueue>,
    exchanges: HashMap<String, ExchangeKind>,
    /// By number. A subscriber outlives its queue, to be served again when the queue is back.
    pub(super) subscribers: HashMap<u64, Subscriber>,
    /// Each with the time that its call is due.
    cancelled: BTreeSet<(Instant, String)>,
    watchers: Vec<mpsc::UnboundedSender<String>>,
    pub(super) joins: Joins,
    pub(super) leases: Leases,
    numbers: u64,
    pub(super) journal: Journal,
}

impl State {
    /// A number not used before.
    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn open(&mut self) -> Result<&mut Self> {
        if self.closed {
            return Err(Error::Closed { what: "the broker" });
        }
        Ok(self)
    }

    pub(super) fn declare(&mut self, queue: &Queue) -> Result<()> {
        queue.validate()?;
        if queue.dead_letters {
            self.declare_one(&queue.dead_letters());
        }
        self.declare_one(queue);
        Ok(())
    }

    fn declare_one(&mut self, queue: &Queue) {
        let bindings: Vec<Binding> = queue
            .bindings
            .iter()
            .map(|binding| Binding {
                exchange: self.declare_exchange(&binding.exchange),
                ..binding.clone()
            })
            .collect();
        let incarnation = self.number();
        let known = self
            .queues
            .entry(queue.name.clone())
            .or_insert_with(|| MemoryQueue::new(queue, incarnation));
        if known.max_priority != queue.max_priority {
            warn!(
                queue = queue.name,
                existing = ?known.max_priority,
                declared = ?queue.max_priority,
                "the queue exists with another `max_priority` and is used as it is"
            );
        }
        for binding in bindings {
            if !known.bindings.contains(&binding) {
                known.bindings.push(binding);
            }
        }
        self.wake(&queue.name);
    }

    /// The exchange as it exists afterwards.
    pub(super) fn declare_exchange(&mut self, exchange: &Exchange) -> Exchange {
        let kind = *self
            .exchanges
            .entry(exchange.name.clone())
            .or_insert(exchange.kind);
        if kind != exchange.kind {
            warn!(
                exchange = exchange.name,
                existing = kind.as_str(),
                declared = exchange.kind.as_str(),
                "the exchange exists with another kind and is used as it is"
            );
        }
        Exchange {
            name: exchange.name.clone(),
            kind,
        }
    }

    /// Stores all of `publishes`, or none of them.
    pub(super) fn publish(&mut self, publishes: Vec<Publish>, now: Instant) -> Result<()> {
        let targets = publishes
            .iter()
            .map(|publish| self.route(publish))
            .collect::<Result<Vec<_>>>()?;
        for (publish, queues) in publishes.into_iter().zip(targets) {
            self.journal.note(&publish);
            self.store(publish, &queues, now)?;
        }
        Ok(())
    }

    /// The queues that the message goes to, each once.
    fn route(&self, publish: &Publish) -> Result<BTreeSet<String>> {
        let queues: BTreeSet<String> = match &publish.route {
            Route::Reply(queue) if !is_reply_queue(queue) => BTreeSet::new(),
            Route::Join { join, .. } => {
                if !is_join(join) {
                    warn_of_hostile(join);
                }
                BTreeSet::new()
            }
            Route::Reply(queue) | Route::Queue(queue) => self
                .queues
                .get_key_value(queue)
                .map(|(name, _)| name.clone())
                .into_iter()
                .collect(),
            Route::Exchange {
                exchange,
                routing_key,
            } => {
                crate::broker::queue::validate_routing_key(routing_key)?;
                if !self.exchanges.contains_key(exchange) {
                    return Err(Error::Refused {
                        what: format!("a message to {}", publish.route),
                        reason: "there is no such exchange: declare it or bind a queue to it first"
                            .into(),
                    });
                }
                self.queues
                    .iter()
                    .filter(|(_, queue)| {
                        queue.bindings.iter().any(|binding| {
                            binding.exchange.name == *exchange
                                && routing::matches(binding, routing_key, &publish.message.headers)
                        })
                    })
                    .map(|(name, _)| name.clone())
                    .collect()
            }
        };
        let may_lead_nowhere = matches!(publish.route, Route::Reply(_) | Route::Join { .. });
        if queues.is_empty() && !may_lead_nowhere {
            return Err(Error::Unroutable {
                route: publish.route.to_string(),
            });
        }
        Ok(queues)
    }

    pub(super) fn store(
        &mut self,
        publish: Publish,
        queues: &BTreeSet<String>,
        now: Instant,
    ) -> Result<()> {
        let due = (!publish.delay.is_zero())
            .then(|| now.checked_add(publish.delay).unwrap_or(now + FAR_FUTURE));
        let (exchange, routing_key) = match publish.route {
            Route::Queue(queue) | Route::Reply(queue) => (String::new(), queue),
            Route::Exchange {
                exchange,
                routing_key,
            } => (exchange, routing_key),
            Route::Join { join, parts, fire } => {
                self.put_part(&join, publish.message, now);
                return self.check_join(&join, parts, fire, now);
            }
        };
        let stored = Stored {
            message: publish.message,
            exchange,
            routing_key,
            lost_deliveries: 0,
        };
        for name in queues {
            if let Some(queue) = self.queues.get_mut(name) {
                queue.push(stored.clone(), due, now);
            }
            self.wake(name);
        }
        Ok(())
    }

    /// Has the subscribers of a queue look at it again.
    pub(super) fn wake(&self, queue: &str) {
        for subscriber in self.subscribers.values() {
            if subscriber.queue == queue && subscriber.unsettled < subscriber.slots {
                subscriber.wake.notify_one();
            }
        }
    }

    /// Ends a subscription, and its queue if that was its own.
    pub(super) fn unsubscribe(&mut self, subscriber: u64) -> Option<Subscriber> {
        let gone = self.subscribers.remove(&subscriber)?;
        if gone.exclusive && self.consumers(&gone.queue) == 0 {
            self.queues.remove(&gone.queue);
        }
        gone.wake.notify_one();
        Some(gone)
    }

    /// How many consume from a queue.
    pub(super) fn consumers(&self, queue: &str) -> u64 {
        let consumers = self
            .subscribers
            .values()
            .filter(|subscriber| subscriber.queue == queue);
        consumers.count() as u64
    }

    /// How many messages wait for their time in all queues.
    pub(super) fn delayed(&mut self, now: Instant) -> u64 {
        let queues = self.queues.values_mut();
        queues
            .map(|queue| {
                queue.ready(now);
                queue.delayed()
            })
            .sum()
    }

    /// The task queues in which something waits, now or for its time, or is not settled yet, and how much.
    pub(super) fn unfinished(&mut self, now: Instant) -> BTreeMap<String, u64> {
        let mut unfinished = BTreeMap::new();
        for (name, queue) in &mut self.queues {
            let held = self.subscribers.values().filter(|of| of.queue == *name);
            let held: usize = held.map(|of| of.unsettled).sum();
            let count = queue.ready(now) + queue.delayed() + held as u64;
            if count > 0 && !is_reply_queue(name) && !name.ends_with(DEAD) {
                unfinished.insert(name.clone(), count);
            }
        }
        unfinished
    }

    /// Notes that a call which is due after `due_in` is cancelled.
    pub(super) fn cancel(&mut self, id: &str, now: Instant, due_in: Duration) {
        while let Some((due, _)) = self.cancelled.first() {
            if now.saturating_duration_since(*due) < CANCELLATION_MEMORY {
                break;
            }
            self.cancelled.pop_first();
        }
        let due = now.checked_add(due_in).unwrap_or(now + FAR_FUTURE);
        self.cancelled.insert((due, id.to_owned()));
        self.watchers
            .retain(|watcher| watcher.send(id.to_owned()).is_ok());
    }

    /// The ids cancelled so far; those to come go to `watcher`.
    pub(super) fn watch(&mut self, watcher: mpsc::UnboundedSender<String>) -> Vec<String> {
        self.watchers.push(watcher);
        self.cancelled.iter().map(|(_, id)| id.clone()).collect()
    }

    /// Forgets everything, and hands out the subscribers.
    pub(super) fn close(&mut self) -> Vec<Subscriber> {
        let subscribers = self.subscribers.drain().map(|(_, gone)| gone).collect();
        *self = Self {
            closed: true,
            ..Self::default()
        };
        subscribers
    }
}
