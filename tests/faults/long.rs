//! Calls that take longer than RabbitMQ lets a consumer hold a delivery: its consumer timeout, 30 minutes
//! by default, is seconds here.

use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use garenne::{App, Queue};

use super::child::WorkerProcess;
use super::node::Node;
use super::place::{Place, aside, figure};
use super::tasks::{echo, endures, worker};
use crate::support::within;

const TIMEOUT: Duration = Duration::from_secs(1);
/// A call that takes so long is cut off twice at least: servers before 4.3 look twice a second.
const LONG: u64 = 5_000;
/// A call of which the consumer timeout says nothing is answered within this.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The warnings of this process.
static WARNINGS: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Warnings;

impl Write for Warnings {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut log = WARNINGS.lock().unwrap_or_else(PoisonError::into_inner);
        log.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Keeps warnings from now on.
fn listen() {
    let log = tracing_subscriber::fmt().with_ansi(false);
    let log = log.with_max_level(tracing::Level::WARN);
    // An error means that it was done before.
    let _ = log.with_writer(|| Warnings).try_init();
}

/// The warning that has all of `words`.
fn warned_of(words: &[&str]) -> bool {
    let log = WARNINGS.lock().unwrap_or_else(PoisonError::into_inner);
    let log = String::from_utf8_lossy(&log);
    log.lines()
        .any(|line| words.iter().all(|word| line.contains(word)))
}

#[test]
fn a_long_call_is_not_cut_off() {
    aside("a_long_call_is_not_cut_off", Node::start, not_cut_off);
}

#[test]
fn a_call_that_is_cut_off_runs_once() {
    aside("a_call_that_is_cut_off_runs_once", Node::start, runs_once);
}

#[test]
fn a_classic_queues_call_that_is_cut_off_runs_once() {
    let name = "a_classic_queues_call_that_is_cut_off_runs_once";
    aside(name, Node::start, classic_runs_once);
}

#[test]
fn the_first_result_of_two_workers_counts() {
    aside("the_first_result_of_two_workers_counts", Node::start, two);
}

#[test]
fn a_call_cut_off_too_often_for_the_broker_is_kept() {
    let name = "a_call_cut_off_too_often_for_the_broker_is_kept";
    aside(name, Node::start, limit);
}

/// The server's own timeout, as its operator would set it for all queues.
fn shorten_for_all(node: &Node) {
    let millis = TIMEOUT.as_millis();
    // A channel reads them when it is opened.
    let set = format!(
        "application:set_env(rabbit, consumer_timeout, {millis}), \
         application:set_env(rabbit, channel_tick_interval, 500)."
    );
    node.run("ctl", &["eval", &set]);
}

/// A timeout that holds for our queues, too, which ask for a longer one.
fn shorten(node: &Node, more: &str) {
    shorten_for_all(node);
    let mut settings = more.to_owned();
    if node.version() >= (3, 12) {
        let comma = if more.is_empty() { "" } else { "," };
        settings = format!("{more}{comma}\"consumer-timeout\":{}", TIMEOUT.as_millis());
    }
    if !settings.is_empty() {
        let settings = format!("{{{settings}}}");
        node.run("ctl", &["set_policy", "short", "^faults-", &settings]);
    }
}

/// Runs one long call on one worker; returns how often its delivery became void.
async fn endure(place: &Place, app: &App) -> u64 {
    let long = endures::call(LONG).queue(&place.queue);
    let long = long.send(app).await.expect("sent");
    let waiting = echo::call(1).queue(&place.queue);
    let waiting = waiting.send(app).await.expect("sent");
    let voids = within("the long call", long).await.expect("a result");
    let start = Instant::now();
    assert_eq!(within("what waits behind it", waiting).await, Ok(1));
    for n in 2..6 {
        let next = echo::call(n).queue(&place.queue);
        let next = next.send(app).await.expect("sent");
        assert_eq!(within("a later call", next).await, Ok(n));
    }
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    let lines = place.lines();
    figure!(place, "{voids} times cut off: {lines:?}");
    let count = |what| lines.iter().filter(|line| **line == what).count() as u64;
    assert_eq!(count("start"), 1, "{lines:?}");
    assert_eq!(count("void"), voids, "{lines:?}");
    voids
}

fn dead_letters(place: &Place) -> String {
    Queue::new(&place.queue).dead_letter_name()
}

async fn not_cut_off(node: Node) {
    shorten_for_all(&node);
    let place = node.place();
    let app = place.app().await;
    let running = worker(&app, &*place.queue, 1, &place.journal()).spawn();
    assert!(running.ready().await);
    let voids = endure(&place, &app).await;
    // Older servers do not know the queue's argument.
    assert_eq!(voids == 0, node.version() >= (3, 12), "{voids}");
    running.stop().await.expect("stopped");
    app.close().await;
}

async fn runs_once(node: Node) {
    cut_off(&node, node.place()).await;
}

async fn classic_runs_once(node: Node) {
    let mut place = node.place();
    place.url.push_str("?queue_type=classic");
    cut_off(&node, place).await;
}

async fn cut_off(node: &Node, place: Place) {
    listen();
    shorten(node, "");
    let app = place.app().await;
    // On a classic queue a call that came back is counted by a copy at the queue's end. What waited behind it is
    // delivered in its place, and without a slot of its own it would be cut off, too.
    let slots = 1 + usize::from(place.url.contains("classic"));
    // So few deliveries without an end would make it poison.
    let running = worker(&app, &*place.queue, slots, &place.journal()).max_deliveries(2);
    let running = running.spawn();
    assert!(running.ready().await);
    let voids = endure(&place, &app).await;
    // From 4.3 on classic queues have no timeout.
    match place.url.contains("classic") && node.version() >= (4, 3) {
        true => assert_eq!(voids, 0),
        false => {
            assert!(voids >= 2, "{voids}");
            let setting = "consumer_timeout = 31536000000";
            assert!(warned_of(&[&place.queue, setting]), "the setting");
            assert!(warned_of(&["endures", "adopts"]), "the task");
        }
    }
    // Each time the same attempt goes on, and knows it.
    let lines = place.lines();
    for (n, line) in lines.iter().enumerate() {
        let last = n + 1 == lines.len();
        assert!(
            line != "void" || last || lines[n + 1] == "valid",
            "{lines:?}"
        );
    }
    let dead = app.depth(&dead_letters(&place)).await.expect("a queue");
    assert_eq!(dead.ready, 0);
    running.stop().await.expect("stopped");
    assert_eq!(app.depth(&place.queue).await.expect("a queue").ready, 0);
    app.close().await;
}

async fn two(node: Node) {
    shorten(&node, "");
    let place = node.place();
    let app = place.app().await;
    let _workers = [
        WorkerProcess::start(&place, 1),
        WorkerProcess::start(&place, 1),
    ];
    let start = Instant::now();
    let call = endures::call(LONG).queue(&place.queue);
    let call = call.send(&app).await.expect("sent");
    within("the result", call).await.expect("a result");
    let took = start.elapsed();
    let starts = place.lines().iter().filter(|line| *line == "start").count();
    figure!(place, "answered after {took:.1?}, {starts} starts");
    // The one that has the call when the other has ended may have to be cut off first.
    assert!(took < 2 * Duration::from_millis(LONG) + AT_ONCE, "{took:?}");
    assert!((1..=2).contains(&starts), "{starts}");
    app.close().await;
}

async fn limit(node: Node) {
    shorten(&node, "\"delivery-limit\":1");
    let place = node.place();
    let app = place.app().await;
    // Two slots, or what waits behind the long call would be delivered too often, too.
    let running = worker(&app, &*place.queue, 2, &place.journal()).spawn();
    assert!(running.ready().await);
    let dead = Queue::new(format!("{}{}", app.prefix(), dead_letters(&place)));
    // From 4.3 on a timeout is no failed delivery.
    if node.version() >= (4, 3) {
        endure(&place, &app).await;
        assert_eq!(app.depth(dead.name()).await.expect("a queue").ready, 0);
    } else {
        let call = endures::call(LONG).queue(&place.queue).ignore_result();
        let _ = call.send(&app).await.expect("sent");
        let mut consumer = app.broker().consume(&dead, 1).await.expect("a queue");
        let delivery = within("the dead letter", consumer.next()).await;
        let delivery = delivery.expect("open").expect("a delivery");
        let death = delivery.message.headers.get("x-death").expect("a reason");
        assert_eq!(death[0]["reason"], "delivery_limit");
        delivery.ack(None).await.expect("settled");
    }
    running.stop().await.expect("stopped");
    app.close().await;
}
