//! What goes back: replies to who awaits them, and the news of cancelled calls to every worker.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use garenne::broker::{Cancellations, Publish, Route};

use super::fixture::{Fixture, message, publish, within};

fn reply(address: &str, id: &str) -> Publish {
    publish(Route::Reply(address.to_owned()), message(id))
}

pub(crate) async fn a_reply_reaches_its_address_unchanged(f: &Fixture) {
    let mut replies = within(f.publisher.replies()).await.expect("replies");
    let mut sent = reply(&replies.address, "call-1");
    sent.message.correlation_id = Some("call-1".into());
    sent.message.body = br#"{"status": "SUCCESS", "result": 5, "task_id": "call-1"}"#
        .to_vec()
        .into();
    within(f.consumer.publish(sent.clone()))
        .await
        .expect("a publish");
    let mut got = within(replies.messages.recv()).await.expect("a reply");
    got.headers.retain(|name, _| !name.starts_with("x-"));
    assert_eq!(got, sent.message);
}

pub(crate) async fn thousands_of_replies_all_arrive(f: &Fixture) {
    const COUNT: usize = 5_000;
    let mut replies = within(f.publisher.replies()).await.expect("replies");
    // Nobody reads yet: what is answered early waits.
    let publishes = (0..COUNT).map(|i| {
        let id = (i * 7919 % COUNT).to_string();
        f.consumer.publish(reply(&replies.address, &id))
    });
    for outcome in within(join_all(publishes)).await {
        outcome.expect("a publish");
    }
    let mut ids = BTreeSet::new();
    for _ in 0..COUNT {
        let reply = within(replies.messages.recv()).await.expect("a reply");
        assert!(ids.insert(reply.id.clone()), "{} came twice", reply.id);
    }
}

pub(crate) async fn a_reply_to_nobody_is_no_error(f: &Fixture) {
    let outcome = f
        .try_publish(reply(&f.name("garenne.reply.gone"), "a"))
        .await;
    outcome.expect("no error");
    // And it did no harm.
    let queue = f.declared("q").await;
    f.send(&queue, &["b"]).await;
    f.ready_becomes(&queue, 1).await;
}

pub(crate) async fn replies_end_with_their_broker(f: &Fixture) {
    let mut replies = within(f.publisher.replies()).await.expect("replies");
    within(f.publisher.close()).await;
    assert!(within(replies.messages.recv()).await.is_none());
}

/// Waits until `id` is known to be cancelled.
async fn hears_of(cancellations: &mut Cancellations, id: &str) {
    if cancellations.known.iter().any(|known| known == id) {
        return;
    }
    // Other cases cancel calls on the same broker.
    let heard = within(async {
        while let Some(heard) = cancellations.later.recv().await {
            if heard == id {
                return true;
            }
        }
        false
    });
    assert!(heard.await, "{id} was not heard of");
}

pub(crate) async fn a_cancellation_reaches_every_worker(f: &Fixture) {
    let id = f.name("call");
    let mut here = within(f.consumer.cancellations()).await.expect("a channel");
    let mut there = within(f.publisher.cancellations())
        .await
        .expect("a channel");
    within(f.publisher.cancel(&id)).await.expect("a cancel");
    hears_of(&mut here, &id).await;
    hears_of(&mut there, &id).await;
}

pub(crate) async fn a_cancellation_is_known_to_workers_that_start_later(f: &Fixture) {
    let ids = [f.name("one"), f.name("two")];
    for id in &ids {
        within(f.publisher.cancel(id)).await.expect("a cancel");
    }
    let mut later = within(f.consumer.cancellations()).await.expect("a channel");
    for id in &ids {
        hears_of(&mut later, id).await;
    }
    if let Some(other) = f.another().await {
        let mut later = within(other.cancellations()).await.expect("a channel");
        hears_of(&mut later, &ids[0]).await;
        within(other.close()).await;
    }
}

pub(crate) async fn what_is_not_cancelled_is_not_reported(f: &Fixture) {
    let id = f.name("cancelled");
    within(f.publisher.cancel(&id)).await.expect("a cancel");
    let mut heard = within(f.consumer.cancellations()).await.expect("a channel");
    hears_of(&mut heard, &id).await;
    let others = heard.known.iter().filter(|other| **other != id);
    let mine = others.filter(|other| other.starts_with(&f.name("")));
    assert_eq!(mine.count(), 0);
    let moment = Duration::from_millis(150);
    while let Ok(Some(other)) = tokio::time::timeout(moment, heard.later.recv()).await {
        assert!(
            !other.starts_with(&f.name("")) || other == id,
            "{other} was heard of"
        );
    }
}

pub(crate) async fn a_far_call_that_is_cancelled_is_told_of_at_once_too(f: &Fixture) {
    let mut heard = within(f.consumer.cancellations()).await.expect("a channel");
    let id = f.name("far");
    let month = Duration::from_secs(30 * 24 * 3600);
    let cancel = f.publisher.cancel_delayed(&id, month);
    within(cancel).await.expect("a cancel");
    hears_of(&mut heard, &id).await;
    let mut later = within(f.consumer.cancellations()).await.expect("a channel");
    hears_of(&mut later, &id).await;
    if f.shares_delays() {
        // It waits to be told again when the broker will have forgotten it.
        assert!(within(f.consumer.delayed()).await.expect("a number") > 0);
    }
}
