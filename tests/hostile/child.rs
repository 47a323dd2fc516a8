//! A worker in a process of its own: this test binary again.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};

use garenne::App;

use super::tasks::worker;

const URL: &str = "GARENNE_CHILD_URL";
const QUEUE: &str = "GARENNE_CHILD_QUEUE";
const READY: &str = "the worker is ready";

/// A worker process, killed when it is dropped.
pub(crate) struct WorkerProcess {
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
}

impl WorkerProcess {
    /// Starts a worker of `queue`; returns when it consumes.
    pub(crate) fn start(url: &str, queue: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "hostile::child::child_worker", "--ignored"])
            .args(["--nocapture", "--test-threads=1"])
            // The C library keeps freed memory for later; so it gives large pieces back, and what is
            // measured is what the worker holds.
            .env("MALLOC_MMAP_THRESHOLD_", "65536")
            .env("MALLOC_TRIM_THRESHOLD_", "65536")
            .env("MALLOC_ARENA_MAX", "2")
            .env(URL, url)
            .env(QUEUE, queue)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let said = Arc::new(Mutex::new(Vec::new()));
        let (ready, is_ready) = mpsc::channel();
        let lines = said.clone();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if line.contains(READY) {
                    let _ = ready.send(());
                }
                lines.lock().expect("no panic").push(line);
            }
        });
        is_ready.recv().expect("the worker process is ready");
        Self { child, said }
    }

    /// What it has said that contains `words`.
    pub(crate) fn lines_with(&self, words: &str) -> Vec<String> {
        let said = self.said.lock().expect("no panic");
        said.iter()
            .filter(|line| line.contains(words))
            .cloned()
            .collect()
    }

    /// Its resident memory in KiB.
    pub(crate) fn memory(&self) -> i64 {
        self.figure("VmRSS:")
    }

    /// The most that it ever had.
    pub(crate) fn most_memory(&self) -> i64 {
        self.figure("VmHWM:")
    }

    fn figure(&self, name: &str) -> i64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let figure = line.and_then(|line| line.split_whitespace().next());
        figure.and_then(|kib| kib.parse().ok()).expect("a size")
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            for line in self.lines_with("WARN") {
                let end = line
                    .char_indices()
                    .nth(400)
                    .map_or(line.len(), |(at, _)| at);
                println!("the worker process: {}", &line[..end]);
            }
        }
    }
}

#[test]
#[ignore = "no test, but what the worker processes of the others run"]
fn child_worker() {
    let variable = |name| std::env::var(name).ok();
    let (Some(url), Some(queue)) = (variable(URL), variable(QUEUE)) else {
        return;
    };
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .with_ansi(false)
        .init();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let app = App::connect(url).await.expect("the test's broker");
        let shutdown = async {
            println!("\n{READY}");
            garenne::shutdown_signal().await;
        };
        worker(&app, &queue)
            .run(shutdown)
            .await
            .expect("a good end");
    });
}
