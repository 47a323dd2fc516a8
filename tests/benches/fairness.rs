//! The lesson of the fast and the slow worker: jobs that are the same to look at, one worker that takes eight times as
//! long for them as the other. Each job is to go to whoever is free; what is taken ahead by the slow one keeps the fast
//! one waiting. Strictly one call for each slot, and calls taken ahead.
//!
//! `GARENNE_TEST_AMQP=amqp://… cargo bench -p garenne --bench fairness`; without the variable only SQLite is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use garenne::{App, Prefetch, Queue, RunningWorker, Worker, task};

#[path = "asked.rs"]
mod asked;
#[path = "cell.rs"]
mod cell;
#[path = "spread.rs"]
mod spread;
#[path = "../support/mod.rs"]
mod support;

use cell::cell;

const ROUNDS: usize = 5;
const JOBS: usize = 1_000;
/// How long a job takes the fast worker, and the slow one.
const PACES: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(16)];

struct Workshop {
    pace: Duration,
    done: AtomicUsize,
}

#[task(queue = "fairness")]
async fn job(workshop: &Arc<Workshop>) {
    tokio::time::sleep(workshop.pace).await;
    workshop.done.fetch_add(1, Ordering::Relaxed);
}

/// How long all jobs took, in milliseconds, and how many of them the slow worker did.
async fn share(app: &App, prefetch: Prefetch) -> Result<[f64; 2]> {
    let workshops = PACES.map(|pace| {
        let done = AtomicUsize::new(0);
        Arc::new(Workshop { pace, done })
    });
    let workers: Vec<RunningWorker> = workshops
        .iter()
        .map(|workshop| {
            let worker = Worker::new(app).queue("fairness", 1).prefetch(prefetch);
            worker.state(workshop.clone()).spawn()
        })
        .collect();
    for worker in &workers {
        worker.ready().await;
    }
    let since = Instant::now();
    let sent = app.send_all((0..JOBS).map(|_| job::call())).await;
    for handle in sent {
        handle?.await?;
    }
    let took = since.elapsed().as_secs_f64() * 1e3;
    for worker in workers {
        worker.stop().await?;
    }
    let slow = workshops[1].done.load(Ordering::Relaxed);
    Ok([took, slow as f64])
}

async fn on(title: &str, url: &str) -> Result<()> {
    let app = App::connect(url).await?;
    app.declare("fairness").await?;
    let (mut strict, mut ahead) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        strict.push(share(&app, Prefetch::Strict).await?);
        ahead.push(share(&app, Prefetch::Adaptive).await?);
    }
    for queue in ["fairness", &Queue::new("fairness").dead_letter_name()] {
        app.delete(queue).await?;
    }
    app.close().await;
    let ratios = ahead.iter().zip(&strict);
    let [ratio, ..] = spread::spread(ratios.map(|(ahead, strict)| ahead[0] / strict[0]))
        .context("no round was made")?;
    for (name, rounds) in [("strict", strict), ("ahead", ahead)] {
        println!(
            "| {title}, {name} | {} | {} |",
            cell(rounds.iter().map(|round| round[0]), 0),
            cell(rounds.iter().map(|round| round[1]), 0),
        );
    }
    println!("| {title}, ahead/strict | {ratio:.3} | |");
    Ok(())
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    if !asked::is_asked() {
        return Ok(());
    }
    println!("| {JOBS} jobs of {PACES:?} | all done after, ms | by the slow worker |");
    println!("|---|---|---|");
    if let Some(url) = support::rabbitmq() {
        on("RabbitMQ, quorum queue", &url).await?;
        on(
            "RabbitMQ, classic queue",
            &format!("{url}&queue_type=classic"),
        )
        .await?;
    }
    let file = support::TempFile::new("db");
    on("SQLite", &file.url()).await
}
