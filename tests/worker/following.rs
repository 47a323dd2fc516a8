//! What is to follow a call and can never be sent.

use crate::on_every_broker;
use std::time::Duration;

use garenne::broker::{Publish, Replies, Route};
use garenne::dead_letters::Dead;
use garenne::message::{Arguments, Message};
use garenne::{Ack, App, SECOND};
use serde_json::{Value, json};

use crate::support::{self, within};
use crate::tasks::*;

/// A step that no exchange leads to its queue.
fn lost() -> Value {
    json!({"task": "add", "args": [3], "options": {"task_id": "lost", "exchange": "typo", "routing_key": "x"}})
}

/// A step whose result is awaited.
fn awaited(address: &str) -> Value {
    json!({"task": "add", "args": [4], "options": {"task_id": "last", "correlation_id": "last", "reply_to": address}})
}

/// Sends a call as a Python app would, with what is to follow it, the next one last.
async fn send(app: &App, task: &str, args: Value, address: &str, ack: Ack, embed: Value) {
    let mut message = Message::new("first".into(), task, &Arguments::default());
    message.set("lang", "py");
    message.reply_to = Some(address.to_owned());
    if matches!(ack, Ack::Early) {
        message.set("garenne-ack", "early");
    }
    message.body = json!([args, {}, embed]).to_string().into_bytes().into();
    let route = Route::Queue(format!("{}default", app.prefix()));
    let publish = Publish {
        route,
        message,
        delay: Duration::ZERO,
        deadline: 10 * SECOND,
    };
    app.declare("default").await.expect("a queue");
    app.broker().publish(publish).await.expect("stored");
}

/// The ids of so many replies, which all tell of failures, and what the last one says.
async fn failures(replies: &mut Replies, count: usize) -> (Vec<String>, String) {
    let (mut ids, mut last) = (Vec::new(), String::new());
    for _ in 0..count {
        let reply = within("a reply", replies.messages.recv())
            .await
            .expect("open");
        ids.extend(reply.correlation_id);
        last = String::from_utf8_lossy(&reply.body).into_owned();
        assert!(last.contains("FAILURE"), "{last}");
    }
    (ids, last)
}

/// The reasons and the errors of the dead letters, once nothing is left in the queue itself.
async fn dead(app: &App) -> Vec<(String, String)> {
    let depth = app.depth("default").await.expect("a queue");
    assert_eq!(depth.ready, 0, "it is settled");
    let letters = app.dead_letters("default");
    let found = letters.list(Dead::all()).await.expect("listed");
    letters.discard(Dead::all()).await.expect("discarded");
    let found = found.into_iter();
    found.map(|letter| (letter.reason, letter.error)).collect()
}

on_every_broker! {
    async fn a_call_whose_follower_can_never_be_sent_fails_once(app: App) {
        let mut replies = app.broker().replies().await.expect("a reply queue");
        let address = replies.address.clone();
        for ack in [Ack::Late, Ack::Early] {
            for embed in [json!({"chain": [awaited(&address), lost()]}), json!({"callbacks": [lost()], "chain": [awaited(&address)]})] {
                let (worker, mut said) = worker(&app, "default", 2);
                let worker = worker.spawn();
                send(&app, "leaves_a_trace", json!([1, 2]), &address, ack, embed).await;
                let (ids, last) = failures(&mut replies, 2).await;
                assert_eq!(ids, ["last", "first"]);
                assert!(last.contains("it succeeded, but what is to follow it cannot be sent"), "{last}");
                worker.stop().await.expect("stopped");
                let dead = dead(&app).await;
                assert_eq!(dead.len(), 1, "{dead:?}");
                assert_eq!(dead[0].0, "follower");
                assert!(dead[0].1.contains("typo"), "{dead:?}");
                assert_eq!(said.recv().await.as_deref(), Some("1 and 2"));
                assert_eq!(said.recv().await, None, "it ran once");
            }
        }
    }

    async fn an_errback_that_can_never_be_sent_keeps_nobody_from_the_failure(app: App) {
        let mut replies = app.broker().replies().await.expect("a reply queue");
        let address = replies.address.clone();
        for ack in [Ack::Late, Ack::Early] {
            let (worker, mut said) = worker(&app, "default", 2);
            let worker = worker.spawn();
            let heard = json!({"task": "leaves_a_trace", "args": [7, 8], "immutable": true});
            let embed = json!({"errbacks": [lost(), heard], "chain": [awaited(&address)]});
            send(&app, "fail", json!(["no"]), &address, ack, embed).await;
            let (ids, last) = failures(&mut replies, 2).await;
            assert_eq!(ids, ["last", "first"]);
            assert!(last.contains("no"), "{last}");
            assert_eq!(within("the other errback", said.recv()).await.as_deref(), Some("7 and 8"));
            worker.stop().await.expect("stopped");
            assert_eq!(dead(&app).await, [("failed".to_owned(), "no".to_owned())]);
        }
    }

    async fn a_follower_that_no_broker_could_take_is_seen_before_the_call_runs(app: App) {
        let mut replies = app.broker().replies().await.expect("a reply queue");
        let address = replies.address.clone();
        let (worker, mut said) = worker(&app, "default", 1);
        let worker = worker.spawn();
        let far = json!({"task": "add", "args": [3], "options": {"countdown": 1e8}});
        let nowhere = json!({"task": "add", "args": [3], "options": {"queue": "amq.nowhere"}});
        let in_a_group = json!({"task": "celery.group", "subtask_type": "group", "kwargs": {"tasks": [far]}});
        for (step, words) in [(far, "is due in"), (nowhere, "the broker's own"), (in_a_group, "is due in")] {
            send(&app, "leaves_a_trace", json!([1, 2]), &address, Ack::Late, json!({"callbacks": [step]})).await;
            let (_, last) = failures(&mut replies, 1).await;
            assert!(last.contains(words), "{last}");
        }
        worker.stop().await.expect("stopped");
        let dead = dead(&app).await;
        assert!(dead.len() == 3 && dead.iter().all(|(reason, _)| reason == "unsupported"), "{dead:?}");
        assert_eq!(said.recv().await, None, "it never ran");
    }
}
