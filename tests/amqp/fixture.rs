//! What these tests share: a server, messages, a proxy.

use std::time::Duration;

use garenne::broker::amqp::AmqpBroker;
use garenne::broker::url::BrokerUrl;
use garenne::broker::{Broker, Consumer, Delivery, Publish, Queue, Route};
use garenne::message::Message;
use lapin::{Channel, Connection, ConnectionProperties};
use tokio::time::timeout;

use crate::proxy::Proxy;

pub(crate) const SOON: Duration = Duration::from_secs(10);

/// The server's URL, without which a test says so and ends.
pub(crate) fn url() -> Option<String> {
    let url = std::env::var("GARENNE_TEST_AMQP").ok();
    if url.is_none() {
        println!("skipped: GARENNE_TEST_AMQP names no RabbitMQ");
    }
    url
}

pub(crate) async fn connect(url: &str) -> AmqpBroker {
    let url: BrokerUrl = url.parse().expect("a URL");
    AmqpBroker::connect(&url, "test").await.expect("a server")
}

pub(crate) fn unique(name: &str) -> String {
    format!("test.{name}.{}", uuid::Uuid::new_v4().simple())
}

pub(crate) fn message(id: &str) -> Message {
    let mut message = Message {
        id: id.to_owned(),
        content_type: "application/json".into(),
        content_encoding: "utf-8".into(),
        body: b"[[], {}, null]".to_vec().into(),
        ..Message::default()
    };
    message.set("id", id);
    message.set("task", "t");
    message
}

pub(crate) fn publish(route: Route, id: &str) -> Publish {
    Publish {
        route,
        message: message(id),
        delay: Duration::ZERO,
        deadline: SOON,
    }
}

pub(crate) fn to_queue(queue: &str, id: &str) -> Publish {
    publish(Route::Queue(queue.to_owned()), id)
}

pub(crate) fn delayed(queue: &str, id: &str, delay: Duration) -> Publish {
    Publish {
        delay,
        ..to_queue(queue, id)
    }
}

pub(crate) async fn next(consumer: &mut Consumer) -> Delivery {
    let next = timeout(SOON, consumer.next()).await.expect("in time");
    next.expect("an open consumer").expect("a delivery")
}

pub(crate) async fn raw_channel(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default());
    let connection = connection.await.expect("a server");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

/// A proxy before the server, and the URL that leads through it.
pub(crate) async fn proxied(url: &str) -> (Proxy, String) {
    let (head, rest) = url.rsplit_once('@').expect("user@host");
    let (target, vhost) = rest.split_once('/').unwrap_or((rest, "%2f"));
    let target = match target.contains(':') {
        true => target.to_owned(),
        false => format!("{target}:5672"),
    };
    let proxy = Proxy::start(&target).await;
    let through = format!("{head}@{}/{vhost}", proxy.address);
    (proxy, through)
}

pub(crate) async fn clean(broker: &AmqpBroker, queue: &Queue) {
    for name in [queue.name(), &queue.dead_letter_name()] {
        broker.delete(name).await.expect("deleted");
    }
    broker.close().await;
}

pub(crate) async fn recv<T>(receiver: &mut tokio::sync::mpsc::Receiver<T>) -> T {
    timeout(SOON, receiver.recv())
        .await
        .expect("in time")
        .expect("open")
}
