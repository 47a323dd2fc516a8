//! The testing kit, as its users would use it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use garenne::testing::{
    Outcome, assert_sent, crash_after, drain, drain_with, redeliver, refute_sent, sent,
};
use garenne::{
    App, Call, Context, DAY, Exchange, FailureKind, HOUR, MINUTE, Queue, SECOND, Scheduler,
    TaskError, Worker, every, task,
};
use tokio::time::Instant;

/// What ran, and when, in seconds since the test's start.
#[derive(Clone)]
struct Log(Arc<Mutex<Vec<(u64, String)>>>, Instant);

impl Log {
    fn new() -> Self {
        Self(Arc::default(), Instant::now())
    }

    fn say(&self, text: impl Into<String>) {
        let entry = (self.1.elapsed().as_secs(), text.into());
        self.0.lock().expect("no panic").push(entry);
    }

    fn said(&self) -> Vec<(u64, String)> {
        self.0.lock().expect("no panic").clone()
    }
}

#[task(priority = 3)]
async fn welcome(address: String) -> usize {
    address.len()
}

#[task]
async fn note(log: &Log, text: String) {
    log.say(text);
}

#[task(queue = "parents")]
async fn parent(ctx: &Context) -> Result<usize, TaskError> {
    let child = welcome::call("child".into()).queue("children");
    Ok(child.send(ctx.app()).await?.await? + 1)
}

#[task(queue = "threads", timeout = "1h")]
fn on_a_thread(ctx: &Context) -> bool {
    std::thread::sleep(Duration::from_millis(20));
    ctx.is_cancelled()
}

#[task(retries = 5, backoff = "10m..10m")]
async fn unsteady(ctx: &Context) -> Result<u32, String> {
    match ctx.attempt() {
        attempt @ 6.. => Ok(attempt),
        attempt => Err(format!("attempt {attempt}")),
    }
}

#[task]
async fn naps() -> Result<(), TaskError> {
    Err(TaskError::snooze(SECOND))
}

#[task(ack = "early")]
async fn early() -> u32 {
    1
}

/// What a failed check says.
fn said(check: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(check)).expect_err("it fails");
    let literal = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    literal.unwrap_or_else(|| panic.downcast_ref::<String>().expect("a text").clone())
}

#[tokio::test]
async fn what_was_sent_is_found_and_what_was_not_is_told() {
    let app = App::in_memory();
    let ann = || welcome::call("ann@example.com".into());
    let text = said(|| assert_sent(&app, &ann()));
    assert!(text.ends_with("nothing was sent at all"), "{text}");
    refute_sent(&app, &ann());

    let handle = ann().send(&app).await.expect("sent");
    assert_sent(&app, &ann());
    let text = said(|| refute_sent(&app, &ann()));
    assert!(text.contains(handle.id()), "{text}");

    let call = Call::<()>::named("python.add").arg(1).expect("JSON");
    let call = call.kwarg("y", 2).expect("JSON").queue("celery");
    let _ = call.send(&app).await.expect("sent");
    let text = said(|| assert_sent(&app, &welcome::call("bob@example.com".into())));
    let expected = "no such call was sent: welcome(\"bob@example.com\") to queue `default`, priority 3\n\
                    2 sent instead:\n  \
                    welcome(\"ann@example.com\") to queue `default`, priority 3\n  \
                    python.add(1, y = 2) to queue `celery`";
    assert_eq!(text, expected);
    assert_eq!(sent(&app)[1].kwargs["y"], 2);
    assert_eq!(
        drain(&app).await.len(),
        2,
        "what has been run was sent all the same"
    );
    assert_sent(&app, &ann());
}

#[tokio::test]
async fn options_count_where_the_expected_call_sets_them() {
    let app = App::in_memory();
    let call = || welcome::call("a".into());
    let exchange = Exchange::topic("news");
    app.declare(Queue::new("readers").bind(&exchange, "#"))
        .await
        .expect("declared");
    let full = call()
        .queue("slow")
        .countdown(HOUR)
        .retries(2)
        .header("tenant", "acme");
    let _ = full.send(&app).await.expect("sent");
    let through = welcome::call("b".into()).publish_to(&exchange, "x.y");
    let _ = through.send(&app).await.expect("sent");
    for there in [
        call(),
        call().queue("slow"),
        call().countdown(HOUR),
        call().retries(2).header("tenant", "acme").expires(DAY),
        welcome::call("b".into()),
        welcome::call("b".into()).publish_to(&exchange, "x.y"),
    ] {
        assert_sent(&app, &there);
    }
    for missing in [
        call().queue("fast"),
        call().countdown(MINUTE),
        call().retries(3),
        call().header("tenant", "other"),
        call().priority(4),
        call().ignore_result(),
        welcome::call("b".into()).publish_to(&exchange, "x"),
    ] {
        refute_sent(&app, &missing);
    }
}

#[tokio::test(start_paused = true)]
async fn an_hours_retries_run_at_once_and_the_same_each_time() {
    let (real, mut runs) = (std::time::Instant::now(), Vec::new());
    for _ in 0..2 {
        let (app, start) = (App::in_memory(), Instant::now());
        let handle = unsteady::call().send(&app).await.expect("sent");
        let happened = drain(&app).await;
        let outcomes: Vec<_> = happened.iter().map(|ran| ran.attempt).collect();
        assert_eq!(outcomes, [1, 2, 3, 4, 5, 6]);
        assert!(
            matches!(&happened[0].outcome, Outcome::Retried { error, .. } if error == "attempt 1")
        );
        assert_eq!(happened[5].outcome, Outcome::Done(6.into()));
        assert_eq!(handle.await, Ok(6));
        assert!(start.elapsed() <= 50 * MINUTE + SECOND);
        assert_eq!(sent(&app).len(), 1, "a retry is not sent anew");
        runs.push(outcomes);
    }
    assert!(real.elapsed() < 10 * SECOND, "{:?}", real.elapsed());
}

#[tokio::test(start_paused = true)]
async fn all_runs_in_the_order_of_time_and_expires_by_it() {
    let (app, log) = (App::in_memory(), Log::new());
    let say = |text: &str| note::call(text.into()).ignore_result();
    for call in [
        say("year").countdown(365 * DAY),
        say("day").countdown(DAY).queue("other"),
        say("now"),
        say("hour").countdown(HOUR),
    ] {
        let _ = call.send(&app).await.expect("sent");
    }
    let cancelled = note::call("cancelled".into()).countdown(30 * DAY);
    let cancelled = cancelled.send(&app).await.expect("sent");
    cancelled.cancel().await.expect("told");
    assert_eq!(app.delayed().await.expect("counted"), 4);
    let happened = drain_with(Worker::new(&app).state(log.clone())).await;
    let said: Vec<_> = log.said();
    let due = [
        (0, "now"),
        (3600, "hour"),
        (86_400, "day"),
        (31_536_000, "year"),
    ];
    assert_eq!(said.len(), 4);
    for ((at, text), (due, expected)) in said.iter().zip(due) {
        assert_eq!(text, expected);
        assert!((due..=due + 1).contains(at), "{text} at {at}");
    }
    assert_eq!(happened.len(), 5);
    let failure = cancelled
        .await
        .expect_err("cancelled a month before it was due");
    assert_eq!(failure.kind, FailureKind::Cancelled);
    assert_eq!(app.delayed().await.expect("counted"), 0);

    let late = welcome::call("late".into())
        .expires(HOUR)
        .send(&app)
        .await
        .expect("sent");
    tokio::time::sleep(2 * HOUR).await;
    let happened = drain(&app).await;
    assert!(
        matches!(&happened[0].outcome, Outcome::Dropped(failure) if failure.kind == FailureKind::Expired)
    );
    assert_eq!(late.await.expect_err("expired").kind, FailureKind::Expired);
}

#[tokio::test(start_paused = true)]
async fn children_run_too_wherever_they_go() {
    let app = App::in_memory();
    let handle = parent::call().send(&app).await.expect("sent");
    let tasks: Vec<_> = drain(&app).await.into_iter().map(|ran| ran.task).collect();
    assert_eq!(tasks, ["welcome", "parent"]);
    assert_eq!(handle.await, Ok(6));
    assert_sent(&app, &welcome::call("child".into()).queue("children"));
}

#[tokio::test(start_paused = true)]
async fn time_does_not_run_away_from_a_plain_task() {
    let app = App::in_memory();
    let handle = on_a_thread::call().send(&app).await.expect("sent");
    drain(&app).await;
    assert_eq!(handle.await, Ok(false));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_lent_fails_only_the_call_that_needs_it() {
    let app = App::in_memory();
    let handle = note::call("x".into()).send(&app).await.expect("sent");
    let happened = drain(&app).await;
    assert!(
        matches!(&happened[0].outcome, Outcome::Failed(failure) if failure.message.contains("Log"))
    );
    assert_eq!(
        handle.await.expect_err("no state").kind,
        FailureKind::Rejected
    );
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "it goes on for ever: 10000 deliveries")]
async fn what_goes_on_for_ever_is_told() {
    let app = App::in_memory();
    let _ = naps::call().send(&app).await.expect("sent");
    drain(&app).await;
}

#[task]
async fn waits_for_the_test() {
    std::future::pending::<()>().await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "a task waits for what only the test could give it")]
async fn what_never_ends_is_told() {
    let app = App::in_memory();
    let _ = waits_for_the_test::call().send(&app).await.expect("sent");
    drain(&app).await;
}

#[tokio::test(start_paused = true)]
async fn faults_come_as_ordered() {
    let (app, log) = (App::in_memory(), Log::new());
    let worker = || Worker::new(&app).state(log.clone());
    redeliver::<note>(&app);
    for text in ["a", "b"] {
        let _ = note::call(text.into()).send(&app).await.expect("sent");
    }
    drain_with(worker()).await;
    let mut texts: Vec<_> = log.said().into_iter().map(|(_, text)| text).collect();
    texts.sort();
    assert_eq!(texts, ["a", "a", "b", "b"]);

    crash_after::<early>(&app, 1);
    let lost = early::call().send(&app).await.expect("sent");
    assert_eq!(drain(&app).await.len(), 1);
    let failure = lost
        .result_within(MINUTE)
        .await
        .expect_err("lost with its worker");
    assert_eq!(failure.kind, FailureKind::Unknown);
    let kept = early::call().send(&app).await.expect("sent");
    drain(&app).await;
    assert_eq!(kept.await, Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_crash_hits_workers_of_ones_own_too() {
    let app = App::in_memory();
    crash_after::<welcome>(&app, 1);
    let worker = Worker::new(&app)
        .queue("default", 1)
        .state(Log::new())
        .spawn();
    let handle = welcome::call("four".into()).send(&app).await.expect("sent");
    assert_eq!(handle.await, Ok(4));
    worker.stop().await.expect("stopped");
}

#[tokio::test]
async fn an_app_that_is_not_in_memory_is_refused() {
    let file = std::env::temp_dir().join(format!("{}.db", uuid::Uuid::new_v4()));
    let app = App::connect(format!("sqlite://{}", file.display()))
        .await
        .expect("a new file");
    let text = said(|| drop(sent(&app)));
    assert!(text.contains("App::in_memory()"), "{text}");
    app.close().await;
    for extension in ["db", "db-wal", "db-shm"] {
        std::fs::remove_file(file.with_extension(extension)).ok();
    }
    std::fs::remove_dir_all(file.with_extension("db-locks")).ok();
}

#[tokio::test(start_paused = true)]
async fn a_day_of_schedules_takes_milliseconds() {
    let (real, app) = (std::time::Instant::now(), App::in_memory());
    let scheduler = Scheduler::new(&app)
        .add("hourly", every(HOUR), welcome::call("hourly".into()))
        .spawn();
    let worker = Worker::new(&app)
        .queue("default", 4)
        .state(Log::new())
        .spawn();
    tokio::time::sleep(DAY + MINUTE).await;
    let ticks = sent(&app).len();
    assert!((23..=25).contains(&ticks), "{ticks} ticks in a day");
    assert_sent(&app, &welcome::call("hourly".into()));
    scheduler.stop().await.expect("stopped");
    worker.stop().await.expect("stopped");
    assert!(real.elapsed() < 10 * SECOND, "{:?}", real.elapsed());
}
