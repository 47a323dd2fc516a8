//! Many at once: nothing is lost, doubled, or told to the wrong sender.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use garenne::broker::Route;
use garenne::error::Error;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::fixture::{A_MOMENT, Fixture, message, publish, take, to_queue, within};

const COUNT: usize = 2_000;

/// Publishes this many messages at once.
async fn flood(f: &Fixture, queue: &garenne::broker::Queue) {
    let publishes = (0..COUNT).map(|i| {
        let sent = to_queue(queue, message(&i.to_string()));
        f.publisher.publish(sent)
    });
    for outcome in within(join_all(publishes)).await {
        outcome.expect("a publish");
    }
}

pub(crate) async fn two_thousand_publishes_at_once_are_all_stored(f: &Fixture) {
    let queue = f.declared("q").await;
    flood(f, &queue).await;
    f.ready_becomes(&queue, COUNT as u64).await;
}

pub(crate) async fn publishes_of_many_tasks_are_all_stored(f: &Fixture) {
    let queue = f.declared("q").await;
    let senders = (0..20).map(|sender| {
        let (broker, queue) = (f.publisher.clone(), queue.clone());
        tokio::spawn(async move {
            for i in 0..20 {
                let sent = to_queue(&queue, message(&format!("{sender:02}-{i:02}")));
                broker.publish(sent).await.expect("a publish");
            }
        })
    });
    for sender in within(join_all(senders)).await {
        sender.expect("no panic");
    }
    let mut consumer = f.consume(&queue, 50).await;
    let mut ids = take(&mut consumer, 400).await;
    for sender in 0..20 {
        // Who waits for each confirm keeps their own order.
        let of_sender = format!("{sender:02}-");
        let own = ids.iter().filter(|id| id.starts_with(&of_sender));
        assert!(own.is_sorted(), "{ids:?}");
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 400);
}

pub(crate) async fn each_publish_gets_its_own_verdict(f: &Fixture) {
    let queue = f.declared("q").await;
    let is_good = |i: usize| i % 3 != 1;
    let publishes = (0..600).map(|i| {
        let name = if is_good(i) {
            queue.name().to_owned()
        } else {
            f.name(&format!("nowhere-{i}."))
        };
        f.publisher
            .publish(publish(Route::Queue(name), message(&i.to_string())))
    });
    for (i, outcome) in within(join_all(publishes)).await.into_iter().enumerate() {
        match outcome {
            Ok(()) => assert!(is_good(i), "{i} is not stored"),
            Err(error @ Error::Unroutable { .. }) => {
                let own = error.to_string().contains(&format!("nowhere-{i}."));
                assert!(own, "{i} got the verdict of another: {error}");
            }
            Err(error) => panic!("{i}: {error:?}"),
        }
    }
    f.ready_becomes(&queue, (0..600).filter(|i| is_good(*i)).count() as u64)
        .await;
}

pub(crate) async fn eight_consumers_take_each_message_once(f: &Fixture) {
    let queue = f.declared("q").await;
    let (taken, mut ids) = mpsc::unbounded_channel();
    let mut consumers = Vec::new();
    for _ in 0..8 {
        let mut consumer = f.consume(&queue, 16).await;
        let taken = taken.clone();
        consumers.push(tokio::spawn(async move {
            while let Some(delivery) = consumer.next().await {
                let delivery = delivery.expect("a delivery");
                let id = delivery.message.id.clone();
                delivery.ack(None).await.expect("an ack");
                taken.send(id).expect("a listener");
            }
        }));
    }
    flood(f, &queue).await;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..COUNT {
        let id = within(ids.recv()).await.expect("an id");
        *counts.entry(id).or_default() += 1;
    }
    let surplus = timeout(A_MOMENT, ids.recv()).await;
    assert!(surplus.is_err(), "{surplus:?} came twice");
    assert_eq!(counts.len(), COUNT, "some came twice");
    f.ready_becomes(&queue, 0).await;
    for consumer in consumers {
        consumer.abort();
    }
}

pub(crate) async fn released_and_dropped_deliveries_are_not_lost_among_many(f: &Fixture) {
    let queue = f.declared("q").await;
    let publishes = (0..300).map(|i| f.try_publish(to_queue(&queue, message(&i.to_string()))));
    for outcome in join_all(publishes).await {
        outcome.expect("a publish");
    }
    let mut consumer = f.consume(&queue, 20).await;
    let mut done = BTreeMap::new();
    for round in 0_u32.. {
        if done.len() == 300 {
            break;
        }
        let delivery = within(consumer.next()).await;
        let delivery = delivery.expect("an open consumer").expect("a delivery");
        match round % 7 {
            0 if round < 300 => within(delivery.release()).await.expect("a release"),
            3 if round < 300 => drop(delivery),
            _ => {
                *done.entry(delivery.message.id.clone()).or_insert(0) += 1;
                within(delivery.ack(None)).await.expect("an ack");
            }
        }
    }
    let more = timeout(Duration::from_millis(150), consumer.next()).await;
    assert!(more.is_err(), "{more:?} came twice");
    assert!(done.values().all(|count| *count == 1));
}
