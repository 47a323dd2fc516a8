//! Chords of a Python app with members and bodies on both sides, counted in Redis.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use garenne::{App, Dead, Failure, RunningWorker, SECOND, Worker, group, task};
use serde_json::{Value, json};

use super::{Stage, Worked, add};
use crate::support::{eventually, within};

/// What tasks were told.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn say(&self, text: String) {
        self.0.lock().expect("no panic").push(text);
    }

    fn said(&self) -> Vec<String> {
        self.0.lock().expect("no panic").clone()
    }
}

#[task(name = "rust.sum")]
async fn sum(values: Vec<i64>) -> i64 {
    values.iter().sum()
}

#[task(name = "rust.list")]
async fn list(values: Value) -> Value {
    values
}

#[task(name = "rust.pause")]
async fn pause(seconds: u64) -> u64 {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    seconds
}

#[task(name = "rust.note")]
async fn note(values: Vec<i64>, text: String, log: &Log) -> i64 {
    log.say(text);
    values.iter().sum()
}

#[task(name = "rust.failed")]
async fn failed(failure: Failure, text: String, log: &Log) {
    log.say(format!("{text}: {}", failure.id));
}

/// Workers on both sides.
struct Sides {
    app: App,
    rust: String,
    log: Log,
    worker: RunningWorker,
    _python: Worked,
}

impl Sides {
    /// `None`, said aloud, where something is missing.
    async fn meet(stage: &Stage) -> Option<Self> {
        let python = stage.worker("chords")?;
        let app = stage.app().await;
        eventually("the Python worker's queue", || async {
            app.depth(&stage.queue).await.is_ok()
        })
        .await;
        let (rust, log) = (format!("{}-rust", stage.queue), Log::default());
        let worker = Worker::new(&app)
            .queue(rust.as_str(), 4)
            .state(log.clone())
            .grace(SECOND)
            .spawn();
        assert!(worker.ready().await);
        Some(Self {
            app,
            rust,
            log,
            worker,
            _python: python,
        })
    }

    async fn part(self, stage: &Stage) {
        self.worker.stop().await.expect("stopped");
        self.app.delete(&self.rust).await.expect("deleted");
        stage.clean(&self.app).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chords_have_members_and_bodies_on_both_sides() {
    let Some(stage) = Stage::new() else { return };
    let Some(sides) = Sides::meet(&stage).await else {
        return;
    };
    let ended = stage.script("chords.py", &["members"]).await;
    let twenty: Vec<_> = (0..20).collect();
    let expected = json!({
        "python body": 2 + 3 + 11 + 12,
        "rust body": 2 + 3 + 11 + 12,
        "rust alone": twenty,
        "python alone": 10,
        "chains": [3, 12, 5],
        "chord in chord": [5, 23, 2],
        "group in chord": [[3, 4], 5],
        "middle of a chain": [3, 4],
        "two groups": (3 + 4 + 1) + (3 + 4 + 2) + 100,
        "end of a chain": [3, 4],
        "chain for a body": 2 + 3 + 100 + 1000,
        "group for a body": [5, 5],
        "deep": [3 + 4, 6],
    });
    assert_eq!(ended, Some(expected));
    sides.part(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_member_fails_the_body_and_all_that_follows() {
    let Some(stage) = Stage::new() else { return };
    let Some(sides) = Sides::meet(&stage).await else {
        return;
    };
    let ended = stage.script("chords.py", &["failures"]).await;
    let ended = ended.expect("as before");
    let is_chord_error = |name: &str, said: &str| {
        let end = &ended[name];
        assert_eq!(
            (&end[0], &end[2]),
            (&json!("ChordError"), &json!("FAILURE")),
            "{name}: {end}"
        );
        let text = end[1].as_str().expect("text");
        assert!(
            text.starts_with("Dependency ") && text.ends_with(said),
            "{name}: {text}"
        );
    };
    is_chord_error("rust fails", "raised Exception('no luck')");
    is_chord_error("python fails", "raised ValueError('no luck')");
    is_chord_error("in a chain", "raised Exception('no luck')");
    let nested = &ended["in a chord"];
    assert_eq!(nested[0], "ChordError", "{nested}");
    is_chord_error("then a chain", "raised Exception('no luck')");
    assert_eq!(
        ended["before a chord"],
        json!(["Exception", "no luck", "FAILURE"])
    );
    assert_eq!(
        ended["before a chain"],
        json!(["Exception", "no luck", "FAILURE"])
    );
    assert_eq!(
        ended["steps"],
        json!(["FAILURE", "FAILURE", "FAILURE", "FAILURE"])
    );
    let sorted = |said: Vec<String>| said.into_iter().collect::<BTreeSet<_>>();
    let python = serde_json::from_value(ended["errbacks"].clone()).expect("strings");
    let bodies = ["body-1", "body-2", "body-3", "body-4"];
    let told = |side: &str| bodies.map(|body| format!("{side}: {}-{body}", stage.queue));
    assert!(
        sorted(python).is_subset(&sorted(told("python").to_vec())),
        "{ended}"
    );
    eventually("errbacks", || async { sides.log.said().len() >= 4 }).await;
    assert_eq!(sorted(sides.log.said()), sorted(told("rust").to_vec()));
    sides.part(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_comes_twice_counts_once() {
    let Some(stage) = Stage::new() else { return };
    let Some(sides) = Sides::meet(&stage).await else {
        return;
    };
    let ended = stage.script("chords.py", &["twice"]).await;
    assert_eq!(ended, Some(json!(3)));
    // Behind all that the members have sent.
    let after = add::call(1, 1).queue(&*sides.rust);
    let after = after.send(&sides.app).await.expect("sent");
    within("a result", after).await.expect("a sum");
    eventually("the queue runs empty", || async {
        sides
            .app
            .depth(&sides.rust)
            .await
            .is_ok_and(|depth| depth.ready == 0)
    })
    .await;
    assert_eq!(sides.log.said(), ["once"]);
    sides.part(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_a_dead_worker_was_to_send_is_sent() {
    let Some(stage) = Stage::new() else { return };
    let Some(sides) = Sides::meet(&stage).await else {
        return;
    };
    let ended = stage.script("chords.py", &["claimed"]).await;
    let expected = json!({"end": [0, 1, 2, 1], "left": [".c"], "done": "done"});
    assert_eq!(ended, Some(expected));
    sides.part(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_result_backend_a_member_is_refused() {
    let Some(stage) = Stage::new() else { return };
    if stage.script("chords.py", &["declare"]).await.is_none() {
        return;
    }
    let app = App::connect(&stage.broker).await.expect("RabbitMQ");
    let rust = format!("{}-rust", stage.queue);
    let worker = Worker::new(&app)
        .queue(rust.as_str(), 1)
        .state(Log::default())
        .grace(SECOND)
        .spawn();
    assert!(worker.ready().await);
    let sent = stage
        .script("chords.py", &["alone"])
        .await
        .expect("as before");
    eventually("both are dead letters", || async {
        app.dead_letters(&rust)
            .count()
            .await
            .is_ok_and(|count| count == 2)
    })
    .await;
    let letters = app
        .dead_letters(&rust)
        .list(Dead::all())
        .await
        .expect("dead letters");
    for letter in &letters {
        assert_eq!(letter.reason, "unsupported");
        assert!(letter.error.contains("result_backend"), "{}", letter.error);
    }
    let ids: BTreeSet<_> = letters.iter().map(|letter| letter.id.as_str()).collect();
    let sent: Vec<String> = serde_json::from_value(sent).expect("ids");
    assert_eq!(ids, sent.iter().map(String::as_str).collect());
    worker.stop().await.expect("stopped");
    app.delete(&rust).await.expect("deleted");
    stage.clean(&app).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_are_restored_by_python() {
    let Some(stage) = Stage::new() else { return };
    let Some(sides) = Sides::meet(&stage).await else {
        return;
    };
    let ended = stage.script("chords.py", &["groups"]).await;
    let expected = json!({"results": [2, 3, 2], "done": [true, true, 3]});
    assert_eq!(ended, Some(expected));
    // One that Rust has sent.
    let ours = group((0..3).map(|n| add::call(n, n).queue(sides.rust.as_str())));
    let ours = ours.send(&sides.app).await.expect("sent");
    let ended = stage.script("chords.py", &["restore", ours.id()]).await;
    let expected = json!({"results": [0, 2, 4], "done": [true, 3]});
    assert_eq!(ended, Some(expected));
    assert_eq!(within("results", ours).await, Ok(vec![0, 2, 4]));
    sides.part(&stage).await;
}
