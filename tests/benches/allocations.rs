//! How often a call's way allocates memory, beside lapin by hand: counted, not timed, so that a busy machine changes
//! nothing.
//!
//! `GARENNE_TEST_AMQP=amqp://… cargo bench -p garenne --bench allocations`. With `GARENNE_BENCH_PROFILE=FILE` where each
//! of them comes from is written to the file, for dhat's viewer. After `--`, a part of a row's name chooses rows.

use anyhow::Result;
use dhat::{HeapStats, Profiler};
use garenne::Queue;

#[path = "asked.rs"]
mod asked;
#[path = "throughput/caller.rs"]
mod caller;
#[path = "throughput/meter.rs"]
#[allow(dead_code, reason = "nothing is timed here")]
mod meter;
#[path = "throughput/ours.rs"]
mod ours;
#[path = "throughput/post.rs"]
#[allow(dead_code, reason = "nothing is written by hand to SQLite")]
mod post;
#[path = "throughput/raw.rs"]
mod raw;
#[path = "throughput/row.rs"]
#[allow(dead_code, reason = "not all rows are counted")]
mod row;
#[path = "../support/mod.rs"]
mod support;

use ours::Ours;
use raw::Raw;
use row::Row;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Calls of one row.
const CALLS: usize = 2_000;
/// Frames of a profile's backtraces: futures are deep.
const FRAMES: usize = 60;
const ROWS: [Row; 3] = [Row::PublishAll, Row::ConsumeMany, Row::RpcMany];

/// What one call costs.
struct Cost {
    blocks: f64,
    bytes: f64,
}

/// Counts what happens in a step, after a first time that fills pools and caches.
async fn count<T>(step: impl AsyncFn() -> Result<T>) -> Result<Cost> {
    step().await?;
    let from = HeapStats::get();
    step().await?;
    let to = HeapStats::get();
    let per_call = |from: u64, to: u64| (to - from) as f64 / CALLS as f64;
    Ok(Cost {
        blocks: per_call(from.total_blocks, to.total_blocks),
        bytes: per_call(from.total_bytes, to.total_bytes),
    })
}

fn profiler() -> Profiler {
    let builder = Profiler::builder();
    match std::env::var_os("GARENNE_BENCH_PROFILE") {
        Some(file) => builder
            .file_name(file)
            .trim_backtraces(Some(FRAMES))
            .build(),
        None => builder.testing().trim_backtraces(Some(1)).build(),
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    if !asked::is_asked() {
        return Ok(());
    }
    let Some(url) = support::rabbitmq() else {
        println!("not measured: GARENNE_TEST_AMQP names no RabbitMQ");
        return Ok(());
    };
    let ours = Ours::connect(&url, Queue::new("bench")).await?;
    let plain = url.split("?prefix=").next().unwrap_or(&url);
    let raw = Raw::open(plain, &ours.physical()).await?;
    let profiler = profiler();
    println!("| for a call | raw allocations | ours | raw bytes | ours |");
    println!("|---|---|---|---|---|");
    for row in row::chosen(&ROWS) {
        ours.clear().await?;
        let by_us = count(async || ours.measure(row, CALLS).await).await?;
        // To connect takes megabytes, which are no call's.
        let connected = raw.connect().await?;
        let by_hand = count(async || connected.measure(row, CALLS).await).await?;
        connected.close().await;
        // A worker needs something to run.
        let name = match row {
            Row::ConsumeMany => "publish, pipelined, and consume, 32 slots",
            row => row.name(),
        };
        println!(
            "| {name} | {:.0} | {:.0} | {:.0} | {:.0} |",
            by_hand.blocks, by_us.blocks, by_hand.bytes, by_us.bytes
        );
    }
    drop(profiler);
    raw.close().await?;
    ours.close().await
}
