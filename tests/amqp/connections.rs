//! Connections that end, and those that never come about.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use garenne::broker::amqp::AmqpBroker;
use garenne::broker::url::BrokerUrl;
use garenne::broker::{Broker, Queue};
use garenne::error::Error;
use tokio::time::{Instant, sleep, timeout};

use super::fixture::{SOON, clean, connect, next, proxied, to_queue, unique, url};

#[tokio::test]
async fn a_connection_outlives_its_channel_numbers() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let nowhere = unique("nowhere");
    // There are 2047 of them, each closed by the server with an error.
    for _ in 0..2100 {
        let error = broker.depth(&nowhere).await.expect_err("no queue");
        assert!(error.to_string().contains("no queue"), "{error}");
    }
    let queue = Queue::new(unique("numbers"));
    broker.declare(&queue).await.expect("declared");
    clean(&broker, &queue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_connection_is_back_within_a_second() {
    let Some(url) = url() else { return };
    let (proxy, through) = proxied(&url).await;
    let broker = Arc::new(connect(&through).await);
    let queue = Queue::new(unique("cut"));
    let mut consumer = broker.consume(&queue, 3).await.expect("consumer");
    broker
        .publish(to_queue(queue.name(), "held"))
        .await
        .expect("stored");
    let held = next(&mut consumer).await;
    let start = Instant::now();
    proxy.cut();
    timeout(SOON, held.stale().stale()).await.expect("void");
    let error = held.ack(None).await.expect_err("void");
    assert!(matches!(error, Error::Stale { .. }), "{error}");
    let again = next(&mut consumer).await;
    println!("delivered again {:?} after the cut", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(again.message.id, "held");
    assert_eq!(again.deliveries, 2);
    assert!(again.redelivered);
    again.ack(None).await.expect("acked");
    clean(&broker, &queue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_confirmed_message_is_lost_in_cuts() {
    let Some(url) = url() else { return };
    let (proxy, through) = proxied(&url).await;
    let broker = Arc::new(connect(&through).await);
    let queue = Queue::new(unique("cuts"));
    broker.declare(&queue).await.expect("declared");
    let publishers: Vec<_> = (0..20)
        .map(|p| {
            let (broker, name) = (broker.clone(), queue.name().to_owned());
            tokio::spawn(async move {
                for i in 0..100 {
                    let id = format!("{p}-{i}");
                    broker.publish(to_queue(&name, &id)).await.expect("stored");
                }
            })
        })
        .collect();
    for i in 0..5 {
        sleep(Duration::from_millis(60)).await;
        proxy.refuse(i % 2 == 1);
        proxy.cut();
        sleep(Duration::from_millis(60)).await;
        proxy.refuse(false);
    }
    for publisher in publishers {
        publisher.await.expect("no publish failed");
    }
    let mut consumer = broker.consume(&queue, 100).await.expect("consumer");
    let mut seen = HashSet::new();
    let mut deliveries = 0;
    while seen.len() < 2000 {
        let delivery = next(&mut consumer).await;
        seen.insert(delivery.message.id.clone());
        deliveries += 1;
        delivery.ack(None).await.expect("acked");
    }
    println!("2000 published in 5 cuts: {deliveries} deliveries");
    drop(consumer);
    clean(&broker, &queue).await;
}

#[tokio::test]
async fn an_outage_ends_with_the_deadline() {
    let Some(url) = url() else { return };
    let (proxy, through) = proxied(&url).await;
    let broker = connect(&through).await;
    let queue = Queue::new(unique("outage"));
    broker.declare(&queue).await.expect("declared");
    proxy.refuse(true);
    proxy.cut();
    let start = Instant::now();
    let mut late = to_queue(queue.name(), "late");
    late.deadline = Duration::from_millis(700);
    let error = broker.publish(late).await.expect_err("no server");
    assert!(
        matches!(error, Error::Unavailable { .. } | Error::Unconfirmed { .. }),
        "{error}"
    );
    assert!(start.elapsed() < Duration::from_secs(2));
    let patient = broker.publish(to_queue(queue.name(), "patient"));
    proxy.refuse(false);
    patient.await.expect("stored");
    clean(&broker, &queue).await;
}

#[tokio::test]
async fn connecting_in_vain_says_why() {
    let Some(url) = url() else { return };
    let (_, rest) = url.rsplit_once('@').expect("user@host");
    let server = rest.split('/').next().expect("host");
    for (url, expected) in [
        (
            format!("amqp://guest:wrong@{server}"),
            "check the user and the password",
        ),
        (
            format!("amqp://guest:guest@{server}/nowhere"),
            "check the vhost",
        ),
        (
            "amqp://guest:secret@127.0.0.1:1".to_owned(),
            "RabbitMQ runs there",
        ),
        (
            "amqps://guest:secret@127.0.0.1:1".to_owned(),
            "tls-rustls-ring",
        ),
    ] {
        let parsed: BrokerUrl = url.parse().expect("a URL");
        let start = Instant::now();
        let Err(error) = AmqpBroker::connect(&parsed, "test").await else {
            panic!("{url} lets us in");
        };
        let error = error.to_string();
        assert!(error.contains(expected), "{error}");
        assert!(
            !error.contains("secret") && !error.contains("wrong"),
            "{error}"
        );
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{:?}",
            start.elapsed()
        );
    }
    let failover = format!("amqp://guest:guest@127.0.0.1:1;{url}");
    connect(&failover).await.close().await;
}
