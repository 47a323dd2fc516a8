//! The RabbitMQ nodes of a storm, run by the script that `GARENNE_TEST_RABBITMQ` names.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::process::Command;

use super::fault::Site;
use super::history::now;
use crate::script::REMEMBER_QUEUES;

/// No command may take longer: starting a node on a busy machine is the longest.
const LIMIT: Duration = Duration::from_secs(150);
const ADDRESS_TICK: Duration = Duration::from_millis(5);
/// What the nodes may use before the alarm, in bytes, as the script sets it.
const WATERMARK: u64 = 1_000_000_000;

/// The nodes; they are taken down when this is dropped.
pub(crate) struct Nodes {
    script: String,
    folder: PathBuf,
    pub(crate) all: Vec<Node>,
}

/// One node.
pub(crate) struct Node {
    script: String,
    folder: PathBuf,
    /// Its AMQP port, `host:port`.
    pub(crate) address: String,
}

impl Nodes {
    pub(crate) async fn start(script: String, folder: PathBuf, site: Site) -> Self {
        let mut nodes = Self {
            script,
            folder,
            all: Vec::new(),
        };
        let (command, folders) = match site {
            Site::Cluster => (
                "cluster",
                (1..=3).map(|i| nodes.folder.join(i.to_string())).collect(),
            ),
            _ => ("start", vec![nodes.folder.clone()]),
        };
        run(&nodes.script, command, &nodes.folder, &[]).await;
        for folder in folders {
            let url = run(&nodes.script, "url", &folder, &[]).await;
            let (_, address) = url.trim().rsplit_once('@').expect("user@host");
            nodes.all.push(Node {
                script: nodes.script.clone(),
                folder,
                address: address.trim_end_matches("/%2f").to_owned(),
            });
        }
        nodes
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.all.iter().map(|node| node.address.clone()).collect()
    }

    /// Which node leads `queue`.
    pub(crate) async fn leader(&self, queue: &str) -> usize {
        let folder = run(&self.script, "leader", &self.folder, &[queue]).await;
        let folder = Path::new(folder.trim());
        let position = self.all.iter().position(|node| node.folder == folder);
        position.unwrap_or_else(|| panic!("{} is no node", folder.display()))
    }

    /// Makes sure that a crash leaves the queues that were declared so far.
    pub(crate) async fn remember_queues(&self) {
        let each = self.all.iter();
        let each = each.map(|node| node.eval(REMEMBER_QUEUES));
        futures_util::future::join_all(each).await;
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        let mut script = std::process::Command::new(&self.script);
        // At worst the folder stays.
        let _ = script.arg("down").arg(&self.folder).output();
    }
}

impl Node {
    /// `start`, `stop`, `kill`, `pause` or `resume`.
    pub(crate) async fn run(&self, command: &str) {
        run(&self.script, command, &self.folder, &[]).await;
    }

    /// Starts it; returns when it was back: it accepted connections.
    pub(crate) async fn start(&self) -> u64 {
        tokio::join!(self.run("start"), self.accepts()).1
    }

    async fn accepts(&self) -> u64 {
        let start = Instant::now();
        while TcpStream::connect(&self.address).await.is_err() {
            assert!(start.elapsed() < LIMIT, "{} stays closed", self.address);
            tokio::time::sleep(ADDRESS_TICK).await;
        }
        now()
    }

    async fn eval(&self, code: &str) -> String {
        run(&self.script, "ctl", &self.folder, &["eval", code]).await
    }

    /// Evaluates `code`, then reads the clock on the node: the command itself takes a second to return.
    async fn timed(&self, code: &str) -> u64 {
        let code = format!("{code}, os:system_time(microsecond).");
        let said = self.eval(&code).await;
        said.trim()
            .parse()
            .unwrap_or_else(|_| panic!("{code} says {said}"))
    }

    pub(crate) async fn raise_alarm(&self) -> u64 {
        self.timed("vm_memory_monitor:set_vm_memory_high_watermark(0.00001)")
            .await
    }

    pub(crate) async fn end_alarm(&self) -> u64 {
        let code =
            format!("vm_memory_monitor:set_vm_memory_high_watermark({{absolute, {WATERMARK}}})");
        self.timed(&code).await
    }

    /// Makes another node than this one, its leader, lead `queue`.
    pub(crate) async fn move_leader(&self, queue: &str) -> u64 {
        let code = format!(
            "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"{queue}\">>)), \
             [Other | _] = nodes(), \
             rabbit_quorum_queue:transfer_leadership(Q, Other)"
        );
        self.timed(&code).await
    }
}

async fn run(script: &str, command: &str, folder: &Path, arguments: &[&str]) -> String {
    let mut script = Command::new(script);
    script
        .arg(command)
        .arg(folder)
        .args(arguments)
        .kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, script.output()).await;
    let output = output.unwrap_or_else(|_| panic!("{command} {} took {LIMIT:?}", folder.display()));
    let output = output.expect("the script runs");
    assert!(
        output.status.success(),
        "{command} {} {arguments:?}: {}",
        folder.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
