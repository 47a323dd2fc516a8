//! What every conformance case stands on: a broker of the kind under test, names of its own, and waits
//! that end. The only place that knows how the kinds differ.

use std::future::Future;
use std::panic::Location;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use garenne::broker::{
    Broker, Consumer, Delivery, Depth, Exchange, Publish, Queue, Route, connect, url::BrokerUrl,
};
use garenne::error::{Error, Result};
use garenne::message::{Arguments, Message};
use tokio::time::{Instant, sleep, timeout};

/// How long anything may take that must happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to watch for what must not happen.
pub(crate) const A_MOMENT: Duration = Duration::from_millis(150);

/// A kind of broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "which are used depends on the features")]
pub(crate) enum Kind {
    Memory,
    /// One connection to a file.
    Sqlite,
    /// One connection that publishes and another that consumes, as in two processes.
    SqliteTwoConnections,
    RabbitQuorum,
    RabbitClassic,
}

/// A broker for one case.
pub(crate) struct Fixture {
    /// The connection that publishes.
    pub(crate) publisher: Arc<dyn Broker>,
    /// The connection that consumes: on some kinds the same.
    pub(crate) consumer: Arc<dyn Broker>,
    url: BrokerUrl,
    prefix: String,
    queues: Mutex<Vec<String>>,
    joins: Mutex<Vec<String>>,
    directory: Option<PathBuf>,
}

impl Fixture {
    /// Whether delayed messages of all tests wait in one place, which does not tell for which queue.
    pub(crate) fn shares_delays(&self) -> bool {
        self.url.scheme == garenne::broker::url::Scheme::Amqp
    }

    /// A fixture of this kind; `None`, with a note, where there is no such broker here.
    pub(crate) async fn open(kind: Kind) -> Option<Self> {
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let mut directory = None;
        let url = match kind {
            Kind::Memory => "memory://".to_owned(),
            Kind::Sqlite | Kind::SqliteTwoConnections => {
                let path = std::env::temp_dir().join(format!("garenne-{unique}"));
                std::fs::create_dir_all(&path).expect("a temporary directory");
                let url = format!("sqlite://{}/conformance.db", path.display());
                directory = Some(path);
                url
            }
            Kind::RabbitQuorum => rabbit_url("quorum")?,
            Kind::RabbitClassic => rabbit_url("classic")?,
        };
        let url: BrokerUrl = url.parse().expect("a broker URL");
        let publisher = open(&url).await;
        let consumer = match kind {
            Kind::SqliteTwoConnections => open(&url).await,
            _ => publisher.clone(),
        };
        Some(Self {
            publisher,
            consumer,
            url,
            prefix: format!("conformance.{}.", &unique[..12]),
            queues: Mutex::default(),
            joins: Mutex::default(),
            directory,
        })
    }

    /// Removes what the case left behind. (After a panic it stays, to be looked at.)
    pub(crate) async fn clean(self) {
        let queues = self.queues.into_inner().expect("no panic");
        let joins = self.joins.into_inner().expect("no panic");
        let keeps = !matches!(self.url.scheme, garenne::broker::url::Scheme::Memory);
        if keeps && self.directory.is_none() {
            // The case may have closed its own connection.
            let janitor = open(&self.url).await;
            for queue in queues {
                within(janitor.delete(&queue)).await.expect("a deletion");
                let dead = format!("{queue}.dead");
                within(janitor.delete(&dead)).await.expect("a deletion");
            }
            for join in joins {
                within(janitor.close_join(&join)).await.expect("closed");
            }
            within(janitor.close()).await;
        }
        within(self.publisher.close()).await;
        within(self.consumer.close()).await;
        if let Some(directory) = self.directory {
            let _ = std::fs::remove_dir_all(directory);
        }
    }

    /// Another connection to the same broker; `None` where one is all there can be.
    pub(crate) async fn another(&self) -> Option<Arc<dyn Broker>> {
        match self.url.scheme {
            garenne::broker::url::Scheme::Memory => None,
            _ => Some(open(&self.url).await),
        }
    }

    /// Whether higher priorities overtake lower ones on a queue that declares none.
    pub(crate) fn prioritises_every_queue(&self) -> bool {
        !matches!(self.url.scheme, garenne::broker::url::Scheme::Amqp)
    }

    /// Whether a priority above the queue's highest counts as the highest: quorum queues with priorities,
    /// from RabbitMQ 4.3 on, know no highest but 31.
    pub(crate) fn has_a_highest_priority(&self) -> bool {
        let url = self.url.addresses.first();
        self.prioritises_every_queue() || crate::version::version(url.expect("one")) < (4, 3)
    }

    /// A name that no other case uses.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A queue with a name of its own, not declared yet.
    pub(crate) fn queue(&self, name: &str) -> Queue {
        let name = self.name(name);
        self.queues.lock().expect("no panic").push(name.clone());
        Queue::new(name)
    }

    /// The name of a join of its own, not opened yet.
    pub(crate) fn join(&self, name: &str) -> String {
        let name = format!("{}garenne.join.{name}", self.prefix);
        self.joins.lock().expect("no panic").push(name.clone());
        name
    }

    /// A queue with a name of its own, declared.
    pub(crate) async fn declared(&self, name: &str) -> Queue {
        let queue = self.queue(name);
        self.declare(&queue).await;
        queue
    }

    pub(crate) async fn declare(&self, queue: &Queue) {
        within(self.consumer.declare(queue))
            .await
            .expect("a declaration");
    }

    pub(crate) async fn consume(&self, queue: &Queue, slots: usize) -> Consumer {
        within(self.consumer.consume(queue, slots))
            .await
            .expect("a consumer")
    }

    /// Publishes and waits for the confirm.
    pub(crate) async fn publish(&self, publish: Publish) {
        self.try_publish(publish).await.expect("a publish");
    }

    pub(crate) async fn try_publish(&self, publish: Publish) -> Result<()> {
        within(self.publisher.publish(publish)).await
    }

    /// Publishes messages of these ids, one by one.
    pub(crate) async fn send(&self, queue: &Queue, ids: &[&str]) {
        for id in ids {
            self.publish(to_queue(queue, message(id))).await;
        }
    }

    pub(crate) async fn depth(&self, queue: &Queue) -> Depth {
        within(self.consumer.depth(queue.name()))
            .await
            .expect("a depth")
    }

    /// Waits until as many messages are ready, which a broker may say a little late.
    #[track_caller]
    pub(crate) fn ready_becomes<'a>(
        &'a self,
        queue: &'a Queue,
        ready: u64,
    ) -> impl Future<Output = ()> + 'a {
        let caller = Location::caller();
        async move {
            let depth = self.wait_for_depth(queue, |depth| depth.ready == ready);
            let depth = depth.await;
            assert_eq!(depth.ready, ready, "ready messages, at {caller}");
        }
    }

    /// Waits until as many consumers are there.
    #[track_caller]
    pub(crate) fn consumers_become<'a>(
        &'a self,
        queue: &'a Queue,
        consumers: u64,
    ) -> impl Future<Output = ()> + 'a {
        let caller = Location::caller();
        async move {
            let depth = self.wait_for_depth(queue, |depth| depth.consumers == consumers);
            let depth = depth.await;
            assert_eq!(depth.consumers, consumers, "consumers, at {caller}");
        }
    }

    /// The first depth that will do, or the last one seen.
    async fn wait_for_depth(&self, queue: &Queue, will_do: impl Fn(&Depth) -> bool) -> Depth {
        let end = Instant::now() + PATIENCE;
        loop {
            let depth = self.depth(queue).await;
            if will_do(&depth) || Instant::now() > end {
                return depth;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn open(url: &BrokerUrl) -> Arc<dyn Broker> {
    within(connect(url, "conformance"))
        .await
        .expect("a connection")
}

fn rabbit_url(queue_type: &str) -> Option<String> {
    let Ok(url) = std::env::var("GARENNE_TEST_AMQP") else {
        let required = std::env::var("GARENNE_TEST_REQUIRE_AMQP").is_ok_and(|value| value == "1");
        assert!(
            !required,
            "GARENNE_TEST_REQUIRE_AMQP=1, but GARENNE_TEST_AMQP names no RabbitMQ"
        );
        eprintln!("SKIPPED: set GARENNE_TEST_AMQP=amqp://… to run this against RabbitMQ");
        return None;
    };
    let separator = if url.contains('?') { '&' } else { '?' };
    Some(format!("{url}{separator}queue_type={queue_type}"))
}

/// The future's value, which must come in time.
#[track_caller]
pub(crate) fn within<T>(future: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        match timeout(PATIENCE, future).await {
            Ok(value) => value,
            Err(_) => panic!("nothing happened within {PATIENCE:?} at {caller}"),
        }
    }
}

/// A call with this id.
pub(crate) fn message(id: &str) -> Message {
    Message::new(id.to_owned(), "conformance.task", &Arguments::default())
}

pub(crate) fn publish(route: Route, message: Message) -> Publish {
    Publish {
        route,
        message,
        delay: Duration::ZERO,
        deadline: PATIENCE,
    }
}

pub(crate) fn to_queue(queue: &Queue, message: Message) -> Publish {
    publish(Route::Queue(queue.name().to_owned()), message)
}

pub(crate) fn to_exchange(exchange: &Exchange, routing_key: &str, message: Message) -> Publish {
    let route = Route::Exchange {
        exchange: exchange.name().to_owned(),
        routing_key: routing_key.to_owned(),
    };
    publish(route, message)
}

pub(crate) fn delayed(delay: Duration, publish: Publish) -> Publish {
    Publish { delay, ..publish }
}

/// The next delivery, which must come.
#[track_caller]
pub(crate) fn next(consumer: &mut Consumer) -> impl Future<Output = Delivery> {
    let next = within(consumer.next());
    async move { next.await.expect("an open consumer").expect("a delivery") }
}

/// The ids of the next deliveries, each acknowledged before the next.
#[track_caller]
pub(crate) fn take<'a>(
    consumer: &'a mut Consumer,
    count: usize,
) -> impl Future<Output = Vec<String>> + 'a {
    let caller = Location::caller();
    async move {
        let mut ids = Vec::new();
        for taken in 0..count {
            let Ok(next) = timeout(PATIENCE, consumer.next()).await else {
                panic!("only {taken} of {count} messages came, at {caller}: {ids:?}");
            };
            let delivery = next.expect("an open consumer").expect("a delivery");
            ids.push(delivery.message.id.clone());
            within(delivery.ack(None)).await.expect("an ack");
        }
        ids
    }
}

/// That nothing comes for a moment.
#[track_caller]
pub(crate) fn nothing(consumer: &mut Consumer) -> impl Future<Output = ()> {
    let caller = Location::caller();
    let next = timeout(A_MOMENT, consumer.next());
    async move {
        if let Ok(next) = next.await {
            panic!("{next:?} came, but nothing should, at {caller}");
        }
    }
}

/// That the broker said that there is no queue, and where.
#[track_caller]
pub(crate) fn assert_unroutable(outcome: Result<()>, names: &str) {
    match outcome {
        Err(error @ Error::Unroutable { .. }) => {
            assert!(error.to_string().contains(names), "{error} names {names}");
        }
        other => panic!("{other:?} instead of an unroutable message to {names}"),
    }
}
