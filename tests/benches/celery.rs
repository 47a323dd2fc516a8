//! The Rust and the Python worker side by side: the same queue, the same calls, the same client, in turns.
//!
//! `GARENNE_TEST_AMQP=amqp://… GARENNE_TEST_CELERY_VENVS=… cargo bench -p garenne --bench celery`: the newest
//! Celery of the environments is taken. `GARENNE_BENCH_SHORT=1` makes it a short round that only shows that it
//! works.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt;
use garenne::{App, Call, Worker, task};

#[path = "cell.rs"]
mod cell;
#[path = "spread.rs"]
mod spread;
#[path = "../support/mod.rs"]
mod support;

use cell::cell;

const TEXT: &str = "0123456789012345678901234567890123456789";
/// How many calls the client awaits at the same time, and how many it makes in a long run.
const LOADS: [(usize, usize); 2] = [(1, 500), (64, 4000)];
const ROUNDS: usize = 5;
const WORKER: &str = "BESIDE_WORKER";
const BROKER: &str = "INTEROP_BROKER";
const QUEUE: &str = "INTEROP_QUEUE";

#[task(name = "beside.length")]
async fn length(text: String) -> usize {
    text.len()
}

/// One of the workers that are compared.
struct Contender {
    name: &'static str,
    /// What Celery is started with; `None` for ours.
    celery: Option<(&'static str, &'static [&'static str])>,
}

const CONTENDERS: [Contender; 5] = [
    Contender {
        name: "Rust, 32 slots",
        celery: None,
    },
    Contender {
        name: "Celery, -c 2, late",
        celery: Some(("late", &["-c", "2"])),
    },
    Contender {
        name: "Celery, -c 4, late",
        celery: Some(("late", &["-c", "4"])),
    },
    Contender {
        name: "Celery, -c 2, late, prefetch 32 each",
        celery: Some(("late", &["-c", "2", "--prefetch-multiplier", "32"])),
    },
    Contender {
        name: "Celery, -c 2, early, no confirms",
        celery: Some(("early", &["-c", "2", "--prefetch-multiplier", "32"])),
    },
];

struct Place {
    broker: String,
    queue: String,
    bin: PathBuf,
}

impl Place {
    fn start(&self, contender: &Contender) -> Result<Child> {
        let mut command = match contender.celery {
            None => {
                let mut command = Command::new(std::env::current_exe()?);
                command.env(WORKER, "1");
                command
            }
            Some((guarantees, options)) => {
                let mut command = Command::new(self.bin.join("celery"));
                command.args([
                    "-A",
                    "beside",
                    "worker",
                    "-O",
                    "fair",
                    "--loglevel",
                    "CRITICAL",
                ]);
                command.args([
                    "--without-gossip",
                    "--without-mingle",
                    "--without-heartbeat",
                ]);
                command.args(options);
                command.env("BESIDE_GUARANTEES", guarantees);
                let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
                command.current_dir(folder.join("../tests/support/celery/interop"));
                command
            }
        };
        command
            .env(BROKER, &self.broker)
            .env(QUEUE, &self.queue)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONWARNINGS", "ignore")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Ok(command.spawn()?)
    }
}

/// What one worker did under one load, in one round.
struct Sample {
    rate: f64,
    p50: f64,
    p99: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    if std::env::var_os(WORKER).is_some() {
        let app = App::connect(std::env::var(BROKER)?).await?;
        let worker = Worker::new(&app).queue(std::env::var(QUEUE)?, 32);
        return Ok(worker.run(garenne::shutdown_signal()).await?);
    }
    let environments = std::env::var("GARENNE_TEST_CELERY_VENVS").unwrap_or_default();
    let newest = environments.split(':').rfind(|folder| !folder.is_empty());
    let (Some(newest), Some(url)) = (newest, support::rabbitmq()) else {
        eprintln!("skipped: GARENNE_TEST_CELERY_VENVS and GARENNE_TEST_AMQP are needed");
        return Ok(());
    };
    let place = Place {
        broker: url.split('?').next().unwrap_or_default().to_owned(),
        queue: support::unique("beside"),
        bin: Path::new(newest).join("bin"),
    };
    let app = App::connect(&*place.broker).await?;
    app.declare(&*place.queue).await?;
    let short = std::env::var_os("GARENNE_BENCH_SHORT").is_some();
    let (rounds, divisor) = if short { (1, 10) } else { (ROUNDS, 1) };
    let mut samples: Vec<Vec<Sample>> = Vec::new();
    samples.resize_with(CONTENDERS.len() * LOADS.len(), Vec::new);
    for round in 0..rounds {
        for turn in 0..CONTENDERS.len() {
            // Who begins changes, so that nobody has the best place in every round.
            let which = (turn + round) % CONTENDERS.len();
            let mut worker = place.start(&CONTENDERS[which])?;
            calls(&app, &place.queue, 64, 200).await?;
            for (load, (in_flight, count)) in LOADS.into_iter().enumerate() {
                let sample = calls(&app, &place.queue, in_flight, count / divisor).await?;
                samples[which * LOADS.len() + load].push(sample);
            }
            stop(&mut worker)?;
        }
        eprintln!("round {} of {rounds} done", round + 1);
    }
    app.delete(&place.queue).await?;
    app.close().await;
    println!("| | in flight | tasks/s | p50, ms | p99, ms |\n|---|---|---|---|---|");
    for (place, samples) in samples.iter().enumerate() {
        let (contender, (in_flight, _)) =
            (&CONTENDERS[place / LOADS.len()], LOADS[place % LOADS.len()]);
        println!(
            "| {} | {in_flight} | {} | {} | {} |",
            contender.name,
            cell(samples.iter().map(|sample| sample.rate), 0),
            cell(samples.iter().map(|sample| sample.p50), 2),
            cell(samples.iter().map(|sample| sample.p99), 2),
        );
    }
    Ok(())
}

/// Makes `count` calls, `in_flight` at a time, and awaits each one's result.
async fn calls(app: &App, queue: &str, in_flight: usize, count: usize) -> Result<Sample> {
    let began = Instant::now();
    let mut times: Vec<f64> = futures_util::stream::iter(0..count)
        .map(|_| async move {
            let began = Instant::now();
            let call = Call::<usize>::named("beside.length")
                .queue(queue)
                .arg(TEXT)?;
            let handle = call.send(app).await?;
            let length = handle.result_within(Duration::from_secs(60)).await?;
            ensure!(length == TEXT.len(), "a wrong result: {length}");
            Ok(began.elapsed().as_secs_f64() * 1000.0)
        })
        .buffer_unordered(in_flight)
        .collect::<Vec<Result<f64>>>()
        .await
        .into_iter()
        .collect::<Result<_>>()?;
    let took = began.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    Ok(Sample {
        rate: count as f64 / took,
        p50: times[count / 2],
        p99: times[count * 99 / 100],
    })
}

/// Ends a worker as an operator does.
fn stop(worker: &mut Child) -> Result<()> {
    let mut kill = Command::new("kill");
    kill.arg(worker.id().to_string()).status()?;
    worker.wait().context("the worker's end")?;
    Ok(())
}
