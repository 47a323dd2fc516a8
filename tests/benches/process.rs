//! A worker in a process of its own, seen from outside: the same program, told by a variable to be one.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use garenne::{App, Worker};

/// Says to a worker's process how many slots it has, and at which broker.
const WORKER: &str = "GARENNE_BENCH_PROCESS";
/// What a worker's process prints once it consumes.
const READY: &str = "ready";

/// Killed when it is dropped.
pub(crate) struct Process(Child);

impl Process {
    /// Starts this program as a worker with so many slots.
    pub(crate) fn start(url: &str, slots: usize) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let command = command.env(WORKER, format!("{slots} {url}"));
        Ok(Self(command.stdout(Stdio::piped()).spawn()?))
    }

    /// Waits until it consumes.
    pub(crate) fn ready(mut self) -> Result<Self> {
        let output = self.0.stdout.take().context("its output")?;
        let first = BufReader::new(output).lines().next();
        ensure!(
            first.transpose()?.as_deref() == Some(READY),
            "a worker did not start"
        );
        Ok(self)
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Resident memory in KiB, and processor time.
    pub(crate) fn used(&self) -> Option<(u64, Duration)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS"))?;
        let memory = line.split_whitespace().nth(1)?.parse::<u64>().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse::<u64>().ok();
        Some((memory, Duration::from_millis((ticks()? + ticks()?) * 10)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// In a worker's process: takes from `queue`, and says when, until it is killed. Returns at once in the first process.
pub(crate) async fn work_if_asked(queue: &str) -> Result<()> {
    let Ok(said) = std::env::var(WORKER) else {
        return Ok(());
    };
    let (slots, url) = said.split_once(' ').context("slots and a URL")?;
    let app = App::connect(url).await?;
    let worker = Worker::new(&app).queue(queue, slots.parse()?).spawn();
    if !worker.ready().await {
        bail!("the worker did not start: {:?}", worker.stop().await);
    }
    println!("{READY}");
    std::future::pending().await
}
