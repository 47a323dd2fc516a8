//! What queues are: made once and used as they are, prioritised, counted, deleted, or a consumer's own.

use std::time::Duration;

use garenne::broker::{Exchange, Queue};
use tokio::time::{Instant, sleep};

use super::fixture::{
    Fixture, assert_unroutable, message, next, nothing, take, to_exchange, to_queue, within,
};

pub(crate) async fn declaring_twice_changes_nothing(f: &Fixture) {
    let queue = f.declared("q").await;
    f.send(&queue, &["a"]).await;
    f.declare(&queue).await;
    within(f.publisher.declare(&queue))
        .await
        .expect("a declaration");
    let mut consumer = f.consume(&queue, 1).await;
    assert_eq!(take(&mut consumer, 1).await, ["a"]);
    nothing(&mut consumer).await;
}

pub(crate) async fn a_queue_that_exists_with_other_settings_is_used_as_it_is(f: &Fixture) {
    let queue = f.queue("q").max_priority(9);
    f.declare(&queue).await;
    f.send(&queue, &["a"]).await;
    let other = Queue::new(queue.name());
    f.declare(&other).await;
    f.send(&queue, &["b"]).await;
    let mut consumer = f.consume(&other, 1).await;
    assert_eq!(take(&mut consumer, 2).await, ["a", "b"]);
}

pub(crate) async fn an_exchange_that_exists_with_another_kind_is_used_as_it_is(f: &Fixture) {
    let direct = Exchange::direct(f.name("e"));
    let queue = f.queue("q").bind(&direct, "key");
    f.declare(&queue).await;
    let fanout = Exchange::fanout(direct.name());
    within(f.publisher.declare_exchange(&fanout))
        .await
        .expect("a declaration");
    f.publish(to_exchange(&fanout, "key", message("a"))).await;
    let outcome = f
        .try_publish(to_exchange(&fanout, "other", message("b")))
        .await;
    assert_unroutable(outcome, direct.name());
    let bound_as_fanout = f.queue("q2").bind(&fanout, "another");
    f.declare(&bound_as_fanout).await;
    f.publish(to_exchange(&direct, "key", message("c"))).await;
    let mut consumer = f.consume(&queue, 1).await;
    assert_eq!(take(&mut consumer, 2).await, ["a", "c"]);
    let mut consumer = f.consume(&bound_as_fanout, 1).await;
    nothing(&mut consumer).await;
}

pub(crate) async fn declaring_again_adds_bindings(f: &Fixture) {
    let exchange = Exchange::direct(f.name("e"));
    let queue = f.queue("q");
    for key in ["one", "two"] {
        f.declare(&queue.clone().bind(&exchange, key)).await;
    }
    for key in ["one", "two"] {
        f.publish(to_exchange(&exchange, key, message(key))).await;
    }
    let mut consumer = f.consume(&queue, 1).await;
    assert_eq!(take(&mut consumer, 2).await, ["one", "two"]);
}

pub(crate) async fn each_queue_has_one_for_its_dead_letters(f: &Fixture) {
    let queue = f.declared("q").await;
    let dead = queue.dead_letters();
    assert_eq!(f.depth(&dead).await.ready, 0);
    f.send(&dead, &["a"]).await;
    let mut consumer = f.consume(&dead, 1).await;
    assert_eq!(take(&mut consumer, 1).await, ["a"]);
    let outcome = within(f.consumer.depth(&format!("{}.dead", dead.name()))).await;
    assert!(
        outcome.is_err(),
        "dead letters of dead letters: {outcome:?}"
    );
}

pub(crate) async fn higher_priorities_come_first(f: &Fixture) {
    let queue = f.queue("q").max_priority(9);
    f.declare(&queue).await;
    for (id, priority) in [
        ("none", None),
        ("five", Some(5)),
        ("nine", Some(9)),
        ("one", Some(1)),
        ("seven", Some(7)),
    ] {
        let mut sent = message(id);
        sent.priority = priority;
        f.publish(to_queue(&queue, sent)).await;
    }
    let mut consumer = f.consume(&queue, 1).await;
    let ids = take(&mut consumer, 5).await;
    assert_eq!(ids, ["nine", "seven", "five", "one", "none"]);
}

pub(crate) async fn one_priority_keeps_the_order_of_arrival(f: &Fixture) {
    let queue = f.queue("q").max_priority(9);
    f.declare(&queue).await;
    for i in 0..30 {
        let mut sent = message(&format!("{}-{i:02}", i % 3));
        sent.priority = Some(i % 3);
        f.publish(to_queue(&queue, sent)).await;
    }
    let mut consumer = f.consume(&queue, 1).await;
    let ids = take(&mut consumer, 30).await;
    let mut expected = ids.clone();
    expected.sort_by_key(|id| (std::cmp::Reverse(id[..1].to_owned()), id[2..].to_owned()));
    assert_eq!(ids, expected);
}

pub(crate) async fn a_priority_above_the_highest_counts_as_the_highest(f: &Fixture) {
    let queue = f.queue("q").max_priority(3);
    f.declare(&queue).await;
    for (id, priority) in [("three", 3), ("two", 2), ("huge", 255)] {
        let mut sent = message(id);
        sent.priority = Some(priority);
        f.publish(to_queue(&queue, sent)).await;
    }
    let mut consumer = f.consume(&queue, 1).await;
    let taken = take(&mut consumer, 3).await;
    match f.has_a_highest_priority() {
        true => assert_eq!(taken, ["three", "huge", "two"]),
        false => assert_eq!(taken, ["huge", "three", "two"]),
    }
}

pub(crate) async fn embedded_brokers_prioritise_every_queue(f: &Fixture) {
    if !f.prioritises_every_queue() {
        return;
    }
    let queue = f.declared("q").await;
    for (id, priority) in [("low", 1), ("high", 8)] {
        let mut sent = message(id);
        sent.priority = Some(priority);
        f.publish(to_queue(&queue, sent)).await;
    }
    let mut consumer = f.consume(&queue, 1).await;
    assert_eq!(take(&mut consumer, 2).await, ["high", "low"]);
}

pub(crate) async fn the_depth_counts_ready_messages_and_consumers(f: &Fixture) {
    let queue = f.declared("q").await;
    f.ready_becomes(&queue, 0).await;
    f.consumers_become(&queue, 0).await;
    f.send(&queue, &["a", "b", "c"]).await;
    f.ready_becomes(&queue, 3).await;
    let mut one = f.consume(&queue, 1).await;
    let held = next(&mut one).await;
    f.ready_becomes(&queue, 2).await;
    f.consumers_become(&queue, 1).await;
    let two = f.consume(&queue, 1).await;
    f.consumers_become(&queue, 2).await;
    // A quorum queue counts a consumer that is gone as long as one of its deliveries is not settled.
    within(held.ack(None)).await.expect("an ack");
    drop((one, two));
    f.consumers_become(&queue, 0).await;
    f.ready_becomes(&queue, 2).await;
}

pub(crate) async fn the_depth_of_no_queue_is_an_error(f: &Fixture) {
    let outcome = within(f.consumer.depth(&f.name("nowhere"))).await;
    assert!(outcome.is_err(), "{outcome:?}");
    // And it did no harm.
    let queue = f.declared("q").await;
    f.send(&queue, &["a"]).await;
    f.ready_becomes(&queue, 1).await;
}

pub(crate) async fn deleting_takes_a_queue_and_all_that_is_in_it(f: &Fixture) {
    let queue = f.declared("q").await;
    f.send(&queue, &["a", "b"]).await;
    within(f.publisher.delete(queue.name()))
        .await
        .expect("a deletion");
    assert!(within(f.consumer.depth(queue.name())).await.is_err());
    let outcome = f.try_publish(to_queue(&queue, message("c"))).await;
    assert_unroutable(outcome, queue.name());
    f.declare(&queue).await;
    f.ready_becomes(&queue, 0).await;
}

pub(crate) async fn deleting_no_queue_is_no_error(f: &Fixture) {
    within(f.publisher.delete(&f.name("nowhere")))
        .await
        .expect("a deletion");
}

pub(crate) async fn exclusive_queues_each_get_a_copy(f: &Fixture) {
    let exchange = Exchange::fanout(f.name("news"));
    let mut consumers = Vec::new();
    for _ in 0..3 {
        let queue = Queue::exclusive().bind(&exchange, "");
        f.declare(&queue).await;
        consumers.push(f.consume(&queue, 4).await);
    }
    for id in ["a", "b"] {
        f.publish(to_exchange(&exchange, "", message(id))).await;
    }
    for consumer in &mut consumers {
        assert_eq!(take(consumer, 2).await, ["a", "b"]);
        nothing(consumer).await;
    }
}

pub(crate) async fn an_exclusive_queue_goes_with_its_consumer(f: &Fixture) {
    let exchange = Exchange::fanout(f.name("news"));
    let queue = Queue::exclusive().bind(&exchange, "");
    f.declare(&queue).await;
    let mut consumer = f.consume(&queue, 4).await;
    f.publish(to_exchange(&exchange, "", message("a"))).await;
    assert_eq!(take(&mut consumer, 1).await, ["a"]);
    drop(consumer);
    let end = Instant::now() + Duration::from_secs(10);
    while within(f.consumer.depth(queue.name())).await.is_ok() {
        assert!(Instant::now() < end, "the queue is still there");
        sleep(Duration::from_millis(20)).await;
    }
    let outcome = f
        .try_publish(to_exchange(&exchange, "", message("b")))
        .await;
    assert_unroutable(outcome, exchange.name());
}
