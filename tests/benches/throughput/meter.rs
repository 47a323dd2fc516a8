//! What is measured: rates, this process's CPU time, latencies.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Tasks a second.
    pub(crate) rate: f64,
    /// Microseconds of this process's CPU time for each task, where the system tells.
    pub(crate) cpu: Option<f64>,
    /// The same of the broker's nodes, where it is known which they are.
    pub(crate) broker: Option<f64>,
    /// Median and 99th percentile of the round trip.
    pub(crate) latency: Option<(Duration, Duration)>,
}

/// Measures from its start.
pub(crate) struct Stopwatch {
    at: Instant,
    cpu: Option<Duration>,
    broker: Option<Duration>,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self {
            at: Instant::now(),
            cpu: cpu_time("self"),
            broker: of_broker(),
        }
    }

    /// `count` tasks were done since the start.
    pub(crate) fn stop(&self, count: usize) -> Sample {
        let count = count.max(1) as f64;
        let rate = count / self.at.elapsed().as_secs_f64().max(1e-9);
        let each = |from: Option<Duration>, to: Option<Duration>| {
            let used = to?.saturating_sub(from?);
            Some(used.as_secs_f64() * 1e6 / count)
        };
        Sample {
            rate,
            cpu: each(self.cpu, cpu_time("self")),
            broker: each(self.broker, of_broker()),
            latency: None,
        }
    }
}

/// Processor time of the processes that `GARENNE_BENCH_BROKERS` names.
fn of_broker() -> Option<Duration> {
    let pids = std::env::var("GARENNE_BENCH_BROKERS").ok()?;
    pids.split_whitespace().map(cpu_time).sum()
}

/// User and system time of all threads of a process; Linux counts it in steps of 10 ms.
fn cpu_time(pid: &str) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some(Duration::from_millis((ticks()? + ticks()?) * 10))
}

/// Counts tasks while they run: the clock goes from the first to the last.
pub(crate) struct Drain {
    expected: usize,
    seen: AtomicUsize,
    first: OnceLock<Stopwatch>,
    last: Mutex<Option<Sample>>,
    done: Notify,
}

impl Drain {
    pub(crate) fn new(expected: usize) -> Self {
        Self {
            expected,
            seen: AtomicUsize::new(0),
            first: OnceLock::new(),
            last: Mutex::default(),
            done: Notify::new(),
        }
    }

    /// A task runs.
    pub(crate) fn hit(&self) {
        // Of few tasks the last may run before the first has looked at the clock.
        let first = self.first.get_or_init(Stopwatch::start);
        let seen = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        if seen == self.expected {
            let sample = first.stop(self.expected - 1);
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(sample);
            self.done.notify_one();
        }
    }

    /// Resolves when all tasks have run.
    pub(crate) async fn sample(&self) -> Option<Sample> {
        self.done.notified().await;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Median and 99th percentile.
pub(crate) fn latency(mut times: Vec<Duration>) -> Option<(Duration, Duration)> {
    times.sort_unstable();
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied();
    at(0.5).zip(at(0.99))
}
