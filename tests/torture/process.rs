//! Workers and producers as seen from outside: this test binary again, as processes that can be killed,
//! paused, and cut off from the broker.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use serde::{Deserialize, Serialize};
use tokio::process::{Child, ChildStdin, Command};

use crate::proxy::{Proxy, Rules};

/// Holds the [`Orders`] of a child process.
pub(crate) const ORDERS: &str = "GARENNE_TORTURE_CHILD";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    Worker,
    Producer,
}

/// What a child process is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) role: Role,
    /// Not used by any other process of the storm.
    pub(crate) number: usize,
    /// Begins the ids of all calls of the storm.
    pub(crate) run: String,
    pub(crate) url: String,
    pub(crate) queue: String,
    pub(crate) history: PathBuf,
}

/// A running child.
pub(crate) struct Process {
    child: Child,
    /// The child ends when this end of its pipe does: none outlives the conductor.
    _alive: Option<ChildStdin>,
    pub(crate) pid: u32,
    pub(crate) role: Role,
    pub(crate) link: Link,
}

impl Process {
    /// Starts it; what it prints goes to a file in `folder`.
    pub(crate) fn start(orders: &Orders, link: Link, folder: &Path) -> Self {
        let name = format!("{:?}-{}.log", orders.role, orders.number).to_lowercase();
        let log = File::create(folder.join(name)).expect("a log");
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "torture::child::process", "--ignored"])
            .args(["--nocapture", "--test-threads=1"])
            .env(ORDERS, serde_json::to_string(orders).expect("JSON"))
            .stdin(Stdio::piped())
            .stderr(log.try_clone().expect("a log"))
            .stdout(log)
            .kill_on_drop(true)
            .spawn()
            .expect("a child");
        Self {
            pid: child.id().expect("it runs"),
            role: orders.role,
            // Left in the child, it would be closed before the end is awaited.
            _alive: child.stdin.take(),
            child,
            link,
        }
    }

    /// Sends it a signal, by name.
    pub(crate) async fn signal(&self, signal: &str) {
        let mut kill = Command::new("kill");
        kill.arg(format!("-{signal}")).arg(self.pid.to_string());
        assert!(kill.status().await.expect("kill runs").success());
    }

    /// `kill -9`
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("killed");
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a status")
    }

    pub(crate) async fn end(&mut self) -> ExitStatus {
        self.child.wait().await.expect("a status")
    }
}

/// A process's way to the broker: a proxy before each of its nodes, none for a file.
#[derive(Default)]
pub(crate) struct Link(Vec<Proxy>);

impl Link {
    /// Ways to `targets`, `host:port` each.
    pub(crate) async fn to(targets: &[String]) -> Self {
        let mut proxies = Vec::new();
        for target in targets {
            proxies.push(Proxy::start(target).await);
        }
        Self(proxies)
    }

    /// The URL that leads through it, its addresses tried from the `first` on.
    pub(crate) fn url(&self, first: usize, options: &str) -> String {
        let count = self.0.len();
        let address = |i: usize| {
            let address = self.0[(first + i) % count].address;
            format!("amqp://guest:guest@{address}/%2f?{options}")
        };
        (0..count).map(address).collect::<Vec<_>>().join(";")
    }

    pub(crate) fn set(&self, rules: &Rules) {
        self.each(|proxy| proxy.set(rules.clone()));
    }

    pub(crate) fn each(&self, act: impl FnMut(&Proxy)) {
        self.0.iter().for_each(act);
    }
}
