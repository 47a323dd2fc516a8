//! How fast calls are sent, run and answered, beside lapin by hand with the same guarantees: both in one
//! run, in turns, because figures of different runs cannot be compared.
//!
//! `GARENNE_TEST_AMQP=amqp://… cargo bench -p garenne --bench throughput`; without the variable only
//! SQLite is measured, beside the bare statements that the work needs. `GARENNE_BENCH_SHORT=1` makes it a short round
//! that only shows that it works. With `GARENNE_BENCH_SAME_HEADERS=1` lapin's messages carry our headers, too, which
//! it has no use for. With `GARENNE_BENCH_ALONE=1` ours is measured alone, for a profiler. `GARENNE_BENCH_BROKERS="PID …"` adds the processor time of the broker's nodes. After `--`, a
//! part of a row's name chooses rows.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, Result};
use garenne::{Queue, QueueType};
use tokio::time::timeout;

#[path = "asked.rs"]
mod asked;
#[path = "throughput/bare.rs"]
mod bare;
#[path = "throughput/caller.rs"]
mod caller;
#[path = "cell.rs"]
mod cell;
#[path = "throughput/meter.rs"]
mod meter;
#[path = "throughput/ours.rs"]
mod ours;
#[path = "throughput/post.rs"]
mod post;
#[path = "throughput/raw.rs"]
mod raw;
#[path = "throughput/row.rs"]
mod row;
#[path = "spread.rs"]
mod spread;
#[path = "../support/mod.rs"]
mod support;
#[path = "throughput/table.rs"]
mod table;

use bare::Bare;
use meter::Sample;
use ours::Ours;
use raw::Raw;
use row::{Row, is_set};
use table::Samples;

/// No step may take longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often, and how much of each row.
#[derive(Clone, Copy)]
struct Plan {
    rounds: usize,
    divisor: usize,
}

/// What ours is compared with.
enum Beside {
    Lapin(Box<Raw>),
    Statements(Bare),
}

impl Beside {
    async fn measure(&self, row: Row, count: usize) -> Result<Sample> {
        match self {
            Self::Lapin(raw) => {
                let connected = raw.connect().await?;
                let sample = connected.measure(row, count).await;
                connected.close().await;
                sample
            }
            Self::Statements(bare) => tokio::task::block_in_place(|| bare.measure(row, count)),
        }
    }
}

async fn within<T>(what: &str, step: impl Future<Output = Result<T>>) -> Result<T> {
    let done = timeout(PATIENCE, step).await;
    done.with_context(|| format!("{what}: not done within {PATIENCE:?}"))?
        .with_context(|| what.to_owned())
}

/// One round of all rows; those who begin take turns.
async fn round(
    number: usize,
    divisor: usize,
    ours: &Ours,
    raw: &Beside,
    rows: &mut [(Row, Samples)],
) -> Result<()> {
    for (row, samples) in rows {
        let count = row.count() / divisor;
        for turn in 0..2 {
            if (number + turn) % 2 == 1 {
                within("clearing the queue", ours.clear()).await?;
                let what = format!("ours: {}", row.name());
                samples
                    .ours
                    .push(within(&what, ours.measure(*row, count)).await?);
            } else if !is_set("GARENNE_BENCH_ALONE") {
                within("clearing the queue", ours.clear()).await?;
                let what = format!("raw: {}", row.name());
                samples
                    .raw
                    .push(within(&what, raw.measure(*row, count)).await?);
            }
        }
    }
    Ok(())
}

/// The rows that the command line asks for.
fn rows() -> Vec<(Row, Samples)> {
    let rows = row::chosen(&Row::ALL);
    rows.map(|row| (row, Samples::default())).collect()
}

/// SQLite has no broker of its own.
fn without_broker(rows: &mut [(Row, Samples)]) {
    for (_, samples) in rows {
        let both = samples.ours.iter_mut().chain(&mut samples.raw);
        both.for_each(|sample| sample.broker = None);
    }
}

async fn rounds(title: &str, plan: Plan, ours: &Ours, raw: &Beside) -> Result<()> {
    eprint!("{title}: warming up");
    round(0, 20, ours, raw, &mut rows()).await?;
    let mut rows = rows();
    for number in 0..plan.rounds {
        eprint!(", round {}", number + 1);
        round(number, plan.divisor, ours, raw, &mut rows).await?;
    }
    eprintln!();
    if let Beside::Statements(_) = raw {
        without_broker(&mut rows);
    }
    table::print(title, &rows);
    Ok(())
}

/// The prefix is in the URL that ours connects to; raw takes the queue by its full name.
async fn on_rabbitmq(url: &str, queue_type: QueueType, plan: Plan) -> Result<()> {
    let queue = Queue::new("bench").queue_type(queue_type);
    let ours = within("connecting", Ours::connect(url, queue)).await?;
    let plain = url.split("?prefix=").next().unwrap_or(url);
    let raw = within("connecting", Raw::open(plain, &ours.physical())).await?;
    let title = match queue_type {
        QueueType::Quorum => "RabbitMQ, quorum queue",
        _ => "RabbitMQ, classic queue",
    };
    let raw = Beside::Lapin(Box::new(raw));
    let measured = rounds(title, plan, &ours, &raw).await;
    let mut closed = Ok(());
    if let Beside::Lapin(raw) = raw {
        closed = within("disconnecting", raw.close()).await;
    }
    within("disconnecting", ours.close()).await?;
    // What went wrong first says why.
    measured.and(closed)
}

async fn on_sqlite(plan: Plan) -> Result<()> {
    let file = support::TempFile::new("db");
    let ours = within("opening", Ours::connect(&file.url(), Queue::new("bench"))).await?;
    let beside = support::TempFile::new("db");
    let raw = Beside::Statements(Bare::open(&beside.0)?);
    let measured = rounds("SQLite, one file", plan, &ours, &raw).await;
    within("closing", ours.close()).await?;
    measured
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    if !asked::is_asked() {
        return Ok(());
    }
    let plan = match is_set("GARENNE_BENCH_SHORT") {
        true => Plan {
            rounds: 2,
            divisor: 10,
        },
        false => Plan {
            rounds: 5,
            divisor: 1,
        },
    };
    if let Some(url) = support::rabbitmq() {
        on_rabbitmq(&url, QueueType::Quorum, plan).await?;
        on_rabbitmq(&url, QueueType::Classic, plan).await?;
    }
    on_sqlite(plan).await
}
