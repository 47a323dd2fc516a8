//! Python's Celery on the other side: Rust calls its tasks, and it calls Rust's.

#[path = "celery/guide.rs"]
mod guide;
#[path = "celery/harmless.rs"]
mod harmless;
mod support;
#[path = "celery/workflows.rs"]
mod workflows;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use garenne::{App, Call, Context, FailureKind, SECOND, Worker, task};
use support::{eventually, unique, within};

#[task(name = "rust.add")]
pub(crate) async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task(name = "rust.fail")]
async fn fail(text: String) -> Result<(), String> {
    Err(text)
}

#[task(name = "rust.tells")]
async fn tells(ctx: &Context) -> u32 {
    ctx.progress(&serde_json::json!({"done": 3})).await;
    // Time enough to be looked at, and much more than that on a quick machine.
    tokio::time::sleep(2 * SECOND).await;
    4
}

/// When it started, in seconds since 1970; its attempt; whether it came down Celery's ladder, and by which key.
#[task(name = "rust.begins")]
async fn begins(ctx: &Context) -> Result<(f64, u32, bool, String), String> {
    let started = SystemTime::now().duration_since(UNIX_EPOCH);
    let started = started.map_err(|error| error.to_string())?.as_secs_f64();
    let deaths = ctx.header("x-death").map(ToString::to_string);
    let by_ladder = deaths.is_some_and(|deaths| deaths.contains("celery_delayed_"));
    let key = ctx.header("garenne-routing-key").map(ToString::to_string);
    Ok((started, ctx.attempt(), by_ladder, key.unwrap_or_default()))
}

/// Where Celery is, the broker's URL for both sides, and a queue of this test's own.
struct Interop {
    celery: String,
    broker: String,
    queue: String,
}

impl Interop {
    /// `None`, said aloud, where there is no Celery or no RabbitMQ.
    fn new() -> Option<Self> {
        let Ok(celery) = std::env::var("GARENNE_TEST_CELERY") else {
            eprintln!("skipped: GARENNE_TEST_CELERY names no `celery` program");
            return None;
        };
        let url = support::rabbitmq()?;
        let broker = url.split('?').next().unwrap_or_default().to_owned();
        Some(Self {
            celery,
            broker,
            queue: unique("interop"),
        })
    }

    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/support/celery"))
            // kombu reads `/%2f` as the vhost `%2f`'s name, `/`, like we do.
            .env("INTEROP_BROKER", &self.broker)
            .env("INTEROP_QUEUE", &self.queue)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// Runs `interop.py` and returns what it printed.
    fn python(&self, what: &str) -> Command {
        let python = Path::new(&self.celery).with_file_name("python");
        let mut command = self.command(python);
        command.args(["interop.py", what]).stderr(Stdio::inherit());
        command
    }

    fn worker(&self) -> Worked {
        let mut command = self.command(&self.celery);
        command.args([
            "-A",
            "interop",
            "worker",
            "--pool",
            "solo",
            "--loglevel",
            "WARNING",
        ]);
        command.args([
            "--without-gossip",
            "--without-mingle",
            "-n",
            &format!("{}@localhost", self.queue),
        ]);
        Worked(command.spawn().expect("celery starts"))
    }
}

/// A Python worker, killed at the end.
struct Worked(Child);

impl Drop for Worked {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rust_calls_python() {
    let Some(interop) = Interop::new() else {
        return;
    };
    let _worker = interop.worker();
    let app = App::connect(&interop.broker)
        .await
        .expect("the test's RabbitMQ");
    // The worker makes its queue when it is ready; a call sent before would make it in our way.
    eventually("the Python worker's queue", || async {
        app.depth(&interop.queue).await.is_ok()
    })
    .await;

    let call = |name: &str| Call::<i64>::named(name).queue(interop.queue.as_str());
    let sum = call("python.add")
        .arg(2)
        .expect("JSON")
        .kwarg("y", 3)
        .expect("JSON");
    assert_eq!(
        within("a result", sum.send(&app).await.expect("sent")).await,
        Ok(5)
    );
    assert_eq!(
        within(
            "a retry",
            call("python.unsteady").send(&app).await.expect("sent")
        )
        .await,
        Ok(1)
    );

    let telling = call("python.tells").send(&app).await.expect("sent");
    let mut progress = telling.progress();
    let told = within("progress", progress.next()).await;
    assert_eq!(told, Some(serde_json::json!({"done": 1})));
    assert_eq!(within("a result", telling).await, Ok(2));

    let failing = call("python.fail").arg("no luck").expect("JSON");
    let failure = within("a failure", failing.send(&app).await.expect("sent"))
        .await
        .expect_err("it fails");
    assert_eq!(
        (failure.kind, failure.message.as_str()),
        (FailureKind::Failed, "no luck")
    );
    assert_eq!(&*failure.error_type, "builtins.ValueError");
    assert!(
        failure
            .traceback
            .expect("Python's")
            .contains("raise ValueError(text)")
    );

    let missing = within(
        "a failure",
        call("python.missing").send(&app).await.expect("sent"),
    )
    .await;
    assert_eq!(missing.expect_err("unknown").kind, FailureKind::Rejected);
    app.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_calls_rust() {
    let Some(interop) = Interop::new() else {
        return;
    };
    assert!(
        interop
            .python("declare")
            .status()
            .expect("python runs")
            .success()
    );
    let app = App::connect(&interop.broker)
        .await
        .expect("the test's RabbitMQ");
    let worker = Worker::new(&app)
        .queue(interop.queue.as_str(), 2)
        .state(workflows::Log::default())
        .grace(SECOND)
        .spawn();
    assert!(worker.ready().await);

    let mut client = interop.python("call");
    let output = tokio::task::spawn_blocking(move || client.output().expect("python runs"))
        .await
        .expect("no panic");
    assert!(output.status.success());
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(outcome["sum"], 5);
    assert_eq!(outcome["named"], 42);
    assert_eq!(outcome["delayed"], 2);
    let progress = serde_json::json!(["PROGRESS", {"done": 3}, 4]);
    assert_eq!(outcome["progress"], progress);
    assert_eq!(
        outcome["rust.fail1"],
        serde_json::json!(["Exception", "no luck"])
    );
    assert_eq!(outcome["rust.missing0"][0], "NotRegistered", "{outcome}");
    assert_eq!(outcome["rust.add2"][0], "TypeError", "{outcome}");
    worker.stop().await.expect("stopped");
    app.delete(&interop.queue).await.expect("deleted");
    app.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_down_celerys_ladder_runs_when_it_is_due() {
    let Some(interop) = Interop::new() else {
        return;
    };
    let python = |what| {
        let mut command = interop.python(what);
        command.env("INTEROP_QUEUE_TYPE", "quorum");
        command
    };
    assert!(python("ladder").status().expect("python runs").success());
    let app = App::connect(&interop.broker)
        .await
        .expect("the test's RabbitMQ");
    let worker = Worker::new(&app)
        .queue(interop.queue.as_str(), 4)
        .state(workflows::Log::default())
        .grace(SECOND)
        .spawn();
    assert!(worker.ready().await);
    let mut client = python("delayed");
    let output = tokio::task::spawn_blocking(move || client.output().expect("python runs"))
        .await
        .expect("no panic");
    assert!(output.status.success());
    let calls: Vec<(f64, u32, bool, String)> =
        serde_json::from_slice(&output.stdout).expect("what Python prints");
    assert_eq!(calls.len(), 3);
    for (index, (late, attempt, by_ladder, key)) in calls.into_iter().enumerate() {
        // Celery's ladder counts whole seconds, and so lets the second call go 0.8 s early.
        assert!(
            (0.0..10.0).contains(&late),
            "call {index} was {late} s late"
        );
        assert_eq!((attempt, &*key), (1, ""), "call {index}");
        // That one waits in our ladder for the rest, which leaves no trace of what was before.
        assert_eq!(by_ladder, index != 1, "call {index}");
    }
    worker.stop().await.expect("stopped");
    app.delete(&interop.queue).await.expect("deleted");
    app.close().await;
}
