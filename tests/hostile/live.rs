//! A live worker, its queue, and the three places where a message can turn up again.

use std::time::{Duration, Instant};

use garenne::broker::{Consumer, Publish, Replies, Route};
use garenne::message::header as ours;
use garenne::reply::Reply;
use garenne::{App, Exchange, Queue};
use serde_json::json;

use super::case::{Case, Expected, changed, header};
use super::child::WorkerProcess;
use super::tasks::{self, add};
use crate::raw::RawPublisher;
use crate::support::{TempFile, rabbitmq, unique, within};

/// Stand in a case for the names of the queue at hand.
pub(crate) const QUEUE_HERE: &str = "<queue>";
pub(crate) const DEAD_HERE: &str = "<dead letters>";
/// How much more memory a worker may need after all these messages than before.
const GROWTH_KIB: i64 = 160 * 1024;

/// A broker, a worker on it, and who watches them.
pub(crate) struct Live {
    url: String,
    /// As it is called on the broker.
    queue: String,
    name: String,
    app: App,
    replies: Replies,
    dead: Consumer,
    raw: Option<RawPublisher>,
    worker: Option<WorkerProcess>,
    slowest: (Duration, &'static str),
}

async fn run(url: &str, cases: Vec<Case>) {
    let app = App::connect(url).await.expect("the test's broker");
    let name = unique("hostile");
    app.declare(&*name).await.expect("declared");
    let queue = format!("{}{name}", app.prefix());
    let dead = Queue::new(Queue::new(&queue).dead_letter_name());
    let is_rabbitmq = url.starts_with("amqp");
    let worker = match url.starts_with("memory") {
        true => None,
        false => Some(WorkerProcess::start(url, &name)),
    };
    let here = worker.is_none().then(|| tasks::worker(&app, &name).spawn());
    let watcher = App::connect(url).await.expect("the test's broker");
    let watcher = if here.is_some() { app.clone() } else { watcher };
    let mut live = Live {
        url: url.to_owned(),
        replies: watcher.broker().replies().await.expect("a reply queue"),
        dead: watcher.broker().consume(&dead, 8).await.expect("a queue"),
        raw: match is_rabbitmq {
            true => Some(RawPublisher::connect(url).await),
            false => None,
        },
        queue,
        name,
        app,
        worker,
        slowest: Default::default(),
    };
    live.good_call(0).await;
    let before = live.worker.as_ref().map(WorkerProcess::memory);
    let count = cases.len();
    live.put_all(cases).await;
    let between = live.worker.as_ref().map(WorkerProcess::memory);
    // The largest come again: what the allocator keeps of them is not kept twice.
    live.put_all(super::bodies::cases()).await;
    live.odd_keys().await;
    live.copies().await;
    let depth = live.app.depth(&live.name).await.expect("a queue");
    assert_eq!(depth.ready, 0, "nothing is left over");
    let (slow, name) = live.slowest;
    println!("{count} hostile messages; the slowest took {slow:.0?}: {name}");
    if let (Some(worker), Some(before), Some(between)) = (&live.worker, before, between) {
        let after = worker.memory();
        println!(
            "worker: {before} KiB before, {between} after all, {after} after the largest again, {} at most",
            worker.most_memory()
        );
        assert!(after - before < GROWTH_KIB, "{before} KiB grew to {after}");
        for loss in ["channel ended", "connection to RabbitMQ ended"] {
            let lost = worker.lines_with(loss);
            assert!(lost.is_empty(), "{lost:?}");
        }
    }
    if let Some(here) = here {
        here.stop().await.expect("stopped");
    }
    drop(live.dead);
    let dead = Queue::new(&live.name).dead_letter_name();
    live.app.delete(&live.name).await.expect("deleted");
    live.app.delete(&dead).await.expect("deleted");
    watcher.close().await;
    live.app.close().await;
}

impl Live {
    async fn put_all(&mut self, cases: Vec<Case>) {
        for (n, case) in cases.into_iter().enumerate() {
            self.put(case).await;
            self.good_call(n as i64).await;
        }
    }

    /// A routing key that is no text reaches the queue through a topic exchange, and harms nobody.
    async fn odd_keys(&mut self) {
        let Some(raw) = &mut self.raw else { return };
        let exchange = Exchange::topic(unique("odd"));
        let queue = Queue::new(&self.name).bind(&exchange, "#");
        self.app.declare(queue).await.expect("bound");
        let mut case = changed("a routing key that is no text", |_| {}, Expected::Runs);
        case.message.reply_to = Some(self.replies.address.clone());
        let physical = format!("{}{}", self.app.prefix(), exchange.name());
        for key in [&b"a.\xff\xfe"[..], &[0xff; 255], b"\0\r\n", b""] {
            let properties = case.properties().encode();
            let publish = raw.publish(&physical, key, &properties, &case.message.body);
            within(case.name, publish).await.expect("routed");
        }
        for _ in 0..4 {
            self.told(&case, Expected::Runs).await;
        }
    }

    /// Copies that a sender asked the broker for are not made again with the dead letter.
    async fn copies(&mut self) {
        let Some(raw) = &mut self.raw else { return };
        let spy = unique("spy");
        self.app.declare(&*spy).await.expect("declared");
        let address = format!("{}{spy}", self.app.prefix());
        let mut case = header(
            "copies for a spy",
            "task",
            "x",
            Expected::Dead("unknown_task", "x"),
        );
        case.message.set("CC", json!([address]));
        case.message.set("BCC", json!([address]));
        let properties = case.properties().encode();
        let publish = raw.publish("", self.queue.as_bytes(), &properties, &case.message.body);
        within(case.name, publish).await.expect("stored");
        let dead = within(case.name, self.dead.next()).await;
        let dead = dead.expect("open").expect("a delivery");
        dead.ack(None).await.expect("settled");
        self.good_call(0).await;
        let depth = self.app.depth(&spy).await.expect("a queue");
        assert_eq!(depth.ready, 1, "the broker's own copy");
        self.app.delete(&spy).await.expect("deleted");
    }

    /// Sends one hostile message, and checks what becomes of it.
    async fn put(&mut self, mut case: Case) {
        let (name, start) = (case.name, Instant::now());
        let expected = case.expected;
        let message = &mut case.message;
        message.reply_to = Some(match message.reply_to.as_deref() {
            Some(QUEUE_HERE) => self.queue.clone(),
            Some(DEAD_HERE) => Queue::new(&self.queue).dead_letter_name(),
            Some(other) => other.to_owned(),
            None => self.replies.address.clone(),
        });
        if message.correlation_id.is_some() {
            message.correlation_id = Some(name.into());
        }
        let sent = self.publish(&case).await;
        match expected {
            Expected::Refused => {
                sent.expect_err(name);
                self.raw = Some(RawPublisher::connect(&self.url).await);
                return;
            }
            // RabbitMQ 4 stores no more than 16 MiB.
            _ if sent.is_err() && self.raw.is_some() && case.message.body.len() > 16 << 20 => {
                self.raw = Some(RawPublisher::connect(&self.url).await);
                return;
            }
            _ => sent.unwrap_or_else(|error| panic!("{name}: {error}")),
        }
        if let Expected::Dead(reason, words) = expected {
            let delivery = within(name, self.dead.next()).await;
            let delivery = delivery.expect("open").expect("a delivery");
            let dead = &delivery.message;
            let said = dead.text(ours::ERROR).unwrap_or_default();
            assert_eq!(dead.text(ours::REASON), Some(reason), "{name}: {said}");
            assert!(said.contains(words), "{name}: {said}");
            assert!(dead.body == case.message.body, "{name}: another body");
            assert_eq!(dead.text(ours::QUEUE), Some(&*self.name), "{name}");
            delivery.ack(None).await.expect("settled");
        }
        if case.awaited && !matches!(expected, Expected::Waits) {
            self.told(&case, expected).await;
        }
        self.slowest = self.slowest.max((start.elapsed(), name));
    }

    /// Checks what the caller hears.
    async fn told(&mut self, case: &Case, expected: Expected) {
        let name = case.name;
        let id = case
            .message
            .correlation_id
            .as_ref()
            .unwrap_or(&case.message.id);
        // Messages whose id nobody can know are answered, too.
        let reply = loop {
            let reply = within(name, self.replies.messages.recv()).await;
            let reply = reply.expect("open");
            if reply.correlation_id.as_ref() == Some(id) {
                break reply;
            }
            let stray = reply.correlation_id.unwrap_or_default();
            assert!(stray.contains('\u{fffd}'), "{name}: a reply to {stray:?}");
        };
        let reply = Reply::decode(&reply).unwrap_or_else(|error| panic!("{name}: {error}"));
        let outcome = reply.expect("an outcome").outcome;
        match expected {
            Expected::Runs => {
                outcome.unwrap_or_else(|failure| panic!("{name}: {failure}"));
            }
            _ => {
                let failure = outcome.expect_err(name);
                assert!(!failure.message.is_empty(), "{name}");
                assert!(failure.message.len() < 100_000, "{name}");
            }
        }
    }

    async fn publish(&mut self, case: &Case) -> Result<(), String> {
        match &mut self.raw {
            Some(raw) => {
                let properties = case.properties().encode();
                let publish =
                    raw.publish("", self.queue.as_bytes(), &properties, &case.message.body);
                within(case.name, publish).await
            }
            None => {
                let publish = Publish {
                    route: Route::Queue(self.queue.clone()),
                    message: case.message.clone(),
                    delay: Duration::ZERO,
                    deadline: Duration::from_secs(10),
                };
                let sent = self.app.broker().publish(publish).await;
                sent.map_err(|error| error.to_string())
            }
        }
    }

    /// The next good call runs.
    async fn good_call(&self, n: i64) {
        let call = add::call(n, 1).queue(&*self.name).send(&self.app).await;
        let sum = within("a good call", call.expect("sent")).await;
        assert_eq!(sum, Ok(n + 1));
    }
}

/// What every broker can carry.
fn everywhere() -> Vec<Case> {
    let mut cases = super::bodies::cases();
    cases.extend(super::headers::cases());
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory() {
    run("memory://", everywhere()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite() {
    let file = TempFile::new("db");
    run(&file.url(), everywhere()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quorum() {
    let Some(url) = rabbitmq() else { return };
    let mut cases = super::frames::cases();
    cases.extend(everywhere());
    run(&url, cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn classic() {
    let Some(url) = rabbitmq() else { return };
    let mut cases = super::frames::cases();
    cases.extend(everywhere());
    run(&format!("{url}&queue_type=classic"), cases).await;
}
