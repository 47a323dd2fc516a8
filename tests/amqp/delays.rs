//! Delays, which wait in queues of the broker.

use std::time::Duration;

use garenne::broker::{Broker, Consumer, Exchange, Queue, Route};
use garenne::error::Error;
use tokio::time::Instant;

use super::fixture::{clean, connect, delayed, next, publish, unique, url};

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
