//! What becomes of deliveries that are given back, dropped, or cannot be settled.

use std::collections::HashSet;
use std::time::Duration;

use garenne::MILLISECOND;
use garenne::broker::{Broker, Queue, QueueType};
use garenne::error::Error;
use garenne::message::header;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::{Instant, sleep, timeout};

use super::fixture::{SOON, clean, connect, next, proxied, raw_channel, to_queue, unique, url};
use super::peers::{through, without_confirms};
use super::proxy::Rules;

#[tokio::test]
async fn releases_cost_nothing_and_deaths_are_counted() {
    let Some(url) = url() else { return };
    for queue_type in [QueueType::Quorum, QueueType::Classic] {
        let (proxy, through) = proxied(&url).await;
        let broker = connect(&through).await;
        let queue = Queue::new(unique("count")).queue_type(queue_type);
        let mut consumer = broker.consume(&queue, 1).await.expect("consumer");
        broker
            .publish(to_queue(queue.name(), "a"))
            .await
            .expect("stored");
        for round in 0..3 {
            let delivery = next(&mut consumer).await;
            assert_eq!(delivery.deliveries, 1, "{queue_type:?} round {round}");
            match round {
                2 => drop(delivery),
                _ => delivery.release().await.expect("released"),
            }
        }
        for deaths in 2..5 {
            let held = next(&mut consumer).await;
            assert_eq!(held.deliveries, deaths - 1, "{queue_type:?}");
            proxy.cut();
            timeout(SOON, held.stale().stale()).await.expect("void");
            drop(held);
        }
        let delivery = next(&mut consumer).await;
        assert_eq!((delivery.deliveries, delivery.redelivered), (4, true));
        let again = delivery.message.again();
        assert!(again.text(header::DELIVERIES).is_none());
        delivery.ack(None).await.expect("acked");
        clean(&broker, &queue).await;
    }
}

#[tokio::test]
async fn an_acknowledgement_that_did_not_arrive_is_none() {
    let Some(url) = url() else { return };
    let (proxy, through) = proxied(&url).await;
    let broker = connect(&through).await;
    let queue = Queue::new(unique("unheard"));
    let mut consumer = broker.consume(&queue, 1).await.expect("consumer");
    let publish = to_queue(queue.name(), "a");
    broker.publish(publish).await.expect("stored");
    let delivery = next(&mut consumer).await;
    proxy.set(Rules {
        black_hole: true,
        ..Rules::default()
    });
    let mut acked = tokio::spawn(delivery.ack(None));
    let early = timeout(300 * MILLISECOND, &mut acked).await;
    assert!(early.is_err(), "nobody has said that it arrived");
    // Who connects again must not wait in the hole.
    proxy.refuse(true);
    proxy.reset();
    let unheard = timeout(SOON, acked).await.expect("told").expect("no panic");
    proxy.heal();
    assert!(matches!(unheard, Err(Error::Stale { .. })), "{unheard:?}");
    let again = next(&mut consumer).await;
    assert!(again.redelivered);
    again.ack(None).await.expect("acked");
    clean(&broker, &queue).await;
}

#[tokio::test]
async fn what_a_dropped_consumer_holds_goes_back_for_free() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let queue = Queue::new(unique("dropped"));
    let mut consumer = broker.consume(&queue, 5).await.expect("consumer");
    for i in 0..5 {
        let id = i.to_string();
        broker
            .publish(to_queue(queue.name(), &id))
            .await
            .expect("stored");
    }
    let held = next(&mut consumer).await;
    drop(consumer);
    let mut second = broker.consume(&queue, 5).await.expect("consumer");
    let mut ids = HashSet::from([held.message.id.clone()]);
    for _ in 0..4 {
        let delivery = next(&mut second).await;
        assert_eq!(delivery.deliveries, 1);
        ids.insert(delivery.message.id.clone());
        delivery.ack(None).await.expect("acked");
    }
    assert_eq!(ids.len(), 5);
    // The first consumer's last delivery is still its own to settle.
    held.ack(None).await.expect("acked");
    drop(second);
    assert_eq!(broker.depth(queue.name()).await.expect("there").ready, 0);
    clean(&broker, &queue).await;
}

#[tokio::test]
async fn close_hands_back_what_is_held() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let queue = Queue::new(unique("closed"));
    let mut consumer = broker.consume(&queue, 5).await.expect("consumer");
    for i in 0..5 {
        let id = i.to_string();
        broker
            .publish(to_queue(queue.name(), &id))
            .await
            .expect("stored");
    }
    let held = next(&mut consumer).await;
    let start = Instant::now();
    broker.close().await;
    println!("closed in {:?}", start.elapsed());
    assert!(held.stale().is_stale());
    assert!(matches!(held.ack(None).await, Err(Error::Stale { .. })));
    while let Some(left) = consumer.next().await {
        drop(left);
    }
    let error = broker
        .publish(to_queue(queue.name(), "x"))
        .await
        .expect_err("closed");
    assert!(matches!(error, Error::Closed { .. }), "{error}");
    let other = connect(&url).await;
    let mut consumer = other.consume(&queue, 5).await.expect("consumer");
    for _ in 0..5 {
        next(&mut consumer).await.ack(None).await.expect("acked");
    }
    drop(consumer);
    clean(&other, &queue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stays_unconfirmed_is_published_ever_less_often() {
    let Some(url) = url() else { return };
    let direct = connect(&url).await;
    let (queue, target) = (Queue::new(unique("from")), Queue::new(unique("to")));
    for queue in [&queue, &target] {
        direct.declare(queue).await.expect("declared");
    }
    direct
        .publish(to_queue(queue.name(), "a"))
        .await
        .expect("stored");
    let address = without_confirms(&url, usize::MAX).await;
    let broker = connect(&through(&url, address)).await;
    let mut consumer = broker.consume(&queue, 1).await.expect("consumer");
    let delivery = next(&mut consumer).await;
    let mut copy = to_queue(target.name(), "a");
    copy.deadline = Duration::from_millis(250);
    let start = Instant::now();
    let settling = tokio::spawn(delivery.retry(copy));
    // As in a cluster without its majority, all of them may be stored.
    while direct.depth(target.name()).await.expect("depth").ready < 5 {
        sleep(Duration::from_millis(10)).await;
    }
    // After 250, 500 and 1000 ms; and one on another channel, to see whether confirms come there.
    let took = start.elapsed();
    assert!(took > Duration::from_millis(1700), "{took:?}");
    assert!(!settling.is_finished(), "the delivery is still held");
    settling.abort();
    drop(consumer);
    broker.close().await;
    let mut consumer = direct.consume(&queue, 1).await.expect("consumer");
    let again = next(&mut consumer).await;
    again.ack(None).await.expect("acked");
    direct.delete(target.name()).await.expect("deleted");
    clean(&direct, &queue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_waits_for_room_in_a_full_queue() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let (queue, full) = (Queue::new(unique("from")), unique("full"));
    broker.declare(&queue).await.expect("declared");
    let (_connection, channel) = raw_channel(&url).await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    let refuses = AMQPValue::LongString("reject-publish".into());
    arguments.insert("x-overflow".into(), refuses);
    let durable = QueueDeclareOptions::durable();
    let declare = channel.queue_declare(full.as_str().into(), durable, arguments);
    declare.await.expect("a queue that others have made");
    for (to, id) in [(&*full, "before"), (queue.name(), "a")] {
        broker.publish(to_queue(to, id)).await.expect("stored");
    }
    let mut consumer = broker.consume(&queue, 1).await.expect("consumer");
    let delivery = next(&mut consumer).await;
    let mut follower = to_queue(&full, "after");
    follower.deadline = Duration::from_millis(500);
    let mut settling = tokio::spawn(delivery.ack([follower]));
    let early = timeout(Duration::from_millis(1500), &mut settling).await;
    assert!(early.is_err(), "there is no room: {early:?}");
    let others = Queue::new(&*full);
    let mut reader = broker.consume(&others, 1).await.expect("a reader");
    for id in ["before", "after"] {
        let delivery = next(&mut reader).await;
        assert_eq!(delivery.message.id, id);
        delivery.ack(None).await.expect("acked");
    }
    let settled = timeout(Duration::from_secs(10), settling).await;
    settled
        .expect("in time")
        .expect("no panic")
        .expect("settled");
    drop((consumer, reader));
    for name in [others.name(), &others.dead_letter_name()] {
        broker.delete(name).await.expect("deleted");
    }
    clean(&broker, &queue).await;
}
