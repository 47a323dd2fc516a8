//! Joins that somebody began to open, or to fire, and bodies that were stored more than once.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use garenne::broker::amqp::AmqpBroker;
use garenne::broker::{Broker, Consumer, Join, Queue, Route};
use garenne::error::Result;
use lapin::BasicProperties;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::fixture::{SOON, clean, connect, next, publish, raw_channel, to_queue, unique, url};
use super::peers::{through, without_confirms_until_cut};

/// How long nothing more may come.
const QUIET: Duration = Duration::from_millis(300);

/// Brings the only part of a join.
async fn complete(broker: &dyn Broker, join: &str) {
    bring(broker, join, "part", 1).await;
}

/// Brings a part of a join of as many.
async fn bring(broker: &dyn Broker, join: &str, part: &str, parts: u32) {
    let (join, fire) = (join.to_owned(), false);
    let part = publish(Route::Join { join, parts, fire }, part);
    broker.publish(part).await.expect("brought");
}

/// A server's URL with each type of queue.
fn urls() -> Vec<String> {
    let with = |queue_type| Some(format!("{}?queue_type={queue_type}", url()?));
    ["quorum", "classic"].into_iter().filter_map(with).collect()
}

/// A join whose body is stored, which its opener does not know: it publishes the body again when its
/// connections are cut.
struct Doubled {
    broker: AmqpBroker,
    queue: Queue,
    bodies: Consumer,
    name: String,
    opener: Arc<AmqpBroker>,
    opening: JoinHandle<Result<()>>,
    cut: watch::Sender<bool>,
}

impl Doubled {
    async fn open(url: &str, parts: u32) -> Self {
        let broker = connect(url).await;
        let queue = Queue::new(unique("bodies"));
        let bodies = broker.consume(&queue, 5).await.expect("consumer");
        let name = unique("garenne.join");
        let (address, cut) = without_confirms_until_cut(url).await;
        let opener = Arc::new(connect(&through(url, address)).await);
        let join = Join {
            name: name.clone(),
            parts,
            body: to_queue(queue.name(), "body"),
        };
        let opening = tokio::spawn(opener.open_join(join));
        stored(&broker, &name, 1).await;
        Self {
            broker,
            queue,
            bodies,
            name,
            opener,
            opening,
            cut,
        }
    }

    /// Has the body stored again.
    async fn double(&mut self) {
        self.cut.send_replace(true);
        let opened = timeout(SOON, &mut self.opening).await.expect("in time");
        opened.expect("no panic").expect("opened");
    }

    async fn assert_fired(&mut self) {
        let delivery = next(&mut self.bodies).await;
        assert_eq!(delivery.message.id, "body");
        delivery.ack(None).await.expect("acked");
    }

    /// That no body comes any more, whoever looks.
    async fn end(mut self) {
        bring(&self.broker, &self.name, "late", 1).await;
        let checked = self.broker.check_join(&self.name, 1, true).await;
        checked.expect("checked");
        let more = timeout(QUIET, self.bodies.next()).await;
        assert!(more.is_err(), "the body has gone again");
        let parts = self.broker.parts(&self.name, usize::MAX).await;
        assert!(parts.expect("read").is_some_and(|parts| !parts.is_empty()));
        self.broker.close_join(&self.name).await.expect("closed");
        self.opener.close().await;
        clean(&self.broker, &self.queue).await;
    }
}

/// Waits until a queue has as many messages.
async fn stored(broker: &dyn Broker, queue: &str, messages: u64) {
    let found = async {
        while broker.depth(queue).await.map_or(0, |depth| depth.ready) < messages {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, found).await.expect("stored in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_stored_again_after_its_join_has_fired_goes_nowhere() {
    for url in urls() {
        let mut join = Doubled::open(&url, 1).await;
        complete(&join.broker, &join.name).await;
        join.assert_fired().await;
        // Or each part that was brought meanwhile would have all of them collected again.
        let depth = join.broker.depth(&join.name).await.expect("a queue");
        assert_eq!(depth.ready, 1, "no more than the parts");
        join.double().await;
        join.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_stored_again_behind_parts_goes_once() {
    for url in urls() {
        let mut join = Doubled::open(&url, 2).await;
        bring(&join.broker, &join.name, "a", 2).await;
        join.double().await;
        bring(&join.broker, &join.name, "b", 2).await;
        join.assert_fired().await;
        join.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_fires_early_with_two_bodies_fires_once() {
    for url in urls() {
        let mut join = Doubled::open(&url, 5).await;
        join.double().await;
        let checked = join.broker.check_join(&join.name, 5, true).await;
        checked.expect("fired");
        join.assert_fired().await;
        join.end().await;
    }
}

/// A join that is open, and the queue that its body goes to.
async fn opened(url: &str, parts: u32) -> (AmqpBroker, Queue, String) {
    let (broker, queue) = (connect(url).await, Queue::new(unique("bodies")));
    broker.declare(&queue).await.expect("declared");
    let name = unique("garenne.join");
    let join = Join {
        name: name.clone(),
        parts,
        body: to_queue(queue.name(), "body"),
    };
    broker.open_join(join).await.expect("opened");
    (broker, queue, name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_collector_stores_twice_fires_once() {
    for url in urls() {
        let (broker, queue, name) = opened(&url, 5).await;
        let mut bodies = broker.consume(&queue, 5).await.expect("consumer");
        // From now on the body has been looked at, and only a copy of it can go.
        broker.parts(&name, usize::MAX).await.expect("read");
        let (address, cut) = without_confirms_until_cut(&url).await;
        let collector = Arc::new(connect(&through(&url, address)).await);
        let firing = tokio::spawn({
            let (collector, name) = (collector.clone(), name.clone());
            async move { collector.check_join(&name, 5, true).await }
        });
        // It waits for a confirm then.
        let collecting = async {
            while broker.depth(&name).await.expect("a queue").consumers == 0 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, collecting).await.expect("in time");
        sleep(QUIET).await;
        assert!(timeout(QUIET, bodies.next()).await.is_err(), "too early");
        cut.send_replace(true);
        let fired = timeout(SOON, firing).await.expect("in time");
        fired.expect("no panic").expect("fired");
        let delivery = next(&mut bodies).await;
        assert_eq!(delivery.message.id, "body");
        delivery.ack(None).await.expect("acked");
        let checked = broker.check_join(&name, 5, true).await;
        checked.expect("checked");
        let more = timeout(QUIET, bodies.next()).await;
        assert!(more.is_err(), "the body has gone again");
        broker.close_join(&name).await.expect("closed");
        collector.close().await;
        clean(&broker, &queue).await;
    }
}

/// A collector's last words are a mark that names the copy which goes.
#[tokio::test]
async fn a_join_fires_though_a_collector_died_behind_its_mark() {
    for url in urls() {
        for has_gone in [false, true] {
            let (broker, queue, name) = opened(&url, 1).await;
            let mut bodies = broker.consume(&queue, 5).await.expect("consumer");
            let copy = match has_gone {
                false => name_of_copy(&url, &name).await,
                true => AMQPValue::LongString("another".into()),
            };
            let mut mark = FieldTable::default();
            mark.insert("garenne-join-goes".into(), copy);
            let properties = BasicProperties::default().with_headers(mark);
            let (_connection, channel) = raw_channel(&url).await;
            let (key, options) = (name.as_str().into(), BasicPublishOptions::default());
            let sent = channel.basic_publish("".into(), key, options, b"", properties);
            sent.await.expect("sent").await.expect("stored");
            stored(&broker, &name, 2).await;
            complete(&broker, &name).await;
            if !has_gone {
                let delivery = next(&mut bodies).await;
                assert_eq!(delivery.message.id, "body");
                assert_eq!(delivery.deliveries, 1);
                delivery.ack(None).await.expect("acked");
                complete(&broker, &name).await;
            }
            assert!(timeout(QUIET, bodies.next()).await.is_err());
            broker.close_join(&name).await.expect("closed");
            clean(&broker, &queue).await;
        }
    }
}

/// What the only message of a join is called.
async fn name_of_copy(url: &str, join: &str) -> AMQPValue {
    let (connection, channel) = raw_channel(url).await;
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let consume = channel.basic_consume(join.into(), "".into(), options, none);
    let mut deliveries = consume.await.expect("a consumer");
    let body = timeout(SOON, deliveries.next()).await.expect("in time");
    let body = body.expect("open").expect("a delivery");
    let headers = body.properties.headers().clone().expect("headers");
    let name = headers.inner().get("garenne-join-copy").cloned();
    connection.close(200, "bye".into()).await.expect("closed");
    name.expect("a name")
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
