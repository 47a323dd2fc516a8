//! Workers in processes of their own: this test binary again.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use garenne::{App, Prefetch};

use super::place::Place;
use super::tasks::worker;

const URL: &str = "GARENNE_CHILD_URL";
const QUEUE: &str = "GARENNE_CHILD_QUEUE";
const SLOTS: &str = "GARENNE_CHILD_SLOTS";
const GRACE: &str = "GARENNE_CHILD_GRACE";
const SIGNALS: &str = "GARENNE_CHILD_SIGNALS";
const JOURNAL: &str = "GARENNE_CHILD_JOURNAL";
const AHEAD: &str = "GARENNE_CHILD_AHEAD";
const DELIVERIES: &str = "GARENNE_CHILD_DELIVERIES";
const READY: &str = "the worker is ready";

/// How often a call may end a child before it counts as poison, where that is tested.
pub(crate) const MAX_DELIVERIES: u32 = 3;
/// How often elsewhere: with several faults in a row, a crowded machine delivers a call at each of them.
const MANY_DELIVERIES: u32 = 20;

/// What a worker process is to be like.
pub(crate) struct Spawn {
    url: String,
    queue: String,
    journal: PathBuf,
    slots: usize,
    grace: Duration,
    signals: bool,
    ahead: bool,
    limit: Option<&'static str>,
    deliveries: u32,
}

impl Spawn {
    /// A worker of the place's queue.
    pub(crate) fn at(place: &Place) -> Self {
        Self {
            url: place.url.clone(),
            queue: place.queue.clone(),
            journal: place.journal(),
            slots: 1,
            grace: Duration::from_secs(30),
            signals: false,
            ahead: false,
            limit: None,
            deliveries: MANY_DELIVERIES,
        }
    }

    /// Deliveries after which a call counts as poison.
    pub(crate) fn deliveries(self, deliveries: u32) -> Self {
        Self { deliveries, ..self }
    }

    pub(crate) fn url(self, url: impl Into<String>) -> Self {
        let url = url.into();
        Self { url, ..self }
    }

    pub(crate) fn queue(self, queue: &str) -> Self {
        let queue = queue.to_owned();
        Self { queue, ..self }
    }

    pub(crate) fn slots(self, slots: usize) -> Self {
        Self { slots, ..self }
    }

    pub(crate) fn grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// It listens for signals in the worker's own way, so that a second one counts. [`start`](Self::start)
    /// returns before it consumes, then.
    pub(crate) fn heeds_signals(self) -> Self {
        let signals = true;
        Self { signals, ..self }
    }

    /// It takes calls ahead, and its process ends the moment its worker has stopped.
    pub(crate) fn ahead(self) -> Self {
        let ahead = true;
        Self { ahead, ..self }
    }

    /// A limit of the shell's `ulimit` for the process: `-v 2000000`.
    pub(crate) fn limit(self, limit: &'static str) -> Self {
        let limit = Some(limit);
        Self { limit, ..self }
    }

    /// Starts it; returns when it consumes.
    pub(crate) fn start(self) -> WorkerProcess {
        let binary = std::env::current_exe().expect("this binary");
        let mut command = match self.limit {
            None => Command::new(binary),
            Some(limit) => {
                let mut shell = Command::new("sh");
                let script = format!("ulimit {limit}; exec \"$@\"");
                shell.arg("-c").arg(script).arg("sh").arg(binary);
                shell
            }
        };
        let mut child = command
            .args(["--exact", "faults::child::child_worker", "--ignored"])
            .args(["--nocapture", "--test-threads=1"])
            .env(URL, self.url)
            .env(QUEUE, self.queue)
            .env(SLOTS, self.slots.to_string())
            .env(GRACE, self.grace.as_millis().to_string())
            .env(SIGNALS, u8::from(self.signals).to_string())
            .env(AHEAD, u8::from(self.ahead).to_string())
            .env(DELIVERIES, self.deliveries.to_string())
            .env(JOURNAL, self.journal)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let ready = out
            .by_ref()
            .lines()
            .map_while(Result::ok)
            .any(|line| line.contains(READY));
        assert!(ready, "a worker process ended before it was ready");
        WorkerProcess { child, _out: out }
    }
}

/// A worker process, killed when it is dropped.
pub(crate) struct WorkerProcess {
    child: Child,
    /// Kept open: a process that cannot print fails.
    _out: BufReader<ChildStdout>,
}

impl WorkerProcess {
    /// Starts a worker of the place's queue; returns when it consumes.
    pub(crate) fn start(place: &Place, slots: usize) -> Self {
        Spawn::at(place).slots(slots).start()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
    }

    /// `kill -NAME`
    pub(crate) fn signal(&self, name: &str) {
        signal(self.id(), name);
    }

    /// Resolves when it has ended, which is to be soon.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        crate::support::within("the end of a worker process", self.wait()).await
    }

    /// Resolves when it has ended, whenever that is.
    pub(crate) async fn wait(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.child.try_wait().expect("a status") {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn memory(&self) -> i64 {
        memory(self.id())
    }

    /// The time of a processor that it has used so far.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id()));
        let stat = stat.expect("it runs");
        // What follows the name, which may contain blanks: user and system time are the 12th and 13th.
        let (_, rest) = stat.rsplit_once(") ").expect("a name");
        let ticks = rest.split(' ').skip(11).take(2);
        let ticks: u64 = ticks.map(|n| n.parse::<u64>().expect("a number")).sum();
        // A hundred ticks a second, on every Linux.
        Duration::from_millis(10 * ticks)
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `kill -NAME`
pub(crate) fn signal(process: u32, name: &str) {
    let mut kill = Command::new("kill");
    let status = kill.arg(format!("-{name}")).arg(process.to_string());
    assert!(status.status().expect("kill runs").success());
}

/// The resident memory of a process, in KiB.
pub(crate) fn memory(process: u32) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let figure = line.and_then(|line| line.split_whitespace().next());
    figure.and_then(|kib| kib.parse().ok()).expect("a size")
}

#[test]
#[ignore = "no test, but what the worker processes of the others run"]
fn child_worker() {
    let variable = |name| std::env::var(name).ok();
    let Some(url) = variable(URL) else { return };
    let variable = |name| variable(name).expect("set with the URL");
    let number = |name| variable(name).parse::<u64>().expect("a number");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let app = App::connect(url).await.expect("the test's broker");
        let slots = number(SLOTS) as usize;
        let journal = variable(JOURNAL);
        let is_ahead = number(AHEAD) == 1;
        let prefetch = match is_ahead {
            true => Prefetch::Adaptive,
            false => Prefetch::Strict,
        };
        let worker = worker(&app, variable(QUEUE), slots, Path::new(&journal))
            .prefetch(prefetch)
            .grace(Duration::from_millis(number(GRACE)))
            .max_deliveries(number(DELIVERIES) as u32);
        let signal = garenne::shutdown_signal();
        let ended = if number(SIGNALS) == 1 {
            println!("\n{READY}");
            worker.run(signal).await
        } else {
            // Only when the worker consumes is its shutdown awaited.
            let shutdown = async {
                println!("\n{READY}");
                signal.await;
            };
            worker.run(shutdown).await
        };
        ended.expect("a good end");
        if is_ahead {
            std::process::exit(0);
        }
        app.close().await;
    });
}
