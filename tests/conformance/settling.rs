//! What becomes of a delivery: taken off for good, handed back, lost, and counted as such.

use std::time::Duration;

use garenne::error::Error;
use garenne::message::header;

use super::fixture::{A_MOMENT, Fixture, delayed, message, next, nothing, take, to_queue, within};

pub(crate) async fn one_slot_takes_messages_in_the_order_of_their_arrival(f: &Fixture) {
    let queue = f.declared("q").await;
    let ids: Vec<String> = (0..50).map(|i| format!("m{i}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    f.send(&queue, &ids).await;
    let mut consumer = f.consume(&queue, 1).await;
    assert_eq!(take(&mut consumer, 50).await, ids);
}

pub(crate) async fn no_more_than_the_slots_are_unsettled(f: &Fixture) {
    let queue = f.declared("q").await;
    f.send(&queue, &["a", "b", "c", "d", "e"]).await;
    let mut consumer = f.consume(&queue, 3).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(next(&mut consumer).await);
    }
    nothing(&mut consumer).await;
    f.ready_becomes(&queue, 2).await;
    within(held.remove(1).ack(None)).await.expect("an ack");
    held.push(next(&mut consumer).await);
    nothing(&mut consumer).await;
    within(held.remove(0).ack(None)).await.expect("an ack");
    assert_eq!(next(&mut consumer).await.message.id, "e");
}

pub(crate) async fn a_consumer_may_be_allowed_more_and_less(f: &Fixture) {
    let queue = f.declared("q").await;
    let ids: Vec<String> = (0..20).map(|i| format!("m{i}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    f.send(&queue, &ids).await;
    let mut consumer = f.consume(&queue, 1).await;
    let mut held = vec![next(&mut consumer).await];
    nothing(&mut consumer).await;
    consumer.subscription().allow(4);
    for _ in 0..3 {
        held.push(next(&mut consumer).await);
    }
    nothing(&mut consumer).await;
    f.ready_becomes(&queue, 16).await;
    consumer.subscription().allow(2);
    nothing(&mut consumer).await;
    for taken in [2, 0] {
        within(held.remove(taken).ack(None)).await.expect("an ack");
        nothing(&mut consumer).await;
    }
    within(held.remove(1).ack(None)).await.expect("an ack");
    held.push(next(&mut consumer).await);
    nothing(&mut consumer).await;
    consumer.subscription().allow(8);
    for _ in 0..6 {
        held.push(next(&mut consumer).await);
    }
    nothing(&mut consumer).await;
    // What was held when it was allowed more is settled as ever, whatever the order.
    held.reverse();
    for delivery in held.drain(..) {
        within(delivery.ack(None)).await.expect("an ack");
    }
    assert_eq!(take(&mut consumer, 9).await.len(), 9);
    nothing(&mut consumer).await;
    f.ready_becomes(&queue, 0).await;
}

pub(crate) async fn an_acknowledged_message_never_comes_again(f: &Fixture) {
    let queue = f.declared("q").await;
    let mut consumer = f.consume(&queue, 2).await;
    f.send(&queue, &["a", "b", "c"]).await;
    take(&mut consumer, 3).await;
    drop(consumer);
    let mut other = f.consume(&queue, 2).await;
    nothing(&mut other).await;
    f.ready_becomes(&queue, 0).await;
}

pub(crate) async fn a_released_message_returns_at_no_cost(f: &Fixture) {
    let queue = f.declared("q").await;
    let mut consumer = f.consume(&queue, 1).await;
    f.send(&queue, &["a"]).await;
    for _ in 0..5 {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.message.id, "a");
        assert_eq!(delivery.deliveries, 1);
        within(delivery.release()).await.expect("a release");
    }
    assert_eq!(take(&mut consumer, 1).await, ["a"]);
    nothing(&mut consumer).await;
}

pub(crate) async fn a_released_message_is_delivered_again(f: &Fixture) {
    let queue = f.declared("q").await;
    f.send(&queue, &["a", "b", "c"]).await;
    let mut consumer = f.consume(&queue, 1).await;
    let first = next(&mut consumer).await;
    within(first.release()).await.expect("a release");
    // Where it stands among the others is the broker's affair.
    let mut ids = take(&mut consumer, 3).await;
    ids.sort();
    assert_eq!(ids, ["a", "b", "c"]);
}

pub(crate) async fn a_dropped_delivery_comes_again(f: &Fixture) {
    let queue = f.declared("q").await;
    let mut consumer = f.consume(&queue, 1).await;
    f.send(&queue, &["a"]).await;
    drop(next(&mut consumer).await);
    let again = next(&mut consumer).await;
    assert_eq!(again.message.id, "a");
    within(again.ack(None)).await.expect("an ack");
    nothing(&mut consumer).await;
}

pub(crate) async fn what_a_dropped_consumer_has_not_read_goes_to_another(f: &Fixture) {
    let queue = f.declared("q").await;
    f.send(&queue, &["a", "b", "c", "d"]).await;
    let mut consumer = f.consume(&queue, 3).await;
    let read = next(&mut consumer).await;
    // The others are under way to it, or there.
    f.ready_becomes(&queue, 1).await;
    drop(consumer);
    let mut other = f.consume(&queue, 4).await;
    let mut ids = take(&mut other, 3).await;
    ids.sort();
    assert_eq!(ids, ["b", "c", "d"]);
    within(read.ack(None)).await.expect("an ack");
    nothing(&mut other).await;
}

pub(crate) async fn a_delivery_outlives_its_consumer(f: &Fixture) {
    let queue = f.declared("q").await;
    f.send(&queue, &["a"]).await;
    let mut consumer = f.consume(&queue, 1).await;
    let delivery = next(&mut consumer).await;
    drop(consumer);
    let mut other = f.consume(&queue, 1).await;
    nothing(&mut other).await;
    within(delivery.ack(None)).await.expect("an ack");
    nothing(&mut other).await;
    f.ready_becomes(&queue, 0).await;
}

pub(crate) async fn a_delivery_can_be_released_after_its_consumer_is_gone(f: &Fixture) {
    let queue = f.declared("q").await;
    f.send(&queue, &["a"]).await;
    let mut consumer = f.consume(&queue, 1).await;
    let delivery = next(&mut consumer).await;
    drop(consumer);
    within(delivery.release()).await.expect("a release");
    let mut other = f.consume(&queue, 1).await;
    assert_eq!(take(&mut other, 1).await, ["a"]);
}

pub(crate) async fn an_ack_publishes_what_goes_first(f: &Fixture) {
    let (queue, dead) = (f.declared("q").await, f.declared("other").await);
    let replies = within(f.publisher.replies()).await.expect("replies");
    let mut consumer = f.consume(&queue, 1).await;
    f.send(&queue, &["a"]).await;
    let mut reply = to_queue(&queue, message("reply"));
    reply.route = garenne::broker::Route::Reply(replies.address.clone());
    let letter = to_queue(&dead, message("letter"));
    let delivery = next(&mut consumer).await;
    within(delivery.reject(letter, Some(reply)))
        .await
        .expect("a rejection");
    // Both are there when the settlement has returned.
    let mut letters = f.consume(&dead, 1).await;
    assert_eq!(take(&mut letters, 1).await, ["letter"]);
    let mut messages = replies.messages;
    let reply = within(messages.recv()).await.expect("a reply");
    assert_eq!(reply.id, "reply");
    nothing(&mut consumer).await;
    f.ready_becomes(&queue, 0).await;
}

pub(crate) async fn a_message_stays_if_what_goes_first_cannot_be_stored(f: &Fixture) {
    let queue = f.declared("q").await;
    let nowhere = f.queue("nowhere");
    let mut consumer = f.consume(&queue, 1).await;
    f.send(&queue, &["a"]).await;
    let delivery = next(&mut consumer).await;
    let outcome = within(delivery.ack(Some(to_queue(&nowhere, message("lost"))))).await;
    assert!(
        matches!(outcome, Err(Error::Unroutable { .. })),
        "{outcome:?}"
    );
    assert_eq!(take(&mut consumer, 1).await, ["a"]);
}

pub(crate) async fn a_retry_comes_again_after_its_delay(f: &Fixture) {
    let queue = f.declared("q").await;
    let mut consumer = f.consume(&queue, 1).await;
    f.send(&queue, &["a"]).await;
    let delivery = next(&mut consumer).await;
    let copy = to_queue(
        &queue,
        delivery
            .message
            .next_attempt("no luck", std::time::SystemTime::now()),
    );
    let delay = Duration::from_millis(400);
    let start = tokio::time::Instant::now();
    within(delivery.retry(delayed(delay, copy)))
        .await
        .expect("a retry");
    let again = next(&mut consumer).await;
    let took = start.elapsed();
    assert!(took >= delay, "after {took:?}");
    assert!(took < delay + Duration::from_secs(1), "after {took:?}");
    assert_eq!((again.message.attempt(), again.deliveries), (2, 1));
    assert_eq!(again.message.history(), ["no luck"]);
    within(again.ack(None)).await.expect("an ack");
    nothing(&mut consumer).await;
}

pub(crate) async fn a_copy_says_how_often_its_message_came_back(f: &Fixture) {
    let queue = f.declared("q").await;
    let mut consumer = f.consume(&queue, 1).await;
    f.send(&queue, &["a"]).await;
    let delivery = next(&mut consumer).await;
    let mut copy = to_queue(&queue, delivery.message.again());
    copy.message.set(header::DELIVERIES, 2);
    let delay = Duration::from_millis(20);
    within(delivery.retry(delayed(delay, copy)))
        .await
        .expect("a retry");
    let again = next(&mut consumer).await;
    assert_eq!(again.deliveries, 3);
    within(again.release()).await.expect("released");
    let again = next(&mut consumer).await;
    assert_eq!(again.deliveries, 3, "that cost nothing");
    within(again.ack(None)).await.expect("an ack");
}

pub(crate) async fn two_consumers_share_a_queue_without_doubles(f: &Fixture) {
    let queue = f.declared("q").await;
    let mut one = f.consume(&queue, 1).await;
    let mut two = f.consume(&queue, 1).await;
    f.send(&queue, &["a", "b"]).await;
    let first = next(&mut one).await;
    let second = next(&mut two).await;
    assert_ne!(first.message.id, second.message.id);
    for delivery in [first, second] {
        within(delivery.ack(None)).await.expect("an ack");
    }
    nothing(&mut one).await;
    nothing(&mut two).await;
}

pub(crate) async fn unsettled_deliveries_of_a_closed_connection_come_again(f: &Fixture) {
    let Some(other) = f.another().await else {
        return;
    };
    let queue = f.declared("q").await;
    f.send(&queue, &["a", "b"]).await;
    let mut lost = within(other.consume(&queue, 2)).await.expect("a consumer");
    let held = next(&mut lost).await;
    f.ready_becomes(&queue, 0).await;
    within(other.close()).await;
    let mut consumer = f.consume(&queue, 2).await;
    let mut ids = take(&mut consumer, 2).await;
    ids.sort();
    assert_eq!(ids, ["a", "b"]);
    assert!(held.stale().is_stale());
    let outcome = within(held.ack(None)).await;
    assert!(matches!(outcome, Err(Error::Stale { .. })), "{outcome:?}");
}

pub(crate) async fn a_closed_broker_does_nothing_more(f: &Fixture) {
    let queue = f.declared("q").await;
    f.send(&queue, &["a", "b"]).await;
    let mut consumer = f.consume(&queue, 1).await;
    let held = next(&mut consumer).await;
    assert!(!held.stale().is_stale());
    within(f.consumer.close()).await;
    // What was on its way may still come out; then the stream ends.
    within(async { while consumer.next().await.is_some() {} }).await;
    within(held.stale().stale()).await;
    for outcome in [
        within(held.ack(None)).await,
        within(f.consumer.publish(to_queue(&queue, message("late")))).await,
        within(f.consumer.declare(&queue)).await,
        within(f.consumer.cancel("a")).await,
        within(f.consumer.delete(queue.name())).await,
        within(f.consumer.depth(queue.name())).await.map(|_| ()),
        within(f.consumer.consume(&queue, 1)).await.map(|_| ()),
        within(f.consumer.replies()).await.map(|_| ()),
        within(f.consumer.cancellations()).await.map(|_| ()),
    ] {
        let refused = matches!(outcome, Err(Error::Closed { .. } | Error::Stale { .. }));
        assert!(refused, "{outcome:?}");
    }
    // Closing again is no error, and nothing hangs.
    within(f.consumer.close()).await;
}

pub(crate) async fn a_release_after_the_close_is_an_error_too(f: &Fixture) {
    let queue = f.declared("q").await;
    f.send(&queue, &["a"]).await;
    let mut consumer = f.consume(&queue, 1).await;
    let held = next(&mut consumer).await;
    within(f.consumer.close()).await;
    let outcome = within(held.release()).await;
    let refused = matches!(outcome, Err(Error::Closed { .. } | Error::Stale { .. }));
    assert!(refused, "{outcome:?}");
}

pub(crate) async fn a_consumer_gives_service_again_when_its_deleted_queue_is_back(f: &Fixture) {
    let queue = f.declared("q").await;
    let mut consumer = f.consume(&queue, 2).await;
    f.send(&queue, &["before"]).await;
    assert_eq!(take(&mut consumer, 1).await, ["before"]);
    within(f.publisher.delete(queue.name()))
        .await
        .expect("a deletion");
    tokio::time::sleep(A_MOMENT).await;
    within(f.publisher.declare(&queue))
        .await
        .expect("a declaration");
    f.send(&queue, &["after"]).await;
    let next = tokio::time::timeout(Duration::from_secs(10), consumer.next());
    let delivery = next.await.expect("service within 10 seconds");
    let delivery = delivery.expect("an open consumer").expect("a delivery");
    assert_eq!(delivery.message.id, "after");
}

pub(crate) async fn what_was_acknowledged_just_before_the_close_never_comes_again(f: &Fixture) {
    let Some(other) = f.another().await else {
        return;
    };
    let queue = f.declared("q").await;
    let sent = (0..200).map(|n| f.publish(to_queue(&queue, message(&n.to_string()))));
    futures_util::future::join_all(sent).await;
    let mut consumer = within(other.consume(&queue, 200))
        .await
        .expect("a consumer");
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(next(&mut consumer).await);
    }
    let acks = held.into_iter().map(|delivery| delivery.ack(None));
    for outcome in futures_util::future::join_all(acks).await {
        outcome.expect("an ack");
    }
    drop(consumer);
    within(other.close()).await;
    let mut consumer = f.consume(&queue, 200).await;
    nothing(&mut consumer).await;
    f.ready_becomes(&queue, 0).await;
}
