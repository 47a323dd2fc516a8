//! Many short waits at once: visits of a second each, in slots that are spread over several worker processes, and all
//! results awaited. How close it comes to what the slots allow, how evenly the processes share it, what it costs.
//!
//! `GARENNE_TEST_AMQP=amqp://… cargo bench -p garenne --bench visits`; without the variable only SQLite is measured.
//! `GARENNE_BENCH_CALLS` visits (10,000), `GARENNE_BENCH_WORKERS` processes (4) of `GARENNE_BENCH_SLOTS` slots (250).
//! `GARENNE_BENCH_SHORT=1` only shows that it works.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use garenne::{App, task};

#[path = "process.rs"]
mod process;
#[path = "../support/mod.rs"]
mod support;

use process::Process;

const VISIT: Duration = Duration::from_secs(1);
/// How long the whole may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Takes a second, and says who took it.
#[task(name = "visits.visit", queue = "visits")]
async fn visit(number: u32) -> (u32, u32) {
    tokio::time::sleep(VISIT).await;
    (number, std::process::id())
}

fn number(name: &str, default: usize) -> usize {
    let said = std::env::var(name).ok();
    said.and_then(|text| text.parse().ok()).unwrap_or(default)
}

async fn visits(app: &App, calls: usize) -> Result<(Duration, BTreeMap<u32, usize>)> {
    let start = Instant::now();
    let mut sending = app.send_all((0..calls).map(|number| visit::call(number as u32)));
    let mut results = FuturesUnordered::new();
    while let Some(sent) = sending.next().await {
        results.push(sent?.into_future());
    }
    println!("  {calls} sent within {:.1?}", start.elapsed());
    let (mut seen, mut by_process) = (vec![false; calls], BTreeMap::new());
    while let Some(result) = results.next().await {
        let (number, process) = result?;
        let seen = seen.get_mut(number as usize).context("a visit of ours")?;
        ensure!(
            !std::mem::replace(seen, true),
            "visit {number} has two results"
        );
        *by_process.entry(process).or_default() += 1;
    }
    Ok((start.elapsed(), by_process))
}

async fn measure(name: &str, url: &str) -> Result<()> {
    let short = std::env::var_os("GARENNE_BENCH_SHORT").is_some();
    let calls = number("GARENNE_BENCH_CALLS", if short { 100 } else { 10_000 });
    let workers = number("GARENNE_BENCH_WORKERS", if short { 2 } else { 4 });
    let slots = number("GARENNE_BENCH_SLOTS", if short { 25 } else { 250 });
    let app = App::connect(url).await?;
    app.declare("visits").await?;
    let processes: Vec<_> = (0..workers)
        .map(|_| Process::start(url, slots)?.ready())
        .collect::<Result<_>>()?;
    let least = VISIT * u32::try_from(calls.div_ceil(workers * slots))?;
    println!(
        "{name}: {calls} visits of {VISIT:?} in {workers} × {slots} slots, {least:?} at least"
    );
    let (took, shares) = tokio::time::timeout(PATIENCE, visits(&app, calls))
        .await
        .context("it takes too long")??;
    println!("  all results after {took:.2?}");
    for process in &processes {
        let share = shares.get(&process.id()).copied().unwrap_or(0);
        let (memory, time) = process.used().unwrap_or_default();
        let memory = memory / 1024;
        println!("  a worker: {share} visits, {memory} MiB, {time:.1?} of a processor");
    }
    drop(processes);
    app.delete("visits").await?;
    app.close().await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    process::work_if_asked("visits").await?;
    let file = support::TempFile::new("db");
    measure("SQLite", &file.url()).await?;
    if let Some(url) = support::rabbitmq() {
        measure("RabbitMQ", &url).await?;
    }
    Ok(())
}
