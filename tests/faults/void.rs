//! Deliveries that become void while their task runs, and those that come again after their work was done.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use garenne::Queue;
use garenne::broker::{Broker, Delivery, Publish, Replies, Route};
use garenne::message::{Arguments, Message};
use garenne::reply::Reply;
use serde_json::value::RawValue;

use super::child::{Spawn, WorkerProcess};
use super::place::{Place, alone, figure, on};
use super::proxy::Proxy;
use super::tap::Tap;
use super::tasks::{echo, fails_once, marks, worker};
use crate::support::{eventually, unique, within};

/// How long the attempt of a void delivery goes on.
const LINGER: u64 = 300;
/// In seconds.
const HEARTBEAT: u32 = 2;

/// A caller that sees each reply, not only the first for each id.
struct Caller {
    broker: Arc<dyn Broker>,
    replies: Replies,
    queue: String,
}

impl Caller {
    async fn connect(place: &Place) -> Self {
        let app = place.app().await;
        let queue = format!("{}{}", app.prefix(), place.queue);
        app.declare(&*place.queue).await.expect("declared");
        app.close().await;
        let url = place.url.parse().expect("a URL");
        let broker = garenne::broker::connect(&url, "caller").await;
        let broker = broker.expect("the test's broker");
        let replies = broker.replies().await.expect("a reply queue");
        Self {
            broker,
            replies,
            queue,
        }
    }

    /// Sends a call of `task` with these arguments; its id.
    async fn call(&self, task: &str, args: &[u64]) -> String {
        let message = self.message(task, args);
        let id = message.id.clone();
        self.send(message).await;
        id
    }

    fn message(&self, task: &str, args: &[u64]) -> Message {
        let raw = |n: &u64| RawValue::from_string(n.to_string()).expect("JSON");
        let arguments = Arguments {
            args: args.iter().map(raw).collect(),
            ..Arguments::default()
        };
        let mut message = Message::new(unique("call"), task, &arguments);
        message.reply_to = Some(self.replies.address.clone());
        message
    }

    async fn send(&self, message: Message) {
        let publish = Publish {
            route: Route::Queue(self.queue.clone()),
            message,
            delay: Duration::ZERO,
            deadline: Duration::from_secs(10),
        };
        self.broker.publish(publish).await.expect("sent");
    }

    /// The id of the next reply, and what it says.
    async fn reply(&mut self) -> (String, String) {
        let message = within("a reply", self.replies.messages.recv()).await;
        let reply = Reply::decode(&message.expect("open")).expect("readable");
        let reply = reply.expect("an end");
        (reply.id, reply.outcome.expect("a result").get().to_owned())
    }

    async fn leave(self) {
        let dead = Queue::new(&self.queue).dead_letter_name();
        for queue in [&self.queue, &dead] {
            self.broker.delete(queue).await.expect("deleted");
        }
        self.broker.close().await;
    }
}

#[test]
fn a_void_delivery_is_told_and_its_redelivery_adopted() {
    let name = "a_void_delivery_is_told_and_its_redelivery_adopted";
    alone(name, Place::quorum, adopted);
}

async fn adopted(place: Place) {
    let proxy = Proxy::start(&place.server()).await;
    let app = garenne::App::connect(place.through(proxy.address)).await;
    let app = app.expect("through the proxy");
    let worker = worker(&app, &*place.queue, 2, &place.journal()).spawn();
    assert!(worker.ready().await);
    let mut caller = Caller::connect(&place).await;
    // It goes on for longer than the worker needs to be back.
    let id = caller.call("outlives", &[1, 2_500]).await;
    place.line(1).await;
    let cut = Instant::now();
    proxy.cut();
    place.line(2).await;
    figure!(
        place,
        "the attempt is told {:.1?} after the cut",
        cut.elapsed()
    );
    assert_eq!(caller.reply().await, (id, "1".to_owned()));
    // Had the redelivery been run, or answered, too, that would have happened before this.
    let later = caller.call("echo", &[2]).await;
    assert_eq!(caller.reply().await, (later, "2".to_owned()));
    assert_eq!(place.lines(), ["start", "stale"]);
    worker.stop().await.expect("stopped");
    app.close().await;
    caller.leave().await;
}

on!(alone a_redelivery_beside_a_valid_delivery_is_adopted: quorum classic);

/// RabbitMQ gives a message again to a consumer that it took for dead, on the same channel, when their nodes have lost
/// each other for a moment. To the worker that looks as a second copy of the message does that came back.
async fn a_redelivery_beside_a_valid_delivery_is_adopted(place: Place) {
    let app = place.app().await;
    let worker = worker(&app, &*place.queue, 2, &place.journal()).spawn();
    assert!(worker.ready().await);
    let mut caller = Caller::connect(&place).await;
    let message = caller.message("marks", &[5, 6_000]);
    caller.send(message.clone()).await;
    place.line(1).await;
    // While the second slot is taken, too, another consumer gets the copy, and loses it.
    let short = caller.call("marks", &[6, 1_500]).await;
    place.line(2).await;
    let proxy = Proxy::start(&place.server()).await;
    let url = place.through(proxy.address).parse().expect("a URL");
    let other = garenne::broker::connect(&url, "other").await;
    let other = other.expect("through the proxy");
    let queue = Queue::new(&caller.queue);
    let mut consumer = other.consume(&queue, 1).await.expect("a queue");
    caller.send(message.clone()).await;
    let copy = within("the copy", consumer.next()).await;
    let copy = copy.expect("open").expect("a delivery");
    assert_eq!(copy.message.id, message.id);
    proxy.refuse(true);
    proxy.cut();
    within("the loss", copy.stale().stale()).await;
    drop((copy, consumer, other));
    assert_eq!(caller.reply().await, (short, "6".to_owned()));
    assert_eq!(caller.reply().await, (message.id, "5".to_owned()));
    // Had the copy been run, or answered, too, that would have happened before this.
    let later = caller.call("echo", &[2]).await;
    assert_eq!(caller.reply().await, (later, "2".to_owned()));
    assert_eq!(place.lines(), ["5 1", "6 1"]);
    worker.stop().await.expect("stopped");
    eventually("it is settled", || async {
        let depth = app.broker().depth(&caller.queue).await;
        depth.expect("a queue").ready == 0
    })
    .await;
    app.close().await;
    caller.leave().await;
}

#[test]
fn a_void_attempt_does_not_reply() {
    alone("a_void_attempt_does_not_reply", Place::quorum, silent);
}

async fn silent(place: Place) {
    let proxy = Proxy::start(&place.server()).await;
    let app = garenne::App::connect(place.through(proxy.address)).await;
    let app = app.expect("through the proxy");
    let cut_off = worker(&app, &*place.queue, 1, &place.journal()).spawn();
    assert!(cut_off.ready().await);
    let mut caller = Caller::connect(&place).await;
    let id = caller.call("outlives", &[1, LINGER]).await;
    place.line(1).await;
    let other = WorkerProcess::start(&place, 1);
    proxy.refuse(true);
    proxy.cut();
    assert_eq!(caller.reply().await, (id, "1".to_owned()));
    tokio::time::sleep(Duration::from_millis(2 * LINGER)).await;
    drop(other);
    proxy.refuse(false);
    // The first worker answers this one, after all that it may have had to say before.
    let later = caller.call("echo", &[2]).await;
    assert_eq!(caller.reply().await, (later, "2".to_owned()));
    let mut lines = place.lines();
    lines.sort_unstable();
    assert_eq!(lines, ["again", "stale", "start"]);
    cut_off.stop().await.expect("stopped");
    app.close().await;
    caller.leave().await;
}

#[test]
fn a_frozen_worker_cannot_answer_for_its_successor() {
    let name = "a_frozen_worker_cannot_answer_for_its_successor";
    let place = || Some(Place::quorum()?.heartbeat(HEARTBEAT));
    alone(name, place, frozen);
}

async fn frozen(place: Place) {
    let mut caller = Caller::connect(&place).await;
    let worker = WorkerProcess::start(&place, 1);
    let id = caller.call("outlives", &[1, LINGER]).await;
    place.line(1).await;
    worker.signal("STOP");
    let mut other = WorkerProcess::start(&place, 1);
    let start = Instant::now();
    assert_eq!(caller.reply().await, (id, "1".to_owned()));
    let took = start.elapsed();
    figure!(
        place,
        "runs elsewhere {took:.1?} after SIGSTOP, heartbeat {HEARTBEAT} s"
    );
    assert!(
        took < Duration::from_secs(4 * u64::from(HEARTBEAT)),
        "{took:?}"
    );
    // Killed, it could leave the delivery unsettled.
    other.signal("TERM");
    other.ended().await;
    let thawed = Instant::now();
    worker.signal("CONT");
    place.line(3).await;
    figure!(
        place,
        "the thawed attempt is told after {:.1?}",
        thawed.elapsed()
    );
    let later = caller.call("echo", &[2]).await;
    assert_eq!(caller.reply().await, (later, "2".to_owned()));
    tokio::time::sleep(Duration::from_millis(2 * LINGER)).await;
    let last = caller.call("echo", &[3]).await;
    assert_eq!(caller.reply().await, (last, "3".to_owned()));
    assert_eq!(place.lines(), ["start", "again", "stale"]);
    drop(worker);
    caller.leave().await;
}

on!(alone the_first_of_two_replies_wins: memory sqlite quorum);

async fn the_first_of_two_replies_wins(place: Place) {
    let app = place.app().await;
    let handle = echo::call(0).queue(&place.queue);
    let handle = handle.send(&app).await.expect("sent");
    let queue = Queue::new(format!("{}{}", app.prefix(), place.queue));
    let mut consumer = app.broker().consume(&queue, 1).await.expect("a queue");
    let next = within("a delivery", consumer.next()).await;
    let delivery: Delivery = next.expect("open").expect("a delivery");
    let answer = |value: u64| {
        let outcome = Ok(RawValue::from_string(value.to_string()).expect("JSON"));
        let id = handle.id().to_owned();
        let reply = Reply { id, outcome };
        Publish {
            route: Route::Reply(delivery.message.reply_to.clone().expect("an address")),
            message: reply.encode(&delivery.message, SystemTime::now()),
            delay: Duration::ZERO,
            deadline: Duration::from_secs(10),
        }
    };
    let (first, second) = (answer(1), answer(2));
    app.broker().publish(first).await.expect("sent");
    app.broker().publish(second).await.expect("sent");
    delivery.ack(None).await.expect("acknowledged");
    drop(consumer);
    let worker = worker(&app, &*place.queue, 1, &place.journal()).spawn();
    // Replies come in order: when this one is there, both others were.
    let later = echo::call(3).queue(&place.queue);
    let later = later.send(&app).await.expect("sent");
    assert_eq!(within("a later result", later).await, Ok(3));
    assert_eq!(within("the first result", handle.result()).await, Ok(1));
    assert_eq!(within("the same again", handle).await, Ok(1));
    worker.stop().await.expect("stopped");
    place.leave(app).await;
}

on!(alone a_crash_between_reply_and_ack_repeats_the_work_but_not_the_result: quorum classic);
on!(alone a_cut_between_reply_and_ack_repeats_nothing: quorum classic);
on!(alone a_crash_between_retry_and_ack_loses_nothing: quorum classic);

async fn a_crash_between_reply_and_ack_repeats_the_work_but_not_the_result(place: Place) {
    let tap = Tap::start(place.server()).await;
    let mut worker = Spawn::at(&place).url(place.through(tap.address)).start();
    let app = place.app().await;
    let call = marks::call(5, 200).queue(&place.queue);
    let handle = call.send(&app).await.expect("sent");
    place.line(1).await;
    tap.swallow(true);
    assert_eq!(within("the result", handle.result()).await, Ok(5));
    worker.kill();
    let _next = WorkerProcess::start(&place, 1);
    assert_eq!(place.line(2).await, ["5 1", "5 1"]);
    // Nothing disturbs what follows.
    let later = echo::call(6).queue(&place.queue);
    let later = later.send(&app).await.expect("sent");
    assert_eq!(within("a later result", later).await, Ok(6));
    assert_eq!(within("the same result", handle).await, Ok(5));
    assert_eq!(place.lines().len(), 2);
    place.leave(app).await;
}

async fn a_cut_between_reply_and_ack_repeats_nothing(place: Place) {
    let tap = Tap::start(place.server()).await;
    let _worker = Spawn::at(&place).url(place.through(tap.address)).start();
    let app = place.app().await;
    let call = marks::call(5, 200).queue(&place.queue);
    let handle = call.send(&app).await.expect("sent");
    place.line(1).await;
    tap.swallow(true);
    assert_eq!(within("the result", handle.result()).await, Ok(5));
    tap.swallow(false);
    tap.cut();
    // With one slot, this one comes after the redelivery.
    let later = marks::call(6, 0).queue(&place.queue);
    let later = later.send(&app).await.expect("sent");
    assert_eq!(within("a later result", later).await, Ok(6));
    assert_eq!(place.lines(), ["5 1", "6 1"], "it was answered from memory");
    place.leave(app).await;
}

async fn a_crash_between_retry_and_ack_loses_nothing(place: Place) {
    let tap = Tap::start(place.server()).await;
    let spawn = Spawn::at(&place).url(place.through(tap.address));
    let mut worker = spawn.slots(2).start();
    let app = place.app().await;
    tap.swallow(true);
    let call = fails_once::call().queue(&place.queue);
    let handle = call.send(&app).await.expect("sent");
    // The second slot runs the retry, whose copy is stored: the first delivery is not settled.
    assert_eq!(within("the result", handle.result()).await, Ok(2));
    worker.kill();
    let next = WorkerProcess::start(&place, 1);
    // The first delivery comes again, and with it another second attempt.
    place.line(4).await;
    let later = echo::call(6).queue(&place.queue);
    let later = later.send(&app).await.expect("sent");
    assert_eq!(within("a later result", later).await, Ok(6));
    let mut lines = place.lines();
    figure!(place, "{} attempts of a call that needs two", lines.len());
    lines.sort_unstable();
    let first = lines.iter().filter(|line| *line == "1").count();
    assert!(first == 2 && lines.len() <= 5, "{lines:?}");
    assert_eq!(within("the same result", handle).await, Ok(2));
    drop(next);
    place.leave(app).await;
}
