//! Celery's own tools at a worker of ours: `inspect`, `control`, `status`, `events`, and a Python worker beside it that
//! listens to what it tells.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use garenne::{App, FailureKind};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::support::{self, eventually, within};
use crate::tasks::{Crew, add, pass};

/// Celery's program, a RabbitMQ for both sides, and a worker of ours there.
pub(crate) struct Watched {
    celery: String,
    broker: String,
    pub(crate) crew: Crew,
}

/// A program that is killed at the end.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Watched {
    /// `None`, said aloud, where there is no Celery or no RabbitMQ.
    pub(crate) async fn new(slots: usize) -> Option<Self> {
        let Ok(celery) = std::env::var("GARENNE_TEST_CELERY") else {
            eprintln!("skipped: GARENNE_TEST_CELERY names no `celery` program");
            return None;
        };
        let url = support::rabbitmq()?;
        // Celery's own names, and so no prefix: other tests may be heard, too.
        let broker = url.split('?').next().unwrap_or_default().to_owned();
        let app = App::connect(&broker).await.expect("the test's RabbitMQ");
        let crew = Crew::new(&app, slots).await;
        Some(Self {
            celery,
            broker,
            crew,
        })
    }

    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/support/celery"))
            .env("INTEROP_BROKER", &self.broker)
            .env("INTEROP_QUEUE", format!("{}.python", self.crew.queue))
            .env("FLOWER_UNAUTHENTICATED_API", "true")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONUNBUFFERED", "1")
            .env("PYTHONWARNINGS", "ignore");
        command
    }

    pub(crate) async fn output(&self, mut command: Command) -> String {
        command.stderr(Stdio::inherit());
        let output = spawn_blocking(move || command.output().expect("it runs"));
        let output = output.await.expect("no panic");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Runs `celery -A watched …`.
    pub(crate) fn tool(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&self.celery);
        command.args(["-A", "watched"]).args(arguments);
        command
    }

    /// Runs `watched.py WHAT` about our node and a call.
    pub(crate) async fn python(&self, what: &str, call: &str) -> Value {
        let mut command = self.command(Path::new(&self.celery).with_file_name("python"));
        command.args(["watched.py", what, &self.crew.node, call]);
        serde_json::from_str(&self.output(command).await).expect("JSON")
    }

    pub(crate) async fn end(self) {
        let app = self.crew.app.clone();
        self.crew.stop().await;
        app.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_asks_everything() {
    let Some(watched) = Watched::new(2).await else {
        return;
    };
    let crew = &watched.crew;
    let runs = crew
        .call(pass::call(7))
        .send(&crew.app)
        .await
        .expect("sent");
    crew.gate.has_let_in(1).await;
    let answers = watched.python("ask", runs.id()).await;
    assert_eq!(answers["ping"], json!({"ok": "pong"}));
    let call = &answers["active"][0];
    assert_eq!(
        (&call["id"], &call["name"], &call["args"]),
        (&json!(runs.id()), &json!("control.pass"), &json!([7]))
    );
    assert_eq!(
        (&call["hostname"], &call["delivery_info"]["routing_key"]),
        (&json!(crew.node), &json!(crew.queue))
    );
    assert_eq!(answers["query_task"][runs.id()][0], "active");
    for empty in ["reserved", "scheduled"] {
        assert_eq!(answers[empty], json!([]), "{empty}");
    }
    assert!(answers["revoked"].is_array() && answers["clock"]["clock"].is_u64());
    assert!(
        answers["registered"]
            .as_array()
            .expect("tasks")
            .contains(&json!("control.pass"))
    );
    assert_eq!(answers["stats"]["total"]["control.pass"], 1);
    assert_eq!(answers["active_queues"][0]["name"], json!(crew.queue));
    let said = answers.to_string();
    assert!(!said.contains("guest:guest"), "a password was told: {said}");
    assert!(
        answers["report"]["ok"]
            .as_str()
            .expect("a report")
            .contains("garenne")
    );

    let status = watched
        .output(watched.tool(&["status", "-d", &crew.node, "-t", "15"]))
        .await;
    assert!(
        status.contains(&crew.node) && status.contains("1 node online"),
        "{status}"
    );
    let ping = watched
        .output(watched.tool(&["inspect", "-d", &crew.node, "-t", "15", "-j", "ping"]))
        .await;
    assert_eq!(
        serde_json::from_str::<Value>(&ping).expect("JSON")[&crew.node]["ok"],
        "pong"
    );
    watched.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_tells_everything() {
    let Some(watched) = Watched::new(2).await else {
        return;
    };
    let crew = &watched.crew;
    let runs = crew
        .call(pass::call(7))
        .send(&crew.app)
        .await
        .expect("sent");
    crew.gate.has_let_in(1).await;
    let said = watched.python("tell", runs.id()).await;
    let ok = |text: &str| json!({ "ok": text });
    assert_eq!(
        said["enable_events"],
        json!([ok("task events enabled"), ok("task events already enabled")])
    );
    assert_eq!(said["disable_events"], json!([ok("task events disabled")]));
    let limits = json!([
        ok("new rate limit set successfully"),
        {"error": "Invalid rate limit string: '10/q'"},
        {"error": "unknown task"},
        ok("new rate limit set successfully"),
    ]);
    assert_eq!(said["rate_limit"], limits);
    assert_eq!(
        said["time_limit"],
        json!([ok("time limits set successfully")])
    );
    assert_eq!(
        (&said["pool_grow"][0], &said["pool_shrink"][0]),
        (&ok("pool will grow"), &ok("pool will shrink"))
    );
    assert_eq!(
        said["autoscale"],
        json!([{"error": "ValueError('Autoscale not enabled')"}])
    );
    let more = format!("{}.python.more", crew.queue);
    assert_eq!(
        said["add_consumer"],
        json!([ok(&format!("add consumer {more}"))])
    );
    assert_eq!(
        said["cancel_consumer"],
        json!([ok(&format!("no longer consuming from {more}"))])
    );
    assert_eq!(
        said["revoke"],
        json!([ok("tasks {'later'} flagged as revoked")])
    );
    assert_eq!(
        said["terminate"],
        json!([ok(&format!("terminate: {}", runs.id()))])
    );
    let failure = within("a failure", runs).await.expect_err("ended");
    assert_eq!(failure.kind, FailureKind::Cancelled);
    crew.app.delete(&more).await.expect("deleted");
    watched.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn celerys_monitor_and_a_python_worker_listen() {
    let Some(watched) = Watched::new(2).await else {
        return;
    };
    let crew = &watched.crew;
    let python = format!("python-{}", crew.node);
    let arguments = [
        "worker",
        "--pool",
        "solo",
        "--loglevel",
        "WARNING",
        "-n",
        &python,
    ];
    let mut beside = Running(watched.tool(&arguments).spawn().expect("celery starts"));
    let mut dump = watched.tool(&["events", "--dump"]);
    let mut dump = Running(dump.stdout(Stdio::piped()).spawn().expect("celery starts"));
    let mut lines = BufReader::new(dump.0.stdout.take().expect("piped")).lines();
    let both = crew
        .app
        .control()
        .to([&crew.node, &python])
        .timeout(support::PATIENCE / 15);
    eventually("both workers", || async {
        both.ping().await.expect("asked").len() == 2
    })
    .await;
    let node = crew.node.clone();
    let seen = spawn_blocking(move || {
        let mut seen: Vec<String> = Vec::new();
        while let Some(Ok(line)) = lines.next() {
            let last = line.contains("task succeeded");
            if line.contains(&node) && !line.contains(&format!("python-{node}")) {
                seen.push(line);
                if last {
                    break;
                }
            }
        }
        seen
    });
    // The monitor says nothing of when it listens: calls go on until it has heard of one.
    crew.control().enable_events().await.expect("asked");
    eventually("an event", || async {
        let sum = crew
            .call(add::call(2, 3))
            .send(&crew.app)
            .await
            .expect("sent");
        within("a result", sum).await.expect("a sum");
        seen.is_finished()
    })
    .await;
    let seen = seen.await.expect("no panic");
    assert!(
        seen.iter()
            .any(|line| line.contains("task received") && line.contains("control.add")),
        "{seen:?}"
    );

    // Another worker of ours comes and goes: gossip must not mind.
    Crew::new(&crew.app, 1).await.stop().await;
    let stats = both.stats().await.expect("asked");
    assert!(
        stats[&python].is_ok() && stats[&crew.node].is_ok(),
        "{stats:?}"
    );
    // What we ask it is what its own people ask.
    let queues = both.active_queues().await.expect("asked");
    assert_eq!(
        queues[&python].as_ref().expect("queues")[0].name,
        format!("{}.python", crew.queue)
    );
    assert!(both.registered().await.expect("asked")[&python].is_ok());
    assert!(both.active().await.expect("asked")[&python].is_ok());
    assert!(
        beside.0.try_wait().expect("a status").is_none(),
        "the Python worker has ended"
    );
    crew.app
        .control()
        .to([&python])
        .shutdown()
        .await
        .expect("asked");
    eventually("its end", || async {
        both.ping().await.expect("asked").len() == 1
    })
    .await;
    crew.app
        .delete(&format!("{}.python", crew.queue))
        .await
        .expect("deleted");
    watched.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stamped_calls_are_revoked_together() {
    let Some(watched) = Watched::new(1).await else {
        return;
    };
    let crew = &watched.crew;
    let send = async |call: &str, batch: &str| {
        let id = watched
            .python("stamp", &format!("{}/{call}/{batch}", crew.queue))
            .await;
        id.as_str().expect("an id").to_owned()
    };
    let runs = send("7", "first").await;
    crew.gate.has_let_in(1).await;
    // One slot: these wait.
    let revoked = send("8", "second").await;
    let goes_on = send("9", "third").await;
    let by_line = [
        "control",
        "-d",
        &crew.node,
        "-t",
        "10",
        "revoke_by_stamped_headers",
        "batch=second",
    ];
    let said = watched.output(watched.tool(&by_line)).await;
    assert!(said.contains("'batch': 'second'"), "{said}");
    let said = watched.python("revoke_stamped", "first").await;
    assert_eq!(said, json!({"ok": "headers {'batch': ['first']} revoked"}));
    // What ran is ended, and the next but one is let in.
    crew.gate.has_let_in(2).await;
    let control = crew.control();
    let known = control.query_task([&runs, &revoked, &goes_on]);
    let known = known
        .await
        .expect("asked")
        .remove(&crew.node)
        .expect("an answer");
    let known: Vec<_> = known.expect("calls").into_keys().collect();
    assert_eq!(known, [goes_on]);
    let nothing = control.terminate_by_stamp("batch", "nobody's");
    let nothing = nothing.await.expect("asked").remove(&crew.node);
    let nothing = nothing.expect("an answer").expect("told");
    assert!(nothing.ends_with("were not terminated"), "{nothing}");
    watched.end().await;
}
