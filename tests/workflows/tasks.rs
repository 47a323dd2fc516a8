//! The tasks that these tests compose, and workers that run them.

use std::time::Duration;

use garenne::{App, Context, Failure, TaskError, Worker, task};
use tokio::sync::mpsc;

/// Where tasks report to their test.
pub(crate) struct Log(mpsc::UnboundedSender<String>);

pub(crate) type Said = mpsc::UnboundedReceiver<String>;

impl Log {
    fn say(&self, text: impl Into<String>) {
        self.0.send(text.into()).ok();
    }
}

/// A worker for the queues `default` and `other`, and what its tasks say.
pub(crate) fn worker(app: &App) -> (Worker, Said) {
    worker_that(app, Ends(true))
}

pub(crate) fn worker_that(app: &App, ends: Ends) -> (Worker, Said) {
    let (send, said) = mpsc::unbounded_channel();
    let worker = Worker::new(app)
        .queue("default", 16)
        .queue("other", 4)
        .state(ends)
        .state(Log(send));
    (worker, said)
}

#[task]
pub(crate) async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task(queue = "other")]
pub(crate) fn multiply(a: i64, b: i64) -> i64 {
    a * b
}

#[task]
pub(crate) async fn sum(values: Vec<i64>) -> i64 {
    values.iter().sum()
}

#[task]
pub(crate) async fn count(values: Vec<i64>, log: &Log, ctx: &Context) -> usize {
    log.say(format!("counted by {}", ctx.id()));
    values.len()
}

#[task]
pub(crate) async fn describe(value: i64, unit: String) -> String {
    format!("{value} {unit}")
}

#[task]
pub(crate) async fn show(value: serde_json::Value) -> String {
    value.to_string()
}

#[task]
pub(crate) async fn says(log: &Log, text: String) -> String {
    log.say(&*text);
    text
}

#[task]
pub(crate) async fn fail(_input: i64, text: String) -> Result<i64, String> {
    Err(text)
}

#[task]
pub(crate) async fn panics(_input: i64) -> i64 {
    panic!("at the disco")
}

#[task(timeout = "50ms")]
pub(crate) async fn hangs(_input: i64) -> i64 {
    std::future::pending().await
}

/// Never ends, unless it is cancelled.
#[task]
pub(crate) async fn waits(input: i64, log: &Log) -> i64 {
    log.say(format!("waits {input}"));
    tokio::time::sleep(Duration::from_secs(600)).await;
    input
}

#[task]
pub(crate) async fn slow(input: i64, millis: u64) -> i64 {
    tokio::time::sleep(Duration::from_millis(millis)).await;
    input
}

/// Fails at first.
#[task(retries = 5, backoff = "1ms..5ms")]
pub(crate) async fn flaky(input: i64, ctx: &Context) -> Result<i64, String> {
    match ctx.attempt() {
        1..=2 => Err("not yet".into()),
        _ => Ok(input),
    }
}

#[task]
pub(crate) async fn report(failure: Failure, log: &Log, ctx: &Context, to: String) {
    let parent = ctx.parent_id().unwrap_or_default() == failure.id;
    log.say(format!(
        "{to}: {} {} {} {parent}",
        failure.task, failure.kind, failure.message
    ));
}

/// What it knows of where it comes from.
#[task]
pub(crate) async fn family(ctx: &Context, log: &Log, input: Option<i64>) -> i64 {
    let parent = ctx.parent_id().unwrap_or("nobody");
    log.say(format!("{} {parent} {}", ctx.id(), ctx.root_id()));
    input.unwrap_or_default()
}

#[task]
pub(crate) async fn sends_more(ctx: &Context, n: i64) -> Result<i64, TaskError> {
    let inner = garenne::group((0..n).map(|n| add::call(n, 1)));
    let sent = inner.then(sum::partial()).send(ctx.app()).await;
    Ok(sent?.await?)
}

#[task(retries = 1, backoff = "1ms..2ms")]
pub(crate) async fn fails_once(values: Vec<i64>, ctx: &Context) -> Result<i64, String> {
    match ctx.attempt() {
        1 => Err("not yet".into()),
        _ => Ok(values.iter().sum()),
    }
}

/// How many went well.
#[task]
pub(crate) async fn good(outcomes: Vec<Result<i64, Failure>>) -> i64 {
    outcomes.iter().filter(|outcome| outcome.is_ok()).count() as i64
}

#[task]
pub(crate) async fn good_of(groups: Vec<Vec<Result<i64, Failure>>>) -> i64 {
    groups
        .iter()
        .flatten()
        .filter(|outcome| outcome.is_ok())
        .count() as i64
}

#[task]
pub(crate) async fn second_life(values: Vec<i64>, ctx: &Context, log: &Log) -> Result<i64, String> {
    ctx.header("garenne-revivals").ok_or("too early")?;
    let sum = values.iter().sum();
    log.say(format!("{sum} at last"));
    Ok(sum)
}

/// Whether the worker's tasks come to an end.
pub(crate) struct Ends(pub(crate) bool);

#[task]
pub(crate) async fn held(input: i64, ends: &Ends, log: &Log) -> i64 {
    if !ends.0 {
        log.say(format!("holds {input}"));
        std::future::pending::<()>().await;
    }
    input
}
