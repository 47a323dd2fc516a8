//! A cluster of three RabbitMQ nodes that loses some of them, its leader first.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use garenne::{App, Error, Handle};

use super::child::{Spawn, WorkerProcess};
use super::place::{Place, alone, figure, long};
use super::tasks::{echo, marks, now};
use crate::support::{eventually, unique, within};
use crate::version::version;

/// How long a send may take while the queue has a new leader to find.
const NEW_LEADER: Duration = Duration::from_secs(10);
/// How much longer than for a client that has just connected.
const LONGEST: Duration = Duration::from_secs(2);
/// How long a send may take where a node does not know that it is cut off.
const UNNOTICED: Duration = Duration::from_secs(15);
const SEND_TIMEOUT: Duration = Duration::from_secs(20);
/// A task that is running when nodes go.
const WORK: u64 = 4_000;
/// How long two nodes lose each other, so that one takes the other's consumers for dead.
const TAKEN_FOR_DEAD: Duration = Duration::from_secs(2);

/// Three nodes of the test's own.
struct Cluster {
    script: String,
    folder: PathBuf,
}

impl Cluster {
    fn start() -> Option<Self> {
        let script = crate::script::script()?;
        let folder = super::node::scratch().join(unique("rabbitmq-cluster"));
        let cluster = Self { script, folder };
        cluster.run("cluster", &cluster.folder, &[]);
        Some(cluster)
    }

    fn run(&self, command: &str, folder: &Path, arguments: &[&str]) -> String {
        super::node::run(&self.script, command, folder, arguments)
    }

    fn node(&self, number: usize) -> PathBuf {
        self.folder.join(number.to_string())
    }

    /// All of them in one URL, the first one first.
    fn place(&self) -> Place {
        let url = |number| self.run("url", &self.node(number), &[]).trim().to_owned();
        let all: Vec<String> = (1..=3).map(url).collect();
        Place::at(
            "RabbitMQ, three nodes",
            format!("{}?prefix=", all.join(";")),
        )
    }

    /// The folder of the node that leads a quorum queue.
    fn leader(&self, queue: &str) -> PathBuf {
        PathBuf::from(self.run("leader", &self.folder, &[queue]).trim())
    }

    /// The number of a node that clients are connected to, when all nodes run.
    fn clients_node(&self) -> usize {
        let ports = self.run("ctl", &self.node(1), &["list_connections", "port"]);
        let is_used = |number: &usize| {
            let url = self.run("url", &self.node(*number), &[]);
            let (_, port) = url.rsplit_once(':').expect("a port");
            let port = port.split('/').next();
            ports.lines().any(|line| Some(line.trim()) == port)
        };
        (1..=3).find(is_used).expect("a client somewhere")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // At worst the folder stays.
        let _ = Command::new(&self.script)
            .arg("down")
            .arg(&self.folder)
            .output();
    }
}

#[test]
fn a_cluster_that_loses_nodes_loses_no_call() {
    let name = "a_cluster_that_loses_nodes_loses_no_call";
    alone(name, Cluster::start, nodes_go);
}

/// Sends a call.
async fn send(app: &App, place: &Place, n: u64) -> Handle<u64> {
    let call = echo::call(n).queue(&place.queue);
    within("sending", call.send(app)).await.expect("sent")
}

/// How long a call took.
struct Took {
    sent: Duration,
    answered: Duration,
}

/// A call is sent and answered.
async fn call(app: &App, place: &Place, n: u64) -> Took {
    let start = Instant::now();
    let handle = send(app, place, n).await;
    let sent = start.elapsed();
    assert_eq!(within("a result", handle).await, Ok(n));
    Took {
        sent,
        answered: start.elapsed(),
    }
}

/// A call is sent and answered; how long that took, and for how long one by a client that has just connected
/// was not: that is when the cluster was back.
async fn call_beside_a_new_client(app: &App, place: &Place, n: u64) -> (Took, Duration) {
    let start = Instant::now();
    let (addresses, prefix) = place.url.split_once('?').expect("a prefix");
    let mut addresses: Vec<&str> = addresses.split(';').collect();
    let new_client = async {
        loop {
            let url = format!("{}?{prefix}", addresses.join(";"));
            addresses.rotate_left(1);
            let builder = App::builder(&url).send_timeout(Duration::from_millis(500));
            let Ok(new) = builder.connect().await else {
                continue;
            };
            // Without a result: a reply queue that goes when a node is missing takes RabbitMQ 5 s, and stops
            // whoever replies to it for as long.
            let call = echo::call(n).queue(&place.queue).ignore_result();
            let sent = call.send(&new).await;
            let sent = sent.map(|_| ());
            let back = start.elapsed();
            // Which waits for what is still unconfirmed.
            tokio::spawn(async move { new.close().await });
            if sent.is_ok() {
                return back;
            }
        }
    };
    tokio::join!(call(app, place, n), within("a new client", new_client))
}

/// Says how long a call took after a fault, and that it did not wait much longer than the cluster was away.
async fn goes_on(app: &App, place: &Place, n: u64, fault: &str) {
    let (Took { sent, answered }, away) = call_beside_a_new_client(app, place, n).await;
    figure!(
        place,
        "{fault}: the next call is sent after {sent:.1?} and answered after {answered:.1?}, a new client's is stored after {away:.1?}"
    );
    assert!(answered < NEW_LEADER, "{fault}: {answered:?}");
    assert!(answered < away + LONGEST, "{fault}: {answered:?}, {away:?}");
}

async fn nodes_go(cluster: Cluster) {
    let place = cluster.place();
    let builder = App::builder(&place.url).send_timeout(SEND_TIMEOUT);
    let app = builder.connect().await.expect("the cluster");
    let _worker = WorkerProcess::start(&place, 4);
    call(&app, &place, 0).await;
    let server = version(place.url.split(';').next().expect("a node"));
    if server >= (4, 3) {
        taken_for_dead(&cluster, &place, &app).await;
    }

    // The queue's leader is killed while a task runs: it goes on elsewhere, and the task is not repeated.
    let running = marks::call(1, WORK).queue(&place.queue);
    let running = running.send(&app).await.expect("sent");
    place.line(1).await;
    let leader = cluster.leader(&place.queue);
    cluster.run("kill", &leader, &[]);
    goes_on(&app, &place, 2, "the leader killed").await;
    assert_eq!(within("what ran", running).await, Ok(1));
    ran_once(&place, 1, "the leader killed");
    cluster.run("start", &leader, &[]);
    call(&app, &place, 12).await;
    ran_once(&place, 1, "the leader back");

    let node = cluster.node(cluster.clients_node());
    cluster.run("kill", &node, &[]);
    goes_on(&app, &place, 3, "a clients' node killed").await;
    ran_once(&place, 1, "a clients' node killed");
    cluster.run("start", &node, &[]);

    split(&cluster, &place, &app, server < (4, 3)).await;
    ran_once(&place, 1, "healed");
    if long() {
        rolling_restart(&cluster, &place, &app).await;
        no_majority(&cluster, &place, &app).await;
    }

    // All of them, with calls in the queue.
    let mut queued = Vec::new();
    for n in 0..100 {
        let call = marks::call(1_000 + n, 10).queue(&place.queue);
        queued.push(call.send(&app).await.expect("sent"));
    }
    for number in 1..=3 {
        cluster.run("kill", &cluster.node(number), &[]);
    }
    // Each waits for the others: who was the last to go is not known.
    std::thread::scope(|scope| {
        for number in 1..=3 {
            let cluster = &cluster;
            scope.spawn(move || cluster.run("start", &cluster.node(number), &[]));
        }
    });
    let back = now();
    goes_on(&app, &place, 10, "all killed").await;
    for (n, handle) in (1_000..).zip(queued) {
        assert_eq!(within("what was queued", handle).await, Ok(n));
    }
    let took = Duration::from_nanos((now() - back) as u64);
    figure!(
        place,
        "all killed: 100 queued calls answered {took:.1?} after the start of their nodes"
    );
    ran_once(&place, 1, "all killed");
    app.close().await;
}

/// A node with clients loses the others while a task runs: its clients go to the other side, and the task is not
/// repeated. Up to RabbitMQ 4.2 the node pauses, which ends its connections. From 4.3 on it goes on as if nothing
/// were wrong, and its clients have to find out.
async fn split(cluster: &Cluster, place: &Place, app: &App, pauses: bool) {
    let lone = marks::call(7, WORK).queue(&place.queue);
    let running = lone.send(app).await.expect("sent");
    eventually("the task runs", || async {
        place.lines().contains(&"7 1".to_owned())
    })
    .await;
    let node = cluster.clients_node().to_string();
    cluster.run("cut", &cluster.folder, &[&node]);
    if pauses {
        goes_on(app, place, 8, "a clients' node cut off").await;
    } else {
        let took = call(app, place, 8).await.answered;
        figure!(
            place,
            "a clients' node cut off: the next call is answered after {took:.1?}"
        );
        assert!(took < UNNOTICED, "{took:?}");
    }
    assert_eq!(within("what ran", running).await, Ok(7));
    cluster.run("heal", &cluster.folder, &[&node]);
    goes_on(app, place, 9, "healed").await;
    ran_once(place, 7, "healed");
}

/// The node of a worker and the one that leads its queue lose each other for a moment, and RabbitMQ 4.3 gives the
/// message to the same consumer again, on the same channel, whose first delivery is as good as ever. Older ones pause
/// a node then, which ends its connections.
async fn taken_for_dead(cluster: &Cluster, place: &Place, app: &App) {
    let queue = unique("taken-for-dead");
    let send = |n, work| marks::call(n, work).queue(&queue).send(app);
    let first = send(5, 0).await.expect("sent");
    let leader = cluster.leader(&queue);
    let (leader, other) = match leader == cluster.node(1) {
        true => ("1", 2),
        false if leader == cluster.node(2) => ("2", 3),
        false => ("3", 1),
    };
    let node = cluster.run("url", &cluster.node(other), &[]);
    let url = format!("{}?prefix=", node.trim());
    let worker = Spawn::at(place).url(url).queue(&queue).slots(4);
    let _worker = worker.start();
    assert_eq!(within("a result", first).await, Ok(5));
    let running = send(6, WORK).await.expect("sent");
    eventually("the task runs", || async {
        place.lines().contains(&"6 1".to_owned())
    })
    .await;
    let other = other.to_string();
    cluster.run("cut", &cluster.folder, &[leader, &other]);
    tokio::time::sleep(TAKEN_FOR_DEAD).await;
    cluster.run("heal", &cluster.folder, &[leader, &other]);
    assert_eq!(within("what ran", running).await, Ok(6));
    ran_once(place, 6, "taken for dead");
}

/// The task that ran when nodes went was not repeated so far.
fn ran_once(place: &Place, n: u64, fault: &str) {
    let line = format!("{n} 1");
    let starts = place.lines().iter().filter(|other| **other == line).count();
    assert_eq!(starts, 1, "{fault}: the task {n} that was running");
}

/// A rolling restart loses nothing.
async fn rolling_restart(cluster: &Cluster, place: &Place, app: &App) {
    let mut sent = Vec::new();
    for number in 1..=3 {
        cluster.run("stop", &cluster.node(number), &[]);
        for n in 0..20 {
            sent.push((n, send(app, place, n).await));
        }
        cluster.run("start", &cluster.node(number), &[]);
    }
    let count = sent.len();
    for (n, handle) in sent {
        assert_eq!(within("a result", handle).await, Ok(n));
    }
    figure!(
        place,
        "all {count} calls answered that were sent in a rolling restart"
    );
}

/// Two of three are killed: nothing can be stored, which is told in time; then they are back.
async fn no_majority(cluster: &Cluster, place: &Place, app: &App) {
    let short = App::builder(&place.url).send_timeout(Duration::from_secs(3));
    let short = short.connect().await.expect("the cluster");
    call(&short, place, 4).await;
    cluster.run("kill", &cluster.node(2), &[]);
    cluster.run("kill", &cluster.node(3), &[]);
    let start = Instant::now();
    let sent = echo::call(5).queue(&place.queue).send(&short).await;
    let error = sent.map(|_| ()).expect_err("no majority");
    let took = start.elapsed();
    figure!(place, "two of three killed: told after {took:.1?}: {error}");
    assert!(
        error.is_transient() || matches!(error, Error::Unconfirmed { .. }),
        "{error:?}"
    );
    assert!(took < Duration::from_secs(5), "{took:?}");
    for number in 2..=3 {
        cluster.run("start", &cluster.node(number), &[]);
    }
    goes_on(app, place, 6, "two of three back").await;
    short.close().await;
}
