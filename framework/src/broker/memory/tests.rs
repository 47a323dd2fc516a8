//! What only the memory broker promises: paused time is followed, and what was never read costs nothing.

use std::time::Duration;

use tokio::time::Instant;

use super::MemoryBroker;
use crate::broker::{Broker, Consumer, Delivery, Publish, Queue, Route};
use crate::message::Message;

fn publish(queue: &Queue, id: &str, delay: Duration) -> Publish {
    Publish {
        route: Route::Queue(queue.name().to_owned()),
        message: Message {
            id: id.to_owned(),
            ..Message::default()
        },
        delay,
        deadline: Duration::from_secs(1),
    }
}

async fn next(consumer: &mut Consumer) -> Delivery {
    let next = consumer.next().await.expect("an open consumer");
    next.expect("a delivery")
}

#[tokio::test(start_paused = true)]
async fn hours_of_delay_are_over_at_once_when_time_is_paused() {
    let broker = MemoryBroker::new();
    let queue = Queue::new("q");
    let mut consumer = broker.consume(&queue, 1).await.expect("a consumer");
    let (start, began) = (Instant::now(), std::time::Instant::now());
    let hour = Duration::from_secs(3600);
    for (id, delay) in [("third", 3 * hour), ("first", hour), ("second", 2 * hour)] {
        let stored = broker.publish(publish(&queue, id, delay)).await;
        stored.expect("a publish");
    }
    for (hours, id) in [(1, "first"), (2, "second"), (3, "third")] {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.message.id, id);
        let late = start.elapsed() - hours * hour;
        assert!(late < Duration::from_millis(10), "{late:?} late");
        delivery.ack(None).await.expect("an ack");
    }
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_is_remembered_until_it_has_been_due() {
    let broker = MemoryBroker::new();
    let day = Duration::from_secs(24 * 3600);
    broker.cancel("near").await.expect("a cancel");
    let far = broker.cancel_delayed("far", 30 * day);
    far.await.expect("a cancel");
    let known = async |after: Duration| {
        tokio::time::sleep(after).await;
        broker.cancel("other").await.expect("a cancel");
        let known = broker.cancellations().await.expect("a channel").known;
        ["near", "far"].map(|id| known.iter().any(|known| known == id))
    };
    assert_eq!(known(day).await, [true, true]);
    assert_eq!(known(28 * day).await, [false, true]);
    assert_eq!(known(2 * day).await, [false, true]);
    assert_eq!(known(3 * day).await, [false, false]);
}

#[tokio::test(start_paused = true)]
async fn a_delay_beyond_the_clock_is_no_panic() {
    let broker = MemoryBroker::new();
    let queue = Queue::new("q");
    let mut consumer = broker.consume(&queue, 1).await.expect("a consumer");
    let stored = broker.publish(publish(&queue, "never", Duration::MAX));
    stored.await.expect("a publish");
    let day = Duration::from_secs(24 * 3600);
    let next = tokio::time::timeout(day, consumer.next());
    assert!(next.await.is_err());
}

#[tokio::test]
async fn what_a_dropped_consumer_never_read_was_not_delivered() {
    let broker = MemoryBroker::new();
    let queue = Queue::new("q");
    broker.declare(&queue).await.expect("a declaration");
    for id in ["read", "unread"] {
        let stored = broker.publish(publish(&queue, id, Duration::ZERO)).await;
        stored.expect("a publish");
    }
    let mut consumer = broker.consume(&queue, 2).await.expect("a consumer");
    let read = next(&mut consumer).await;
    while broker.depth("q").await.expect("a depth").ready > 0 {
        tokio::task::yield_now().await;
    }
    drop(consumer);
    drop(read);
    let mut consumer = broker.consume(&queue, 2).await.expect("a consumer");
    for (id, deliveries) in [("read", 2), ("unread", 1)] {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.message.id, id);
        assert_eq!(delivery.deliveries, deliveries);
        assert_eq!(delivery.redelivered, deliveries > 1);
        delivery.ack(None).await.expect("an ack");
    }
}

#[tokio::test]
async fn a_settlement_that_is_never_polled_leaves_the_message() {
    let broker = MemoryBroker::new();
    let queue = Queue::new("q");
    let mut consumer = broker.consume(&queue, 1).await.expect("a consumer");
    let stored = broker.publish(publish(&queue, "a", Duration::ZERO)).await;
    stored.expect("a publish");
    let delivery = next(&mut consumer).await;
    drop(delivery.ack(None));
    assert_eq!(next(&mut consumer).await.deliveries, 2);
}

#[tokio::test]
async fn replies_that_nobody_reads_any_more_are_dropped() {
    let broker = MemoryBroker::new();
    let replies = broker.replies().await.expect("replies");
    let address = replies.address.clone();
    drop(replies.messages);
    while broker.depth(&address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let late = Publish {
        route: Route::Reply(address),
        ..publish(&Queue::new("q"), "a", Duration::ZERO)
    };
    broker.publish(late).await.expect("no error");
}
