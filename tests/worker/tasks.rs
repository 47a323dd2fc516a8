//! The tasks that these tests run, and a worker that lends them what they borrow.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::support::within;
use garenne::message::Message;
use garenne::{App, Context, MILLISECOND, Queue, TaskError, Worker, task};
use tokio::sync::mpsc;

/// Where tasks report to their test.
pub(crate) struct Log(pub(crate) mpsc::UnboundedSender<String>);

pub(crate) fn log() -> (Log, mpsc::UnboundedReceiver<String>) {
    let (send, receive) = mpsc::unbounded_channel();
    (Log(send), receive)
}

impl Log {
    pub(crate) fn say(&self, text: impl Into<String>) {
        self.0.send(text.into()).ok();
    }
}

#[task]
pub(crate) async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task]
pub(crate) fn multiply(a: i64, b: Option<i64>) -> i64 {
    a * b.unwrap_or(10)
}

#[task]
pub(crate) async fn fail(text: String) -> Result<(), String> {
    Err(text)
}

#[task(retries = 4, backoff = "1ms..5ms")]
pub(crate) async fn flaky(ctx: &Context, good_from: u32) -> Result<u32, String> {
    if ctx.attempt() < good_from {
        Err(format!("attempt {} is bad", ctx.attempt()))
    } else {
        Ok(ctx.attempt())
    }
}

#[task]
pub(crate) async fn asks_again(ctx: &Context, times: u32) -> Result<u32, TaskError> {
    if ctx.attempt() <= times {
        Err(TaskError::retry_in(20 * MILLISECOND))
    } else {
        Ok(ctx.attempt())
    }
}

#[task(retries = 9)]
pub(crate) async fn gives_up(ctx: &Context) -> Result<(), TaskError> {
    Err(TaskError::permanent(format!(
        "hopeless in attempt {}",
        ctx.attempt()
    )))
}

/// Fails until it is retried from the dead letters.
#[task(backoff = "1ms..5ms")]
pub(crate) async fn second_life(log: &Log, ctx: &Context) -> Result<(), String> {
    let text = |name| ctx.header(name).and_then(|value| value.as_str());
    let revivals = ctx
        .header("garenne-revivals")
        .and_then(|value| value.as_u64());
    let lives = revivals.ok_or("too early")? + 1;
    let errors = text("garenne-history").map_or(0, |errors| errors.matches("too early").count());
    log.say(format!(
        "{} of {}, attempt {} of life {lives} after {errors} errors",
        ctx.id(),
        text("tenant").unwrap_or_default(),
        ctx.attempt()
    ));
    Ok(())
}

pub(crate) struct Naps(pub(crate) AtomicU32);

#[task]
pub(crate) async fn snoozes(naps: &Naps, ctx: &Context) -> Result<u32, TaskError> {
    if naps.0.fetch_add(1, Ordering::SeqCst) < 3 {
        return Err(TaskError::snooze(10 * MILLISECOND));
    }
    Ok(ctx.attempt())
}

#[task]
pub(crate) async fn panics(text: String) {
    panic!("{text}");
}

#[task]
pub(crate) fn panics_on_a_thread() {
    panic!("on a thread");
}

#[task(timeout = "50ms")]
pub(crate) async fn sleeps(time: u64) {
    tokio::time::sleep(Duration::from_millis(time)).await;
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

#[task(timeout = "50ms")]
pub(crate) async fn panics_when_dropped() {
    let _bomb = Bomb;
    std::future::pending::<()>().await;
}

#[task(timeout = "50ms")]
pub(crate) fn blocks(ctx: &Context) {
    while !ctx.is_cancelled() {
        std::thread::sleep(MILLISECOND);
    }
}

#[task]
pub(crate) async fn tells(log: &Log, text: String) {
    log.say(text);
}

#[task]
pub(crate) async fn waits_for_ever(log: &Log, ctx: &Context) {
    log.say(format!("started attempt {}", ctx.attempt()));
    std::future::pending::<()>().await;
}

#[task]
pub(crate) async fn takes_a_while(log: &Log, time: u64) -> u64 {
    log.say("started");
    tokio::time::sleep(Duration::from_millis(time)).await;
    time
}

#[task]
pub(crate) async fn describes(ctx: &Context) -> String {
    let tenant = ctx
        .header("tenant")
        .and_then(|value| value.as_str())
        .unwrap_or("nobody");
    format!(
        "{} {} {} {tenant} {}",
        ctx.task(),
        ctx.queue(),
        ctx.attempt(),
        ctx.deadline().is_some()
    )
}

#[task]
pub(crate) async fn keys(map: HashMap<(u8, u8), u8>) -> usize {
    map.len()
}

#[task]
pub(crate) async fn returns_much(size: usize) -> String {
    "x".repeat(size)
}

/// A worker on `queue` that has all the states which the tasks here borrow.
pub(crate) fn worker(
    app: &App,
    queue: impl Into<Queue>,
    slots: usize,
) -> (Worker, mpsc::UnboundedReceiver<String>) {
    let (log, said) = log();
    (
        Worker::new(app)
            .queue(queue, slots)
            .state(log)
            .state(Naps(AtomicU32::new(0))),
        said,
    )
}

/// Takes one dead letter of `queue` and settles it.
pub(crate) async fn dead_letter(app: &App, queue: &Queue) -> Message {
    let dead = Queue::new(format!("{}{}", app.prefix(), queue.dead_letter_name()));
    let mut consumer = app
        .broker()
        .consume(&dead, 1)
        .await
        .expect("a dead-letter queue");
    let mut delivery = within("a dead letter", consumer.next())
        .await
        .expect("open")
        .expect("a delivery");
    let message = std::mem::take(&mut delivery.message);
    delivery.ack(None).await.expect("settled");
    message
}

/// Says that it ran.
#[task]
pub(crate) async fn leaves_a_trace(a: i64, b: i64, log: &Log) -> i64 {
    log.say(format!("{a} and {b}"));
    a + b
}
