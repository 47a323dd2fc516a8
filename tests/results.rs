//! Results kept in Redis: written by Rust and read by Python's Celery, and the other way round.

#[path = "results/chords.rs"]
mod chords;
#[path = "results/outage.rs"]
mod outage;
#[path = "results/states.rs"]
mod states;
mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};

use garenne::{App, Call, Error, FailureKind, Handle, SECOND, Worker, task};
use support::{eventually, unique, within};

#[task(name = "rust.add")]
pub(crate) async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task(name = "rust.fail")]
async fn fail(text: String) -> Result<(), String> {
    Err(text)
}

#[task(name = "rust.panic")]
async fn panic(text: String) {
    panic!("{text}");
}

/// A RabbitMQ, a Redis, and a queue of this test's own.
struct Stage {
    broker: String,
    redis: String,
    queue: String,
}

impl Stage {
    /// `None`, said aloud, where one of them is missing.
    fn new() -> Option<Self> {
        let Ok(redis) = std::env::var("GARENNE_TEST_REDIS") else {
            eprintln!("skipped: GARENNE_TEST_REDIS names no Redis");
            return None;
        };
        let url = support::rabbitmq()?;
        Some(Self {
            broker: url.split('?').next().unwrap_or_default().to_owned(),
            redis,
            queue: unique("results"),
        })
    }

    async fn app(&self) -> App {
        let builder = App::builder(&*self.broker).result_backend(&*self.redis);
        builder.connect().await.expect("RabbitMQ and Redis")
    }

    /// Celery's Python and its programs; `None`, said aloud, where there is no Celery.
    fn celery(&self, program: &str) -> Option<Command> {
        let Ok(celery) = std::env::var("GARENNE_TEST_CELERY") else {
            eprintln!("skipped: GARENNE_TEST_CELERY names no `celery` program");
            return None;
        };
        let mut command = Command::new(Path::new(&celery).with_file_name(program));
        command
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/support/celery"))
            .env("INTEROP_BROKER", &self.broker)
            .env("INTEROP_REDIS", &self.redis)
            .env("INTEROP_QUEUE", &self.queue)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stderr(Stdio::inherit());
        Some(command)
    }

    /// What `results.py` prints.
    async fn python(&self, arguments: &[&str]) -> Option<serde_json::Value> {
        self.script("results.py", arguments).await
    }

    /// What a program of Python's prints.
    async fn script(&self, script: &str, arguments: &[&str]) -> Option<serde_json::Value> {
        let mut command = self.celery("python")?;
        command.arg(script).args(arguments);
        let run = move || command.output().expect("python runs");
        let output = tokio::task::spawn_blocking(run).await.expect("no panic");
        assert!(output.status.success(), "{output:?}");
        Some(serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    /// A Python worker with the tasks of `app`.
    fn worker(&self, app: &str) -> Option<Worked> {
        let mut command = self.celery("celery")?;
        let name = format!("{}@localhost", self.queue);
        command.args(["-A", app, "worker", "--pool", "solo"]);
        command.args(["--loglevel", "WARNING", "--without-gossip"]);
        command.args(["--without-mingle", "-n", &name]);
        Some(Worked(command.spawn().expect("celery starts")))
    }

    async fn clean(&self, app: &App) {
        app.delete(&self.queue).await.expect("deleted");
        app.close().await;
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
async fn a_result_is_read_by_id_any_number_of_times_from_anywhere() {
    let Some(stage) = Stage::new() else { return };
    let app = stage.app().await;
    let worker = Worker::new(&app)
        .queue(&*stage.queue, 2)
        .state(chords::Log::default())
        .grace(SECOND)
        .spawn();
    let elsewhere = stage.app().await;

    let sent = add::call(2, 3)
        .queue(&*stage.queue)
        .send(&app)
        .await
        .expect("sent");
    let id = sent.id().to_owned();
    // Begun before the result is there, or after: it does not matter.
    let early: Handle<i64> = Handle::from_id(&elsewhere, &*id).await.expect("a handle");
    assert_eq!(within("a result", sent.result()).await, Ok(5));
    assert_eq!(within("a result", early.result()).await, Ok(5));
    for _ in 0..2 {
        let late: Handle<i64> = Handle::from_id(&elsewhere, &*id).await.expect("a handle");
        assert_eq!(within("a result", late).await, Ok(5));
    }

    let broken = panic::call("oh".into()).queue(&*stage.queue);
    let id = broken.send(&app).await.expect("sent").id().to_owned();
    let handle: Handle<()> = Handle::from_id(&elsewhere, id).await.expect("a handle");
    let failure = within("a failure", handle).await.expect_err("it panics");
    assert_eq!((failure.kind, failure.attempts), (FailureKind::Panicked, 1));
    assert_eq!(failure.task, "rust.panic");

    // A handle that nobody answers ends with its own deadline.
    let nothing: Handle<i64> = Handle::from_id(&elsewhere, "nobody")
        .await
        .expect("a handle");
    let failure = nothing.result_within(SECOND).await.expect_err("nothing");
    assert_eq!(failure.kind, FailureKind::Unknown);

    worker.stop().await.expect("stopped");
    elsewhere.close().await;
    stage.clean(&app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_reads_what_rust_has_kept() {
    let Some(stage) = Stage::new() else { return };
    let app = stage.app().await;
    if stage.python(&["declare"]).await.is_none() {
        return;
    }
    let worker = Worker::new(&app)
        .queue(&*stage.queue, 2)
        .state(chords::Log::default())
        .grace(SECOND)
        .spawn();
    let outcome = stage.python(&["call"]).await.expect("as before");
    assert_eq!(outcome["sum"], serde_json::json!([5, 5]));
    assert_eq!(outcome["failed"][0], "Exception");
    assert_eq!(outcome["failed"][1], "no luck");
    assert_eq!(outcome["failed"][2], "FAILURE");
    // Sent by Rust, read by Python.
    let sent = add::call(20, 22)
        .queue(&*stage.queue)
        .send(&app)
        .await
        .expect("sent");
    let read = stage.python(&["read", sent.id()]).await.expect("as before");
    assert_eq!(read, serde_json::json!([42, "SUCCESS"]));
    // Sent by Python, read by Rust, and what wants no result has none.
    let id = outcome["id"].as_str().expect("an id");
    let handle: Handle<i64> = Handle::from_id(&app, id).await.expect("a handle");
    assert_eq!(within("a result", handle).await, Ok(5));
    let ignored = outcome["ignored"].as_str().expect("an id");
    let handle: Handle<i64> = Handle::from_id(&app, ignored).await.expect("a handle");
    assert!(handle.result_within(SECOND).await.is_err());
    worker.stop().await.expect("stopped");
    stage.clean(&app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rust_reads_what_python_has_kept() {
    let Some(stage) = Stage::new() else { return };
    let Some(_worker) = stage.worker("results") else {
        return;
    };
    let app = stage.app().await;
    eventually("the Python worker's queue", || async {
        app.depth(&stage.queue).await.is_ok()
    })
    .await;
    let sum = Call::<i64>::named("python.add").queue(&*stage.queue);
    let sum = sum.arg(2).expect("JSON").arg(3).expect("JSON");
    let sent = sum.send(&app).await.expect("sent");
    let id = sent.id().to_owned();
    assert_eq!(within("a result", sent).await, Ok(5));
    let again: Handle<i64> = Handle::from_id(&app, id).await.expect("a handle");
    assert_eq!(within("a result", again).await, Ok(5));
    let failing = Call::<()>::named("python.fail").queue(&*stage.queue);
    let sent = failing
        .arg("no luck")
        .expect("JSON")
        .send(&app)
        .await
        .expect("sent");
    let failure = within("a failure", sent).await.expect_err("it fails");
    assert_eq!(&*failure.error_type, "builtins.ValueError");
    stage.clean(&app).await;
}

#[tokio::test]
async fn an_app_without_a_result_backend_says_so() {
    let app = App::in_memory();
    let error = Handle::<i64>::from_id(&app, "x").await.expect_err("none");
    assert!(error.to_string().contains("result_backend"), "{error}");
    let nowhere = App::builder("memory://").result_backend("redis://127.0.0.1:1/");
    let error = nowhere.connect().await.expect_err("no Redis there");
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    let nonsense = App::builder("memory://").result_backend("http://x:secret@y/");
    let error = nonsense.connect().await.expect_err("no Redis");
    assert!(!error.to_string().contains("secret"), "{error}");
}
