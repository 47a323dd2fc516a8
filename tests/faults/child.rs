//! Workers in processes of their own: this test binary again.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use garenne::App;

use super::place::Place;
use super::tasks::worker;

const URL: &str = "GARENNE_CHILD_URL";
const QUEUE: &str = "GARENNE_CHILD_QUEUE";
const SLOTS: &str = "GARENNE_CHILD_SLOTS";
const JOURNAL: &str = "GARENNE_CHILD_JOURNAL";
const READY: &str = "the worker is ready";

/// How often a call may end a child before it counts as poison.
pub(crate) const MAX_DELIVERIES: u32 = 3;

/// A worker process, killed when it is dropped.
pub(crate) struct WorkerProcess {
    child: Child,
    /// Kept open: a process that cannot print fails.
    _out: BufReader<ChildStdout>,
}

impl WorkerProcess {
    /// Starts a worker of the place's queue; returns when it consumes.
    pub(crate) fn start(place: &Place, slots: usize) -> Self {
        Self::on(place, &place.queue, slots)
    }

    /// Starts a worker of `queue`.
    pub(crate) fn on(place: &Place, queue: &str, slots: usize) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "faults::child::child_worker", "--ignored"])
            .args(["--nocapture", "--test-threads=1"])
            .env(URL, &place.url)
            .env(QUEUE, queue)
            .env(SLOTS, slots.to_string())
            .env(JOURNAL, place.journal())
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
        Self { child, _out: out }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
    }

    /// `kill`
    pub(crate) fn terminate(&self) {
        let status = Command::new("kill").arg(self.id().to_string()).status();
        assert!(status.expect("kill runs").success());
    }

    /// Resolves when it has ended.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let poll = async {
            loop {
                if let Some(status) = self.child.try_wait().expect("a status") {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        crate::support::within("the end of a worker process", poll).await
    }

    pub(crate) fn memory(&self) -> i64 {
        memory(self.id())
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
    let (Some(url), Some(queue), Some(slots), Some(journal)) = (
        variable(URL),
        variable(QUEUE),
        variable(SLOTS),
        variable(JOURNAL),
    ) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let app = App::connect(url).await.expect("the test's broker");
        let slots = slots.parse().expect("a number");
        // Only when the worker consumes is its shutdown awaited.
        let shutdown = async {
            println!("\n{READY}");
            garenne::shutdown_signal().await;
        };
        worker(&app, queue, slots, Path::new(&journal))
            .max_deliveries(MAX_DELIVERIES)
            .run(shutdown)
            .await
            .expect("a good end");
        app.close().await;
    });
}
