//! Queues and exchanges that are other than we would make them, or gone.

use std::time::Duration;

use garenne::broker::{Broker, Exchange, Publish, Queue, Route};
use garenne::error::Error;
use garenne::{App, Worker, task};
use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use tokio::time::{Instant, sleep, timeout};

use super::fixture::{
    SOON, clean, connect, message, next, publish, raw_channel, to_queue, unique, url,
};

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

#[task(name = "queues.first")]
async fn first() -> i64 {
    1
}

/// A Python worker ends where it finds its queue made in another way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_of_a_foreign_follower_is_left_to_its_workers() {
    let Some(url) = url() else { return };
    let app = App::connect(&*url).await.expect("a server");
    let (queue, foreign) = (unique("ours"), unique("foreign"));
    let worker = Worker::new(&app).queue(&*queue, 1).spawn();
    assert!(worker.ready().await);
    // As Python's `chain(first.s(), notify.s().set(queue=foreign))`.
    let mut call = message("first");
    call.set("task", "queues.first");
    call.body = format!(
        r#"[[], {{}}, {{"callbacks": null, "errbacks": null, "chord": null, "chain": [
            {{"task": "notify", "args": [], "kwargs": {{}}, "subtask_type": null, "immutable": false,
              "options": {{"task_id": "next", "queue": "{foreign}"}}}}]}}]"#
    )
    .into_bytes()
    .into();
    let broker = connect(&url).await;
    let publish = Publish {
        message: call,
        ..to_queue(&queue, "first")
    };
    broker.publish(publish).await.expect("stored");
    let is_taken = async {
        while broker
            .depth(&queue)
            .await
            .is_ok_and(|depth| depth.ready > 0)
        {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, is_taken).await.expect("it is taken");
    let letters = app.dead_letters(&queue);
    let is_dead = async {
        while letters.count().await.is_ok_and(|count| count == 0) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, is_dead)
        .await
        .expect("its follower has no queue");
    let error = broker.depth(&foreign).await.expect_err("not made by us");
    assert!(error.to_string().contains(&foreign), "{error}");
    worker.stop().await.expect("stopped");
    app.delete(&queue).await.expect("deleted");
    app.close().await;
    broker.close().await;
}
