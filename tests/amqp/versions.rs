//! What differs between RabbitMQ's versions: each test asserts what is right for the version it meets.

use std::time::Duration;

use garenne::broker::{Broker, Queue, QueueType};
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::timeout;

use super::fixture::{SOON, clean, connect, next, proxied, raw_channel, to_queue, unique, url};
use crate::version::version;

#[tokio::test]
async fn a_message_is_handed_back_at_no_cost_on_every_version() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let queue = Queue::new(unique("back"));
    let mut consumer = broker.consume(&queue, 1).await.expect("consumer");
    let sent = to_queue(queue.name(), "a");
    broker.publish(sent).await.expect("stored");
    // More often than the broker would deliver what kills its worker.
    for round in 0..25 {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.deliveries, 1, "round {round}");
        // Since 4.3 the server does not count it; before, a copy takes the message's place.
        let same = round > 0 && version(&url) >= (4, 3);
        assert_eq!(delivery.redelivered, same, "round {round}");
        assert_eq!(
            delivery.message.is_copy(),
            round > 0 && !same,
            "round {round}"
        );
        delivery.release().await.expect("released");
    }
    let delivery = next(&mut consumer).await;
    delivery.ack(None).await.expect("acked");
    clean(&broker, &queue).await;
}

#[tokio::test]
async fn classic_queues_take_a_consumer_timeout_before_4_3_only() {
    let Some(url) = url() else { return };
    let refused = version(&url) >= (4, 3);
    let mut timeout = FieldTable::default();
    timeout.insert("x-consumer-timeout".into(), AMQPValue::LongLongInt(60_000));
    timeout.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("classic".into()),
    );
    let (_connection, channel) = raw_channel(&url).await;
    let name = unique("classic");
    let options = QueueDeclareOptions::durable();
    let declared = channel.queue_declare(name.as_str().into(), options, timeout);
    assert_eq!(declared.await.is_err(), refused);
    // Which is why our own classic queues ask for none, and are as they should be.
    let broker = connect(&url).await;
    let queue = Queue::new(unique("classic")).queue_type(QueueType::Classic);
    let mut consumer = broker.consume(&queue, 1).await.expect("consumer");
    let sent = to_queue(queue.name(), "a");
    broker.publish(sent).await.expect("stored");
    next(&mut consumer).await.ack(None).await.expect("acked");
    drop(consumer);
    broker.delete(&name).await.expect("deleted");
    clean(&broker, &queue).await;
}

#[tokio::test]
async fn a_quorum_queue_made_without_a_consumer_timeout_is_used() {
    let Some(url) = url() else { return };
    let name = unique("older");
    let queue = Queue::new(&name);
    let (_connection, channel) = raw_channel(&url).await;
    let mut arguments = FieldTable::default();
    for (argument, value) in [
        ("x-queue-type", "quorum"),
        ("x-dead-letter-exchange", "garenne"),
        ("x-dead-letter-routing-key", &queue.dead_letter_name()),
        ("x-dead-letter-strategy", "at-least-once"),
        ("x-overflow", "reject-publish"),
    ] {
        arguments.insert(argument.into(), AMQPValue::LongString(value.into()));
    }
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(20));
    let options = QueueDeclareOptions::durable();
    let made = channel.queue_declare(name.as_str().into(), options, arguments);
    made.await.expect("made");

    let (proxy, through) = proxied(&url).await;
    let broker = connect(&through).await;
    let mut consumer = broker.consume(&queue, 1).await.expect("consumer");
    let sent = to_queue(&name, "a");
    broker.publish(sent).await.expect("stored");
    // It is known for a quorum queue, which counts by itself.
    let held = next(&mut consumer).await;
    proxy.cut();
    timeout(SOON, held.stale().stale()).await.expect("void");
    drop(held);
    let delivery = next(&mut consumer).await;
    assert_eq!((delivery.deliveries, delivery.redelivered), (2, true));
    delivery.ack(None).await.expect("acked");
    clean(&broker, &queue).await;
}

#[tokio::test]
async fn a_message_without_a_priority_has_the_lowest_one() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    // From 4.3 on every quorum queue has priorities, and none is one in the middle.
    let queue = Queue::new(unique("none"));
    broker.declare(&queue).await.expect("declared");
    for (id, priority) in [("none", None), ("low", Some(1)), ("lower", Some(0))] {
        let mut sent = to_queue(queue.name(), id);
        sent.message.priority = priority;
        broker.publish(sent).await.expect("stored");
    }
    let mut consumer = broker.consume(&queue, 1).await.expect("consumer");
    let mut ids = Vec::new();
    for _ in 0..3 {
        let delivery = next(&mut consumer).await;
        ids.push(delivery.message.id.clone());
        delivery.ack(None).await.expect("acked");
    }
    match version(&url) >= (4, 3) {
        true => assert_eq!(ids, ["low", "none", "lower"]),
        false => assert_eq!(ids, ["none", "low", "lower"]),
    }
    clean(&broker, &queue).await;
}

#[tokio::test]
async fn a_known_limit_of_long_calls_is_told() {
    let Some(url) = url() else { return };
    for (queue_type, limited) in [
        (QueueType::Classic, version(&url) < (4, 3)),
        (QueueType::Quorum, false),
    ] {
        let broker = connect(&url).await;
        let queue = Queue::new(unique("limit")).queue_type(queue_type);
        let consumer = broker.consume(&queue, 1).await.expect("consumer");
        let limit = consumer.limit();
        assert_eq!(limit.is_some(), limited, "{queue_type:?}: {limit:?}");
        if let Some(limit) = limit {
            assert_eq!(limit.after, Duration::from_secs(30 * 60));
            assert!(limit.advice.contains("consumer_timeout"), "{limit:?}");
        }
        drop(consumer);
        clean(&broker, &queue).await;
    }
}
