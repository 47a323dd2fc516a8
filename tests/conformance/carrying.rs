//! A message arrives as it was sent, whatever is in it.

use std::sync::Arc;

use garenne::broker::{Delivery, Queue};
use garenne::message::Message;
use serde_json::json;

use super::fixture::{Fixture, message, next, to_queue, within};

/// What arrives of `sent`, with the broker's own notes (`x-…`) left out.
async fn carry(f: &Fixture, sent: &Message) -> Delivery {
    let queue: Queue = f.declared("q").await;
    let mut consumer = f.consume(&queue, 1).await;
    f.publish(to_queue(&queue, sent.clone())).await;
    let mut delivery = next(&mut consumer).await;
    delivery
        .message
        .headers
        .retain(|name, _| !name.starts_with("x-"));
    delivery
}

pub(crate) async fn a_message_sent_before_any_consumer_waits_for_one(f: &Fixture) {
    let queue = f.declared("q").await;
    f.send(&queue, &["early"]).await;
    f.ready_becomes(&queue, 1).await;
    let mut consumer = f.consume(&queue, 1).await;
    assert_eq!(next(&mut consumer).await.message.id, "early");
}

pub(crate) async fn a_first_delivery_says_where_it_comes_from(f: &Fixture) {
    let delivery = carry(f, &message("one")).await;
    assert_eq!(delivery.queue, f.name("q"));
    assert_eq!((delivery.deliveries, delivery.redelivered), (1, false));
    assert!(!delivery.stale().is_stale());
    within(delivery.ack(None)).await.expect("an ack");
}

pub(crate) async fn properties_arrive_as_they_were_sent(f: &Fixture) {
    let mut sent = message("id-1");
    sent.correlation_id = Some("another id".into());
    sent.reply_to = Some("garenne.reply.nowhere".into());
    sent.priority = Some(7);
    let got = carry(f, &sent).await.message;
    assert_eq!(got, sent);
}

pub(crate) async fn absent_properties_arrive_absent(f: &Fixture) {
    let mut sent = message("id-1");
    sent.reply_to = None;
    sent.priority = None;
    let got = carry(f, &sent).await.message;
    assert_eq!((got.reply_to, got.priority), (None, None));
}

pub(crate) async fn headers_of_every_json_type_arrive_unchanged(f: &Fixture) {
    let mut sent = message("id-1");
    for (name, value) in [
        ("text", json!("plain")),
        ("empty", json!("")),
        ("unicode", json!("größe 🐇 \u{0} \"quoted\"")),
        ("größe", json!("a name in unicode")),
        ("zero", json!(0)),
        ("int", json!(42)),
        ("negative", json!(-7)),
        ("above_i32", json!(1_u64 << 40)),
        ("biggest", json!(i64::MAX)),
        ("smallest", json!(i64::MIN)),
        ("float", json!(1.5)),
        ("whole_float", json!(3.0)),
        ("small_float", json!(-2.5e-300)),
        ("yes", json!(true)),
        ("no", json!(false)),
        ("array", json!([1, "two", [3.5, false], {"four": -4}])),
        ("empty_array", json!([])),
        ("object", json!({"a": {"b": ["c", 1]}, "ü": 2})),
        ("empty_object", json!({})),
        ("long", json!("x".repeat(20_000))),
    ] {
        sent.headers.insert(name.to_owned(), value);
    }
    let got = carry(f, &sent).await.message;
    for (name, value) in &sent.headers {
        assert_eq!(got.headers.get(name), Some(value), "header {name}");
    }
    assert_eq!(got.headers.len(), sent.headers.len(), "{:?}", got.headers);
}

pub(crate) async fn an_empty_body_arrives_empty(f: &Fixture) {
    let mut sent = message("id-1");
    sent.body = Vec::new().into();
    assert!(carry(f, &sent).await.message.body.is_empty());
}

pub(crate) async fn a_body_of_a_mebibyte_arrives_whole(f: &Fixture) {
    let mut sent = message("id-1");
    sent.body = Arc::new((0..1 << 20).map(|i: u32| (i % 251) as u8).collect());
    let got = carry(f, &sent).await.message;
    assert!(got.body == sent.body, "{} bytes came", got.body.len());
}

pub(crate) async fn a_binary_body_and_its_content_type_are_not_touched(f: &Fixture) {
    let mut sent = message("id-1");
    sent.body = vec![0, 255, 128, 10, 13, 0].into();
    sent.content_type = "application/octet-stream".into();
    sent.content_encoding = "binary".into();
    assert_eq!(carry(f, &sent).await.message, sent);
}

pub(crate) async fn queue_names_may_be_unicode(f: &Fixture) {
    let queue = f.declared("größe-队列-🐇").await;
    let mut consumer = f.consume(&queue, 1).await;
    f.send(&queue, &["id-1"]).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.queue, queue.name());
    assert_eq!(delivery.message.id, "id-1");
}

pub(crate) async fn queue_names_may_have_200_bytes(f: &Fixture) {
    let room = 200 - f.name("").len();
    let queue = f.declared(&"n".repeat(room)).await;
    let mut consumer = f.consume(&queue, 1).await;
    f.send(&queue, &["id-1"]).await;
    assert_eq!(next(&mut consumer).await.message.id, "id-1");
}

pub(crate) async fn queue_names_that_amqp_refuses_are_errors(f: &Fixture) {
    for name in ["", "amq.mine", "a\nb", &"n".repeat(201)] {
        let outcome = within(f.consumer.declare(&Queue::new(name))).await;
        assert!(outcome.is_err(), "{name:?}");
    }
}
