//! What a worker's process costs that has nothing to do, how soon a new one has done its first task, and what ten
//! thousand tasks cost that run at once.
//!
//! `GARENNE_TEST_AMQP=amqp://… cargo bench -p garenne --bench idle`; without the variable only SQLite is measured.
//! `GARENNE_BENCH_SHORT=1` only shows that it works.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use garenne::{App, task};
use tokio::time::{sleep, timeout};

#[path = "process.rs"]
mod process;
#[path = "../support/mod.rs"]
mod support;

use process::Process;

/// How long a new worker is left alone before its idleness is measured.
const SETTLING: Duration = Duration::from_secs(2);
/// How long each of many tasks takes that run at once.
const REST: Duration = Duration::from_secs(10);
/// How long the whole of one broker may take.
const PATIENCE: Duration = Duration::from_secs(300);

#[task(name = "idle.first", queue = "idle")]
async fn first() -> u32 {
    std::process::id()
}

#[task(name = "idle.rest", queue = "idle")]
async fn rest() {
    sleep(REST).await;
}

struct Plan {
    starts: usize,
    idle: Duration,
    running: usize,
}

impl Plan {
    fn read() -> Self {
        match std::env::var_os("GARENNE_BENCH_SHORT") {
            Some(_) => Self {
                starts: 1,
                idle: Duration::from_secs(1),
                running: 100,
            },
            None => Self {
                starts: 9,
                idle: Duration::from_secs(20),
                running: 10_000,
            },
        }
    }
}

/// From the start of a process to the result of a task that waits for it; the median of several, and the longest.
async fn first_task(app: &App, url: &str, starts: usize) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..starts {
        let waiting = first::call().send(app).await?;
        let began = Instant::now();
        let _worker = Process::start(url, 4)?;
        waiting.await?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let [median, longest] = [times[times.len() / 2], times[times.len() - 1]];
    println!(
        "  start to the first result: {median:.0?}, {longest:.0?} at most, of {starts} starts"
    );
    Ok(())
}

async fn idle(url: &str, time: Duration) -> Result<()> {
    let worker = Process::start(url, 4)?.ready()?;
    sleep(SETTLING).await;
    let (memory, before) = worker.used().context("a process that lives")?;
    sleep(time).await;
    let (_, after) = worker.used().context("a process that lives")?;
    let share = (after - before).as_secs_f64() / time.as_secs_f64() * 100.0;
    println!("  idle, 4 slots: {memory} KiB, {share:.2} % of a core in {time:?}");
    Ok(())
}

/// The most memory that a worker takes while `count` tasks run at once.
async fn at_once(app: &App, url: &str, count: usize) -> Result<()> {
    let worker = Process::start(url, count)?.ready()?;
    let (before, _) = worker.used().context("a process that lives")?;
    let began = Instant::now();
    let mut sending = app.send_all((0..count).map(|_| rest::call()));
    let mut results = FuturesUnordered::new();
    while let Some(sent) = sending.next().await {
        results.push(sent?.into_future());
    }
    let sent = began.elapsed();
    let mut most = before;
    loop {
        match timeout(Duration::from_millis(100), results.next()).await {
            Ok(Some(result)) => result?,
            Ok(None) => break,
            Err(_) => most = most.max(worker.used().map_or(0, |(memory, _)| memory)),
        }
    }
    let each = (most.saturating_sub(before)) as f64 / count as f64;
    println!(
        "  {count} tasks of {REST:?} at once: sent within {sent:.1?}, all results after {:.1?}; {before} KiB before, {most} KiB at most, \
         {each:.1} KiB each",
        began.elapsed()
    );
    Ok(())
}

async fn measure(name: &str, url: &str) -> Result<()> {
    let plan = Plan::read();
    println!("{name}:");
    let app = App::connect(url).await?;
    app.declare("idle").await?;
    first_task(&app, url, plan.starts).await?;
    idle(url, plan.idle).await?;
    at_once(&app, url, plan.running).await?;
    app.delete("idle").await?;
    app.close().await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    process::work_if_asked("idle").await?;
    let file = support::TempFile::new("db");
    let within = |name, url: String| async move {
        let measured = timeout(PATIENCE, measure(name, &url));
        measured.await.context("it takes too long")?
    };
    within("SQLite", file.url()).await?;
    if let Some(url) = support::rabbitmq() {
        within("RabbitMQ", url).await?;
    }
    Ok(())
}
