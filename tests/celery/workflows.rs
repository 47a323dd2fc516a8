//! Workflows with steps on both sides.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use garenne::{
    App, Call, Failure, FailureKind, HOUR, Partial, RunningWorker, SECOND, Worker, group, task,
};

use super::{Interop, Worked, add};
use crate::support::{eventually, within};

/// What tasks were told.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<BTreeSet<String>>>);

impl Log {
    fn say(&self, text: String) {
        self.0.lock().expect("no panic").insert(text);
    }

    async fn heard(&self, text: &str) {
        let heard = || async { self.0.lock().expect("no panic").contains(text) };
        eventually(text, heard).await;
    }
}

#[task(name = "rust.sum")]
async fn sum(values: Vec<i64>) -> i64 {
    values.iter().sum()
}

#[task(name = "rust.good")]
async fn good(outcomes: Vec<Result<i64, Failure>>) -> usize {
    outcomes.iter().filter(|outcome| outcome.is_ok()).count()
}

#[task(name = "rust.fails_with")]
async fn fails_with(_input: i64, text: String) -> Result<i64, String> {
    Err(text)
}

#[task(name = "rust.note")]
async fn note(value: i64, text: String, log: &Log) {
    log.say(format!("{text} {value}"));
}

#[task(name = "rust.failed")]
async fn failed(failure: Failure, text: String, log: &Log) {
    log.say(format!("{text}: {} {}", failure.id, failure.kind));
}

/// Workers on both sides.
struct Sides {
    app: App,
    python: String,
    rust: String,
    log: Log,
    worker: RunningWorker,
    _python: Worked,
}

impl Sides {
    async fn meet(interop: &Interop) -> Self {
        let python = interop.worker();
        let app = App::connect(&interop.broker).await.expect("RabbitMQ");
        eventually("the Python worker's queue", || async {
            app.depth(&interop.queue).await.is_ok()
        })
        .await;
        let (rust, log) = (format!("{}-rust", interop.queue), Log::default());
        let worker = Worker::new(&app)
            .queue(rust.as_str(), 4)
            .state(log.clone())
            .grace(SECOND)
            .spawn();
        assert!(worker.ready().await);
        Self {
            app,
            python: interop.queue.clone(),
            rust,
            log,
            worker,
            _python: python,
        }
    }

    fn python(&self, name: &str) -> Call<i64> {
        Call::named(format!("python.{name}")).queue(self.python.as_str())
    }

    fn python_next<T>(&self, name: &str) -> Partial<T, i64> {
        Partial::named(format!("python.{name}")).queue(self.python.as_str())
    }

    fn python_add(&self, x: i64, y: i64) -> Call<i64> {
        let add = self.python("add").arg(x).expect("JSON");
        add.arg(y).expect("JSON")
    }

    fn rust_add(&self, a: i64, b: i64) -> Call<i64> {
        add::call(a, b).queue(self.rust.as_str())
    }

    fn told(&self, text: &str) -> Partial<Failure, ()> {
        failed::partial(text.into()).queue(self.rust.as_str())
    }

    async fn part(self) {
        self.worker.stop().await.expect("stopped");
        self.app.delete(&self.rust).await.expect("deleted");
        self.app.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rusts_workflows_have_pythons_steps() {
    let Some(interop) = Interop::new() else {
        return;
    };
    let sides = Sides::meet(&interop).await;
    let app = &sides.app;
    let rust = sides.rust.as_str();
    let plus = |n: i64| sides.python_next::<i64>("add").arg(n).expect("JSON");

    let chain = sides
        .rust_add(1, 2)
        .then(plus(10))
        .then(add::partial(100).queue(rust));
    let chain = chain.then(plus(1000)).send(app).await.expect("sent");
    assert_eq!(within("a chain", chain).await, Ok(1113));

    let members = || {
        [
            sides.python_add(1, 1),
            sides.rust_add(2, 2),
            sides.python_add(3, 3),
        ]
    };
    let handle = group(members()).send(app).await.expect("sent");
    assert_eq!(within("a group", handle).await, Ok(vec![2, 4, 6]));
    let chord = group(members()).then(sum::partial().queue(rust));
    let handle = chord.send(app).await.expect("sent");
    assert_eq!(within("a chord of both", handle).await, Ok(12));
    let chord = group(members()).then(sides.python_next("sum"));
    let handle = chord.then(plus(1)).send(app).await.expect("sent");
    assert_eq!(within("a Python body", handle).await, Ok(13));
    let foreign =
        group([sides.python_add(1, 1), sides.python_add(2, 2)]).then(sides.python_next("sum"));
    assert!(foreign.send(app).await.is_err(), "who would collect?");
    let foreign = group([sides.python_add(1, 1), sides.python_add(2, 2)]).coordinate_on(rust);
    let handle = foreign
        .then(sides.python_next("sum"))
        .send(app)
        .await
        .expect("sent");
    assert_eq!(within("a chord of Python's", handle).await, Ok(6));
    let fan = sides
        .python_add(1, 1)
        .then(group([plus(1), plus(2)]))
        .coordinate_on(rust);
    let handle = fan
        .then(sum::partial().queue(rust))
        .send(app)
        .await
        .expect("sent");
    assert_eq!(within("a fan", handle).await, Ok(7));
    sides.part().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pythons_failures_reach_rust() {
    let Some(interop) = Interop::new() else {
        return;
    };
    let sides = Sides::meet(&interop).await;
    let app = &sides.app;
    let rust = sides.rust.as_str();
    let fails = || sides.python("fail").arg("oh").expect("JSON");
    let is_pythons = |failure: Failure| {
        assert_eq!(
            (failure.kind, &*failure.message),
            (FailureKind::Failed, "oh")
        );
        assert_eq!(&*failure.error_type, "builtins.ValueError");
    };

    let chain = fails().id("chain-1").then(add::partial(1).queue(rust));
    let handle = chain
        .on_error(sides.told("chain"))
        .send(app)
        .await
        .expect("sent");
    is_pythons(within("a chain", handle).await.expect_err("it fails"));
    sides.log.heard("chain: chain-1 failed").await;

    let fan = fails().then(group([
        add::partial(1).queue(rust),
        add::partial(2).queue(rust),
    ]));
    let handle = fan.send(app).await.expect("sent");
    is_pythons(within("a fan", handle).await.expect_err("it fails"));

    let late = || sides.rust_add(1, 1).countdown(HOUR);
    for member in [
        fails().into(),
        fails().then(add::partial(1).queue(rust)),
        sides.rust_add(1, 1).then(sides.python_next("fail")),
    ] {
        let handle = group([member, late().into()]).then(sum::partial().queue(rust));
        let handle = handle
            .on_error(sides.told("chord"))
            .send(app)
            .await
            .expect("sent");
        let failure = within("a chord", handle).await.expect_err("it fails");
        assert_eq!(failure.kind, FailureKind::Failed, "{failure}");
        assert_eq!(&*failure.error_type, "builtins.ValueError");
        eventually("the report", || async {
            let mut told = sides.log.0.lock().expect("no panic");
            let report = told
                .iter()
                .find(|text| text.starts_with("chord: "))
                .cloned();
            report.is_some_and(|report| told.remove(&report))
        })
        .await;
    }
    let both = group([fails(), sides.rust_add(1, 1), sides.python_add(1, 1)]).collect_results();
    let handle = both
        .then(good::partial().queue(rust))
        .send(app)
        .await
        .expect("sent");
    assert_eq!(within("what is good", handle).await, Ok(2));
    let body = group([sides.rust_add(1, 1)]).then(sides.python_next("fail"));
    let handle = body
        .then(add::partial(1).queue(rust))
        .send(app)
        .await
        .expect("sent");
    assert_eq!(
        &*within("a body", handle)
            .await
            .expect_err("it fails")
            .error_type,
        "builtins.ValueError"
    );
    sides.part().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pythons_workflows_have_rusts_steps() {
    let Some(interop) = Interop::new() else {
        return;
    };
    let sides = Sides::meet(&interop).await;
    let mut client = interop.python("flow");
    let output = tokio::task::spawn_blocking(move || client.output().expect("python runs"));
    let output = output.await.expect("no panic");
    assert!(output.status.success());
    let outcome: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(outcome["chain"], 115);
    assert_eq!(outcome["rust first"], 113);
    assert_eq!(
        outcome["failed"],
        serde_json::json!(["Exception", "no luck"])
    );
    assert_eq!(
        outcome["failed parent"],
        serde_json::json!(["Exception", "no luck"])
    );
    for text in [
        "linked 40",
        "rust: failing-rust failed",
        "python: failing-python failed",
    ] {
        sides.log.heard(text).await;
    }
    sides.part().await;
}
