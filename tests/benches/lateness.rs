//! How late delayed calls run, and what they cost while they wait.
//!
//! `GARENNE_TEST_AMQP=amqp://… cargo bench -p garenne --bench lateness`; without the variable only SQLite is
//! measured. Two rounds on each broker: calls with random delays of up to a minute, sent at an even rate
//! (`GARENNE_BENCH_CALLS`, 100,000, at `GARENNE_BENCH_RATE` a second, 1,000), and calls that are due tomorrow
//! (`GARENNE_BENCH_FAR`, 0). A worker in a process of its own takes them; its memory is said, and the broker's
//! where `GARENNE_BENCH_BROKER_PID` names its process. `GARENNE_BENCH_SHORT=1` only shows that it works.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use garenne::{App, DAY, Worker, task};
use tokio::sync::mpsc;

#[path = "../support/mod.rs"]
mod support;

/// Names the broker to the worker's process.
const WORKER: &str = "GARENNE_BENCH_LATENESS_WORKER";
/// The longest delay, in milliseconds.
const LONGEST: u64 = 60_000;
/// Pause between two bursts of sending.
const TICK: Duration = Duration::from_millis(20);
const SLOTS: usize = 64;

/// Where the task reports by how many microseconds it was late.
struct Late(mpsc::UnboundedSender<i64>);

fn micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as i64)
}

#[task(name = "lateness.lands", queue = "lateness")]
async fn lands(late: &Late, due: i64) {
    late.0.send(micros() - due).ok();
}

fn number(name: &str, default: u64) -> u64 {
    let said = std::env::var(name).ok();
    said.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Resident memory of a process in MiB.
fn rss(pid: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}

/// The worker's process: answers each line on its input, a number of calls, when so many have run.
async fn work(url: &str) -> Result<()> {
    let app = App::connect(url).await?;
    let (send, mut late) = mpsc::unbounded_channel();
    let worker = Worker::new(&app)
        .queue("lateness", SLOTS)
        .state(Late(send))
        .spawn();
    if !worker.ready().await {
        bail!("the worker did not start: {:?}", worker.stop().await);
    }
    let (lines, mut asked) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            lines.send(line).ok();
        }
    });
    while let Some(line) = asked.recv().await {
        let count: usize = line.trim().parse().context("a number of calls")?;
        let mut times = Vec::with_capacity(count);
        while times.len() < count {
            times.push(late.recv().await.context("the task's end")?);
        }
        times.sort_unstable();
        let at = |share: f64| times.get((count as f64 * share) as usize).copied();
        let early = times.iter().filter(|late| **late < 0).count();
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| at(share).unwrap_or(0) as f64 / 1e3);
        let max = times.last().copied().unwrap_or(0) as f64 / 1e3;
        println!(
            "{count} ran, {early} early; late by (ms) p50 {p50:.1}, p99 {p99:.1}, p99.9 {p999:.1}, max {max:.1}"
        );
    }
    worker.stop().await?;
    Ok(())
}

/// The worker's process, seen from outside; killed at the end.
struct Process {
    child: Child,
    answers: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Process {
    fn start(url: &str) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .env(WORKER, url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let answers = BufReader::new(child.stdout.take().context("its output")?).lines();
        Ok(Self { child, answers })
    }

    fn ask(&mut self, count: u64) -> Result<()> {
        let input = self.child.stdin.as_mut().context("its input")?;
        writeln!(input, "{count}")?;
        Ok(input.flush()?)
    }

    fn answer(&mut self) -> Result<String> {
        Ok(self.answers.next().context("the worker has ended")??)
    }

    fn memory(&self) -> String {
        let worker = rss(&self.child.id().to_string()).unwrap_or(0);
        let broker = std::env::var("GARENNE_BENCH_BROKER_PID").ok();
        let broker = broker.and_then(|pid| rss(&pid));
        match broker {
            Some(broker) => format!("worker {worker} MiB, broker {broker} MiB"),
            None => format!("worker {worker} MiB"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Evenly distributed over all of `u64`.
fn chance() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1 << 2
}

async fn random_delays(app: &App, worker: &mut Process, calls: u64, rate: u64) -> Result<()> {
    println!("  {}, before", worker.memory());
    worker.ask(calls)?;
    let (mut tick, mut sent) = (tokio::time::interval(TICK), 0);
    let start = std::time::Instant::now();
    let mut memory = String::new();
    while sent < calls {
        tick.tick().await;
        let wanted = (start.elapsed().as_secs_f64() * rate as f64) as u64;
        let due = wanted.min(calls).saturating_sub(sent);
        let call = |_| {
            let delay = chance() % LONGEST;
            lands::call(micros() + delay as i64 * 1000)
                .countdown(Duration::from_millis(delay))
                .ignore_result()
        };
        let mut sending = app.send_all((0..due).map(call));
        while let Some(call) = sending.next().await {
            let _ = call?;
        }
        sent += due;
        if sent * 2 >= calls && memory.is_empty() {
            memory = format!("{}, {} delayed", worker.memory(), app.delayed().await?);
        }
    }
    println!("  {memory}");
    println!("  {calls} sent within {:.0?}", start.elapsed());
    println!("  {}", worker.answer()?);
    println!("  {}, after", worker.memory());
    Ok(())
}

async fn due_tomorrow(app: &App, worker: &Process, calls: u64) -> Result<()> {
    println!("  {}, before", worker.memory());
    let start = std::time::Instant::now();
    let call = |_| lands::call(0).countdown(DAY).ignore_result();
    let mut sending = app.send_all((0..calls).map(call));
    while let Some(call) = sending.next().await {
        let _ = call?;
    }
    let (took, delayed) = (start.elapsed(), app.delayed().await?);
    tokio::time::sleep(Duration::from_secs(5)).await;
    println!(
        "  {calls} due tomorrow sent within {took:.0?}: {delayed} delayed, {}",
        worker.memory()
    );
    Ok(())
}

async fn measure(name: &str, url: &str) -> Result<()> {
    let short = std::env::var_os("GARENNE_BENCH_SHORT").is_some();
    let calls = number("GARENNE_BENCH_CALLS", if short { 200 } else { 100_000 });
    let rate = number("GARENNE_BENCH_RATE", 1_000);
    let app = App::connect(url).await?;
    let mut worker = Process::start(url)?;
    // Builds what is built on the first delayed call.
    worker.ask(1)?;
    let warm = lands::call(micros()).countdown(Duration::from_millis(1));
    let _ = warm.ignore_result().send(&app).await?;
    worker.answer()?;
    println!("{name}: {calls} calls, {rate} a second, due within a minute");
    random_delays(&app, &mut worker, calls, rate).await?;
    let far = number("GARENNE_BENCH_FAR", 0);
    if far > 0 {
        due_tomorrow(&app, &worker, far).await?;
    }
    app.delete("lateness").await?;
    app.close().await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    if let Ok(url) = std::env::var(WORKER) {
        return work(&url).await;
    }
    let file = support::TempFile::new("db");
    measure("SQLite", &file.url()).await?;
    if let Some(url) = support::rabbitmq() {
        measure("RabbitMQ", &url).await?;
    }
    Ok(())
}
