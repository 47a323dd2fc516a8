//! Calls and workers, the same on every broker.

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use garenne::broker::{Publish, Route};
use garenne::message::{Message, header};
use garenne::{
    Ack, App, Call, Context, Error, Exchange, FailureKind, HOUR, HeaderMatch, MILLISECOND, Queue,
    SECOND, TaskError, Worker, task,
};
use support::{eventually, unique, within};
use tokio::sync::mpsc;

/// Where tasks report to their test.
struct Log(mpsc::UnboundedSender<String>);

fn log() -> (Log, mpsc::UnboundedReceiver<String>) {
    let (send, receive) = mpsc::unbounded_channel();
    (Log(send), receive)
}

impl Log {
    fn say(&self, text: impl Into<String>) {
        self.0.send(text.into()).ok();
    }
}

#[task]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task]
fn multiply(a: i64, b: Option<i64>) -> i64 {
    a * b.unwrap_or(10)
}

#[task]
async fn fail(text: String) -> Result<(), String> {
    Err(text)
}

#[task(retries = 4, backoff = "1ms..5ms")]
async fn flaky(ctx: &Context, good_from: u32) -> Result<u32, String> {
    if ctx.attempt() < good_from {
        Err(format!("attempt {} is bad", ctx.attempt()))
    } else {
        Ok(ctx.attempt())
    }
}

#[task]
async fn asks_again(ctx: &Context, times: u32) -> Result<u32, TaskError> {
    if ctx.attempt() <= times {
        Err(TaskError::retry_in(20 * MILLISECOND))
    } else {
        Ok(ctx.attempt())
    }
}

#[task(retries = 9)]
async fn gives_up(ctx: &Context) -> Result<(), TaskError> {
    Err(TaskError::permanent(format!(
        "hopeless in attempt {}",
        ctx.attempt()
    )))
}

struct Naps(AtomicU32);

#[task]
async fn snoozes(naps: &Naps, ctx: &Context) -> Result<u32, TaskError> {
    if naps.0.fetch_add(1, Ordering::SeqCst) < 3 {
        return Err(TaskError::snooze(10 * MILLISECOND));
    }
    Ok(ctx.attempt())
}

#[task]
async fn panics(text: String) {
    panic!("{text}");
}

#[task]
fn panics_on_a_thread() {
    panic!("on a thread");
}

#[task(timeout = "50ms")]
async fn sleeps(time: u64) {
    tokio::time::sleep(Duration::from_millis(time)).await;
}

#[task(timeout = "50ms")]
fn blocks(ctx: &Context) {
    while !ctx.is_cancelled() {
        std::thread::sleep(MILLISECOND);
    }
}

#[task]
async fn tells(log: &Log, text: String) {
    log.say(text);
}

#[task]
async fn waits_for_ever(log: &Log, ctx: &Context) {
    log.say(format!("started attempt {}", ctx.attempt()));
    std::future::pending::<()>().await;
}

#[task]
async fn takes_a_while(log: &Log, time: u64) -> u64 {
    log.say("started");
    tokio::time::sleep(Duration::from_millis(time)).await;
    time
}

#[task]
async fn describes(ctx: &Context) -> String {
    let tenant = ctx
        .header("tenant")
        .and_then(|value| value.as_str())
        .unwrap_or("nobody");
    format!(
        "{} {} {} {tenant} {}",
        ctx.task(),
        ctx.queue(),
        ctx.attempt(),
        ctx.deadline().is_some()
    )
}

#[task]
async fn keys(map: HashMap<(u8, u8), u8>) -> usize {
    map.len()
}

#[task]
async fn returns_much(size: usize) -> String {
    "x".repeat(size)
}

/// A worker on `queue` that has all the states which the tasks here borrow.
fn worker(
    app: &App,
    queue: impl Into<Queue>,
    slots: usize,
) -> (Worker, mpsc::UnboundedReceiver<String>) {
    let (log, said) = log();
    (
        Worker::new(app)
            .queue(queue, slots)
            .state(log)
            .state(Naps(AtomicU32::new(0))),
        said,
    )
}

/// Takes one dead letter of `queue` and settles it.
async fn dead_letter(app: &App, queue: &Queue) -> Message {
    let dead = Queue::new(format!("{}{}", app.prefix(), queue.dead_letter_name()));
    let mut consumer = app
        .broker()
        .consume(&dead, 1)
        .await
        .expect("a dead-letter queue");
    let mut delivery = within("a dead letter", consumer.next())
        .await
        .expect("open")
        .expect("a delivery");
    let message = std::mem::take(&mut delivery.message);
    delivery.ack(None).await.expect("settled");
    message
}

on_every_broker! {
    async fn a_call_returns_its_typed_result(app: App) {
        let (worker, _) = worker(&app, "default", 4);
        let worker = worker.spawn();
        let handle = add::call(2, 3).send(&app).await.expect("sent");
        assert_eq!(within("a result", handle.result()).await, Ok(5));
        assert_eq!(within("the same result", handle.result()).await, Ok(5));
        assert_eq!(within("a plain task's", multiply::call(6, Some(7)).send(&app).await.expect("sent")).await, Ok(42));
        assert_eq!(add(2, 3).await, 5);
        worker.stop().await.expect("stopped");
        drop(handle);
        eventually("no reply is awaited any more", || async { app.awaited() == 0 }).await;
    }

    async fn a_call_waits_for_a_worker(app: App) {
        let handle = add::call(1, 1).queue("later").send(&app).await.expect("sent");
        let (worker, _) = worker(&app, "later", 1);
        let worker = worker.spawn();
        assert_eq!(within("a result", handle).await, Ok(2));
        worker.stop().await.expect("stopped");
    }

    async fn arguments_come_by_position_and_by_name(app: App) {
        let (worker, _) = worker(&app, "default", 1);
        let worker = worker.spawn();
        let call = |call: Call<i64>| async { within("a result", call.send(&app).await.expect("sent")).await };
        let add = || Call::<i64>::named("add");
        let multiply = || Call::<i64>::named("multiply");
        assert_eq!(call(add().arg(2).expect("JSON").kwarg("b", 3).expect("JSON")).await, Ok(5));
        assert_eq!(call(multiply().arg(2).expect("JSON")).await, Ok(20));
        assert_eq!(call(multiply().kwarg("a", 3).expect("JSON")).await, Ok(30));
        for (wrong, reason) in [
            (add().arg(2).expect("JSON"), "argument `b`: missing"),
            (add().arg("2").expect("JSON").arg(3).expect("JSON"), "argument `a`: invalid type: string"),
            (add().arg(1).expect("JSON").arg(2).expect("JSON").arg(3).expect("JSON"), "3 positional arguments given, 2 wanted"),
            (add().arg(1).expect("JSON").arg(2).expect("JSON").kwarg("c", 3).expect("JSON"), "unknown argument `c`"),
            (add().arg(1).expect("JSON").kwarg("a", 1).expect("JSON").kwarg("b", 1).expect("JSON"), "both by position and by name"),
        ] {
            let failure = call(wrong).await.expect_err(reason);
            assert_eq!(failure.kind, FailureKind::Rejected);
            assert!(failure.message.contains(reason), "{reason}: {failure}");
        }
        worker.stop().await.expect("stopped");
        let dead = dead_letter(&app, &Queue::new("default")).await;
        assert_eq!(dead.text(header::REASON), Some("arguments"));
    }

    async fn a_failure_says_what_happened(app: App) {
        let (worker, _) = worker(&app, "default", 2);
        let worker = worker.spawn();
        let handle = fail::call("no coffee".into()).send(&app).await.expect("sent");
        let id = handle.id().to_owned();
        let failure = within("a failure", handle).await.expect_err("it fails");
        assert_eq!((failure.kind, failure.attempts), (FailureKind::Failed, 1));
        assert_eq!((failure.task.as_str(), failure.id), ("fail", id));
        assert_eq!(failure.message, "no coffee");

        let failure = within("a panic", panics::call("ouch".into()).send(&app).await.expect("sent")).await;
        let failure = failure.expect_err("it panics");
        assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::Panicked, "ouch"));
        let failure = within("a panic", panics_on_a_thread::call().send(&app).await.expect("sent")).await;
        assert_eq!(failure.expect_err("it panics").message, "on a thread");
        assert_eq!(within("the next one", add::call(1, 2).send(&app).await.expect("sent")).await, Ok(3));
        worker.stop().await.expect("stopped");
    }

    async fn an_error_is_retried_until_it_recovers(app: App) {
        let (worker, _) = worker(&app, "default", 2);
        let worker = worker.spawn();
        assert_eq!(within("recovery", flaky::call(3).send(&app).await.expect("sent")).await, Ok(3));
        assert_eq!(within("on request", asks_again::call(2).send(&app).await.expect("sent")).await, Ok(3));
        assert_eq!(within("snoozed", snoozes::call().send(&app).await.expect("sent")).await, Ok(1));
        worker.stop().await.expect("stopped");
    }

    async fn used_up_retries_end_in_the_dead_letters(app: App) {
        let (worker, _) = worker(&app, "default", 2);
        let worker = worker.spawn();
        let call = flaky::call(99).retries(2).header("tenant", "acme");
        let failure = within("a failure", call.send(&app).await.expect("sent")).await.expect_err("it fails");
        assert_eq!((failure.kind, failure.attempts), (FailureKind::Failed, 3));
        assert_eq!(failure.message, "attempt 3 is bad");
        let dead = dead_letter(&app, &Queue::new("default")).await;
        assert_eq!(dead.text(header::REASON), Some("failed"));
        assert_eq!(dead.text(header::QUEUE), Some("default"));
        assert_eq!(dead.text("tenant"), Some("acme"));
        assert_eq!(dead.history(), ["attempt 1 is bad", "attempt 2 is bad", "attempt 3 is bad"]);

        let failure = within("a failure", gives_up::call().send(&app).await.expect("sent")).await;
        assert_eq!(failure.expect_err("at once").message, "hopeless in attempt 1");
        worker.stop().await.expect("stopped");
    }

    async fn an_attempt_has_a_time_limit(app: App) {
        let (worker, _) = worker(&app, "default", 4);
        let worker = worker.spawn();
        let late = within("a failure", sleeps::call(60_000).send(&app).await.expect("sent")).await;
        assert_eq!(late.expect_err("too slow").kind, FailureKind::TimedOut);
        assert_eq!(within("in time", sleeps::call(1).send(&app).await.expect("sent")).await, Ok(()));
        let longer = sleeps::call(100).timeout(10 * SECOND);
        assert_eq!(within("the call's own limit", longer.send(&app).await.expect("sent")).await, Ok(()));
        let late = within("a thread's", blocks::call().send(&app).await.expect("sent")).await;
        assert_eq!(late.expect_err("too slow").kind, FailureKind::TimedOut);
        worker.stop().await.expect("stopped");
    }

    async fn an_expired_call_is_not_run(app: App) {
        let handle = tells::call("expired".into()).expires(MILLISECOND).send(&app).await.expect("sent");
        tokio::time::sleep(5 * MILLISECOND).await;
        let (worker, mut said) = worker(&app, "default", 1);
        let worker = worker.spawn();
        let failure = within("a failure", handle).await.expect_err("expired");
        assert_eq!((failure.kind, failure.attempts), (FailureKind::Expired, 0));
        let call = tells::call("fresh".into()).expires(HOUR);
        within("in time", call.send(&app).await.expect("sent")).await.expect("run");
        assert_eq!(said.recv().await.as_deref(), Some("fresh"));
        worker.stop().await.expect("stopped");
    }

    async fn a_cancelled_call_is_not_run(app: App) {
        let handle = tells::call("cancelled".into()).send(&app).await.expect("sent");
        handle.cancel().await.expect("told");
        let (worker, mut said) = worker(&app, "default", 2);
        let worker = worker.spawn();
        let failure = within("a failure", handle).await.expect_err("cancelled");
        assert_eq!((failure.kind, failure.task.as_str()), (FailureKind::Cancelled, "tells"));

        let running = waits_for_ever::call().send(&app).await.expect("sent");
        assert_eq!(within("a start", said.recv()).await.as_deref(), Some("started attempt 1"));
        running.cancel().await.expect("told");
        let failure = within("a failure", running).await.expect_err("cancelled");
        assert_eq!(failure.kind, FailureKind::Cancelled);
        worker.stop().await.expect("stopped");
    }

    async fn a_countdown_is_kept_to_the_millisecond(app: App) {
        let (worker, mut said) = worker(&app, "default", 4);
        let worker = worker.spawn();
        within("warm", tells::call("warm".into()).countdown(MILLISECOND).send(&app).await.expect("sent")).await.expect("run");
        said.recv().await;
        let start = Instant::now();
        let delays = [700_u64, 30, 250, 3];
        for delay in delays {
            let call = tells::call(delay.to_string()).countdown(Duration::from_millis(delay)).ignore_result();
            drop(call.send(&app).await.expect("sent"));
        }
        for expected in [3_u64, 30, 250, 700] {
            let text = within("a delayed call", said.recv()).await.expect("open");
            let (delay, elapsed) = (Duration::from_millis(expected), start.elapsed());
            assert_eq!(text, expected.to_string());
            assert!(elapsed >= delay, "{delay:?} came after {elapsed:?}");
            assert!(elapsed < delay + SECOND, "{delay:?} came after {elapsed:?}");
        }
        worker.stop().await.expect("stopped");
    }

    async fn urgent_calls_go_first(app: App) {
        let queue = Queue::new("urgent").max_priority(9);
        app.declare(queue.clone()).await.expect("declared");
        for priority in [1_u8, 9, 0, 5, 9] {
            let call = tells::call(priority.to_string()).queue(queue.clone()).priority(priority).ignore_result();
            drop(call.send(&app).await.expect("sent"));
        }
        let (worker, mut said) = worker(&app, queue, 1);
        let worker = worker.spawn();
        for expected in ["9", "9", "5", "1", "0"] {
            assert_eq!(within("a call", said.recv()).await.as_deref(), Some(expected));
        }
        worker.stop().await.expect("stopped");
    }

    async fn what_no_worker_can_run_is_kept_with_the_reason(app: App) {
        let (worker, _) = worker(&app, "default", 1);
        let worker = worker.spawn();
        let unknown = within("a failure", Call::<()>::named("no.such.task").send(&app).await.expect("sent")).await;
        let failure = unknown.expect_err("unknown");
        assert_eq!(failure.kind, FailureKind::Rejected);
        assert!(failure.message.contains("no task `no.such.task`") && failure.message.contains("multiply"), "{failure}");
        let queue = Queue::new("default");
        let dead = dead_letter(&app, &queue).await;
        assert_eq!((dead.text(header::REASON), dead.text("task")), (Some("unknown_task"), Some("no.such.task")));

        for (id, body) in [("a", &b"\xff garbage"[..]), ("b", b"[[1, 2]]"), ("c", b""), ("", b"[[1, 2], {}, {}]")] {
            let mut message = Message::new(id.into(), "add", &garenne::message::Arguments::default());
            message.body = body.to_vec();
            let route = Route::Queue(format!("{}default", app.prefix()));
            let publish = Publish { route, message, delay: Duration::ZERO, deadline: 10 * SECOND };
            app.broker().publish(publish).await.expect("stored");
            let dead = dead_letter(&app, &queue).await;
            assert_eq!(dead.text(header::REASON), Some("unreadable"));
            assert_eq!(dead.body, body);
        }
        assert_eq!(within("the next one", add::call(1, 2).send(&app).await.expect("sent")).await, Ok(3));
        worker.stop().await.expect("stopped");
    }

    async fn a_stopping_worker_finishes_what_runs(app: App) {
        let (worker, mut said) = worker(&app, "default", 1);
        let worker = worker.spawn();
        let handle = takes_a_while::call(300).send(&app).await.expect("sent");
        within("a start", said.recv()).await;
        within("a stop", worker.stop()).await.expect("stopped");
        assert_eq!(within("a result", handle).await, Ok(300));
    }

    async fn what_outlasts_the_grace_period_is_handed_back_at_no_cost(app: App) {
        let (first, mut said) = worker(&app, "default", 1);
        let first = first.grace(50 * MILLISECOND).spawn();
        let handle = waits_for_ever::call().send(&app).await.expect("sent");
        assert_eq!(within("a start", said.recv()).await.as_deref(), Some("started attempt 1"));
        within("a stop", first.stop()).await.expect("stopped");
        let (second, mut said) = worker(&app, "default", 1);
        let second = second.grace(Duration::ZERO).spawn();
        assert_eq!(within("a start elsewhere", said.recv()).await.as_deref(), Some("started attempt 1"));
        handle.cancel().await.expect("told");
        assert_eq!(within("a failure", handle).await.expect_err("cancelled").kind, FailureKind::Cancelled);
        second.stop().await.expect("stopped");
    }

    async fn early_acknowledged_calls_are_run_once(app: App) {
        let (worker, mut said) = worker(&app, "default", 1);
        let worker = worker.spawn();
        let handle = takes_a_while::call(100).ack(Ack::Early).send(&app).await.expect("sent");
        within("a start", said.recv()).await;
        assert_eq!(within("a result", handle).await, Ok(100));
        let failure = within("a failure", fail::call("no".into()).ack(Ack::Early).send(&app).await.expect("sent")).await;
        assert_eq!(failure.expect_err("it fails").message, "no");
        assert_eq!(dead_letter(&app, &Queue::new("default")).await.text(header::REASON), Some("failed"));
        worker.stop().await.expect("stopped");
    }

    async fn a_task_knows_its_attempt(app: App) {
        let (worker, _) = worker(&app, "described", 1);
        let worker = worker.spawn();
        let call = describes::call().queue("described").header("tenant", "acme").timeout(HOUR);
        let text = within("a result", call.send(&app).await.expect("sent")).await;
        assert_eq!(text.as_deref(), Ok("describes described 1 acme true"));
        worker.stop().await.expect("stopped");
    }

    async fn bad_calls_are_refused_when_they_are_sent(app: App) {
        let map = HashMap::from([((1, 2), 3)]);
        let error = keys::call(map).send(&app).await.expect_err("keys that JSON has not");
        assert!(matches!(&error, Error::Encode { task, what, .. } if task == "keys" && what == "argument `map`"), "{error}");
        let error = tells::call("x".repeat(9 << 20)).send(&app).await.expect_err("too large");
        assert!(matches!(error, Error::TooLarge { limit: 8_388_608, .. }), "{error}");
        for queue in ["", "amq.mine", "a\nb", &"q".repeat(300)] {
            let error = add::call(1, 2).queue(queue).send(&app).await.expect_err(queue);
            assert!(matches!(error, Error::Invalid { what: "queue name", .. }), "{error}");
        }
        let error = add::call(1, 2).header("task", "other").send(&app).await.expect_err("reserved");
        assert!(error.to_string().contains("`task`"), "{error}");
        let error = add::call(1, 2).id("").send(&app).await.expect_err("empty");
        assert!(error.to_string().contains("call id"), "{error}");
        assert_eq!(app.awaited(), 0);
    }

    async fn a_result_that_is_too_large_is_a_failure(app: App) {
        let (worker, _) = worker(&app, "default", 1);
        let worker = worker.spawn();
        let failure = within("a failure", returns_much::call(9 << 20).send(&app).await.expect("sent")).await;
        let failure = failure.expect_err("too large");
        assert!(failure.message.contains("more than the limit"), "{failure}");
        worker.stop().await.expect("stopped");
    }

    async fn a_call_without_result_costs_no_reply(app: App) {
        let (worker, mut said) = worker(&app, "default", 1);
        let worker = worker.spawn();
        let handle = tells::call("quiet".into()).ignore_result().send(&app).await.expect("sent");
        assert_eq!(within("a run", said.recv()).await.as_deref(), Some("quiet"));
        assert_eq!(app.awaited(), 0);
        let failure = within("an answer", handle.result()).await.expect_err("no result");
        assert_eq!(failure.kind, FailureKind::Unknown);
        worker.stop().await.expect("stopped");
    }

    async fn a_result_is_awaited_no_longer_than_wanted(app: App) {
        let handle = add::call(1, 2).queue("nobody").send(&app).await.expect("sent");
        let failure = handle.result_within(20 * MILLISECOND).await.expect_err("nobody works");
        assert_eq!((failure.kind, failure.task.as_str()), (FailureKind::Unknown, "add"));
    }

    async fn many_calls_are_sent_at_once(app: App) {
        let (worker, _) = worker(&app, "default", 16);
        let worker = worker.spawn();
        let sent = app.send_all((0..2_000).map(|n| add::call(n, n))).await;
        assert_eq!(sent.len(), 2_000);
        for (n, sent) in sent.into_iter().enumerate() {
            let n = i64::try_from(n).expect("small");
            assert_eq!(within("a result", sent.expect("sent")).await, Ok(2 * n));
        }
        let calls = vec![
            Call::<i64>::named("add").arg(1).expect("JSON").arg(1).expect("JSON"),
            Call::named("add").queue("amq.bad"),
            Call::named("add").arg(2).expect("JSON").arg(2).expect("JSON"),
        ];
        let mut sent = app.send_all(calls).await.into_iter();
        let mut next = || sent.next().expect("one outcome for each call");
        assert_eq!(within("the first", next().expect("sent")).await, Ok(2));
        assert!(matches!(next(), Err(Error::Invalid { .. })));
        assert_eq!(within("the third", next().expect("sent")).await, Ok(4));
        worker.stop().await.expect("stopped");
    }

    async fn thousands_of_replies_come_in_any_order(app: App) {
        let (worker, _) = worker(&app, "default", 64);
        let worker = worker.spawn();
        let mut waits = tokio::task::JoinSet::new();
        for sent in app.send_all((0..3_000).map(|n| takes_a_while::call(u64::from(n % 7 == 0)))).await {
            waits.spawn(sent.expect("sent").result());
        }
        let mut done = 0;
        while let Some(result) = within("a result", waits.join_next()).await {
            result.expect("no panic").expect("a result");
            done += 1;
        }
        assert_eq!(done, 3_000);
        worker.stop().await.expect("stopped");
    }

    async fn every_subscriber_gets_its_copy(app: App) {
        let news = Exchange::topic(unique("news"));
        let (all, mut all_said) = worker(&app, Queue::exclusive().bind(&news, "#"), 1);
        let (europe, mut europe_said) = worker(&app, Queue::exclusive().bind(&news, "europe.*"), 1);
        let (all, europe) = (all.spawn(), europe.spawn());
        all.ready().await;
        europe.ready().await;
        for key in ["asia.rain", "europe.sun"] {
            let call = tells::call(key.into()).publish_to(&news, key).ignore_result();
            drop(call.send(&app).await.expect("sent"));
        }
        assert_eq!(within("news", all_said.recv()).await.as_deref(), Some("asia.rain"));
        assert_eq!(within("news", all_said.recv()).await.as_deref(), Some("europe.sun"));
        assert_eq!(within("news", europe_said.recv()).await.as_deref(), Some("europe.sun"));
        all.stop().await.expect("stopped");
        europe.stop().await.expect("stopped");
        let error = tells::call("nobody".into()).publish_to(&news, "europe.fog").send(&app).await;
        assert!(matches!(error, Err(Error::Unroutable { .. })), "{error:?}");
    }

    async fn headers_route_calls(app: App) {
        let exchange = Exchange::headers(unique("documents"));
        let wanted = [("format", "pdf"), ("lang", "fr")];
        let wanted = wanted.map(|(name, value)| (if name == "lang" { "language" } else { name }, value));
        let queue = Queue::new("print").bind_headers(&exchange, HeaderMatch::All, wanted);
        let (worker, mut said) = worker(&app, queue, 1);
        let worker = worker.spawn();
        worker.ready().await;
        let call = |text: &str| tells::call(text.into()).publish_to(&exchange, "").ignore_result().header("format", "pdf");
        assert!(matches!(call("english").header("language", "en").send(&app).await, Err(Error::Unroutable { .. })));
        drop(call("french").header("language", "fr").send(&app).await.expect("sent"));
        assert_eq!(within("a call", said.recv()).await.as_deref(), Some("french"));
        worker.stop().await.expect("stopped");
    }

    async fn two_queues_have_a_concurrency_each(app: App) {
        let (log, mut said) = log();
        let worker = Worker::new(&app).queue("slow", 1).queue("fast", 1).state(log).state(Naps(AtomicU32::new(0)));
        let worker = worker.grace(Duration::ZERO).spawn();
        let slow = waits_for_ever::call().queue("slow").send(&app).await.expect("sent");
        within("a start", said.recv()).await;
        let fast = tells::call("fast".into()).queue("fast").send(&app).await.expect("sent");
        within("the other queue's", fast).await.expect("run");
        slow.cancel().await.expect("told");
        worker.stop().await.expect("stopped");
    }

    async fn a_deleted_queue_is_declared_again(app: App) {
        let handle = add::call(1, 1).queue("gone").send(&app).await.expect("sent");
        app.delete("gone").await.expect("deleted");
        drop(handle);
        drop(add::call(1, 1).queue("gone").send(&app).await.expect("sent again"));
        app.broker().delete(&format!("{}gone", app.prefix())).await.expect("deleted behind the app's back");
        drop(add::call(1, 1).queue("gone").send(&app).await.expect("sent again"));
        assert_eq!(app.depth("gone").await.expect("it exists").ready, 1);
    }
}

#[tokio::test]
async fn a_worker_that_cannot_work_does_not_start() {
    let app = App::in_memory();
    let shutdown = || std::future::ready(());
    let all = |worker: Worker| worker.state(log().0).state(Naps(AtomicU32::new(0)));

    let error = Worker::new(&app)
        .queue("default", 1)
        .run(shutdown())
        .await
        .expect_err("no state");
    let text = error.to_string();
    assert!(matches!(error, Error::MissingState { .. }), "{text}");
    assert!(
        text.contains("tests/worker.rs:") && text.contains("Worker::state"),
        "{text}"
    );

    let error = all(Worker::new(&app))
        .run(shutdown())
        .await
        .expect_err("no queue");
    assert!(matches!(error, Error::NoQueues), "{error}");
    let error = all(Worker::new(&app))
        .queue("default", 0)
        .run(shutdown())
        .await
        .expect_err("no slot");
    assert!(error.to_string().contains("concurrency"), "{error}");
    let error = all(Worker::new(&app))
        .queue("amq.x", 1)
        .run(shutdown())
        .await
        .expect_err("bad name");
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    let error = all(all(Worker::new(&app)))
        .queue("default", 1)
        .run(shutdown())
        .await
        .expect_err("twice");
    assert!(error.to_string().contains("two values"), "{error}");
    all(Worker::new(&app))
        .queue("default", 1)
        .register::<add>()
        .run(shutdown())
        .await
        .expect("registered twice is fine");
}

#[tokio::test(start_paused = true)]
async fn hours_of_retries_pass_in_no_time() {
    let app = App::in_memory();
    let (worker, _) = worker(&app, "default", 1);
    let worker = worker.spawn();
    let call = flaky::call(12).retries(20).backoff(SECOND..HOUR);
    let start = tokio::time::Instant::now();
    assert_eq!(call.send(&app).await.expect("sent").await, Ok(12));
    assert!(start.elapsed() > SECOND);
    let late = tells::call("later".into()).countdown(24 * HOUR);
    late.send(&app)
        .await
        .expect("sent")
        .result_within(25 * HOUR)
        .await
        .expect("run");
    worker.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_closed_app_tells_who_waits() {
    let app = App::in_memory();
    let handle = add::call(1, 2).send(&app).await.expect("sent");
    let waiting = tokio::spawn(handle.result());
    app.close().await;
    let failure = within("an answer", waiting)
        .await
        .expect("no panic")
        .expect_err("closed");
    assert_eq!(failure.kind, FailureKind::Unknown);
    assert!(matches!(
        add::call(1, 2).send(&app).await,
        Err(Error::Closed { .. })
    ));
}

#[tokio::test]
async fn state_is_shared_by_all_slots() {
    let app = App::in_memory();
    let (log, mut said) = log();
    let naps = Arc::new(AtomicU32::new(0));
    let worker = Worker::new(&app)
        .queue("default", 4)
        .state(log)
        .state(Naps(AtomicU32::new(0)))
        .state(naps);
    let worker = worker.spawn();
    for sent in app
        .send_all((0..4).map(|n: i32| tells::call(n.to_string())))
        .await
    {
        within("a run", sent.expect("sent")).await.expect("run");
    }
    let mut texts = Vec::new();
    for _ in 0..4 {
        texts.push(said.recv().await.expect("open"));
    }
    texts.sort();
    assert_eq!(texts, ["0", "1", "2", "3"]);
    worker.stop().await.expect("stopped");
}
