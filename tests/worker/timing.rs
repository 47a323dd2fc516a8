//! When calls run, and when they do not: delays, expiry, cancelling, priorities, stopping.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use garenne::{App, FailureKind, HOUR, MILLISECOND, Queue, SECOND};

use crate::on_every_broker;
use crate::support::{self, within};
use crate::tasks::*;

on_every_broker! {
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
        let mut due = HashMap::new();
        for delay in [1500_u64, 30, 250, 3] {
            let sent = Instant::now();
            let delay = Duration::from_millis(delay);
            let call = tells::call(format!("{delay:?}")).countdown(delay).ignore_result();
            drop(call.send(&app).await.expect("sent"));
            due.insert(format!("{delay:?}"), sent + delay);
        }
        let mut came = Vec::new();
        for _ in 0..4 {
            let text = within("a delayed call", said.recv()).await.expect("open");
            let (due, now) = (due[&text], Instant::now());
            assert!(now >= due, "{text} came {:?} early", due - now);
            // How late is for a benchmark: the machine may be busy.
            assert!(now < due + 10 * SECOND, "{text} came {:?} late", now - due);
            came.push(text);
        }
        // No shorter delay waits behind the longest, which was sent first.
        assert_eq!(came[3], "1.5s", "{came:?}");
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
}
