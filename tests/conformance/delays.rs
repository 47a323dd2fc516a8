//! A delayed message comes when it is due: never before, hardly later, and in nobody's way.

use std::time::Duration;

use futures_util::future::join_all;
use garenne::broker::Exchange;
use tokio::time::Instant;

use super::fixture::{
    Fixture, delayed, message, next, nothing, take, to_exchange, to_queue, within,
};

/// How late a message may be.
const SLACK: Duration = Duration::from_secs(1);

/// Publishes a message with this delay and says when it came.
async fn delay_is_kept(f: &Fixture, delay: Duration) {
    let queue = f.declared("q").await;
    let mut consumer = f.consume(&queue, 1).await;
    for round in 0..3 {
        let start = Instant::now();
        f.publish(delayed(delay, to_queue(&queue, message("a"))))
            .await;
        let delivery = next(&mut consumer).await;
        let took = start.elapsed();
        assert!(took >= delay, "round {round}: {delay:?} took {took:?}");
        assert!(
            took < delay + SLACK,
            "round {round}: {delay:?} took {took:?}"
        );
        within(delivery.ack(None)).await.expect("an ack");
    }
}

pub(crate) async fn a_delay_of_1_ms_is_kept(f: &Fixture) {
    delay_is_kept(f, Duration::from_millis(1)).await;
}

pub(crate) async fn a_delay_of_30_ms_is_kept(f: &Fixture) {
    delay_is_kept(f, Duration::from_millis(30)).await;
}

pub(crate) async fn a_delay_of_250_ms_is_kept(f: &Fixture) {
    delay_is_kept(f, Duration::from_millis(250)).await;
}

pub(crate) async fn a_delay_of_1200_ms_is_kept(f: &Fixture) {
    delay_is_kept(f, Duration::from_millis(1200)).await;
}

pub(crate) async fn a_long_delay_does_not_hold_up_a_short_one(f: &Fixture) {
    let queue = f.declared("q").await;
    let mut consumer = f.consume(&queue, 1).await;
    let start = Instant::now();
    for (id, millis) in [("hour", 3_600_000), ("second", 900), ("moment", 200)] {
        let delay = Duration::from_millis(millis);
        f.publish(delayed(delay, to_queue(&queue, message(id))))
            .await;
    }
    f.send(&queue, &["now"]).await;
    assert_eq!(take(&mut consumer, 3).await, ["now", "moment", "second"]);
    assert!(start.elapsed() < Duration::from_millis(900) + SLACK);
    nothing(&mut consumer).await;
}

pub(crate) async fn a_waiting_consumer_is_woken_by_a_shorter_delay(f: &Fixture) {
    let queue = f.declared("q").await;
    let mut consumer = f.consume(&queue, 4).await;
    let far = Duration::from_secs(3600);
    f.publish(delayed(far, to_queue(&queue, message("far"))))
        .await;
    nothing(&mut consumer).await;
    let near = Duration::from_millis(100);
    let start = Instant::now();
    f.publish(delayed(near, to_queue(&queue, message("near"))))
        .await;
    assert_eq!(take(&mut consumer, 1).await, ["near"]);
    assert!(start.elapsed() < near + SLACK, "{:?}", start.elapsed());
}

pub(crate) async fn a_delayed_message_is_not_ready(f: &Fixture) {
    let queue = f.declared("q").await;
    let delay = Duration::from_secs(60);
    f.publish(delayed(delay, to_queue(&queue, message("later"))))
        .await;
    let mut consumer = f.consume(&queue, 1).await;
    nothing(&mut consumer).await;
    assert_eq!(f.depth(&queue).await.ready, 0);
}

pub(crate) async fn a_delayed_message_is_ready_once_it_is_due_without_a_consumer(f: &Fixture) {
    let queue = f.declared("q").await;
    let delay = Duration::from_millis(300);
    f.publish(delayed(delay, to_queue(&queue, message("later"))))
        .await;
    f.ready_becomes(&queue, 1).await;
}

pub(crate) async fn delayed_messages_are_counted(f: &Fixture) {
    let (one, two) = (f.declared("one").await, f.declared("two").await);
    let before = within(f.consumer.delayed()).await.expect("a number");
    for (queue, count) in [(&one, 3), (&two, 1)] {
        for _ in 0..count {
            let hour = Duration::from_secs(3600);
            f.publish(delayed(hour, to_queue(queue, message("later"))))
                .await;
        }
        f.send(queue, &["now"]).await;
    }
    let after = within(f.consumer.delayed()).await.expect("a number");
    match f.shares_delays() {
        false => assert_eq!(after, before + 4),
        // Other tests' come and go.
        true => assert!(after >= 4, "{after}"),
    }
    for (queue, count) in [(&one, 3), (&two, 1)] {
        let delayed = f.depth(queue).await.delayed;
        assert!(
            delayed.is_none_or(|delayed| delayed == count),
            "{delayed:?}"
        );
        assert_eq!(delayed.is_none(), f.shares_delays());
    }
}

pub(crate) async fn a_delayed_message_arrives_as_it_was_sent(f: &Fixture) {
    let queue = f.declared("q").await;
    let mut consumer = f.consume(&queue, 1).await;
    let mut sent = message("later");
    sent.priority = Some(3);
    sent.reply_to = Some("garenne.reply.nowhere".into());
    sent.set("tenant", "größe");
    sent.body = vec![0, 255, 7].into();
    let delay = Duration::from_millis(60);
    f.publish(delayed(delay, to_queue(&queue, sent.clone())))
        .await;
    let mut got = next(&mut consumer).await;
    got.message
        .headers
        .retain(|name, _| !name.starts_with("x-"));
    assert_eq!(got.message, sent);
    assert_eq!((got.deliveries, got.redelivered), (1, false));
}

pub(crate) async fn a_delayed_message_to_an_exchange_reaches_its_queues(f: &Fixture) {
    let exchange = Exchange::topic(f.name("logs"));
    let mut consumers = Vec::new();
    for name in ["one", "two"] {
        let queue = f.queue(name).bind(&exchange, "#.news");
        f.declare(&queue).await;
        consumers.push(f.consume(&queue, 1).await);
    }
    let delay = Duration::from_millis(300);
    let start = Instant::now();
    f.publish(delayed(
        delay,
        to_exchange(&exchange, "europe.news", message("a")),
    ))
    .await;
    for consumer in &mut consumers {
        assert_eq!(take(consumer, 1).await, ["a"]);
        assert!(start.elapsed() >= delay, "{:?}", start.elapsed());
        nothing(consumer).await;
    }
}

pub(crate) async fn a_hundred_mixed_delays_are_all_kept(f: &Fixture) {
    let queue = f.declared("q").await;
    let mut consumer = f.consume(&queue, 100).await;
    let start = Instant::now();
    let delay_of = |i: u64| Duration::from_millis(i * 37 % 1000);
    let publishes = (0..100).map(|i| {
        let publish = to_queue(&queue, message(&i.to_string()));
        f.try_publish(delayed(delay_of(i), publish))
    });
    for outcome in join_all(publishes).await {
        outcome.expect("a publish");
    }
    let published = Instant::now();
    for _ in 0..100 {
        let delivery = next(&mut consumer).await;
        let delay = delay_of(delivery.message.id.parse().expect("a number"));
        assert!(
            start.elapsed() >= delay,
            "{delay:?} after {:?}",
            start.elapsed()
        );
        assert!(
            published.elapsed() < delay + SLACK,
            "{delay:?} after {:?}",
            published.elapsed()
        );
        within(delivery.ack(None)).await.expect("an ack");
    }
    nothing(&mut consumer).await;
}
