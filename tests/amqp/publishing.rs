//! Publishes that are told apart, and messages that are not ours.

use std::future::ready;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use garenne::broker::amqp::AmqpBroker;
use garenne::broker::{Broker, Queue};
use garenne::error::Error;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::{Instant, timeout};

use super::fixture::{SOON, clean, connect, next, raw_channel, to_queue, unique, url};
use super::peers::{refusing_and_dying, through, without_confirms};

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

/// A publish that was begun, and is looked at by nobody.
fn begun(broker: &Arc<AmqpBroker>, queue: &str, id: &str) -> BoxFuture<'static, Result<(), Error>> {
    let (broker, publish) = (broker.clone(), to_queue(queue, id));
    let mut sending = async move { broker.publish(publish).await }.boxed();
    let mut nobody = Context::from_waker(Waker::noop());
    match sending.poll_unpin(&mut nobody) {
        Poll::Pending => sending,
        // Its confirm takes longer than this, but where the system gives this thread no time.
        Poll::Ready(sent) => {
            sent.expect("stored");
            ready(Ok(())).boxed()
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_may_go_on_in_another_task() {
    let Some(url) = url() else { return };
    let broker = Arc::new(connect(&url).await);
    let queue = Queue::new(unique("moved"));
    broker.declare(&queue).await.expect("declared");
    broker
        .publish(to_queue(queue.name(), "first"))
        .await
        .expect("stored");
    for number in 0..50 {
        let sending = begun(&broker, queue.name(), &number.to_string());
        let sent = timeout(SOON, tokio::spawn(sending)).await;
        sent.expect("in time").expect("no panic").expect("stored");
    }
    clean(&broker, &queue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_that_do_not_look_or_give_up_hold_nobody_up() {
    let Some(url) = url() else { return };
    let broker = Arc::new(connect(&url).await);
    let queue = Queue::new(unique("stuck"));
    broker.declare(&queue).await.expect("declared");
    // More than are in flight at a time.
    let stuck: Vec<_> = (0..700)
        .map(|number| begun(&broker, queue.name(), &format!("stuck-{number}")))
        .collect();
    for number in 0..3000 {
        drop(begun(&broker, queue.name(), &format!("gone-{number}")));
    }
    for number in 0..50 {
        let sent = timeout(
            SOON,
            broker.publish(to_queue(queue.name(), &format!("next-{number}"))),
        );
        sent.await.expect("in time").expect("stored");
    }
    // Looked at again, they hear what has come of them long ago.
    for sending in stuck {
        timeout(SOON, sending)
            .await
            .expect("in time")
            .expect("stored");
    }
    clean(&broker, &queue).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_by_a_dying_node_is_no_proof_that_nothing_is_stored() {
    let Some(url) = url() else { return };
    let direct = connect(&url).await;
    let queue = Queue::new(unique("dying"));
    let broker = connect(&through(&url, refusing_and_dying(&url).await)).await;
    broker.declare(&queue).await.expect("declared");
    let mut publish = to_queue(queue.name(), "a");
    publish.deadline = Duration::from_secs(2);
    let error = broker.publish(publish).await.expect_err("nobody says yes");
    assert!(matches!(error, Error::Unconfirmed { .. }), "{error}");
    let mut consumer = direct.consume(&queue, 1).await.expect("consumer");
    next(&mut consumer).await.ack(None).await.expect("stored");
    broker.close().await;
    drop(consumer);
    clean(&direct, &queue).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_tells_those_whose_confirms_do_not_come() {
    let Some(url) = url() else { return };
    let direct = connect(&url).await;
    let queue = Queue::new(unique("closed"));
    let address = without_confirms(&url, usize::MAX).await;
    let broker = Arc::new(connect(&through(&url, address)).await);
    broker.declare(&queue).await.expect("declared");
    // More than are in flight at a time.
    let waiting: Vec<_> = (0..700)
        .map(|number| begun(&broker, queue.name(), &number.to_string()))
        .collect();
    let closed = timeout(SOON, broker.close()).await;
    closed.expect("a close has its limit");
    let (mut unconfirmed, mut unsent) = (0, 0);
    for waiting in waiting {
        let told = timeout(SOON, waiting).await.expect("all are told");
        match told.expect_err("nothing was confirmed") {
            Error::Unconfirmed { .. } => unconfirmed += 1,
            Error::Closed { .. } => unsent += 1,
            error => panic!("{error}"),
        }
    }
    assert!(unconfirmed >= 500 && unsent > 0, "{unconfirmed} {unsent}");
    let late = timeout(SOON, broker.publish(to_queue(queue.name(), "late"))).await;
    let late = late.expect("all are told").expect_err("it is closed");
    assert!(matches!(late, Error::Closed { .. }), "{late}");
    clean(&direct, &queue).await;
}
