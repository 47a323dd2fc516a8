//! Joins that somebody began to open.

use garenne::broker::{Broker, Join, Queue, Route};
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};

use super::fixture::{clean, connect, next, publish, raw_channel, to_queue, unique, url};

/// Brings the only part of a join.
async fn complete(broker: &dyn Broker, join: &str) {
    let (join, parts, fire) = (join.to_owned(), 1, false);
    let part = publish(Route::Join { join, parts, fire }, "part");
    broker.publish(part).await.expect("brought");
}

#[tokio::test]
async fn a_join_whose_opener_died_before_its_body_was_there_is_opened_anew() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let queue = Queue::new(unique("bodies"));
    let mut consumer = broker.consume(&queue, 1).await.expect("consumer");
    let name = unique("garenne.join");
    let (_connection, channel) = raw_channel(&url).await;
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("classic".into()),
    );
    let options = QueueDeclareOptions::durable();
    let declared = channel.queue_declare(name.as_str().into(), options, arguments);
    declared.await.expect("what is left of the first try");
    let open = |body: &str| {
        broker.open_join(Join {
            name: name.clone(),
            parts: 1,
            body: to_queue(queue.name(), body),
        })
    };
    open("body").await.expect("opened");
    complete(&broker, &name).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.message.id, "body");
    delivery.ack(None).await.expect("acked");
    broker.close_join(&name).await.expect("closed");
    clean(&broker, &queue).await;
}

#[tokio::test]
async fn a_join_that_is_opened_with_another_body_keeps_its_first() {
    let Some(url) = url() else { return };
    let broker = connect(&url).await;
    let queues = ["one", "two"].map(|name| Queue::new(unique(name)));
    let name = unique("garenne.join");
    for queue in &queues {
        broker.declare(queue).await.expect("declared");
        let opened = broker.open_join(Join {
            name: name.clone(),
            parts: 1,
            body: to_queue(queue.name(), queue.name()),
        });
        opened.await.expect("opened");
    }
    complete(&broker, &name).await;
    let mut consumer = broker.consume(&queues[0], 1).await.expect("consumer");
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.message.id, queues[0].name());
    delivery.ack(None).await.expect("acked");
    let depth = broker.depth(queues[1].name()).await.expect("a queue");
    assert_eq!(depth.ready, 0);
    broker.close_join(&name).await.expect("closed");
    let [one, two] = &queues;
    for name in [two.name(), &two.dead_letter_name()] {
        broker.delete(name).await.expect("deleted");
    }
    clean(&broker, one).await;
}
