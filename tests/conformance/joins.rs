//! Joins: one body message when the last part has come, whoever brings it and however often.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::iter;
use garenne::broker::{Broker, Consumer, Join, Publish, Queue, Route};
use garenne::error::{Error, Result};
use garenne::message::Message;
use serde_json::json;
use tokio::time::Instant;

use super::fixture::{
    Fixture, assert_unroutable, delayed, message, next, nothing, publish, take, to_exchange,
    to_queue, within,
};

/// A part with this id, of a join of as many parts.
fn part(join: &str, id: &str, parts: u32) -> Publish {
    let route = Route::Join {
        join: join.to_owned(),
        parts,
        fire: false,
    };
    publish(route, message(id))
}

/// A part that fires its join.
fn firing(join: &str, id: &str, parts: u32) -> Publish {
    let route = Route::Join {
        join: join.to_owned(),
        parts,
        fire: true,
    };
    publish(route, message(id))
}

async fn try_open(f: &Fixture, name: &str, parts: u32, body: Publish) -> Result<()> {
    let name = name.to_owned();
    within(f.publisher.open_join(Join { name, parts, body })).await
}

/// Opens a join of as many parts, with the body `body` for a queue.
async fn open(f: &Fixture, name: &str, parts: u32, queue: &Queue) -> String {
    let name = f.join(name);
    let body = to_queue(queue, message("body"));
    try_open(f, &name, parts, body).await.expect("an open join");
    name
}

/// Brings parts of these ids from the other connection, one by one.
async fn bring(f: &Fixture, join: &str, ids: &[&str], parts: u32) {
    for id in ids {
        let brought = f.consumer.publish(part(join, id, parts));
        within(brought).await.expect("a part");
    }
}

/// The ids of the parts that are there.
async fn parts(f: &Fixture, join: &str) -> Option<BTreeSet<String>> {
    let parts = within(f.consumer.parts(join, usize::MAX))
        .await
        .expect("parts")?;
    let count = parts.len();
    let ids: BTreeSet<String> = parts.into_iter().map(|part| part.id).collect();
    assert_eq!(ids.len(), count, "each once");
    Some(ids)
}

fn ids<const N: usize>(ids: [&str; N]) -> Option<BTreeSet<String>> {
    Some(ids.map(str::to_owned).into())
}

/// That the body comes, once.
async fn assert_fired(consumer: &mut Consumer) {
    assert_eq!(take(consumer, 1).await, ["body"]);
    nothing(consumer).await;
}

pub(crate) async fn a_body_goes_out_with_the_last_part(f: &Fixture) {
    let queue = f.declared("bodies").await;
    let mut consumer = f.consume(&queue, 5).await;
    let join = open(f, "j", 3, &queue).await;
    bring(f, &join, &["a", "b"], 3).await;
    nothing(&mut consumer).await;
    bring(f, &join, &["c"], 3).await;
    assert_fired(&mut consumer).await;
}

pub(crate) async fn a_body_is_in_its_queue_when_the_last_part_is_confirmed(f: &Fixture) {
    let queue = f.declared("bodies").await;
    for round in 0..20 {
        let join = open(f, &round.to_string(), 2, &queue).await;
        bring(f, &join, &["a", "b"], 2).await;
    }
    f.ready_becomes(&queue, 20).await;
}

pub(crate) async fn the_same_part_counts_once(f: &Fixture) {
    let queue = f.declared("bodies").await;
    let mut consumer = f.consume(&queue, 5).await;
    let join = open(f, "j", 2, &queue).await;
    for body in ["first", "second", "third"] {
        let mut again = part(&join, "a", 2);
        again.message.body = Arc::new(body.into());
        f.publish(again).await;
    }
    nothing(&mut consumer).await;
    let kept = within(f.consumer.parts(&join, usize::MAX))
        .await
        .expect("parts");
    let kept = kept.expect("an open join");
    assert_eq!(kept.len(), 1);
    assert_eq!(**kept[0].body, *b"first");
    bring(f, &join, &["b"], 2).await;
    assert_fired(&mut consumer).await;
}

pub(crate) async fn a_part_without_a_correlation_is_known_by_its_id(f: &Fixture) {
    let queue = f.declared("bodies").await;
    let mut consumer = f.consume(&queue, 5).await;
    let join = open(f, "j", 2, &queue).await;
    for id in ["a", "a", "b"] {
        nothing(&mut consumer).await;
        let mut plain = part(&join, id, 2);
        plain.message.correlation_id = None;
        f.publish(plain).await;
    }
    assert_fired(&mut consumer).await;
}

pub(crate) async fn parts_arrive_as_they_were_sent(f: &Fixture) {
    let queue = f.declared("bodies").await;
    let join = open(f, "j", 2, &queue).await;
    let sent = Message {
        id: "r-1".into(),
        correlation_id: Some("member".into()),
        content_type: "application/octet-stream".into(),
        headers: json!({"garenne-attempts": 2, "mine": [1, "ö", null]})
            .as_object()
            .cloned()
            .expect("an object"),
        body: Arc::new((0..=255).collect()),
        ..Message::default()
    };
    let mut publish = part(&join, "", 2);
    publish.message = sent.clone();
    f.publish(publish).await;
    let mut got = within(f.consumer.parts(&join, usize::MAX))
        .await
        .expect("parts");
    let got = &mut got.as_mut().expect("an open join")[0];
    got.headers.retain(|name, _| !name.starts_with("x-"));
    assert_eq!(*got, sent);
}

pub(crate) async fn a_part_after_the_firing_fires_nothing(f: &Fixture) {
    let queue = f.declared("bodies").await;
    let mut consumer = f.consume(&queue, 5).await;
    let join = open(f, "j", 2, &queue).await;
    bring(f, &join, &["a", "b"], 2).await;
    assert_fired(&mut consumer).await;
    bring(f, &join, &["a", "b", "c", "d", "e"], 2).await;
    f.publish(firing(&join, "a", 2)).await;
    let checked = within(f.publisher.check_join(&join, 2, true)).await;
    checked.expect("a check");
    nothing(&mut consumer).await;
}

pub(crate) async fn a_join_fires_early_when_asked(f: &Fixture) {
    let queue = f.declared("bodies").await;
    let mut consumer = f.consume(&queue, 5).await;
    let join = open(f, "part", 5, &queue).await;
    bring(f, &join, &["a", "b"], 5).await;
    f.publish(firing(&join, "c", 5)).await;
    assert_fired(&mut consumer).await;
    assert_eq!(parts(f, &join).await, ids(["a", "b", "c"]));
    // Those that come late complete nothing.
    bring(f, &join, &["d", "e"], 5).await;
    nothing(&mut consumer).await;
    let join = open(f, "check", 5, &queue).await;
    let checked = within(f.consumer.check_join(&join, 5, true)).await;
    checked.expect("a check");
    assert_fired(&mut consumer).await;
    assert_eq!(parts(f, &join).await, ids([]));
}

pub(crate) async fn a_check_fires_nothing_that_is_not_complete(f: &Fixture) {
    let queue = f.declared("bodies").await;
    let mut consumer = f.consume(&queue, 5).await;
    let join = open(f, "j", 2, &queue).await;
    for id in ["a", "b"] {
        let checked = within(f.consumer.check_join(&join, 2, false)).await;
        checked.expect("a check");
        nothing(&mut consumer).await;
        bring(f, &join, &[id], 2).await;
    }
    assert_fired(&mut consumer).await;
}

/// Who names a wrong number cannot fire a join before its time.
pub(crate) async fn a_join_knows_how_many_parts_it_waits_for(f: &Fixture) {
    let queue = f.declared("bodies").await;
    let mut consumer = f.consume(&queue, 5).await;
    let join = open(f, "j", 3, &queue).await;
    bring(f, &join, &["a"], 1).await;
    bring(f, &join, &["b"], 0).await;
    let checked = within(f.consumer.check_join(&join, 0, false)).await;
    checked.expect("a check");
    nothing(&mut consumer).await;
    bring(f, &join, &["c"], 3).await;
    assert_fired(&mut consumer).await;
}

pub(crate) async fn parts_stay_until_the_join_is_closed(f: &Fixture) {
    let queue = f.declared("bodies").await;
    let mut consumer = f.consume(&queue, 5).await;
    let join = open(f, "j", 2, &queue).await;
    assert_eq!(parts(f, &join).await, ids([]));
    bring(f, &join, &["a"], 2).await;
    assert_eq!(parts(f, &join).await, ids(["a"]));
    bring(f, &join, &["b"], 2).await;
    assert_fired(&mut consumer).await;
    for _ in 0..30 {
        assert_eq!(parts(f, &join).await, ids(["a", "b"]));
    }
    within(f.consumer.close_join(&join)).await.expect("closed");
    assert_eq!(parts(f, &join).await, None);
    nothing(&mut consumer).await;
}

pub(crate) async fn many_parts_are_all_there(f: &Fixture) {
    const PARTS: u32 = 1_000;
    let queue = f.declared("bodies").await;
    let mut consumer = f.consume(&queue, 5).await;
    let join = open(f, "j", PARTS, &queue).await;
    let publishes = (0..PARTS).map(|i| f.consumer.publish(part(&join, &i.to_string(), PARTS)));
    let outcomes = within(futures_util::future::join_all(publishes)).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_fired(&mut consumer).await;
    let there = parts(f, &join).await.expect("an open join");
    assert_eq!(there.len(), PARTS as usize);
}

pub(crate) async fn no_more_parts_are_read_than_wanted(f: &Fixture) {
    const SIZE: usize = 100_000;
    let queue = f.declared("bodies").await;
    let mut consumer = f.consume(&queue, 5).await;
    let join = open(f, "j", 10, &queue).await;
    for id in 0..10 {
        let mut large = part(&join, &id.to_string(), 10);
        large.message.body = vec![b'x'; SIZE].into();
        f.publish(large).await;
    }
    assert_fired(&mut consumer).await;
    for (most, read) in [
        (0, 1),
        (SIZE - 1, 1),
        (SIZE, 2),
        (5 * SIZE, 6),
        (10 * SIZE, 10),
    ] {
        let parts = within(f.consumer.parts(&join, most)).await.expect("parts");
        assert_eq!(parts.map(|parts| parts.len()), Some(read), "{most}");
    }
    nothing(&mut consumer).await;
}

pub(crate) async fn a_join_that_is_gone_is_no_error(f: &Fixture) {
    let queue = f.declared("bodies").await;
    let mut consumer = f.consume(&queue, 5).await;
    let closed = open(f, "closed", 1, &queue).await;
    within(f.consumer.close_join(&closed))
        .await
        .expect("closed");
    for join in [closed, f.join("never")] {
        f.publish(part(&join, "a", 1)).await;
        f.publish(firing(&join, "b", 1)).await;
        let checked = within(f.consumer.check_join(&join, 1, true)).await;
        checked.expect("no error");
        assert_eq!(parts(f, &join).await, None);
        within(f.consumer.close_join(&join))
            .await
            .expect("no error");
    }
    nothing(&mut consumer).await;
}

pub(crate) async fn opening_twice_changes_nothing(f: &Fixture) {
    let queue = f.declared("bodies").await;
    let mut consumer = f.consume(&queue, 5).await;
    let join = open(f, "j", 2, &queue).await;
    let other = || to_queue(&queue, message("other"));
    try_open(f, &join, 1, other()).await.expect("no error");
    bring(f, &join, &["a"], 2).await;
    try_open(f, &join, 1, other()).await.expect("no error");
    nothing(&mut consumer).await;
    bring(f, &join, &["b"], 2).await;
    assert_fired(&mut consumer).await;
    // It has fired, and does not begin anew.
    try_open(f, &join, 2, other()).await.expect("no error");
    bring(f, &join, &["a", "b", "c"], 2).await;
    nothing(&mut consumer).await;
    assert_eq!(parts(f, &join).await, ids(["a", "b", "c"]));
}

pub(crate) async fn a_join_that_fired_without_parts_is_not_opened_anew(f: &Fixture) {
    let queue = f.declared("bodies").await;
    let mut consumer = f.consume(&queue, 5).await;
    let join = open(f, "j", 2, &queue).await;
    let fire = || within(f.consumer.check_join(&join, 2, true));
    fire().await.expect("fired");
    assert_fired(&mut consumer).await;
    let again = to_queue(&queue, message("body"));
    try_open(f, &join, 2, again).await.expect("no error");
    fire().await.expect("no error");
    bring(f, &join, &["a", "b"], 2).await;
    nothing(&mut consumer).await;
    assert_eq!(parts(f, &join).await, ids(["a", "b"]));
}

pub(crate) async fn a_closed_join_can_be_opened_anew(f: &Fixture) {
    let queue = f.declared("bodies").await;
    let mut consumer = f.consume(&queue, 5).await;
    let join = open(f, "j", 2, &queue).await;
    bring(f, &join, &["a"], 2).await;
    within(f.consumer.close_join(&join)).await.expect("closed");
    let join = open(f, "j", 2, &queue).await;
    bring(f, &join, &["b"], 2).await;
    nothing(&mut consumer).await;
    bring(f, &join, &["c"], 2).await;
    assert_fired(&mut consumer).await;
    assert_eq!(parts(f, &join).await, ids(["b", "c"]));
}

pub(crate) async fn a_body_arrives_as_it_was_parked(f: &Fixture) {
    let queue = f.declared("bodies").await;
    let mut consumer = f.consume(&queue, 1).await;
    for (name, priority, delay) in [("now", 3, 0), ("later", 3, 60), ("urgent", 9, 60)] {
        let mut parked = message("body");
        parked.set("mine", json!({"a": [1, "ö"]}));
        parked.set("garenne-retries", 3);
        parked.priority = Some(priority);
        parked.reply_to = Some("garenne.reply.nobody".into());
        parked.body = Arc::new((0..=255).collect());
        let body = delayed(
            Duration::from_millis(delay),
            to_queue(&queue, parked.clone()),
        );
        let join = f.join(name);
        try_open(f, &join, 2, body).await.expect("an open join");
        // Looks at it are none of its own deliveries.
        for _ in 0..6 {
            assert_eq!(parts(f, &join).await, ids([]));
        }
        bring(f, &join, &["a", "b"], 2).await;
        let mut delivery = next(&mut consumer).await;
        let headers = &mut delivery.message.headers;
        headers.retain(|name, _| !name.starts_with("x-"));
        assert_eq!(delivery.message, parked);
        assert_eq!(delivery.queue, queue.name());
        assert_eq!(delivery.exchange, "");
        assert_eq!(delivery.routing_key, queue.name());
        assert_eq!(delivery.deliveries, 1);
        within(delivery.ack(None)).await.expect("an ack");
    }
}

pub(crate) async fn a_delay_counts_from_the_firing(f: &Fixture) {
    let delay = Duration::from_millis(400);
    let queue = f.declared("bodies").await;
    let mut consumer = f.consume(&queue, 1).await;
    let join = f.join("j");
    let body = delayed(delay, to_queue(&queue, message("body")));
    try_open(f, &join, 1, body).await.expect("an open join");
    tokio::time::sleep(delay).await;
    nothing(&mut consumer).await;
    let fired = Instant::now();
    bring(f, &join, &["a"], 1).await;
    assert_eq!(take(&mut consumer, 1).await, ["body"]);
    assert!(fired.elapsed() >= delay, "{:?}", fired.elapsed());
    nothing(&mut consumer).await;
}

pub(crate) async fn an_acknowledgement_brings_the_last_part(f: &Fixture) {
    let (members, bodies) = (f.declared("members").await, f.declared("bodies").await);
    let mut consumer = f.consume(&bodies, 5).await;
    let join = open(f, "j", 3, &bodies).await;
    f.send(&members, &["a", "b", "c"]).await;
    let mut member = f.consume(&members, 1).await;
    let replies = within(f.publisher.replies()).await.expect("replies");
    for _ in 0..3 {
        nothing(&mut consumer).await;
        let delivery = next(&mut member).await;
        let reply = Route::Reply(replies.address.clone());
        let first = [
            part(&join, &delivery.message.id, 3),
            publish(reply, message("reply")),
        ];
        within(delivery.ack(first)).await.expect("an ack");
    }
    assert_fired(&mut consumer).await;
    f.ready_becomes(&members, 0).await;
}

pub(crate) async fn a_member_that_comes_again_fires_nothing_twice(f: &Fixture) {
    let (members, bodies) = (f.declared("members").await, f.declared("bodies").await);
    let mut consumer = f.consume(&bodies, 5).await;
    let join = open(f, "j", 2, &bodies).await;
    let mut member = f.consume(&members, 1).await;
    for id in ["a", "b"] {
        nothing(&mut consumer).await;
        f.send(&members, &[id]).await;
        let delivery = next(&mut member).await;
        // It dies behind its part.
        bring(f, &join, &[id], 2).await;
        drop(delivery);
        let again = next(&mut member).await;
        within(again.ack([part(&join, id, 2)]))
            .await
            .expect("an ack");
    }
    assert_fired(&mut consumer).await;
    assert_eq!(parts(f, &join).await, ids(["a", "b"]));
}

pub(crate) async fn names_of_no_join_are_ignored(f: &Fixture) {
    let queue = f.declared("q").await;
    f.send(&queue, &["waiting"]).await;
    let long = format!("garenne.join.{}", "x".repeat(300));
    for name in [queue.name(), "", "garenne.reply.x", "\0", &long] {
        f.publish(part(name, "a", 1)).await;
        f.publish(firing(name, "b", 1)).await;
        let checked = within(f.consumer.check_join(name, 1, true)).await;
        checked.expect("no error");
        assert_eq!(parts(f, name).await, None, "{name:?}");
        within(f.consumer.close_join(name)).await.expect("no error");
    }
    assert_eq!(f.depth(&queue).await.ready, 1);
    for name in [queue.name(), "", &long] {
        let opened = try_open(f, name, 1, to_queue(&queue, message("body"))).await;
        assert!(opened.is_err(), "{name:?}");
    }
    let mut consumer = f.consume(&queue, 2).await;
    assert_eq!(take(&mut consumer, 1).await, ["waiting"]);
    nothing(&mut consumer).await;
}

pub(crate) async fn a_body_must_have_a_queue(f: &Fixture) {
    let (join, missing) = (f.join("j"), f.queue("missing"));
    let opened = try_open(f, &join, 1, to_queue(&missing, message("body"))).await;
    assert_unroutable(opened, missing.name());
    let elsewhere = [
        to_exchange(&garenne::broker::Exchange::fanout("x"), "", message("body")),
        publish(Route::Reply("garenne.reply.x".into()), message("body")),
        part(&join, "body", 1),
    ];
    for body in elsewhere {
        let opened = try_open(f, &join, 1, body).await;
        assert!(matches!(opened, Err(Error::Refused { .. })), "{opened:?}");
    }
    assert_eq!(parts(f, &join).await, None);
}

pub(crate) async fn a_body_whose_queue_was_deleted_gets_a_new_one(f: &Fixture) {
    let queue = f.declared("bodies").await;
    let join = open(f, "j", 1, &queue).await;
    within(f.publisher.delete(queue.name()))
        .await
        .expect("deleted");
    bring(f, &join, &["a"], 1).await;
    let mut consumer = f.consume(&queue, 5).await;
    assert_fired(&mut consumer).await;
}

pub(crate) async fn two_hundred_joins_each_fire_once(f: &Fixture) {
    const JOINS: usize = 200;
    const PARTS: u32 = 20;
    let queue = f.declared("bodies").await;
    let mut consumer = f.consume(&queue, 50).await;
    let joins: Vec<String> = (0..JOINS).map(|i| f.join(&i.to_string())).collect();
    let opened = iter(&joins).map(|join| async {
        let body = to_queue(&queue, message(join));
        try_open(f, join, PARTS, body).await.expect("an open join");
    });
    opened.buffer_unordered(16).collect::<()>().await;
    // Every part once by each of its two connections, all of a join at about the same time.
    let another = f.another().await.unwrap_or_else(|| f.consumer.clone());
    let brokers: [Arc<dyn Broker>; 2] = [f.publisher.clone(), another];
    let publishes = (0..JOINS * PARTS as usize * 2).map(|i| {
        let (broker, number) = (&brokers[i % 2], i / 2);
        let (join, id) = (&joins[number / PARTS as usize], number % PARTS as usize);
        let published = broker.publish(part(join, &id.to_string(), PARTS));
        async move { published.await.expect("a part") }
    });
    iter(publishes).buffer_unordered(16).collect::<()>().await;
    let mut fired = BTreeMap::<String, usize>::new();
    for id in take(&mut consumer, JOINS).await {
        *fired.entry(id).or_default() += 1;
    }
    assert!(fired.values().all(|times| *times == 1), "{fired:?}");
    assert_eq!(fired.len(), JOINS);
    nothing(&mut consumer).await;
    for join in &joins {
        assert_eq!(parts(f, join).await.map_or(0, |parts| parts.len()), 20);
    }
    within(brokers[1].close()).await;
}
