//! Workers' processes, seen from outside: set loose together, asked how far they are, measured.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::worker::Spec;

/// Tells a process of this program that it is a worker, and which.
pub(crate) const WORKER: &str = "GARENNE_BENCH_GROWTH_WORKER";
/// How long a process may be silent that is asked something.
const PATIENCE: Duration = Duration::from_secs(120);
/// Processes that start at the same time.
const STARTED_AT_ONCE: usize = 4;
/// How often they are asked how far they are.
const LOOK: Duration = Duration::from_millis(20);

/// Processor time and resident memory.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    /// In MiB.
    pub(crate) memory: f64,
}

/// What a process uses, by what Linux tells: nothing where it is gone.
pub(crate) fn usage(pid: u32) -> Usage {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let memory = status.lines().find(|line| line.starts_with("VmRSS"));
    let memory = memory.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    let nanos = threads
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|thread| {
            // In nanoseconds, where the sum that is kept for the process is in steps of 10 ms.
            let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        });
    Usage {
        cpu: Duration::from_nanos(nanos.sum()),
        memory: memory.unwrap_or(0.0) / 1024.0,
    }
}

/// A process of this program that is told things by lines.
pub(crate) struct Process {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    pub(crate) pid: u32,
}

impl Process {
    pub(crate) fn start(role: &str, spec: &str) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.env(role, spec).kill_on_drop(true);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self {
            input: child.stdin.take().context("its input")?,
            output: BufReader::new(child.stdout.take().context("its output")?).lines(),
            pid: child.id().context("its id")?,
            child,
        })
    }

    /// What it says next.
    pub(crate) async fn line(&mut self) -> Result<String> {
        let line = timeout(PATIENCE, self.output.next_line()).await;
        let line = line.with_context(|| format!("nothing said within {PATIENCE:?}"))?;
        line?.context("a process has ended")
    }

    pub(crate) async fn tell(&mut self) -> Result<()> {
        Ok(self.input.write_all(b"go\n").await?)
    }

    /// Ends it in order.
    pub(crate) async fn stop(self) -> Result<()> {
        let Self {
            mut child, input, ..
        } = self;
        drop(input);
        let ended = timeout(PATIENCE, child.wait()).await;
        let ended = ended.with_context(|| format!("no end within {PATIENCE:?}"))??;
        ensure!(ended.success(), "a process failed: {ended}");
        Ok(())
    }
}

/// What some workers did together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Drained {
    pub(crate) rate: f64,
    /// Of all workers, for each task, in microseconds.
    pub(crate) cpu: f64,
    /// Of one worker, in MiB.
    pub(crate) memory: f64,
}

/// Workers that are alike.
pub(crate) struct Crew {
    processes: Vec<Process>,
    began: Duration,
}

impl Crew {
    /// Starts them; they are connected and warm when this returns, and take nothing yet.
    pub(crate) async fn start(spec: &Spec, count: usize) -> Result<Self> {
        let spec = serde_json::to_string(spec)?;
        let mut processes = Vec::new();
        while processes.len() < count {
            let group = (count - processes.len()).min(STARTED_AT_ONCE);
            let start = |_| Process::start(WORKER, &spec);
            let mut group: Vec<_> = (0..group).map(start).collect::<Result<_>>()?;
            for process in &mut group {
                ensure!(process.line().await? == "warm", "a worker did not start");
            }
            processes.append(&mut group);
        }
        Ok(Self {
            processes,
            began: Duration::ZERO,
        })
    }

    /// Lets them consume; how long the slowest took until it did.
    pub(crate) async fn go(&mut self) -> Result<Duration> {
        let mut slowest = Duration::ZERO;
        for process in &mut self.processes {
            process.tell().await?;
        }
        for process in &mut self.processes {
            let micros = process.line().await?.parse()?;
            slowest = slowest.max(Duration::from_micros(micros));
        }
        self.began = self.cpu();
        Ok(slowest)
    }

    /// Processor time of all.
    pub(crate) fn cpu(&self) -> Duration {
        let pids = self.processes.iter().map(|process| process.pid);
        pids.map(|pid| usage(pid).cpu).sum()
    }

    /// Waits until they have run `count` calls.
    pub(crate) async fn drained(&mut self, count: usize) -> Result<Drained> {
        let end = Instant::now() + PATIENCE;
        loop {
            let (mut done, mut first, mut last) = (0, u64::MAX, 0);
            for process in &mut self.processes {
                process.tell().await?;
                let line = process.line().await?;
                let mut numbers = line.split(' ').map(str::parse::<u64>);
                let mut number = || numbers.next().context("a number")?.context("a number");
                let share = number()?;
                if share > 0 {
                    done += share;
                    first = first.min(number()?);
                    last = last.max(number()?);
                }
            }
            if done >= count as u64 {
                let took = Duration::from_micros(last.saturating_sub(first).max(1));
                let tasks = done.max(2) as f64;
                let cpu = self.cpu().saturating_sub(self.began);
                return Ok(Drained {
                    rate: (tasks - 1.0) / took.as_secs_f64(),
                    cpu: cpu.as_secs_f64() * 1e6 / tasks,
                    memory: self.memory(),
                });
            }
            ensure!(
                Instant::now() < end,
                "{done} of {count} calls ran within {PATIENCE:?}"
            );
            sleep(LOOK).await;
        }
    }

    /// Of one worker, in MiB.
    pub(crate) fn memory(&self) -> f64 {
        let pids = self.processes.iter().map(|process| process.pid);
        let all: f64 = pids.map(|pid| usage(pid).memory).sum();
        all / self.processes.len().max(1) as f64
    }

    /// Processor time of one worker in `time`, in milliseconds a second.
    pub(crate) async fn at_rest(&self, time: Duration) -> f64 {
        let (began, since) = (self.cpu(), Instant::now());
        sleep(time).await;
        let used = self.cpu().saturating_sub(began).as_secs_f64();
        used * 1000.0 / since.elapsed().as_secs_f64() / self.processes.len().max(1) as f64
    }

    pub(crate) async fn stop(self) -> Result<()> {
        let Self { processes, .. } = self;
        let stopping = processes.into_iter().map(Process::stop);
        futures_util::future::try_join_all(stopping).await?;
        Ok(())
    }
}
