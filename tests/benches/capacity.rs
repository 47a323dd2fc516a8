//! What one queue of a RabbitMQ carries, by payload and by how it is kept: calls sent and confirmed, calls run and
//! acknowledged, and what that costs the broker.
//!
//! `GARENNE_TEST_AMQP=amqp://… GARENNE_BENCH_BROKERS="PID …" cargo bench -p garenne --bench capacity`, with the
//! process ids of the broker's nodes on this machine, without which their processor time is not measured. Several
//! addresses, with `;` between them, are a cluster's nodes. `GARENNE_BENCH_SHORT=1` makes it a short round that only
//! shows that it works.

use std::time::Duration;

use anyhow::Result;

#[path = "asked.rs"]
mod asked;
#[path = "cell.rs"]
mod cell;
#[path = "growth/crew.rs"]
#[allow(dead_code, reason = "not all of it is asked for")]
mod crew;
#[path = "growth/numbered.rs"]
#[allow(dead_code, reason = "one task is enough")]
mod numbered;
#[path = "growth/site.rs"]
#[allow(dead_code, reason = "nobody awaits results")]
mod site;
#[path = "spread.rs"]
mod spread;
#[path = "../support/mod.rs"]
mod support;
#[path = "growth/worker.rs"]
#[allow(dead_code, reason = "the worker is always the same")]
mod worker;

use cell::cell;
use crew::Crew;
use site::{Site, call};
use worker::Spec;

const QUEUE: &str = "capacity";
const WORKERS: usize = 2;
/// Of each worker.
const SLOTS: usize = 32;
const PAYLOADS: [usize; 3] = [100, 10_000, 1_000_000];
/// Calls of a round, and how many bytes they have at most.
const CALLS: usize = 10_000;
const MOST_BYTES: usize = 200_000_000;

/// One round.
struct Sample {
    sent: f64,
    ran: f64,
    /// Microseconds of the broker's nodes, for each call sent and for each call run.
    broker: [f64; 2],
}

/// Processor time of the broker's nodes so far, where it is known which they are.
fn of_brokers() -> Duration {
    let pids = std::env::var("GARENNE_BENCH_BROKERS").unwrap_or_default();
    let pids = pids.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.map(|pid| crew::usage(pid).cpu).sum()
}

async fn measure(site: &Site, bytes: usize, count: usize) -> Result<Sample> {
    let per_call = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
    let began = of_brokers();
    let sent = site.fill((0..count).map(|_| call(QUEUE, bytes))).await?;
    let stored = of_brokers();
    let mut crew = Crew::start(&Spec::new(&site.url, QUEUE, SLOTS), WORKERS).await?;
    let started = of_brokers();
    crew.go().await?;
    let drained = crew.drained(count).await?;
    let ended = of_brokers();
    crew.stop().await?;
    Ok(Sample {
        sent,
        ran: drained.rate,
        broker: [
            per_call(stored.saturating_sub(began)),
            per_call(ended.saturating_sub(started)),
        ],
    })
}

async fn table(url: String, title: &'static str) -> Result<()> {
    let short = std::env::var_os("GARENNE_BENCH_SHORT").is_some_and(|asked| !asked.is_empty());
    let (rounds, divisor) = if short { (1, 10) } else { (5, 1) };
    let site = Site::open(title, url).await?;
    site.app.declare(QUEUE).await?;
    println!("\n{title}\n");
    println!("| bytes | sent/s | run/s | broker's CPU, µs a call sent | run |");
    println!("|---|---|---|---|---|");
    for bytes in PAYLOADS {
        let count = (MOST_BYTES / bytes).min(CALLS) / divisor;
        let mut samples = Vec::new();
        for _ in 0..rounds {
            samples.push(measure(&site, bytes, count).await?);
        }
        let column = |what: fn(&Sample) -> f64| cell(samples.iter().map(what), 0);
        println!(
            "| {bytes} | {} | {} | {} | {} |",
            column(|sample| sample.sent),
            column(|sample| sample.ran),
            column(|sample| sample.broker[0]),
            column(|sample| sample.broker[1]),
        );
    }
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
    let Some(url) = support::rabbitmq() else {
        println!("not measured: GARENNE_TEST_AMQP names no RabbitMQ");
        return Ok(());
    };
    table(url.clone(), "quorum queue").await?;
    table(format!("{url}&queue_type=classic"), "classic queue").await
}
