//! Settling, replies, delays and exclusive queues, with one process or two in this one.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use garenne::broker::{Broker, Exchange, Publish, Queue, Route};
use garenne::error::Error;

use super::place::{PATIENCE, Place, close, next, open, publish, to};

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_stores_all_or_nothing() {
    let place = Place::new();
    let broker = open(&place.file()).await;
    let mut consumer = broker.consume(&Queue::new("q"), 1).await.unwrap();
    broker.publish(to("q", "1")).await.unwrap();
    let delivery = next(&mut consumer).await;
    let nowhere = delivery
        .reject(to("q.dead", "1"), Some(to("nowhere", "1")))
        .await;
    assert!(
        matches!(nowhere, Err(Error::Unroutable { .. })),
        "{nowhere:?}"
    );
    assert_eq!(broker.depth("q.dead").await.unwrap().ready, 0);
    let delivery = next(&mut consumer).await;
    assert_eq!(
        (delivery.deliveries, delivery.redelivered),
        (1, true),
        "it came back, at no cost"
    );
    broker.delete("q").await.unwrap();
    let stale = delivery.reject(to("q.dead", "1"), None).await;
    assert!(matches!(stale, Err(Error::Stale { .. })), "{stale:?}");
    assert_eq!(broker.depth("q.dead").await.unwrap().ready, 0);
    let gone = broker.publish(to("q", "2")).await;
    assert!(matches!(gone, Err(Error::Unroutable { .. })), "{gone:?}");
    broker.declare(&Queue::new("q")).await.unwrap();
    broker.publish(to("q", "3")).await.unwrap();
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.message.id, "3", "the slot is free again");
    delivery.ack(None).await.unwrap();
    close(&[&broker]).await;
    assert!(consumer.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_consumer_gives_back_what_nobody_has_seen() {
    let place = Place::new();
    let broker = open(&place.file()).await;
    let mut first = broker.consume(&Queue::new("q"), 5).await.unwrap();
    for n in 0..5 {
        broker.publish(to("q", &n.to_string())).await.unwrap();
    }
    let held = next(&mut first).await;
    drop(first);
    let mut second = broker.consume(&Queue::new("q"), 5).await.unwrap();
    for n in 1..5 {
        let delivery = next(&mut second).await;
        assert_eq!(
            (delivery.message.id.as_str(), delivery.deliveries),
            (n.to_string().as_str(), 1)
        );
        delivery.ack(None).await.unwrap();
    }
    held.ack(None).await.unwrap();
    let depth = broker.depth("q").await.unwrap();
    assert_eq!((depth.ready, depth.consumers), (0, 1));
    close(&[&broker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_queue_goes_with_its_consumer_but_not_its_deliveries() {
    let place = Place::new();
    let (a, b) = (open(&place.file()).await, open(&place.file()).await);
    let news = Exchange::topic("news");
    let queue = Queue::exclusive().bind(&news, "#.sport");
    let mut consumer = a.consume(&queue, 1).await.unwrap();
    let route = Route::Exchange {
        exchange: "news".into(),
        routing_key: "eu.sport".into(),
    };
    for id in ["1", "2"] {
        b.publish(publish(route.clone(), id)).await.unwrap();
    }
    let delivery = next(&mut consumer).await;
    assert_eq!(
        (delivery.exchange.as_str(), delivery.routing_key.as_str()),
        ("news", "eu.sport")
    );
    drop(consumer);
    // Answered after the consumer's end, which was asked for before.
    a.declare_exchange(&news).await.unwrap();
    assert!(b.depth(queue.name()).await.is_err(), "the queue is gone");
    let nobody = b.publish(publish(route, "3")).await;
    assert!(
        matches!(nobody, Err(Error::Unroutable { .. })),
        "{nobody:?}"
    );
    delivery.ack(None).await.unwrap();
    close(&[&a, &b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_deleted_under_a_delivery_costs_no_slot() {
    let place = Place::new();
    let broker = open(&place.file()).await;
    let (first, second) = (Queue::new("first"), Queue::new("second"));
    let mut of_first = broker.consume(&first, 1).await.unwrap();
    let mut of_second = broker.consume(&second, 1).await.unwrap();
    broker.publish(to("first", "held")).await.unwrap();
    let held = next(&mut of_first).await;
    broker.delete("first").await.unwrap();
    // It gets the deleted one's place in the table.
    broker.publish(to("second", "a")).await.unwrap();
    let other = next(&mut of_second).await;
    let settled = held.ack(None).await;
    assert!(matches!(settled, Err(Error::Stale { .. })), "{settled:?}");
    other.ack(None).await.unwrap();
    broker.declare(&first).await.unwrap();
    for id in ["b", "c"] {
        broker.publish(to("first", id)).await.unwrap();
        let delivery = next(&mut of_first).await;
        assert_eq!(delivery.message.id, id);
        delivery.ack(None).await.unwrap();
    }
    close(&[&broker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_replies_than_there_is_room_for_wait_their_turn() {
    let place = Place::new();
    let (a, b) = (open(&place.file()).await, open(&place.file()).await);
    let mut replies = a.replies().await.unwrap();
    let count = 3000;
    let publishes = (0..count).map(|n| {
        b.publish(publish(
            Route::Reply(replies.address.clone()),
            &n.to_string(),
        ))
    });
    for outcome in futures_util::future::join_all(publishes).await {
        outcome.unwrap();
    }
    let mut seen = BTreeSet::new();
    while seen.len() < count {
        let reply = tokio::time::timeout(PATIENCE, replies.messages.recv());
        assert!(seen.insert(reply.await.unwrap().unwrap().id), "each once");
    }
    let address = replies.address.clone();
    close(&[&a]).await;
    b.publish(publish(Route::Reply(address), "late"))
        .await
        .unwrap();
    close(&[&b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delayed_messages_are_never_early_and_hardly_late() {
    let place = Place::new();
    let (a, b) = (open(&place.file()).await, open(&place.file()).await);
    let mut consumer = b.consume(&Queue::new("q"), 4).await.unwrap();
    for delay in [30, 1, 120, 60] {
        let delay = Duration::from_millis(delay);
        let due = SystemTime::now() + delay;
        a.publish(Publish {
            delay,
            ..to("q", "x")
        })
        .await
        .unwrap();
        let delivery = next(&mut consumer).await;
        let late = SystemTime::now().duration_since(due).expect("not early");
        println!("delayed by {delay:?}: late by {late:?}");
        assert!(late < Duration::from_millis(250), "{late:?}");
        delivery.ack(None).await.unwrap();
    }
    close(&[&a, &b]).await;
}
