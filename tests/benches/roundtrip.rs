//! One call at a time, from before it is sent until its result is there: to a worker of the same app, of another app in the
//! same process, and of another process.
//!
//! `GARENNE_TEST_AMQP=amqp://… cargo bench -p garenne --bench roundtrip`; without the variable only SQLite is measured.
//! With `GARENNE_BENCH_SHORT=1` it only shows that it works. On SQLite it also times what a commit waits for: a write
//! beside the file, synced.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use garenne::{App, Queue, Worker, task};

#[path = "asked.rs"]
mod asked;
#[path = "cell.rs"]
mod cell;
#[path = "process.rs"]
#[allow(dead_code, reason = "nobody asks for a worker's memory")]
mod process;
#[path = "spread.rs"]
mod spread;
#[path = "../support/mod.rs"]
mod support;

use cell::cell;
use process::Process;

const QUEUE: &str = "roundtrip";
const ROUNDS: usize = 5;
const CALLS: u64 = 1_000;
/// Calls before those that count.
const WARM_UP: u64 = 50;
/// Bytes that a small commit adds to SQLite's log.
const PAGES: usize = 4 * 4096;

#[task(name = "roundtrip.echo", queue = "roundtrip")]
async fn echo(number: u64, _text: String) -> u64 {
    number
}

/// Where the worker is.
#[derive(Clone, Copy)]
enum Place {
    SameApp,
    SameProcess,
    OtherProcess,
}

impl Place {
    const ALL: [(Self, &str); 3] = [
        (Self::SameApp, "the same app"),
        (Self::SameProcess, "another app, the same process"),
        (Self::OtherProcess, "another process"),
    ];
}

/// Median, 99th percentile and the longest, in milliseconds.
type Figures = [f64; 3];

fn calls() -> u64 {
    let short = std::env::var_os("GARENNE_BENCH_SHORT").is_some_and(|asked| !asked.is_empty());
    if short { 20 } else { CALLS }
}

fn figures(mut times: Vec<Duration>) -> Result<Figures> {
    times.sort_unstable();
    let last = times.len().checked_sub(1).context("nothing was timed")?;
    Ok([last / 2, last * 99 / 100, last].map(|place| times[place].as_secs_f64() * 1e3))
}

async fn round_trips(client: &App) -> Result<Figures> {
    let mut times = Vec::new();
    for number in 0..WARM_UP + calls() {
        let since = Instant::now();
        let text = "0123456789012345678901234567890123456789".to_owned();
        echo::call(number, text).send(client).await?.await?;
        if number >= WARM_UP {
            times.push(since.elapsed());
        }
    }
    figures(times)
}

async fn in_process(client: &App, app: &App) -> Result<Figures> {
    let worker = Worker::new(app).queue(QUEUE, 1).spawn();
    worker.ready().await;
    let figures = round_trips(client).await?;
    worker.stop().await?;
    Ok(figures)
}

async fn measure(place: Place, url: &str) -> Result<Figures> {
    let client = App::connect(url).await?;
    let figures = match place {
        Place::SameApp => in_process(&client, &client).await?,
        Place::SameProcess => {
            let app = App::connect(url).await?;
            let figures = in_process(&client, &app).await?;
            app.close().await;
            figures
        }
        Place::OtherProcess => {
            let _worker = Process::start(url, 1)?.ready()?;
            round_trips(&client).await?
        }
    };
    client.close().await;
    Ok(figures)
}

fn print(what: &str, rounds: &[Figures]) {
    let cells = [0, 1, 2].map(|at| cell(rounds.iter().map(|figures| figures[at]), 2));
    println!("| {what} | {} |", cells.join(" | "));
}

async fn on(broker: &str, url: &str) -> Result<()> {
    let app = App::connect(url).await?;
    app.declare(QUEUE).await?;
    let mut rounds = [const { Vec::new() }; Place::ALL.len()];
    for _ in 0..ROUNDS {
        for (rounds, (place, _)) in rounds.iter_mut().zip(Place::ALL) {
            rounds.push(measure(place, url).await?);
        }
    }
    for (rounds, (_, place)) in rounds.iter().zip(Place::ALL) {
        print(&format!("{broker}, {place}"), rounds);
    }
    for queue in [QUEUE, &Queue::new(QUEUE).dead_letter_name()] {
        app.delete(queue).await?;
    }
    app.close().await;
    Ok(())
}

/// How long it takes until some pages of a file are on the disk.
fn synced(beside: &Path) -> Result<Figures> {
    let path = beside.with_extension("sync");
    let mut file = std::fs::File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..calls() {
        let since = Instant::now();
        file.write_all(&[0; PAGES])?;
        file.sync_data()?;
        times.push(since.elapsed());
    }
    std::fs::remove_file(&path)?;
    figures(times)
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    process::work_if_asked(QUEUE).await?;
    if !asked::is_asked() {
        return Ok(());
    }
    println!("| one call at a time, to a worker of … | p50, ms | p99, ms | longest, ms |");
    println!("|---|---|---|---|");
    if let Some(url) = support::rabbitmq() {
        on("RabbitMQ, quorum queue", &url).await?;
        on(
            "RabbitMQ, classic queue",
            &format!("{url}&queue_type=classic"),
        )
        .await?;
    }
    let file = support::TempFile::new("db");
    on("SQLite", &file.url()).await?;
    let disk = (0..ROUNDS).map(|_| synced(&file.0));
    let disk: Vec<Figures> = disk.collect::<Result<_>>()?;
    print("(a write of 16 KB, synced)", &disk);
    Ok(())
}
