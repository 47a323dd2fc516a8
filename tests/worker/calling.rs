//! Sending calls and awaiting their results.

use crate::on_every_broker;
use std::collections::HashMap;
use std::time::Duration;

use garenne::message::header;
use garenne::{App, Call, Error, FailureKind, HOUR, MILLISECOND, Queue, SECOND};

use crate::support::{self, eventually, within};
use crate::tasks::*;

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
        app.declare("default").await.expect("declared");
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
        let never = add::call(1, 2).countdown(HOUR).expires(SECOND).send(&app).await.expect_err("never due in time");
        assert!(never.to_string().contains("could never run"), "{never}");
        let error = add::call(1, 2).countdown(Duration::MAX).send(&app).await.expect_err("too long");
        assert!(matches!(error, Error::Invalid { what: "countdown", .. }), "{error}");
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
