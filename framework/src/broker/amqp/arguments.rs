//! The arguments that queues are declared with. Pure.

use lapin::types::{AMQPValue, FieldTable};

use super::server::{CONSUMER_TIMEOUT, consumer_timeout, is_timeout, of_lost_nodes};
use super::topology::EXCHANGE;
use super::wire::{own, table, text};
use crate::broker::join::KEPT;
use crate::broker::{Queue, QueueType};

/// What dead letters' queues are called, after the queue's name.
const DEAD: &str = ".dead";
const DEAD_LETTERS_KEPT_MS: i64 = 30 * 24 * 3600 * 1000;
const OWN_QUEUE_EXPIRES_MS: i32 = 60_000;
const DELIVERY_LIMIT: i32 = 20;
/// Dead letters are given back by everyone who looks at them, and RabbitMQ 4 deletes what was given back
/// twenty times unless it is told otherwise.
const NO_DELIVERY_LIMIT: i32 = i32::MAX;

/// What a queue must be told when it is made. As little as possible: anything that differs later is a
/// conflict, and an operator can set the rest by policies.
pub(super) fn of(queue: &Queue, queue_type: QueueType) -> FieldTable {
    let mut arguments = FieldTable::default();
    let mut set = |name: &str, value| {
        arguments.insert(own(name), value);
    };
    let quorum = queue_type == QueueType::Quorum;
    set(
        "x-queue-type",
        text(if quorum { "quorum" } else { "classic" }),
    );
    if queue.exclusive {
        set("x-expires", AMQPValue::LongInt(OWN_QUEUE_EXPIRES_MS));
    }
    if let Some(highest) = queue.max_priority.filter(|_| !quorum) {
        set("x-max-priority", AMQPValue::LongInt(highest.into()));
    }
    if queue.dead_letters {
        set("x-dead-letter-exchange", text(EXCHANGE));
        set("x-dead-letter-routing-key", text(&queue.dead_letter_name()));
        if quorum {
            set("x-delivery-limit", AMQPValue::LongInt(DELIVERY_LIMIT));
            set("x-dead-letter-strategy", text("at-least-once"));
            // At-least-once wants it: a full queue refuses messages rather than drop the oldest.
            set("x-overflow", text("reject-publish"));
        }
    } else if queue.name().ends_with(DEAD) {
        set(
            "x-message-ttl",
            AMQPValue::LongLongInt(DEAD_LETTERS_KEPT_MS),
        );
        if quorum {
            set("x-delivery-limit", AMQPValue::LongInt(NO_DELIVERY_LIMIT));
        }
    }
    if quorum && !queue.name().ends_with(DEAD) {
        arguments.insert(own(CONSUMER_TIMEOUT), consumer_timeout());
        let (name, value) = of_lost_nodes();
        arguments.insert(own(name), value);
    }
    arguments
}

/// What a join's queue must be told: where its body goes when it is rejected.
pub(super) fn of_join(queue_type: QueueType, exchange: &str, key: &str) -> FieldTable {
    let mut arguments = table([
        ("x-expires", AMQPValue::LongLongInt(kept_ms())),
        // Whoever consumes has all that is in it to itself.
        ("x-single-active-consumer", AMQPValue::Boolean(true)),
        ("x-dead-letter-exchange", text(exchange)),
        ("x-dead-letter-routing-key", text(key)),
    ]);
    let mut set = |name: &str, value| {
        arguments.insert(own(name), value);
    };
    match queue_type {
        QueueType::Classic => set("x-queue-type", text("classic")),
        QueueType::Quorum => {
            set("x-queue-type", text("quorum"));
            set("x-dead-letter-strategy", text("at-least-once"));
            set("x-overflow", text("reject-publish"));
            // Every look at the parts counts as a delivery. At the limit they would follow the body.
            set("x-delivery-limit", AMQPValue::LongInt(NO_DELIVERY_LIMIT));
            let (name, value) = of_lost_nodes();
            set(name, value);
        }
    }
    arguments
}

fn kept_ms() -> i64 {
    i64::try_from(KEPT.as_millis()).unwrap_or(i64::MAX)
}

/// A lease's queue: one consumer at a time, and a token that may be given back any number of times.
pub(super) fn of_lease(queue_type: QueueType) -> FieldTable {
    let single = ("x-single-active-consumer", AMQPValue::Boolean(true));
    match queue_type {
        QueueType::Classic => table([("x-queue-type", text("classic")), single]),
        QueueType::Quorum => table([
            ("x-queue-type", text("quorum")),
            single,
            ("x-delivery-limit", AMQPValue::LongInt(NO_DELIVERY_LIMIT)),
            of_lost_nodes(),
        ]),
    }
}

/// Takes out what queues of others, and older ones of ours, were made without; whether it was there.
pub(super) fn drop_timeouts(arguments: &mut FieldTable) -> bool {
    let left = arguments.inner().iter();
    let left: Vec<_> = left
        .filter(|(name, _)| !is_timeout(name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let dropped = left.len() < arguments.inner().len();
    *arguments = FieldTable::default();
    for (name, value) in left {
        arguments.insert(name, value);
    }
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(queue: &Queue, queue_type: QueueType) -> Vec<String> {
        let table = of(queue, queue_type);
        table.inner().keys().map(|name| name.to_string()).collect()
    }

    #[test]
    fn arguments_fit_the_type() {
        let work = Queue::new("q").max_priority(9);
        let quorum = names(&work, QueueType::Quorum);
        assert!(quorum.contains(&"x-delivery-limit".to_owned()));
        assert!(!quorum.contains(&"x-max-priority".to_owned()));
        assert!(quorum.contains(&CONSUMER_TIMEOUT.to_owned()));
        let classic = names(&work, QueueType::Classic);
        assert!(classic.contains(&"x-max-priority".to_owned()));
        assert!(!classic.contains(&"x-delivery-limit".to_owned()));
        assert!(!classic.contains(&CONSUMER_TIMEOUT.to_owned()));
        assert_eq!(
            names(&work.dead_letters(), QueueType::Quorum),
            ["x-delivery-limit", "x-message-ttl", "x-queue-type"]
        );
        assert_eq!(
            names(&work.dead_letters(), QueueType::Classic),
            ["x-message-ttl", "x-queue-type"]
        );
        assert_eq!(
            names(&Queue::exclusive(), QueueType::Classic),
            ["x-expires", "x-queue-type"]
        );
    }
}
