//! One queue in memory: what is ready, in the order of its delivery, and what is delayed, in the order of
//! its time. It reads no clock: time is an argument.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Bound;

use tokio::time::Instant;

use crate::broker::{Binding, Delivery, Queue, Settle, Stale};
use crate::message::{Message, header};

/// Where a message stands in its queue: before all of a lower priority, behind those that came earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    priority: Reverse<u8>,
    arrival: u64,
}

/// A message in a queue.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) message: Message,
    pub(super) exchange: String,
    pub(super) routing_key: String,
    /// Deliveries that came back unsettled.
    pub(super) lost_deliveries: u32,
}

impl Stored {
    /// The delivery of this message from `queue`.
    pub(super) fn delivery(&self, queue: &str, stale: Stale, settle: Box<dyn Settle>) -> Delivery {
        let mut delivery = Delivery::new(queue, self.message.clone(), stale, settle);
        delivery.exchange.clone_from(&self.exchange);
        delivery.routing_key.clone_from(&self.routing_key);
        // A copy of a message says how often that one came back.
        let past = self.message.count(header::DELIVERIES).unwrap_or(0);
        delivery.redelivered = self.lost_deliveries > 0;
        delivery.deliveries = self.lost_deliveries.saturating_add(past).saturating_add(1);
        delivery
    }
}

/// A queue.
#[derive(Debug)]
pub(super) struct MemoryQueue {
    /// Tells this queue from an earlier one of the same name.
    pub(super) incarnation: u64,
    pub(super) max_priority: Option<u8>,
    pub(super) bindings: Vec<Binding>,
    arrivals: u64,
    ready: BTreeMap<Place, Stored>,
    delayed: BTreeMap<(Instant, u64), Stored>,
}

impl MemoryQueue {
    pub(super) fn new(queue: &Queue, incarnation: u64) -> Self {
        Self {
            incarnation,
            max_priority: queue.max_priority,
            bindings: Vec::new(),
            arrivals: 0,
            ready: BTreeMap::new(),
            delayed: BTreeMap::new(),
        }
    }

    /// Stores a message, to be delivered from `due` on.
    pub(super) fn push(&mut self, stored: Stored, due: Option<Instant>, now: Instant) {
        // What fell due before stands before.
        self.promote(now);
        match due {
            Some(due) if due > now => {
                self.arrivals += 1;
                self.delayed.insert((due, self.arrivals), stored);
            }
            _ => self.append(stored),
        }
    }

    /// Takes the message whose turn it is.
    pub(super) fn take(&mut self, now: Instant) -> Option<(Place, Stored)> {
        self.promote(now);
        self.ready.pop_first()
    }

    /// The ready messages behind a place, at most `limit`.
    pub(super) fn behind(
        &mut self,
        place: Option<Place>,
        limit: usize,
        now: Instant,
    ) -> Vec<(Place, Stored)> {
        self.promote(now);
        let start = place.map_or(Bound::Unbounded, Bound::Excluded);
        let found = self.ready.range((start, Bound::Unbounded)).take(limit);
        found
            .map(|(place, stored)| (*place, stored.clone()))
            .collect()
    }

    /// Whether the message at this place is ready.
    pub(super) fn has(&self, place: Place) -> bool {
        self.ready.contains_key(&place)
    }

    /// Takes the message at this place.
    pub(super) fn remove(&mut self, place: Place) {
        self.ready.remove(&place);
    }

    /// Puts a message back to where it was.
    pub(super) fn put_back(&mut self, place: Place, stored: Stored) {
        self.ready.insert(place, stored);
    }

    /// When the next delayed message falls due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.delayed.first_key_value().map(|((due, _), _)| *due)
    }

    /// How many messages could be delivered now.
    pub(super) fn ready(&mut self, now: Instant) -> u64 {
        self.promote(now);
        self.ready.len() as u64
    }

    /// How many messages wait for their time; exact after [`ready`](Self::ready).
    pub(super) fn delayed(&self) -> u64 {
        self.delayed.len() as u64
    }

    /// Queues up what has fallen due.
    fn promote(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let stored = entry.remove();
            self.append(stored);
        }
    }

    fn append(&mut self, stored: Stored) {
        let highest = self.max_priority.unwrap_or(u8::MAX);
        self.arrivals += 1;
        let place = Place {
            priority: Reverse(stored.message.priority.unwrap_or(0).min(highest)),
            arrival: self.arrivals,
        };
        self.ready.insert(place, stored);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn stored(id: &str, priority: u8) -> Stored {
        Stored {
            message: Message {
                id: id.to_owned(),
                priority: Some(priority),
                ..Message::default()
            },
            exchange: String::new(),
            routing_key: "q".to_owned(),
            lost_deliveries: 0,
        }
    }

    fn drain(queue: &mut MemoryQueue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.take(now).map(|(_, stored)| stored.message.id)).collect()
    }

    #[test]
    fn priorities_above_the_highest_count_as_the_highest() {
        let now = Instant::now();
        let mut queue = MemoryQueue::new(&Queue::new("q").max_priority(3), 0);
        for (id, priority) in [("low", 0), ("three", 3), ("nine", 9), ("one", 1)] {
            queue.push(stored(id, priority), None, now);
        }
        assert_eq!(drain(&mut queue, now), ["three", "nine", "one", "low"]);
    }

    #[test]
    fn a_message_put_back_is_the_next_again() {
        let now = Instant::now();
        let mut queue = MemoryQueue::new(&Queue::new("q"), 0);
        for id in ["a", "b", "c"] {
            queue.push(stored(id, 0), None, now);
        }
        let (place, first) = queue.take(now).expect("a message");
        queue.put_back(place, first);
        assert_eq!(drain(&mut queue, now), ["a", "b", "c"]);
    }

    #[test]
    fn a_delayed_message_queues_up_when_it_falls_due() {
        let now = Instant::now();
        let later = now + Duration::from_secs(10);
        let mut queue = MemoryQueue::new(&Queue::new("q"), 0);
        queue.push(stored("late", 0), Some(later), now);
        queue.push(stored("now", 0), None, now);
        assert_eq!((queue.ready(now), queue.next_due()), (1, Some(later)));
        queue.push(stored("last", 0), None, later);
        assert_eq!(drain(&mut queue, later), ["now", "late", "last"]);
    }
}
