//! Connections and consumers that are made anew: after peers that say nothing, and where a worker gets
//! nothing although it should.

use std::sync::atomic::Ordering;
use std::time::Duration;

use garenne::broker::{Broker, Queue, QueueType, Renew};
use garenne::{App, Error, Worker, task};
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use super::fixture::{clean, connect, next, proxied, raw_channel, to_queue, unique, url};
use super::peers::{mute_at_first, through, without_confirms};

/// Threads of this process that drive a connection.
#[cfg(target_os = "linux")]
fn connection_threads() -> usize {
    let threads = std::fs::read_dir("/proc/self/task").expect("procfs");
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with("lapin"))
        .count()
}

#[tokio::test]
async fn a_mute_peer_does_not_keep_us_from_the_server_behind_it() {
    let Some(url) = url() else { return };
    let (address, accepted) = mute_at_first(&url, 1).await;
    // The first address is mute for good; the second is the server.
    let both = format!("{};{url}", through(&url, address));
    let start = Instant::now();
    let broker = connect(&both).await;
    assert!(
        start.elapsed() < Duration::from_millis(2500),
        "{:?}",
        start.elapsed()
    );
    assert!(accepted.load(Ordering::SeqCst) >= 1);
    let queue = Queue::new(unique("mute"));
    broker.declare(&queue).await.expect("declared");
    clean(&broker, &queue).await;
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn attempts_at_a_mute_peer_leave_no_thread_behind() {
    let Some(url) = url() else { return };
    let (address, _) = mute_at_first(&url, usize::MAX).await;
    let mute = through(&url, address).parse().expect("a URL");
    let attempt = garenne::broker::amqp::AmqpBroker::connect(&mute, "test");
    let error = timeout(Duration::from_secs(7), attempt)
        .await
        .expect("in time")
        .err()
        .expect("nobody lets us in");
    assert!(error.to_string().contains("no answer within"), "{error}");
    let many = || async {
        let attempts = (0..8).map(|_| {
            let mute = mute.clone();
            async move {
                let attempt = garenne::broker::amqp::AmqpBroker::connect(&mute, "test");
                // Given up from outside.
                assert!(timeout(Duration::from_millis(300), attempt).await.is_err());
            }
        });
        futures_util::future::join_all(attempts).await;
    };
    let before = connection_threads();
    many().await;
    let gone = async {
        while connection_threads() > before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(10), gone)
        .await
        .unwrap_or_else(|_| panic!("{} threads, {before} before", connection_threads()));
}

#[tokio::test]
async fn a_new_subscription_keeps_what_is_held_and_a_new_connection_voids_it() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let queue = Queue::new(unique("renew"));
    let mut consumer = broker.consume(&queue, 2).await.expect("consumer");
    for id in ["a", "b"] {
        broker
            .publish(to_queue(queue.name(), id))
            .await
            .expect("stored");
    }
    let first = next(&mut consumer).await;
    consumer.subscription().renew(Renew::Consumer);
    let second = next(&mut consumer).await;
    assert_ne!(first.message.id, second.message.id);
    assert!(!first.stale().is_stale());
    first.ack(None).await.expect("still ours");
    // Both may have come before the new subscription is there.
    let there = async {
        while consumer.subscription().outage().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(5), there).await.expect("there");
    consumer.subscription().renew(Renew::Connection);
    timeout(Duration::from_secs(5), second.stale().stale())
        .await
        .expect("void");
    let again = next(&mut consumer).await;
    assert_eq!(again.message.id, second.message.id);
    assert!(again.redelivered);
    let error = second.ack(None).await.expect_err("void");
    assert!(matches!(error, Error::Stale { .. }), "{error}");
    again.ack(None).await.expect("acked");
    clean(&broker, &queue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confirms_that_stay_away_are_sought_on_another_connection() {
    let Some(url) = url() else { return };
    let direct = connect(&url).await;
    let queue = Queue::new(unique("silent"));
    direct.declare(&queue).await.expect("declared");
    // The first connection is the one that publishes.
    let address = without_confirms(&url, 1).await;
    let broker = connect(&through(&url, address)).await;
    let start = Instant::now();
    let mut publish = to_queue(queue.name(), "a");
    publish.deadline = Duration::from_secs(25);
    broker.publish(publish).await.expect("stored");
    println!("stored after {:?}", start.elapsed());
    // What follows is as quick as ever.
    let start = Instant::now();
    broker
        .publish(to_queue(queue.name(), "b"))
        .await
        .expect("stored");
    assert!(start.elapsed() < Duration::from_secs(2));
    clean(&direct, &queue).await;
}

#[tokio::test]
async fn an_outage_is_told_by_the_subscription() {
    let Some(url) = url() else { return };
    let (proxy, through) = proxied(&url).await;
    let broker = connect(&through).await;
    let queue = Queue::new(unique("told"));
    let consumer = broker.consume(&queue, 1).await.expect("consumer");
    let becomes = |out: bool| {
        let subscription = consumer.subscription().clone();
        async move {
            while subscription.outage().is_some() != out {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    assert_eq!(consumer.subscription().outage(), None);
    proxy.refuse(true);
    proxy.cut();
    timeout(Duration::from_secs(5), becomes(true))
        .await
        .expect("out");
    proxy.refuse(false);
    timeout(Duration::from_secs(5), becomes(false))
        .await
        .expect("back");
    clean(&broker, &queue).await;
}

#[task]
async fn heard(n: u32) -> u32 {
    n
}

/// A queue of which another consumer gets all, as long as it is there: the worker is deaf.
async fn taken_by_another(url: &str) -> (String, lapin::Connection, lapin::Consumer) {
    let name = unique("deaf");
    let (connection, channel) = raw_channel(url).await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    channel
        .queue_declare(
            name.as_str().into(),
            QueueDeclareOptions::durable(),
            arguments,
        )
        .await
        .expect("declared");
    channel
        .basic_qos(1, Default::default())
        .await
        .expect("prefetch");
    let consumer = channel
        .basic_consume(
            name.as_str().into(),
            "holder".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .expect("consumes");
    (name, connection, consumer)
}

#[tokio::test]
async fn a_deaf_worker_tries_all_remedies_and_then_ends() {
    let Some(url) = url() else { return };
    let (name, connection, _consumer) = taken_by_another(&url).await;
    let app = App::connect(&url).await.expect("a server");
    for n in 0..3 {
        let _ = heard::call(n).queue(&*name).send(&app).await.expect("sent");
    }
    let start = Instant::now();
    let worker = Worker::new(&app)
        .queue(Queue::new(&*name).queue_type(QueueType::Classic), 2)
        .deaf_after(Duration::from_secs(1))
        .run(std::future::pending());
    let error = timeout(Duration::from_secs(30), worker)
        .await
        .expect("it ends")
        .expect_err("deaf");
    println!("gave up after {:?}", start.elapsed());
    assert!(
        matches!(&error, Error::Deaf { queue, ready: 2, .. } if *queue == name),
        "{error}"
    );
    assert_eq!(error.exit_code(), 75);
    app.delete(&name).await.expect("deleted");
    app.close().await;
    let _ = connection.close(200, "bye".into()).await;
}

/// What a worker answers when it is asked how it is.
async fn says(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("open");
    let request = b"GET /consuming HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(request).await.expect("asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer
}

#[tokio::test]
async fn a_worker_that_hears_again_goes_on() {
    let Some(url) = url() else { return };
    let (name, connection, consumer) = taken_by_another(&url).await;
    let app = App::connect(&url).await.expect("a server");
    let handle = heard::call(7).queue(&*name).send(&app).await.expect("sent");
    let second = heard::call(8).queue(&*name).send(&app).await.expect("sent");
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = free.local_addr().expect("bound").port();
    drop(free);
    let worker = Worker::new(&app)
        .queue(Queue::new(&*name).queue_type(QueueType::Classic), 2)
        .deaf_after(Duration::from_secs(1))
        .health(port.to_string())
        .spawn();
    assert!(worker.ready().await);
    // The first remedy, not the last.
    let says = async { while !says(port).await.contains("subscribing anew") {} };
    timeout(Duration::from_secs(10), says).await.expect("deaf");
    drop(consumer);
    connection.close(200, "bye".into()).await.expect("closed");
    for (handle, expected) in [(handle, 7), (second, 8)] {
        let result = timeout(Duration::from_secs(10), handle.result()).await;
        assert_eq!(result.expect("in time").expect("runs"), expected);
    }
    worker.stop().await.expect("a good end");
    app.delete(&name).await.expect("deleted");
    app.close().await;
}
