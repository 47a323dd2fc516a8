//! Celery's own tools at a worker of ours: `inspect`, `control`, `status`, `events`, Flower, and a Python worker beside
//! it that listens to what it tells.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use garenne::{App, FailureKind};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;

use crate::support::{self, eventually, within};
use crate::tasks::{Crew, add, pass};

/// Celery's program, a RabbitMQ for both sides, and a worker of ours there.
struct Watched {
    celery: String,
    broker: String,
    crew: Crew,
}

/// A program that is killed at the end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Watched {
    /// `None`, said aloud, where there is no Celery or no RabbitMQ.
    async fn new(slots: usize) -> Option<Self> {
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

    fn command(&self, program: impl AsRef<Path>) -> Command {
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

    async fn output(&self, mut command: Command) -> String {
        command.stderr(Stdio::inherit());
        let output = spawn_blocking(move || command.output().expect("it runs"));
        let output = output.await.expect("no panic");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Runs `celery -A watched …`.
    fn tool(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&self.celery);
        command.args(["-A", "watched"]).args(arguments);
        command
    }

    /// Runs `watched.py WHAT` about our node and a call.
    async fn python(&self, what: &str, call: &str) -> Value {
        let mut command = self.command(Path::new(&self.celery).with_file_name("python"));
        command.args(["watched.py", what, &self.crew.node, call]);
        serde_json::from_str(&self.output(command).await).expect("JSON")
    }

    async fn end(self) {
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

/// The status and the body of an answer over HTTP.
async fn http(port: u16, method: &str, path: &str, form: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let length = form.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\ncontent-length: {length}\r\n\
         content-type: application/x-www-form-urlencoded\r\n\r\n{form}"
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flower_shows_and_steers() {
    let Some(watched) = Watched::new(2).await else {
        return;
    };
    let crew = &watched.crew;
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("bound").port()
    };
    let arguments = [
        "flower",
        "--address=127.0.0.1",
        &format!("--port={port}"),
        "--logging=warning",
    ];
    let _flower = Running(watched.tool(&arguments).spawn().expect("flower starts"));
    let node = &crew.node;
    let get = async |path: String| {
        http(port, "GET", &path, "")
            .await
            .unwrap_or((0, String::new()))
    };
    eventually("Flower", || async {
        get("/healthcheck".into()).await.0 == 200
    })
    .await;
    // Its worker pages are there once it has asked the worker.
    eventually("our worker", || async {
        get(format!("/api/workers?refresh=1&workername={node}"))
            .await
            .1
            .contains("active_queues")
    })
    .await;
    // It switches events on itself; calls go on until it has heard of one.
    let mut done = String::new();
    within("a task", async {
        loop {
            let sum = crew
                .call(add::call(2, 3))
                .send(&crew.app)
                .await
                .expect("sent");
            done = sum.id().to_owned();
            within("a result", sum).await.expect("a sum");
            tokio::time::sleep(garenne::SECOND / 2).await;
            // Events may have been asked for while it ran, so that its name was not told.
            let (_, info) = get(format!("/api/task/info/{done}")).await;
            if info.contains("SUCCESS") && info.contains("control.add") {
                return;
            }
        }
    })
    .await;
    for (path, expected) in [
        ("/".to_owned(), "Workers"),
        (format!("/worker/{node}"), crew.queue.as_str()),
        (format!("/worker/{node}"), "control.pass"),
        ("/tasks".into(), "Tasks"),
        (format!("/task/{done}"), "control.add"),
        ("/workers?json=1".into(), node),
    ] {
        let (status, body) = get(path.clone()).await;
        assert!(
            status == 200 && body.contains(expected),
            "{path}: {status} {body}"
        );
    }

    let runs = crew
        .call(pass::call(1))
        .send(&crew.app)
        .await
        .expect("sent");
    crew.gate.has_let_in(1).await;
    let more = format!("{}.more", crew.queue);
    let queue = format!("queue={more}");
    let to = format!("workername={node}");
    for (path, form) in [
        (format!("/api/worker/pool/grow/{node}"), "n=2".to_owned()),
        (format!("/api/worker/pool/shrink/{node}"), "n=1".to_owned()),
        (
            format!("/api/worker/queue/add-consumer/{node}"),
            queue.clone(),
        ),
        (format!("/api/worker/queue/cancel-consumer/{node}"), queue),
        (
            "/api/task/rate-limit/control.add".into(),
            format!("{to}&ratelimit=100%2Fs"),
        ),
        (
            "/api/task/timeout/control.add".into(),
            format!("{to}&hard=900&soft=800"),
        ),
        (
            format!("/api/task/revoke/{}", runs.id()),
            "terminate=true".into(),
        ),
    ] {
        let (status, body) = http(port, "POST", &path, &form).await.expect("an answer");
        assert_eq!(status, 200, "{path}: {body}");
    }
    let failure = within("a failure", runs).await.expect_err("ended");
    assert_eq!(failure.kind, FailureKind::Cancelled);
    let tasks = crew
        .control()
        .registered()
        .await
        .expect("asked")
        .remove(node)
        .expect("an answer")
        .expect("tasks");
    assert!(
        tasks.contains(&"control.add [rate_limit=100/s]".to_owned()),
        "{tasks:?}"
    );
    let (status, body) = http(port, "POST", &format!("/api/worker/shutdown/{node}"), "")
        .await
        .expect("an answer");
    assert_eq!(status, 200, "{body}");
    let stopped = crew
        .app
        .control()
        .to([node])
        .timeout(support::PATIENCE / 15);
    eventually("the worker's end", || async {
        stopped.ping().await.expect("asked").is_empty()
    })
    .await;
    crew.app.delete(&more).await.expect("deleted");
    watched.end().await;
}
