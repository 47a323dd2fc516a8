//! The fleet's workers, each a process group of its own, which can be killed with all its children.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use garenne::App;

use crate::support::{self, eventually, unique};

const BROKER: &str = "INTEROP_BROKER";
const QUEUE: &str = "INTEROP_QUEUE";
const JOURNAL: &str = "FLEET_JOURNAL";
const WORKER: &str = "FLEET_WORKER";

/// Where the fleet works.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) broker: String,
    /// The Python workers' queue.
    pub(crate) queue: String,
    pub(crate) journal: PathBuf,
    /// Celery's.
    pub(crate) version: String,
    bin: PathBuf,
}

/// Where this process is to work, if it was started as one of the Rust workers.
pub(crate) fn asked_to_work() -> Option<Place> {
    std::env::var_os(WORKER)?;
    let said = |name: &str| std::env::var(name).expect("set by the fleet");
    Some(Place {
        broker: said(BROKER),
        queue: said(QUEUE),
        journal: said(JOURNAL).into(),
        version: String::new(),
        bin: PathBuf::new(),
    })
}

impl Place {
    /// `None`, said aloud, where there is no Celery or no RabbitMQ.
    pub(crate) fn new() -> Option<Self> {
        let environments = std::env::var("GARENNE_TEST_CELERY_VENVS").unwrap_or_default();
        let Some(newest) = environments.split(':').rfind(|folder| !folder.is_empty()) else {
            eprintln!("skipped: GARENNE_TEST_CELERY_VENVS names no environments with Celery");
            return None;
        };
        let url = support::rabbitmq()?;
        let bin = Path::new(newest).join("bin");
        let mut ask = Command::new(bin.join("python"));
        ask.args(["-c", "import celery; print(celery.__version__, end='')"]);
        let version = ask.output().expect("python runs").stdout;
        let journal = std::env::temp_dir().join(unique("fleet"));
        std::fs::write(&journal, "").expect("a journal");
        Some(Self {
            broker: url.split('?').next().unwrap_or_default().to_owned(),
            queue: unique("fleet"),
            journal,
            version: String::from_utf8(version).expect("a version"),
            bin,
        })
    }

    /// The Rust workers' queue.
    pub(crate) fn rust_queue(&self) -> String {
        format!("{}-rust", self.queue)
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(
                Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/support/celery/interop"),
            )
            .env(BROKER, &self.broker)
            .env(QUEUE, &self.queue)
            .env(JOURNAL, &self.journal)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONWARNINGS", "ignore")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    /// A Python process that sends `count` chains, the first of which has the number `first`.
    pub(crate) fn sends(&self, first: u32, count: u32) -> Child {
        let mut command = self.command(&self.bin.join("python"));
        command.args(["fleet.py", &first.to_string(), &count.to_string()]);
        command.spawn().expect("python runs")
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Language {
    Python,
    Rust,
}

/// One of the workers; killed at the end.
pub(crate) struct Member {
    pub(crate) language: Language,
    child: Child,
}

impl Member {
    pub(crate) fn start(place: &Place, language: Language) -> Self {
        let mut command = match language {
            Language::Rust => {
                let program = std::env::current_exe().expect("this program");
                let mut command = place.command(&program);
                command.env(WORKER, "1");
                command
            }
            Language::Python => {
                let mut command = place.command(&place.bin.join("celery"));
                command.args(["-A", "fleet", "worker", "--pool", "prefork", "-c", "2"]);
                command.args(["--loglevel", "CRITICAL", "--without-gossip"]);
                // Two that start under one name would be in each other's way.
                let name = format!("{}@localhost", unique("fleet"));
                command.args(["--without-mingle", "-n", &name]);
                command
            }
        };
        let child = command.process_group(0).spawn().expect("it starts");
        Self { language, child }
    }

    /// Kills it with all its children.
    pub(crate) fn kill(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait() {
            if status.signal() != Some(9) {
                println!("a {:?} worker ended by itself: {status}", self.language);
            }
            return;
        }
        let group = format!("-{}", self.child.id());
        let mut kill = Command::new("kill");
        kill.args(["-KILL", "--", &group]).status().ok();
        self.child.wait().ok();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Resolves when the Python workers have made their queue.
pub(crate) async fn python_is_there(app: &App, place: &Place) {
    eventually("the Python workers' queue", || async {
        let depth = app.depth(&place.queue).await;
        depth.is_ok_and(|depth| depth.consumers > 0)
    })
    .await;
}
