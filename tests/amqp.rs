//! What is true of RabbitMQ alone. Needs a server: `GARENNE_TEST_AMQP=amqp://guest:guest@localhost`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use garenne::broker::amqp::AmqpBroker;
use garenne::broker::url::BrokerUrl;
use garenne::broker::{Broker, Consumer, Delivery, Exchange, Publish, Queue, QueueType, Route};
use garenne::error::Error;
use garenne::message::{Message, header};
use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use tokio::time::{Instant, sleep, timeout};

#[path = "amqp/dead_letters.rs"]
mod dead_letters;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "amqp/supervision.rs"]
mod supervision;
#[path = "support/version.rs"]
mod version;
#[path = "amqp/versions.rs"]
mod versions;
use proxy::Proxy;

const SOON: Duration = Duration::from_secs(10);

/// The server's URL, without which a test says so and ends.
fn url() -> Option<String> {
    let url = std::env::var("GARENNE_TEST_AMQP").ok();
    if url.is_none() {
        println!("skipped: GARENNE_TEST_AMQP names no RabbitMQ");
    }
    url
}

async fn connect(url: &str) -> AmqpBroker {
    let url: BrokerUrl = url.parse().expect("a URL");
    AmqpBroker::connect(&url, "test").await.expect("a server")
}

fn unique(name: &str) -> String {
    format!("test.{name}.{}", uuid::Uuid::new_v4().simple())
}

fn message(id: &str) -> Message {
    let mut message = Message {
        id: id.to_owned(),
        content_type: "application/json".into(),
        content_encoding: "utf-8".into(),
        body: b"[[], {}, null]".to_vec(),
        ..Message::default()
    };
    message.set("id", id);
    message.set("task", "t");
    message
}

fn publish(route: Route, id: &str) -> Publish {
    Publish {
        route,
        message: message(id),
        delay: Duration::ZERO,
        deadline: SOON,
    }
}

fn to_queue(queue: &str, id: &str) -> Publish {
    publish(Route::Queue(queue.to_owned()), id)
}

fn delayed(queue: &str, id: &str, delay: Duration) -> Publish {
    Publish {
        delay,
        ..to_queue(queue, id)
    }
}

async fn next(consumer: &mut Consumer) -> Delivery {
    let next = timeout(SOON, consumer.next()).await.expect("in time");
    next.expect("an open consumer").expect("a delivery")
}

async fn raw_channel(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default());
    let connection = connection.await.expect("a server");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

/// A proxy before the server, and the URL that leads through it.
async fn proxied(url: &str) -> (Proxy, String) {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delays_are_exact_and_never_early() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let queue = Queue::new(unique("delay"));
    broker.declare(&queue).await.expect("declared");
    let mut consumer = broker.consume(&queue, 20).await.expect("consumer");
    // The first one builds the ladder.
    let first = Instant::now();
    let warm = delayed(queue.name(), "warm", Duration::from_millis(1));
    broker.publish(warm).await.expect("stored");
    println!("first delayed publish: {:?}", first.elapsed());
    next(&mut consumer).await.ack(None).await.expect("acked");

    let minute = delayed(queue.name(), "minute", Duration::from_secs(60));
    broker.publish(minute).await.expect("stored");
    let mut due = std::collections::HashMap::new();
    for millis in [3000, 1500, 300, 100, 50, 1] {
        let delay = Duration::from_millis(millis);
        due.insert(millis.to_string(), Instant::now() + delay);
        let publish = delayed(queue.name(), &millis.to_string(), delay);
        broker.publish(publish).await.expect("stored");
    }
    for _ in 0..6 {
        let delivery = next(&mut consumer).await;
        let due = due.remove(&delivery.message.id).expect("a known id");
        let late = Instant::now().checked_duration_since(due).expect("early");
        println!("{} ms: {late:?} late", delivery.message.id);
        // On an idle machine it is a tenth of that.
        assert!(late < Duration::from_millis(500), "{late:?}");
        assert_eq!(delivery.exchange, "");
        assert_eq!(delivery.routing_key, queue.name());
        assert!(
            delivery
                .message
                .headers
                .keys()
                .all(|name| !name.starts_with("garenne-"))
        );
        assert_eq!(delivery.message.text("task"), Some("t"));
        assert_eq!(delivery.deliveries, 1);
        // What waits again is not taken for a message that runs in circles.
        if delivery.message.id == "50" {
            let mut again = delayed(queue.name(), "again", Duration::from_millis(50));
            again.message.headers = delivery.message.headers.clone();
            again.message.set("id", "again");
            delivery.retry(again).await.expect("retried");
            due_again(&mut consumer).await;
        } else {
            delivery.ack(None).await.expect("acked");
        }
    }
    clean(&broker, &queue).await;
}

/// Waits for the retried one, whatever comes between goes back.
async fn due_again(consumer: &mut Consumer) {
    loop {
        let delivery = next(consumer).await;
        if delivery.message.id == "again" {
            return delivery.ack(None).await.expect("acked");
        }
        delivery.release().await.expect("released");
    }
}

async fn clean(broker: &AmqpBroker, queue: &Queue) {
    for name in [queue.name(), &queue.dead_letter_name()] {
        broker.delete(name).await.expect("deleted");
    }
    broker.close().await;
}

#[tokio::test]
async fn an_urgent_message_that_waits_holds_up_no_other() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let queue = Queue::new(unique("urgent"));
    let mut consumer = broker.consume(&queue, 2).await.expect("consumer");
    // Both wait in the same queue of the ladder, the urgent one for a second longer.
    let delay = Duration::from_millis(2048);
    let due = Instant::now() + delay;
    let patient = delayed(queue.name(), "patient", delay);
    broker.publish(patient).await.expect("stored");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut urgent = delayed(queue.name(), "urgent", delay);
    urgent.message.priority = Some(9);
    broker.publish(urgent).await.expect("stored");
    for id in ["patient", "urgent"] {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.message.id, id);
        if id == "patient" {
            let late = Instant::now().checked_duration_since(due).expect("early");
            assert!(late < Duration::from_millis(500), "{late:?}");
        } else {
            assert_eq!(delivery.message.priority, Some(9));
        }
        delivery.ack(None).await.expect("acked");
    }
    clean(&broker, &queue).await;
}

#[tokio::test]
async fn a_delay_keeps_a_topic_exchanges_key() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let logs = Exchange::topic(unique("logs"));
    let queue = Queue::exclusive().bind(&logs, "#.news");
    let mut consumer = broker.consume(&queue, 5).await.expect("consumer");
    let route = |key: &str| Route::Exchange {
        exchange: logs.name().to_owned(),
        routing_key: key.into(),
    };
    for key in ["dull", "good.news"] {
        let mut publish = publish(route(key), key);
        publish.delay = Duration::from_millis(30);
        broker.publish(publish).await.expect("stored");
    }
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.message.id, "good.news");
    assert_eq!(delivery.exchange, logs.name());
    assert_eq!(delivery.routing_key, "good.news");
    // Put back, it still says where it came from.
    delivery.release().await.expect("released");
    let delivery = next(&mut consumer).await;
    assert_eq!(
        (delivery.exchange.as_str(), delivery.deliveries),
        (logs.name(), 1)
    );
    delivery.ack(None).await.expect("acked");
    // What matches nothing has not stayed in the ladder: the next one passes.
    let error = broker
        .publish(publish(route("dull"), "x"))
        .await
        .expect_err("unroutable");
    assert!(matches!(error, Error::Unroutable { .. }), "{error}");
    broker.close().await;
}

#[tokio::test]
async fn a_delay_to_no_queue_or_of_years_is_refused() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let nowhere = delayed(&unique("nowhere"), "x", Duration::from_millis(5));
    let error = broker.publish(nowhere).await.expect_err("no queue");
    assert!(matches!(error, Error::Unroutable { .. }), "{error}");
    let years = delayed("x", "x", Duration::from_secs(3 * 365 * 86_400));
    let error = broker.publish(years).await.expect_err("too long");
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_publish_gets_its_own_verdict() {
    let Some(url) = url() else { return };
    let broker = Arc::new(connect(&url).await);
    let stored = Queue::new(unique("stored"));
    broker.declare(&stored).await.expect("declared");
    let full = unique("full");
    let (_connection, channel) = raw_channel(&url).await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(0));
    arguments.insert(
        "x-overflow".into(),
        AMQPValue::LongString("reject-publish".into()),
    );
    let durable = QueueDeclareOptions::durable();
    channel
        .queue_declare(full.as_str().into(), durable, arguments)
        .await
        .expect("full");
    let nowhere = unique("nowhere");
    let start = Instant::now();
    let tasks: Vec<_> = (0..48)
        .map(|task| {
            let broker = broker.clone();
            let queue = [stored.name(), &full, &nowhere][task % 3].to_owned();
            tokio::spawn(async move {
                let mut wrong = 0;
                for i in 0..100 {
                    let verdict = broker
                        .publish(to_queue(&queue, &format!("{task}-{i}")))
                        .await;
                    wrong += usize::from(!matches!(
                        (task % 3, &verdict),
                        (0, Ok(()))
                            | (1, Err(Error::Refused { .. }))
                            | (2, Err(Error::Unroutable { .. }))
                    ));
                }
                wrong
            })
        })
        .collect();
    let mut wrong = 0;
    for task in tasks {
        wrong += task.await.expect("no panic");
    }
    println!(
        "4800 publishes in {:?}, {wrong} misattributed",
        start.elapsed()
    );
    assert_eq!(wrong, 0);
    let depth = broker.depth(stored.name()).await.expect("depth");
    assert_eq!(depth.ready, 1600);
    broker.delete(&full).await.expect("deleted");
    clean(&broker, &stored).await;
}

#[tokio::test]
async fn the_same_id_in_flight_twice_is_no_problem() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let queue = Queue::new(unique("twice"));
    broker.declare(&queue).await.expect("declared");
    let nowhere = unique("nowhere");
    let (one, two, lost) = tokio::join!(
        broker.publish(to_queue(queue.name(), "same")),
        broker.publish(to_queue(queue.name(), "same")),
        broker.publish(to_queue(&nowhere, "same")),
    );
    one.and(two).expect("stored");
    assert!(matches!(lost, Err(Error::Unroutable { .. })), "{lost:?}");
    let mut consumer = broker.consume(&queue, 1).await.expect("consumer");
    for _ in 0..2 {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.message.id, "same");
        delivery.ack(None).await.expect("acked");
    }
    clean(&broker, &queue).await;
}

#[tokio::test]
async fn a_queue_with_other_arguments_is_used_as_it_is() {
    let Some(url) = url() else { return };
    let name = unique("celery");
    let (_connection, channel) = raw_channel(&url).await;
    let durable = QueueDeclareOptions::durable();
    let plain = FieldTable::default();
    channel
        .queue_declare(name.as_str().into(), durable, plain)
        .await
        .expect("declared");
    let broker = connect(&url).await;
    // Found without being declared, through the default exchange.
    broker.publish(to_queue(&name, "1")).await.expect("stored");
    let queue = Queue::new(&name);
    broker.declare(&queue).await.expect("no conflict");
    broker.publish(to_queue(&name, "2")).await.expect("stored");
    let mut consumer = broker.consume(&queue, 1).await.expect("consumer");
    for id in ["1", "2"] {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.message.id, id);
        delivery.ack(None).await.expect("acked");
    }
    clean(&broker, &queue).await;
}

#[tokio::test]
async fn a_deleted_queue_comes_back_under_its_consumer() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let queue = Queue::new(unique("deleted"));
    let mut consumer = broker.consume(&queue, 2).await.expect("consumer");
    broker
        .publish(to_queue(queue.name(), "held"))
        .await
        .expect("stored");
    let held = next(&mut consumer).await;
    let other = connect(&url).await;
    other.delete(queue.name()).await.expect("deleted");
    let deleted = Instant::now();
    timeout(SOON, held.stale().stale()).await.expect("void");
    let error = held.ack(None).await.expect_err("void");
    assert!(matches!(error, Error::Stale { .. }), "{error}");
    broker
        .publish(to_queue(queue.name(), "after"))
        .await
        .expect("stored");
    let delivery = next(&mut consumer).await;
    println!("back after {:?}", deleted.elapsed());
    assert_eq!(delivery.message.id, "after");
    delivery.ack(None).await.expect("acked");
    other.close().await;
    drop(consumer);
    clean(&broker, &queue).await;
}

#[tokio::test]
async fn a_deleted_queue_comes_back_for_its_publisher() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let queue = Queue::new(unique("deleted"));
    broker.declare(&queue).await.expect("declared");
    let other = connect(&url).await;
    other.delete(queue.name()).await.expect("deleted");
    broker
        .publish(to_queue(queue.name(), "1"))
        .await
        .expect("stored");
    assert_eq!(broker.depth(queue.name()).await.expect("there").ready, 1);
    other.close().await;
    clean(&broker, &queue).await;
}

#[tokio::test]
async fn a_missing_exchange_harms_nobody_else() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let queue = Queue::new(unique("bystander"));
    broker.declare(&queue).await.expect("declared");
    let missing = Route::Exchange {
        exchange: unique("missing"),
        routing_key: String::new(),
    };
    for _ in 0..5 {
        let (good, bad) = tokio::join!(
            broker.publish(to_queue(queue.name(), "good")),
            broker.publish(publish(missing.clone(), "bad")),
        );
        good.expect("stored");
        let error = bad.expect_err("no such exchange");
        assert!(error.to_string().contains("no exchange"), "{error}");
    }
    clean(&broker, &queue).await;
}

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
async fn releases_cost_nothing_and_deaths_are_counted() {
    let Some(url) = url() else { return };
    for queue_type in [QueueType::Quorum, QueueType::Classic] {
        let (proxy, through) = proxied(&url).await;
        let broker = connect(&through).await;
        let queue = Queue::new(unique("count")).queue_type(queue_type);
        let mut consumer = broker.consume(&queue, 1).await.expect("consumer");
        broker
            .publish(to_queue(queue.name(), "a"))
            .await
            .expect("stored");
        for round in 0..3 {
            let delivery = next(&mut consumer).await;
            assert_eq!(delivery.deliveries, 1, "{queue_type:?} round {round}");
            match round {
                2 => drop(delivery),
                _ => delivery.release().await.expect("released"),
            }
        }
        for deaths in 2..5 {
            let held = next(&mut consumer).await;
            assert_eq!(held.deliveries, deaths - 1, "{queue_type:?}");
            proxy.cut();
            timeout(SOON, held.stale().stale()).await.expect("void");
            drop(held);
        }
        let delivery = next(&mut consumer).await;
        assert_eq!((delivery.deliveries, delivery.redelivered), (4, true));
        let again = delivery.message.again();
        assert!(again.text(header::DELIVERIES).is_none());
        delivery.ack(None).await.expect("acked");
        clean(&broker, &queue).await;
    }
}

#[tokio::test]
async fn what_a_dropped_consumer_holds_goes_back_for_free() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let queue = Queue::new(unique("dropped"));
    let mut consumer = broker.consume(&queue, 5).await.expect("consumer");
    for i in 0..5 {
        let id = i.to_string();
        broker
            .publish(to_queue(queue.name(), &id))
            .await
            .expect("stored");
    }
    let held = next(&mut consumer).await;
    drop(consumer);
    let mut second = broker.consume(&queue, 5).await.expect("consumer");
    let mut ids = HashSet::from([held.message.id.clone()]);
    for _ in 0..4 {
        let delivery = next(&mut second).await;
        assert_eq!(delivery.deliveries, 1);
        ids.insert(delivery.message.id.clone());
        delivery.ack(None).await.expect("acked");
    }
    assert_eq!(ids.len(), 5);
    // The first consumer's last delivery is still its own to settle.
    held.ack(None).await.expect("acked");
    drop(second);
    assert_eq!(broker.depth(queue.name()).await.expect("there").ready, 0);
    clean(&broker, &queue).await;
}

#[tokio::test]
async fn close_hands_back_what_is_held() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let queue = Queue::new(unique("closed"));
    let mut consumer = broker.consume(&queue, 5).await.expect("consumer");
    for i in 0..5 {
        let id = i.to_string();
        broker
            .publish(to_queue(queue.name(), &id))
            .await
            .expect("stored");
    }
    let held = next(&mut consumer).await;
    let start = Instant::now();
    broker.close().await;
    println!("closed in {:?}", start.elapsed());
    assert!(held.stale().is_stale());
    assert!(matches!(held.ack(None).await, Err(Error::Stale { .. })));
    while let Some(left) = consumer.next().await {
        drop(left);
    }
    let error = broker
        .publish(to_queue(queue.name(), "x"))
        .await
        .expect_err("closed");
    assert!(matches!(error, Error::Closed { .. }), "{error}");
    let other = connect(&url).await;
    let mut consumer = other.consume(&queue, 5).await.expect("consumer");
    for _ in 0..5 {
        next(&mut consumer).await.ack(None).await.expect("acked");
    }
    drop(consumer);
    clean(&other, &queue).await;
}

#[tokio::test]
async fn replies_survive_a_cut() {
    let Some(url) = url() else { return };
    let (proxy, through) = proxied(&url).await;
    let broker = connect(&through).await;
    let worker = connect(&url).await;
    let mut replies = broker.replies().await.expect("a reply queue");
    let reply = |id: &str| publish(Route::Reply(replies.address.clone()), id);
    worker.publish(reply("1")).await.expect("stored");
    assert_eq!(recv(&mut replies.messages).await.id, "1");
    proxy.refuse(true);
    proxy.cut();
    worker
        .publish(publish(Route::Reply(replies.address.clone()), "2"))
        .await
        .expect("stored");
    proxy.refuse(false);
    while recv(&mut replies.messages).await.id != "2" {}
    let address = replies.address.clone();
    broker.close().await;
    assert!(worker.depth(&address).await.is_err(), "deleted by close");
    worker
        .publish(publish(Route::Reply(address), "3"))
        .await
        .expect("nobody waits");
    worker.close().await;
}

async fn recv<T>(receiver: &mut tokio::sync::mpsc::Receiver<T>) -> T {
    timeout(SOON, receiver.recv())
        .await
        .expect("in time")
        .expect("open")
}

#[tokio::test]
async fn cancellations_are_known_to_those_who_come_later() {
    let Some(url) = url() else { return };
    let (proxy, through) = proxied(&url).await;
    let broker = connect(&url).await;
    let (before, after, late) = (unique("before"), unique("after"), unique("late"));
    broker.cancel(&before).await.expect("cancelled");
    let reader = connect(&through).await;
    let start = Instant::now();
    let mut known = reader.cancellations().await.expect("history");
    println!("{} known in {:?}", known.known.len(), start.elapsed());
    assert!(known.known.contains(&before));
    broker.cancel(&after).await.expect("cancelled");
    assert_eq!(next_of(&mut known.later, &[&after, &late]).await, after);
    proxy.cut();
    broker.cancel(&late).await.expect("cancelled");
    assert_eq!(next_of(&mut known.later, &[&after, &late]).await, late);
    broker.close().await;
    reader.close().await;
}

/// What a cancelled call that is due in a month goes through shortly before: here without the month.
#[tokio::test]
async fn a_cancellation_is_told_again_through_the_ladder() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let mut known = broker.cancellations().await.expect("history");
    let (first, id) = (unique("first"), unique("again"));
    broker.cancel(&first).await.expect("cancelled");
    assert_eq!(next_of(&mut known.later, &[&first]).await, first);
    let start = Instant::now();
    let delay = Duration::from_millis(300);
    let publish = Publish {
        route: Route::Queue("garenne.cancelled".into()),
        message: Message {
            id: id.clone(),
            body: id.clone().into_bytes(),
            ..Message::default()
        },
        delay,
        deadline: Duration::from_secs(10),
    };
    broker.publish(publish).await.expect("published");
    assert_eq!(next_of(&mut known.later, &[&id]).await, id);
    assert!(start.elapsed() >= delay);
    broker.close().await;
}

/// The next of `ids`: other tests cancel, too.
async fn next_of(later: &mut tokio::sync::mpsc::Receiver<String>, ids: &[&str]) -> String {
    loop {
        let id = recv(later).await;
        if ids.contains(&id.as_str()) {
            return id;
        }
    }
}

#[tokio::test]
async fn a_foreign_message_with_odd_properties_is_delivered() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let queue = Queue::new(unique("odd"));
    let mut consumer = broker.consume(&queue, 1).await.expect("consumer");
    let (_connection, channel) = raw_channel(&url).await;
    let mut headers = FieldTable::default();
    headers.insert(
        "bytes".into(),
        AMQPValue::LongString(vec![0xff, 0xfe].into()),
    );
    headers.insert("at".into(), AMQPValue::Timestamp(5));
    let properties = lapin::BasicProperties::default()
        .with_headers(headers)
        .with_message_id("foreign".into());
    let key = queue.name().into();
    channel
        .basic_publish("".into(), key, Default::default(), b"\xff", properties)
        .await
        .expect("sent");
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.message.id, "foreign");
    assert_eq!(delivery.message.headers["at"], 5);
    let mut dead = to_queue(&queue.dead_letter_name(), "");
    dead.message = delivery.message.clone();
    delivery.reject(dead, None).await.expect("rejected");
    let depth = broker
        .depth(&queue.dead_letter_name())
        .await
        .expect("there");
    assert_eq!(depth.ready, 1);
    clean(&broker, &queue).await;
}

#[tokio::test]
async fn a_lost_dead_letter_queue_is_made_again() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let queue = Queue::new(unique("dead"));
    let mut consumer = broker.consume(&queue, 1).await.expect("consumer");
    let dead = queue.dead_letter_name();
    connect(&url).await.delete(&dead).await.expect("deleted");
    broker
        .publish(to_queue(queue.name(), "a"))
        .await
        .expect("stored");
    let delivery = next(&mut consumer).await;
    delivery
        .reject(to_queue(&dead, "a"), None)
        .await
        .expect("rejected");
    assert_eq!(broker.depth(&dead).await.expect("there").ready, 1);
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

#[tokio::test]
async fn an_exchange_of_another_kind_is_used_as_it_is() {
    let Some(url) = url() else { return };
    let name = unique("kind");
    let (_connection, channel) = raw_channel(&url).await;
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let none = FieldTable::default();
    let declare =
        channel.exchange_declare(name.as_str().into(), ExchangeKind::Fanout, durable, none);
    declare.await.expect("declared");
    let broker = connect(&url).await;
    broker
        .declare_exchange(&Exchange::topic(&name))
        .await
        .expect("no conflict");
    broker.close().await;
}
