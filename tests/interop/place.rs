//! One version of Celery, the broker, and the queues of this run.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use garenne::App;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::case::{Mismatch, Tally, same};
use crate::support::{self, eventually, unique};

/// How long one of the Python client's cases may take.
const LONGEST_CASE: Duration = Duration::from_secs(60);

/// One version of Celery.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) version: String,
    pub(crate) broker: String,
    /// The Python worker's queue.
    pub(crate) queue: String,
    bin: PathBuf,
}

impl Place {
    /// One for each environment with Celery; none, said aloud, where there is no Celery or no RabbitMQ.
    pub(crate) fn all() -> Vec<Self> {
        let Ok(environments) = std::env::var("GARENNE_TEST_CELERY_VENVS") else {
            eprintln!("skipped: GARENNE_TEST_CELERY_VENVS names no environments with Celery");
            return Vec::new();
        };
        let Some(url) = support::rabbitmq() else {
            return Vec::new();
        };
        let broker = url.split('?').next().unwrap_or_default();
        let environments = environments.split(':').filter(|folder| !folder.is_empty());
        environments
            .map(|folder| Self::of(folder, broker))
            .collect()
    }

    fn of(folder: &str, broker: &str) -> Self {
        let bin = Path::new(folder).join("bin");
        let mut ask = Command::new(bin.join("python"));
        ask.args(["-c", "import celery; print(celery.__version__, end='')"]);
        let said = ask.output().expect("python runs");
        assert!(said.status.success(), "{folder} has a Celery");
        Self {
            version: String::from_utf8(said.stdout).expect("a version"),
            broker: broker.to_owned(),
            queue: unique("interop"),
            bin,
        }
    }

    /// One of the queues of this run: of kind `rust`, that of Rust's tasks.
    pub(crate) fn queue_of(&self, kind: &str) -> String {
        match kind {
            "" => self.queue.clone(),
            kind => format!("{}-{kind}", self.queue),
        }
    }

    /// An app that accepts what Python may send.
    pub(crate) async fn app(&self) -> App {
        let builder = App::builder(&*self.broker);
        #[cfg(feature = "msgpack")]
        let builder = builder.accept_msgpack();
        builder.connect().await.expect("the test's RabbitMQ")
    }

    /// One of the programs of this Celery's environment.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command
            .current_dir(
                Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/support/celery/interop"),
            )
            // kombu reads `/%2f` as the vhost `%2f`'s name, `/`, like we do.
            .env("INTEROP_BROKER", &self.broker)
            .env("INTEROP_QUEUE", &self.queue)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            // Such as that it runs as root.
            .env("PYTHONWARNINGS", "ignore")
            .stderr(Stdio::inherit());
        command
    }

    /// A worker of this app with so many processes.
    pub(crate) fn python_worker(&self, app: &str, processes: &str) -> PythonWorker {
        let mut command = self.program("celery");
        command.args(["-A", app, "worker", "--pool", "prefork", "-c", processes]);
        command.args([
            "--loglevel",
            "CRITICAL",
            "--without-gossip",
            "--without-mingle",
        ]);
        command.args(["-n", &format!("{app}-{}@localhost", self.queue)]);
        command.stdout(Stdio::null());
        PythonWorker(command.spawn().expect("celery starts"))
    }
}

/// A Python worker, told to end at the end.
pub(crate) struct PythonWorker(Child);

impl PythonWorker {
    /// Resolves when it consumes. A call that is sent before would make its queue in our way.
    pub(crate) async fn ready(&self, app: &App, queue: &str) {
        eventually("the Python worker's queue", || async {
            let depth = app.depth(queue).await;
            depth.is_ok_and(|depth| depth.consumers > 0)
        })
        .await;
    }
}

impl Drop for PythonWorker {
    fn drop(&mut self) {
        // Killed, it would leave its processes behind.
        let mut kill = Command::new("kill");
        kill.arg(self.0.id().to_string()).status().ok();
        self.0.wait().ok();
    }
}

/// What the Python client says of a case.
#[derive(Deserialize)]
struct Said {
    case: String,
    seconds: f64,
    expected: Option<String>,
    got: Option<String>,
}

/// The Python process that calls Rust.
pub(crate) struct Client {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Client {
    /// Starts it: it makes the queue of Rust's tasks, and waits for its worker.
    pub(crate) fn start(place: &Place, wanted: &str) -> Self {
        let mut command = place.program("python");
        command
            .args(["to_rust.py", wanted])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("python runs");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (send, lines) = mpsc::channel(64);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if send.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// Resolves when it has made its queue.
    pub(crate) async fn declared(&mut self) {
        assert_eq!(self.line().await.as_deref(), Some("declared"));
    }

    /// Has it run its cases, and tells of each.
    pub(crate) async fn run(mut self, place: &Place, tally: &Tally) {
        // What ends its waiting is that its input ends.
        drop(self.child.stdin.take());
        let tell = |name: &str, took, outcome| {
            tally.tell(&place.version, "Python → Rust", name, took, outcome);
        };
        while let Some(line) = self.line().await {
            let said: Said = serde_json::from_str(&line).expect("a line of JSON");
            let outcome = match (said.expected, said.got) {
                (Some(expected), Some(got)) => Err(Mismatch { expected, got }),
                _ => Ok(()),
            };
            tell(&said.case, Duration::from_secs_f64(said.seconds), outcome);
        }
        let ended = match self.child.try_wait() {
            Ok(Some(status)) => format!("{status}"),
            // Its last line was its end, or it hangs.
            _ => {
                let patience = tokio::time::sleep(Duration::from_secs(5));
                patience.await;
                self.child.kill().ok();
                self.child
                    .wait()
                    .map_or_else(|e| e.to_string(), |status| status.to_string())
            }
        };
        let outcome = same(ended.as_str(), "exit status: 0");
        tell("the client's own end", Duration::ZERO, outcome);
    }

    async fn line(&mut self) -> Option<String> {
        tokio::time::timeout(LONGEST_CASE, self.lines.recv())
            .await
            .unwrap_or_default()
    }
}
