//! Hostile replies to a waiting client: its handle is told, or not disturbed, and the client goes on.

use std::sync::Arc;
use std::time::Duration;

use garenne::broker::{Publish, Route};
use garenne::message::Message;
use garenne::{App, Handle};

use super::tasks::{self, add};
use crate::raw::{Properties, RawPublisher, nested_tables, place};
use crate::support::{TempFile, eventually, rabbitmq, unique, within};

/// A call that nobody has answered yet.
struct Open {
    handle: Handle<i64>,
    id: String,
    /// The client's reply queue.
    address: String,
}

async fn open(app: &App, queue: &str) -> Open {
    let handle = add::call(2, 3).queue(queue).send(app).await.expect("sent");
    let mut consumer = {
        let queue = garenne::Queue::new(format!("{}{queue}", app.prefix()));
        app.broker().consume(&queue, 1).await.expect("a queue")
    };
    let delivery = within("the call", consumer.next()).await;
    let delivery = delivery.expect("open").expect("a delivery");
    let open = Open {
        id: handle.id().to_owned(),
        handle,
        address: delivery.message.reply_to.clone().expect("a reply address"),
    };
    delivery.ack(None).await.expect("settled");
    open
}

/// A reply as a worker writes it, but for its result.
fn good(id: &str, result: &str) -> Vec<u8> {
    format!(r#"{{"status": "SUCCESS", "result": {result}, "task_id": "{id}"}}"#).into_bytes()
}

async fn reply(app: &App, address: &str, id: &str, body: impl Into<Vec<u8>>) {
    let publish = Publish {
        route: Route::Reply(address.to_owned()),
        message: Message {
            id: id.to_owned(),
            correlation_id: Some(id.to_owned()),
            body: Arc::new(body.into()),
            ..Message::default()
        },
        delay: Duration::ZERO,
        deadline: Duration::from_secs(10),
    };
    app.broker().publish(publish).await.expect("stored");
}

/// Bodies that are no reply.
fn garbage(id: &str) -> Vec<Vec<u8>> {
    let mut bodies: Vec<Vec<u8>> = [
        "",
        "x",
        "null",
        "[]",
        "{}",
        "7",
        "\"SUCCESS\"",
        "{\"status\": 7}",
        "{\"status\": \"SUCCESS\"}",
        "[[2, 3], {}, {}]",
    ]
    .map(Into::into)
    .into();
    bodies.push(b"\xff\xfe\0\x80".to_vec());
    bodies.push("[".repeat(1_000_000).into_bytes());
    bodies.push(vec![b' '; 4 << 20]);
    bodies.push(good(id, "1e99999, NaN"));
    bodies.push(good(id, &"[".repeat(1000)));
    // News of a call that has not ended, and of an end that there is not.
    for status in ["STARTED", "RETRY", "PENDING", "success", "\\u0000"] {
        let body = format!(r#"{{"status": "{status}", "result": 9, "task_id": "{id}"}}"#);
        bodies.push(body.into_bytes());
    }
    bodies
}

async fn hostile_replies(url: &str) {
    let app = App::connect(url).await.expect("the test's broker");
    let queue = unique("replies");
    let awaited = open(&app, &queue).await;
    let (id, address) = (awaited.id.as_str(), awaited.address.as_str());
    for body in garbage(id) {
        reply(&app, address, id, body).await;
    }
    for other in ["", "unknown", "\0", &"x".repeat(255)] {
        reply(&app, address, other, good(other, "1")).await;
    }
    if url.starts_with("amqp") {
        hostile_frames(url, address, id).await;
    }
    // The first reply that is one counts.
    reply(&app, address, id, good(id, "5")).await;
    reply(&app, address, id, good(id, "6")).await;
    assert_eq!(within("the reply", awaited.handle.result()).await, Ok(5));
    assert_eq!(
        within("the reply again", awaited.handle.result()).await,
        Ok(5)
    );
    // A result of another type is said to be one.
    for result in [
        "\"text\"",
        "1e999",
        "{}",
        "[[[[1]]]]",
        "99999999999999999999",
        &deep(),
    ] {
        let awaited = open(&app, &queue).await;
        reply(
            &app,
            &awaited.address,
            &awaited.id,
            good(&awaited.id, result),
        )
        .await;
        let failure = within("a failure", awaited.handle.result())
            .await
            .expect_err("no number");
        assert!(
            !failure.message.is_empty() && failure.task == "add",
            "{failure}"
        );
    }
    // A failure in a form that no worker writes is a failure.
    for result in [
        "null",
        "7",
        "{\"exc_type\": 7}",
        "{\"exc_type\": \"\", \"exc_message\": [{\"a\": []}]}",
    ] {
        let awaited = open(&app, &queue).await;
        let body = String::from_utf8(good(&awaited.id, result)).expect("text");
        reply(
            &app,
            &awaited.address,
            &awaited.id,
            body.replace("SUCCESS", "FAILURE"),
        )
        .await;
        let failure = within("a failure", awaited.handle.result())
            .await
            .expect_err("no result");
        assert!(!failure.message.is_empty(), "{failure:?}");
    }
    // Nothing is kept of the others, once the reader has let go of the last.
    eventually("only the first handle", async || app.awaited() == 1).await;
    let worker = tasks::worker(&app, &queue).spawn();
    let call = add::call(2, 3)
        .queue(&*queue)
        .send(&app)
        .await
        .expect("sent");
    assert_eq!(within("a good call", call).await, Ok(5));
    worker.stop().await.expect("stopped");
    app.delete(&queue).await.expect("deleted");
    app.close().await;
}

fn deep() -> String {
    "[".repeat(100_000) + &"]".repeat(100_000)
}

/// Replies that would end a client's connection, or the client.
async fn hostile_frames(url: &str, address: &str, id: &str) {
    let mut raw = RawPublisher::connect(url).await;
    let plain = || Properties::default().bytes(place::DELIVERY_MODE, &[2]);
    let not_text = b"\xff\xfe";
    let frames = [
        plain(),
        plain().short(place::CORRELATION_ID, not_text),
        plain()
            .short(place::CORRELATION_ID, id.as_bytes())
            .short(place::TYPE, not_text),
        plain().header(b"x", &nested_tables(3_000)),
        plain()
            .header(not_text, b"V")
            .short(place::MESSAGE_ID, not_text),
    ];
    for properties in frames {
        let properties = properties.encode();
        let publish = raw.publish("", address.as_bytes(), &properties, b"{}");
        within("a hostile reply", publish).await.expect("stored");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory() {
    hostile_replies("memory://").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite() {
    let file = TempFile::new("db");
    hostile_replies(&file.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_rabbitmq() {
    let Some(url) = rabbitmq() else { return };
    hostile_replies(&url).await;
}
