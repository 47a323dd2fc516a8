//! A RabbitMQ node that a test may harm.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::place::Place;
use crate::script::{REMEMBER_QUEUES, script};
use crate::support::unique;

/// Where nodes live.
pub(crate) fn scratch() -> PathBuf {
    let scratch = std::env::var_os("GARENNE_TEST_DIR").map(PathBuf::from);
    scratch.unwrap_or_else(std::env::temp_dir)
}

/// Runs a command of the script, which must succeed; what it printed.
pub(crate) fn run(script: &str, command: &str, folder: &Path, arguments: &[&str]) -> String {
    let mut script = Command::new(script);
    script.arg(command).arg(folder).args(arguments);
    let output = script.output().expect("the script runs");
    assert!(
        output.status.success(),
        "{command} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A node of the test's own; it is taken down when it is dropped.
pub(crate) struct Node {
    script: String,
    folder: PathBuf,
}

impl Node {
    /// Starts one; `None`, said aloud, where RabbitMQ is missing and not required.
    pub(crate) fn start() -> Option<Self> {
        let script = script()?;
        let folder = scratch().join(unique("rabbitmq"));
        let node = Self { script, folder };
        node.run("start", &[]);
        Some(node)
    }

    /// Where a test runs on this node.
    pub(crate) fn place(&self) -> Place {
        Place::at("RabbitMQ, own node", self.run("url", &[]).trim().to_owned())
    }

    /// `start`, `stop` or `kill`, or `ctl` with arguments for `rabbitmqctl`.
    pub(crate) fn run(&self, command: &str, arguments: &[&str]) -> String {
        run(&self.script, command, &self.folder, arguments)
    }

    /// RabbitMQ's version, as far as features depend on it.
    pub(crate) fn version(&self) -> (u32, u32) {
        let version = self.run("ctl", &["version"]);
        let mut numbers = version.trim().split('.').map(|n| n.parse().ok());
        let mut next = || numbers.next().flatten().expect("a version");
        (next(), next())
    }

    /// Makes sure that a crash of the node leaves the queues that were declared so far.
    pub(crate) fn remember_queues(&self) {
        self.run("ctl", &["eval", REMEMBER_QUEUES]);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let mut script = Command::new(&self.script);
        // At worst the folder stays.
        let _ = script.arg("down").arg(&self.folder).output();
    }
}
