//! Nothing that we send can hurt a Python worker: it takes whatever our API can say, refused by us or run or failed
//! by it, and goes on.

use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use garenne::{Ack, App, Call, Error, FailureKind, HOUR, MINUTE, SECOND};
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json, json};

#[path = "harmless/others.rs"]
mod others;

use super::{Interop, Worked};
use crate::support::{eventually, within};

/// A Python worker, on a queue of its own.
struct Python {
    queue: String,
    node: String,
    worker: Worked,
    /// The processes that run calls; empty where it does so itself.
    processes: Json,
}

/// One that runs calls in its own process, and one that has two for that.
struct Pythons {
    app: App,
    workers: Vec<Python>,
}

fn on(interop: &Interop, pool: &str) -> Interop {
    Interop {
        celery: interop.celery.clone(),
        broker: interop.broker.clone(),
        queue: format!("{}-{pool}", interop.queue),
    }
}

fn start(interop: &Interop, pool: &str) -> Python {
    let own = on(interop, pool);
    let node = format!("{}@localhost", own.queue);
    let mut command = own.command(&own.celery);
    command.args([
        "-A",
        "harmless",
        "worker",
        "--loglevel",
        "CRITICAL",
        "-n",
        &node,
    ]);
    command
        .args(["--pool", pool, "--concurrency", "2"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Python {
        queue: own.queue,
        node,
        worker: Worked(command.spawn().expect("celery starts")),
        processes: Json::Null,
    }
}

impl Pythons {
    async fn start() -> Option<Self> {
        let interop = Interop::new()?;
        let app = App::connect(&interop.broker).await.expect("RabbitMQ");
        let workers = ["solo", "prefork"].map(|pool| start(&interop, pool)).into();
        let mut pythons = Self { app, workers };
        for python in &mut pythons.workers {
            python.ready(&pythons.app).await;
            python.processes = python.processes(&pythons.app).await;
        }
        Some(pythons)
    }

    fn queues(&self) -> impl Iterator<Item = &str> {
        self.workers.iter().map(|python| &*python.queue)
    }

    /// Sends to both, and awaits what comes of it.
    async fn run<T: serde::de::DeserializeOwned + 'static>(
        &self,
        task: &str,
        with: impl Fn(Call<T>) -> Call<T>,
    ) -> Vec<Result<T, garenne::Failure>> {
        let mut outcomes = Vec::new();
        for queue in self.queues() {
            let call = with(Call::named(task).queue(queue));
            let handle = call.send(&self.app).await.expect("sent");
            outcomes.push(within(task, handle).await);
        }
        outcomes
    }

    /// The same where it must go well.
    async fn echo(&self, what: &str, with: impl Fn(Call<Json>) -> Call<Json>) {
        for outcome in self.run("harmless.echo", with).await {
            assert!(outcome.is_ok(), "{what}: {outcome:?}");
        }
    }

    /// Both go on, in the same processes.
    async fn unhurt(&mut self, by: &str) {
        for queue in self.queues() {
            let ping = Call::<String>::named("harmless.ping").queue(queue);
            let pong = within(by, ping.send(&self.app).await.expect("sent")).await;
            assert_eq!(pong.as_deref(), Ok("pong"), "{by}: {queue}");
        }
        for python in &mut self.workers {
            let ended = python.worker.0.try_wait().expect("a process");
            assert_eq!(ended, None, "{by}: {}", python.queue);
            let processes = python.processes(&self.app).await;
            assert_eq!(processes, python.processes, "{by}: {}", python.queue);
        }
    }

    async fn part(self) {
        for python in &self.workers {
            self.app
                .control()
                .to([&*python.node])
                .shutdown()
                .await
                .expect("told");
        }
        for mut python in self.workers {
            let mut over = || python.worker.0.try_wait().expect("a process").is_some();
            within("the worker's end", async {
                while !over() {
                    tokio::time::sleep(SECOND / 20).await;
                }
            })
            .await;
            self.app.delete(&python.queue).await.expect("deleted");
        }
        self.app.close().await;
    }
}

impl Python {
    async fn ready(&self, app: &App) {
        let answers = || async {
            let control = app.control().to([&*self.node]).timeout(SECOND);
            control
                .ping()
                .await
                .is_ok_and(|answers| !answers.is_empty())
        };
        eventually("the Python worker's answer", answers).await;
    }

    async fn processes(&self, app: &App) -> Json {
        let control = app.control().to([&*self.node]).timeout(10 * SECOND);
        let mut stats = control.request("stats", Map::new()).await.expect("asked");
        let stats = stats.remove(&self.node).expect("an answer").expect("stats");
        stats["pool"]["processes"].clone()
    }
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).expect("JSON")
}

/// Texts that somebody could take for something else.
fn texts() -> Vec<String> {
    let texts = [
        "x",
        "🦀",
        "a\0b",
        "\u{feff}\u{202e}",
        "'\"\\\n\r\t%s{}",
        "../..",
        "null",
        "-1",
        "*.#",
        "é̈",
    ];
    texts
        .into_iter()
        .map(str::to_owned)
        .chain([format!("{}é", "x".repeat(198))])
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_id_and_no_name_hurts() {
    let Some(mut pythons) = Pythons::start().await else {
        return;
    };
    for text in texts() {
        pythons.echo("an id", |call| call.id(text.as_str())).await;
        for outcome in pythons.run::<Json>(&text, |call| call).await {
            assert_eq!(
                outcome.expect_err("no such task").kind,
                FailureKind::Rejected,
                "{text}"
            );
        }
    }
    pythons.unhurt("ids and names").await;
    // A message without an id, or without a task, would end a worker.
    for text in [String::new(), "x".repeat(201)] {
        let queue = pythons.workers[0].queue.as_str();
        let by_id = Call::<()>::named("harmless.ping")
            .id(text.as_str())
            .queue(queue);
        let by_name = Call::<()>::named(text.as_str()).queue(queue);
        for call in [by_id, by_name] {
            let refused = call.send(&pythons.app).await.expect_err("refused");
            assert!(matches!(refused, Error::Invalid { .. }), "{refused}");
        }
    }
    pythons.unhurt("what was refused").await;
    pythons.part().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_option_hurts() {
    let Some(mut pythons) = Pythons::start().await else {
        return;
    };
    let long = [
        Duration::MAX,
        Duration::from_secs(u64::from(u32::MAX)),
        300 * 365 * 24 * HOUR,
        SECOND * 3 / 2 + Duration::from_nanos(1),
    ];
    for time in long {
        pythons
            .echo("a timeout", |call| call.timeout(10 * SECOND + time / 2))
            .await;
        pythons
            .echo("an expiry", |call| call.expires(10 * SECOND + time / 2))
            .await;
        pythons
            .echo("a deadline", |call| call.deadline(10 * SECOND + time / 2))
            .await;
        pythons
            .echo("a backoff", |call| call.backoff(time..Duration::MAX))
            .await;
    }
    // A retry of Python's sends the time until then on.
    for expires in [49 * 24 * HOUR, 50 * 24 * HOUR, 9000 * 365 * 24 * HOUR] {
        for far in [true, false] {
            let call = |call: Call<u32>| match far {
                true => call.expires(expires),
                false => call.deadline(expires),
            };
            for outcome in pythons.run("harmless.retried", call).await {
                assert_eq!(outcome, Ok(1), "{expires:?}");
            }
        }
    }
    pythons
        .echo("no timeout", |call| call.timeout(Duration::ZERO))
        .await;
    for priority in [0, 1, 9, 10, 127, 128, 255] {
        pythons
            .echo("a priority", |call| call.priority(priority))
            .await;
    }
    pythons
        .echo("retries", |call| call.retries(u32::MAX).ack(Ack::Early))
        .await;
    let past = [
        UNIX_EPOCH,
        UNIX_EPOCH - 300 * 365 * 24 * HOUR,
        SystemTime::now() - SECOND,
    ];
    for eta in past {
        pythons.echo("an eta", |call| call.eta(eta)).await;
    }
    for countdown in [Duration::ZERO, Duration::from_nanos(1), SECOND / 3] {
        pythons
            .echo("a countdown", |call| {
                call.countdown(countdown).expires(MINUTE)
            })
            .await;
    }
    for queue in pythons.queues() {
        // They wait in the broker until then, and in no worker.
        let later = Call::<()>::named("harmless.echo")
            .queue(queue)
            .countdown(700 * 24 * HOUR);
        let _ = later.send(&pythons.app).await.expect("sent");
        let never = Call::<()>::named("harmless.echo")
            .queue(queue)
            .eta(SystemTime::now() + 300 * 365 * 24 * HOUR);
        never.send(&pythons.app).await.expect_err("too far away");
        let ignored = Call::<()>::named("harmless.fail")
            .queue(queue)
            .ignore_result();
        let _ = ignored.send(&pythons.app).await.expect("sent");
        // Too late: the worker, or the broker before it, drops it.
        let late = Call::<()>::named("harmless.fail")
            .queue(queue)
            .expires(Duration::from_nanos(1));
        let _ = late.send(&pythons.app).await.expect("sent");
    }
    pythons.unhurt("options").await;
    pythons.part().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timeout_ends_an_attempt_and_not_the_worker() {
    let Some(mut pythons) = Pythons::start().await else {
        return;
    };
    let prefork = pythons.workers.pop().expect("two workers");
    let sleepy = Call::<()>::named("harmless.sleep")
        .arg(20)
        .expect("JSON")
        .queue(&*prefork.queue);
    let ended = within(
        "an end",
        sleepy
            .timeout(SECOND / 2)
            .send(&pythons.app)
            .await
            .expect("sent"),
    )
    .await;
    assert_eq!(ended.expect_err("too slow").kind, FailureKind::TimedOut);
    pythons.workers.push(prefork);
    // Another process takes the place of the one that is ended.
    let before = pythons.workers[1].processes.clone();
    let replaced = || async {
        let now = pythons.workers[1].processes(&pythons.app).await;
        now != before && now.as_array().is_some_and(|now| now.len() == 2)
    };
    eventually("another process", replaced).await;
    pythons.workers[1].processes = pythons.workers[1].processes(&pythons.app).await;
    pythons.unhurt("a timeout").await;
    pythons.part().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_header_hurts() {
    let Some(mut pythons) = Pythons::start().await else {
        return;
    };
    let mut names = pythons.python_names();
    assert!(names.len() > 40, "{names:?}");
    names.extend(
        [
            "task_id",
            "CC",
            "BCC",
            "compression",
            "lang",
            "garenne-retries",
        ]
        .map(str::to_owned),
    );
    for name in &names {
        for value in [json!(null), json!(1), json!("x"), json!({}), json!([])] {
            let call = Call::<()>::named("harmless.retried")
                .header(name.as_str(), value)
                .queue(&*pythons.workers[0].queue);
            let refused = call.send(&pythons.app).await.expect_err(name);
            assert!(
                refused.to_string().contains("Celery's own"),
                "{name}: {refused}"
            );
        }
    }
    // A retry copies all headers.
    let mut deep = json!(1);
    for _ in 0..12 {
        deep = json!([{ "n": deep }]);
    }
    let values = [
        json!(null),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1_i64 << 40),
        json!(f64::MAX),
        json!(5e-324),
        json!(""),
        json!("🦀\0"),
        json!([]),
        json!({}),
        json!({"": [null, true]}),
        deep,
        json!("x".repeat(50_000)),
    ];
    let own = texts().into_iter().chain(
        [
            "",
            "x-retry",
            "redelivered",
            "clock",
            "type",
            "x-death",
            "x-match",
            "name",
            "expiration",
        ]
        .map(str::to_owned),
    );
    for (name, value) in own.zip(values.iter().cycle()) {
        for outcome in pythons
            .run::<u32>("harmless.retried", |call| {
                call.header(name.as_str(), value.clone())
            })
            .await
        {
            assert_eq!(outcome, Ok(1), "{name:?}: {value}");
        }
    }
    for value in values {
        for outcome in pythons
            .run::<u32>("harmless.retried", |call| {
                call.header("x-own", value.clone())
            })
            .await
        {
            assert_eq!(outcome, Ok(1), "{value}");
        }
    }
    pythons.unhurt("headers").await;
    pythons.part().await;
}

impl Pythons {
    /// The names of what a request of Celery's is made of.
    fn python_names(&self) -> Vec<String> {
        let interop = Interop::new().expect("it was there before");
        let python = std::path::Path::new(&interop.celery).with_file_name("python");
        let output = interop
            .command(python)
            .args(["harmless.py", "names"])
            .output()
            .expect("python runs");
        serde_json::from_slice(&output.stdout).expect("what Python prints")
    }
}
