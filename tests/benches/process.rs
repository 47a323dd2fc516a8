//! A worker in a process of its own, seen from outside: the same program, started with a variable that says what to do.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use garenne::Worker;

/// What a worker's process prints once it consumes.
const READY: &str = "ready";

/// Killed when it is dropped.
pub(crate) struct Process(Child);

impl Process {
    /// Starts this program with `variable` set to `value`.
    pub(crate) fn start(variable: &str, value: &str) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let command = command.env(variable, value).stdout(Stdio::piped());
        Ok(Self(command.spawn()?))
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

/// In the worker's process: says when it consumes, and works until it is killed.
pub(crate) async fn work(worker: Worker) -> Result<()> {
    let worker = worker.spawn();
    if !worker.ready().await {
        bail!("the worker did not start: {:?}", worker.stop().await);
    }
    println!("{READY}");
    std::future::pending().await
}
