//! The tasks that run in Rust.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use garenne::celery::{self, Bytes, Date, DateTime, Decimal, Time, Uuid};
use garenne::{App, Context, Failure, MILLISECOND, SECOND, TaskError, Worker, task};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// What tasks were told, for others to ask.
#[derive(Clone, Default)]
pub(crate) struct Board(Arc<Mutex<BTreeSet<String>>>);

impl Board {
    fn note(&self, text: String) {
        self.0.lock().expect("no panic").insert(text);
    }

    fn has(&self, text: &str) -> bool {
        self.0.lock().expect("no panic").contains(text)
    }
}

/// A worker of `queue` that knows all of them.
pub(crate) fn worker(app: &App, queue: &str) -> Worker {
    let worker = Worker::new(app).queue(queue, 8);
    worker.state(Board::default()).grace(SECOND)
}

#[task(name = "rust.add")]
pub(crate) async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task(name = "rust.sum")]
pub(crate) async fn sum(values: Vec<i64>) -> i64 {
    values.iter().sum()
}

#[task(name = "rust.echo")]
async fn echo(value: Box<RawValue>) -> Box<RawValue> {
    value
}

#[task(name = "rust.nothing")]
async fn nothing() {}

#[task(name = "rust.greet")]
async fn greet(name: String, greeting: Option<String>) -> String {
    format!("{}, {name}", greeting.as_deref().unwrap_or("hello"))
}

#[task(name = "rust.fib")]
fn fib(n: u32) -> u64 {
    if n < 2 {
        n.into()
    } else {
        fib(n - 1) + fib(n - 2)
    }
}

#[task(name = "rust.größe")]
async fn size(text: String) -> usize {
    text.chars().count()
}

#[task(name = "rust.negate")]
async fn negate(number: i128) -> i128 {
    -number
}

#[task(name = "rust.note")]
pub(crate) async fn note(value: i64, text: String, board: &Board) {
    board.note(format!("{text} {value}"));
}

#[task(name = "rust.note_text")]
async fn note_text(value: String, text: String, board: &Board) {
    board.note(format!("{text} {value}"));
}

#[task(name = "rust.failed")]
pub(crate) async fn failed(failure: Failure, text: String, board: &Board) {
    board.note(format!("{text}: {}", failure.id));
}

#[task(name = "rust.noted")]
pub(crate) async fn noted(text: String, board: &Board) -> bool {
    board.has(&text)
}

#[task(name = "rust.request")]
async fn request(ctx: &Context) -> Value {
    json!({
        "id": ctx.id(),
        "task": ctx.task(),
        "root_id": ctx.root_id(),
        "parent_id": ctx.parent_id(),
        "attempt": ctx.attempt(),
    })
}

#[task(name = "rust.request_after")]
async fn request_after(ctx: &Context, _input: i64) -> Value {
    json!({"root_id": ctx.root_id(), "parent_id": ctx.parent_id()})
}

#[task(name = "rust.header")]
async fn header(ctx: &Context, name: String) -> Value {
    ctx.header(&name).cloned().unwrap_or_default()
}

#[task(name = "rust.tells")]
async fn tells(ctx: &Context) -> u32 {
    ctx.progress(&json!({"done": 3})).await;
    // Time enough to be looked at.
    tokio::time::sleep(SECOND).await;
    4
}

#[task(name = "rust.began")]
async fn began() -> Result<f64, std::time::SystemTimeError> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

#[task(name = "rust.sleep")]
async fn sleep(seconds: f64) -> String {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    "slept".into()
}

#[task(name = "rust.fail")]
async fn fail(text: String) -> Result<(), String> {
    Err(text)
}

#[task(name = "rust.fails_with")]
pub(crate) async fn fails_with(_input: i64, text: String) -> Result<i64, String> {
    Err(text)
}

#[task(name = "rust.parse")]
async fn parse(text: String) -> Result<i64, std::num::ParseIntError> {
    text.parse()
}

#[task(name = "rust.shrink")]
async fn shrink(number: i64) -> Result<u8, std::num::TryFromIntError> {
    number.try_into()
}

#[task(name = "rust.opens")]
async fn opens(path: String) -> Result<u64, std::io::Error> {
    Ok(std::fs::metadata(path)?.len())
}

#[task(name = "rust.decodes")]
async fn decodes() -> Result<usize, std::str::Utf8Error> {
    let bytes = vec![0xff];
    std::str::from_utf8(&bytes).map(str::len)
}

#[task(name = "rust.elapses")]
async fn elapses() -> Result<(), tokio::time::error::Elapsed> {
    tokio::time::timeout(MILLISECOND, std::future::pending()).await
}

/// An error of this crate's own.
struct Broken(String);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "broken: {}", self.0)
    }
}

#[task(name = "rust.own_error")]
async fn own_error(text: String) -> Result<(), Broken> {
    Err(Broken(text))
}

#[task(name = "rust.causes")]
async fn causes() -> anyhow::Result<()> {
    Err(anyhow::anyhow!("inner").context("outer"))
}

#[task(name = "rust.panics")]
async fn panics(text: String) {
    // The hook would print it among the cases.
    std::panic::resume_unwind(Box::new(text));
}

#[task(name = "rust.unsteady", retries = 3, backoff = "10ms..50ms")]
async fn unsteady(ctx: &Context, failures: u32) -> Result<u32, String> {
    match ctx.attempt() > failures {
        true => Ok(ctx.attempt()),
        false => Err(format!("attempt {} went wrong", ctx.attempt())),
    }
}

#[task(name = "rust.asks_again")]
async fn asks_again(ctx: &Context) -> Result<u32, TaskError> {
    match ctx.attempt() {
        1 => Err(TaskError::retry_in(50 * MILLISECOND)),
        attempt => Ok(attempt),
    }
}

#[task(name = "rust.permanent", retries = 5)]
async fn permanent(ctx: &Context) -> Result<(), TaskError> {
    let text = format!("attempt {}", ctx.attempt());
    Err(TaskError::permanent(text))
}

#[task(name = "rust.datetime")]
async fn datetime(value: DateTime) -> DateTime {
    value
}

#[task(name = "rust.date")]
async fn date(value: Date) -> Date {
    value
}

#[task(name = "rust.time")]
async fn time(value: Time) -> Time {
    value
}

#[task(name = "rust.decimal")]
async fn decimal(value: Decimal) -> Decimal {
    value
}

#[task(name = "rust.uuid")]
async fn uuid(value: Uuid) -> Uuid {
    value
}

#[task(name = "rust.bytes")]
async fn bytes(value: Bytes) -> Bytes {
    value
}

/// Python's types among a struct's fields.
#[derive(Serialize, Deserialize)]
struct Order {
    #[serde(with = "celery::uuid")]
    number: ::uuid::Uuid,
    #[serde(with = "celery::datetime")]
    placed: SystemTime,
    #[serde(with = "celery::decimal")]
    price: String,
}

#[task(name = "rust.order")]
async fn order(order: Order) -> Order {
    order
}
