//! Messages of chance to a live worker: whatever they are, it goes on.

use std::time::Duration;

use garenne::App;
use garenne::broker::{Publish, Route};
use garenne::message::{Arguments, Message};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;

use super::tasks::{self, add};
use crate::on_every_broker;
use crate::support::{self, eventually, unique, within};

/// How many, unless `PROPTEST_CASES` says otherwise.
const FEW: usize = 200;
/// Headers that are read, beside `task` and `id`.
const READ: [&str; 10] = [
    "expires",
    "retries",
    "timelimit",
    "compression",
    "ignore_result",
    "garenne-retries",
    "garenne-backoff",
    "garenne-ack",
    "garenne-history",
    "stamps",
];
const BODIES: [&str; 8] = [
    "[[2, 3], {}, {}]",
    "[[], {\"a\": 2, \"b\": 3}, {}]",
    "[[2], {}, {}]",
    "[[2, 3], {}]",
    "[]",
    "{}",
    "",
    "[[1e999, null], {}, null]",
];

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::num::f64::ANY.prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop::collection::vec(inner, 0..4).prop_map(Value::from)
    })
}

fn messages() -> impl Strategy<Value = Message> {
    let headers = prop::collection::vec((select(&READ), json()), 0..3);
    let task = prop_oneof![4 => Just("add".to_owned()), 2 => Just("echo".to_owned()), 1 => any::<String>()];
    let body = prop_oneof![4 => select(&BODIES).prop_map(|body| body.as_bytes().to_vec()), 1 => any::<Vec<u8>>()];
    let text = || prop_oneof![2 => Just(None), 1 => "[ -~]{0,80}".prop_map(Some)];
    (
        ".{0,60}",
        task,
        headers,
        body,
        text(),
        text(),
        any::<Option<u8>>(),
    )
        .prop_map(
            |(id, task, headers, body, correlation_id, reply_to, priority)| {
                let mut message = Message::new(id, &task, &Arguments::default());
                for (name, value) in headers {
                    message.headers.insert(name.to_owned(), value);
                }
                // A reply to a server's own name is not chance's to send.
                let reply_to = reply_to.filter(|address: &String| !address.starts_with("amq."));
                Message {
                    body: body.into(),
                    correlation_id,
                    reply_to,
                    priority,
                    ..message
                }
            },
        )
}

on_every_broker! {
    async fn a_worker_survives_what_chance_sends(app: App) {
        let count = std::env::var("PROPTEST_CASES").ok().and_then(|count| count.parse().ok());
        let queue = unique("fuzz");
        let worker = tasks::worker(&app, &queue).spawn();
        let mut runner = TestRunner::default();
        for n in 0..count.unwrap_or(FEW) {
            let tree = messages().new_tree(&mut runner).expect("a message");
            let publish = Publish {
                route: Route::Queue(format!("{}{queue}", app.prefix())),
                message: tree.current(),
                delay: Duration::ZERO,
                deadline: Duration::from_secs(10),
            };
            let said = format!("{:?}", publish.message);
            app.declare(&*queue).await.expect("declared");
            if let Err(error) = app.broker().publish(publish).await {
                assert!(!error.is_transient(), "{error}: {said}");
            }
            if n % 20 == 0 {
                let call = add::call(2, 3).queue(&*queue).send(&app).await.expect("sent");
                assert_eq!(within("a good call", call).await, Ok(5), "after {said}");
            }
        }
        eventually("all is settled", async || app.depth(&queue).await.is_ok_and(|depth| depth.ready == 0)).await;
        worker.stop().await.expect("stopped");
        app.delete(&queue).await.expect("deleted");
        app.delete(&format!("{queue}.dead")).await.expect("deleted");
    }
}
