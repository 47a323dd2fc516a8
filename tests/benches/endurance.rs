//! Ten million calls through one worker: what it and its client take of memory on the way, which must not grow.
//!
//! `GARENNE_TEST_AMQP=amqp://… cargo bench -p garenne --bench endurance`; without the variable on SQLite.
//! `GARENNE_BENCH_CALLS` is another number of calls; with `GARENNE_BENCH_SHORT=1` it is ten thousand, which only shows
//! that it works.

use std::time::Instant;

use anyhow::Result;

#[path = "asked.rs"]
mod asked;
#[path = "growth/crew.rs"]
#[allow(dead_code, reason = "not all of it is asked for")]
mod crew;
#[path = "growth/numbered.rs"]
#[allow(dead_code, reason = "one task is enough")]
mod numbered;
#[path = "growth/site.rs"]
#[allow(dead_code, reason = "nobody awaits results")]
mod site;
#[path = "../support/mod.rs"]
mod support;
#[path = "growth/worker.rs"]
#[allow(dead_code, reason = "the worker is always the same")]
mod worker;

use crew::Crew;
use site::{Site, call};
use worker::Spec;

const QUEUE: &str = "endurance";
const SLOTS: usize = 32;
const CALLS: usize = 10_000_000;
/// Looks at the memory.
const LOOKS: usize = 20;

fn calls() -> usize {
    let asked = std::env::var("GARENNE_BENCH_CALLS").ok();
    let short = std::env::var_os("GARENNE_BENCH_SHORT").is_some_and(|asked| !asked.is_empty());
    let usual = if short { 10_000 } else { CALLS };
    asked.and_then(|asked| asked.parse().ok()).unwrap_or(usual)
}

async fn measure(broker: &'static str, url: String) -> Result<()> {
    let site = Site::open(broker, url).await?;
    site.app.declare(QUEUE).await?;
    let mut crew = Crew::start(&Spec::new(&site.url, QUEUE, SLOTS), 1).await?;
    crew.go().await?;
    println!("\n**{broker}**\n");
    println!(
        "| calls | sent and run, /s | the worker's memory, MiB | its CPU, µs a call | the client's memory, MiB |"
    );
    println!("|---|---|---|---|---|");
    let (block, mut done) = (calls().div_ceil(LOOKS), 0);
    for _ in 0..LOOKS {
        let began = Instant::now();
        site.fill((0..block).map(|_| call(QUEUE, 40))).await?;
        done += block;
        let drained = crew.drained(done).await?;
        println!(
            "| {done} | {:.0} | {:.1} | {:.1} | {:.1} |",
            block as f64 / began.elapsed().as_secs_f64(),
            drained.memory,
            drained.cpu,
            crew::usage(std::process::id()).memory
        );
    }
    crew.stop().await?;
    site.delete(QUEUE).await?;
    site.app.close().await;
    Ok(())
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    if let Ok(spec) = std::env::var(crew::WORKER) {
        return worker::work(&spec).await;
    }
    if !asked::is_asked() {
        return Ok(());
    }
    match support::rabbitmq() {
        Some(url) => measure("RabbitMQ, quorum queue", url).await,
        None => {
            let file = support::TempFile::new("db");
            measure("SQLite", file.url()).await
        }
    }
}
