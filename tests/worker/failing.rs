//! What does not go well: failures, retries, dead letters.

use crate::on_every_broker;
use std::time::Duration;

use garenne::broker::{Publish, Route};
use garenne::message::{Message, header};
use garenne::{Ack, App, Call, FailureKind, MILLISECOND, Queue, SECOND};

use crate::support::{self, within};
use crate::tasks::*;

on_every_broker! {
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

    async fn a_panic_of_what_is_dropped_at_the_time_limit_harms_nobody(app: App) {
        let (worker, _) = worker(&app, "default", 1);
        let worker = worker.spawn();
        let handle = panics_when_dropped::call().retries(1).backoff(MILLISECOND..MILLISECOND);
        let failure = within("a failure", handle.send(&app).await.expect("sent")).await.expect_err("too slow");
        assert_eq!((failure.kind, failure.attempts), (FailureKind::TimedOut, 2));
        assert_eq!(within("the next one", add::call(1, 2).send(&app).await.expect("sent")).await, Ok(3));
        worker.stop().await.expect("stopped");
    }

    async fn what_waits_for_a_slot_at_a_stop_runs_elsewhere_at_once(app: App) {
        let (stopping, mut said) = worker(&app, "default", 1);
        let stopping = stopping.spawn();
        // Acknowledged early, it holds its slot, but no delivery: the next one comes and waits.
        let long = takes_a_while::call(5_000).ack(Ack::Early).send(&app).await.expect("sent");
        assert_eq!(within("a start", said.recv()).await.as_deref(), Some("started"));
        let next = add::call(1, 2).send(&app).await.expect("sent");
        support::eventually("its delivery", || async {
            app.depth("default").await.expect("a queue").ready == 0
        })
        .await;
        let stopped = tokio::spawn(stopping.stop());
        let (other, _) = worker(&app, "default", 1);
        let other = other.spawn();
        assert_eq!(within("the other worker", next).await, Ok(3));
        assert!(!stopped.is_finished(), "the long one still runs");
        assert_eq!(within("the long one", long).await, Ok(5_000));
        stopped.await.expect("no panic").expect("stopped");
        other.stop().await.expect("stopped");
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
            message.body = body.to_vec().into();
            let route = Route::Queue(format!("{}default", app.prefix()));
            let publish = Publish { route, message, delay: Duration::ZERO, deadline: 10 * SECOND };
            app.broker().publish(publish).await.expect("stored");
            let dead = dead_letter(&app, &queue).await;
            assert_eq!(dead.text(header::REASON), Some("unreadable"));
            assert_eq!(dead.body[..], *body);
        }
        assert_eq!(within("the next one", add::call(1, 2).send(&app).await.expect("sent")).await, Ok(3));
        worker.stop().await.expect("stopped");
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

    async fn a_deleted_dead_letter_queue_is_declared_again(app: App) {
        let (worker, _) = worker(&app, "default", 1);
        let worker = worker.spawn();
        assert!(worker.ready().await);
        app.delete("default.dead").await.expect("deleted");
        let failure = within("a failure", fail::call("no".into()).send(&app).await.expect("sent")).await;
        assert_eq!(failure.expect_err("it fails").message, "no");
        assert_eq!(dead_letter(&app, &Queue::new("default")).await.text(header::REASON), Some("failed"));
        worker.stop().await.expect("stopped");
    }

    async fn an_early_acknowledged_call_that_is_cut_off_is_told(app: App) {
        let (worker, mut said) = worker(&app, "default", 1);
        let worker = worker.grace(10 * MILLISECOND).spawn();
        let handle = waits_for_ever::call().ack(Ack::Early).send(&app).await.expect("sent");
        within("a start", said.recv()).await;
        within("a stop", worker.stop()).await.expect("stopped");
        let failure = within("a failure", handle).await.expect_err("cut off");
        assert!(failure.message.contains("the worker stopped"), "{failure}");
        assert_eq!(dead_letter(&app, &Queue::new("default")).await.text(header::REASON), Some("stopped"));
    }
}
