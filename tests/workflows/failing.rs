//! What becomes of a workflow when something in it goes wrong.

use crate::on_every_broker;
use std::collections::BTreeMap;

use garenne::{App, Failure, FailureKind, MILLISECOND, Partial, Workflow, group};

use crate::support::{self, eventually, within};
use crate::tasks::*;

/// Members that fail for good, each in its way.
fn failing() -> [(Workflow<i64>, FailureKind, &'static str, &'static str); 5] {
    [
        (
            fail::call(1, "no".into()).into(),
            FailureKind::Failed,
            "fail",
            "no",
        ),
        (
            panics::call(1).into(),
            FailureKind::Panicked,
            "panics",
            "at the disco",
        ),
        (
            hangs::call(1).into(),
            FailureKind::TimedOut,
            "hangs",
            "it took longer than its time limit of 50ms",
        ),
        (
            garenne::Call::named("nobody").into(),
            FailureKind::Rejected,
            "nobody",
            "no task `nobody`",
        ),
        (
            add::call(1, 1)
                .then(fail::partial("late".into()))
                .then(add::partial(1)),
            FailureKind::Failed,
            "fail",
            "late",
        ),
    ]
}

on_every_broker! {
    async fn a_chain_ends_at_its_first_failure(app: App) {
        let (worker, mut said) = worker(&app);
        let worker = worker.spawn();
        for (broken, kind, task, message) in failing() {
            let chain = broken.then(describe::partial("m".into())).then(Partial::<String, String>::named("says").queue("default"));
            let failure = within("a failure", chain.send(&app).await.expect("sent")).await.expect_err("broken");
            assert_eq!((failure.kind, &*failure.task), (kind, task));
            assert!(failure.message.starts_with(message), "{failure}");
        }
        worker.stop().await.expect("stopped");
        assert!(said.try_recv().is_err());
    }

    async fn a_failed_member_fails_the_whole_at_once(app: App) {
        let (worker, mut said) = worker(&app);
        let worker = worker.spawn();
        for (broken, kind, task, message) in failing() {
            let members = [slow::call(1, 20_000).into(), broken, add::call(1, 1).into()];
            let chord = group(members).then(count::partial()).then(Partial::<usize, String>::named("describe").arg("m").expect("JSON").queue("default"));
            let handle = chord.send(&app).await.expect("sent");
            let failure = within("a failure", handle.result()).await.expect_err("broken");
            assert_eq!((failure.kind, &*failure.task), (kind, task));
            assert_ne!(failure.id, handle.id(), "it is the member's own");
            assert!(failure.message.starts_with(message), "{failure}");
            handle.cancel().await.expect("the others are cancelled");
        }
        worker.stop().await.expect("stopped");
        assert!(said.try_recv().is_err(), "no body ran");
        let dead = app.dead_letters("default").list(garenne::Dead::all()).await.expect("listed");
        // What is settled again, because it could not be sure, leaves its letter twice.
        let dead: BTreeMap<_, _> = dead.iter().map(|dead| (&dead.id, (&dead.task, &dead.reason, &dead.error))).collect();
        assert_eq!(dead.len(), 5, "the members, and nothing that waited for them: {dead:#?}");
    }

    async fn a_failure_deep_inside_reaches_the_top(app: App) {
        let (worker, mut said) = worker(&app);
        let worker = worker.spawn();
        let deep = group([fail::call(1, "deep".into()).into(), Workflow::from(add::call(1, 1))]).then(sum::partial());
        let middle = group([deep, add::call(1, 1).into()]).then(sum::partial());
        let top = group([middle, slow::call(1, 20_000).into()]).then(sum::partial()).on_error(report::partial("top".into()));
        let handle = top.send(&app).await.expect("sent");
        let failure = within("a failure", handle.result()).await.expect_err("broken");
        assert_eq!((&*failure.task, &*failure.message), ("fail", "deep"));
        let text = within("a report", said.recv()).await.expect("a report");
        assert!(text.starts_with("top: fail failed deep"), "{text}");
        let fan = add::call(1, 1).then(group([fail::partial("fanned".into()), add::partial(1)])).then(sum::partial());
        let inside = group([fan, slow::call(1, 20_000).into()]).then(sum::partial()).send(&app).await.expect("sent");
        assert_eq!(within("a failure", inside.result()).await.expect_err("broken").message, "fanned");
        let before = fail::call(1, "before".into()).then(group([add::partial(1), add::partial(1)])).then(sum::partial());
        let before = group([before, slow::call(1, 20_000).into()]).then(sum::partial()).send(&app).await.expect("sent");
        assert_eq!(within("a failure", before.result()).await.expect_err("broken").message, "before");
        for handle in [handle, inside, before] {
            handle.cancel().await.expect("cancelled");
        }
        worker.stop().await.expect("stopped");
        assert!(said.try_recv().is_err(), "it was said once");
    }

    async fn failures_are_collected_if_wanted(app: App) {
        let (worker, _) = worker(&app);
        let worker = worker.spawn();
        let members = || [add::call(1, 1), fail::call(1, "no".into()), slow::call(3, 50)];
        let outcomes = within("outcomes", group(members()).collect_results().send(&app).await.expect("sent")).await.expect("collected");
        assert_eq!((&outcomes[0], &outcomes[2]), (&Ok(2), &Ok(3)));
        let failure = outcomes[1].as_ref().expect_err("it fails");
        assert_eq!((&*failure.task, failure.kind, &*failure.message), ("fail", FailureKind::Failed, "no"));
        let body = group(members()).collect_results().then(good::partial());
        assert_eq!(within("a count", body.send(&app).await.expect("sent")).await, Ok(2));
        let fan = add::call(0, 1).then(group([add::partial(1), fail::partial("no".into())]).collect_results()).then(good::partial());
        assert_eq!(within("a count", fan.send(&app).await.expect("sent")).await, Ok(1));
        let nested = group([group(members()).collect_results(), group(members()).collect_results()]).then(Partial::<Vec<Vec<Result<i64, Failure>>>, i64>::named("good_of").queue("default"));
        assert_eq!(within("a count", nested.send(&app).await.expect("sent")).await, Ok(4));
        let twice = group(members()).collect_results().collect_results().send(&app).await.expect("sent");
        let twice = within("outcomes", twice).await.expect("collected");
        assert!(matches!(&twice[1], Ok(Err(failure)) if failure.message == "no"));
        worker.stop().await.expect("stopped");
    }

    async fn on_error_is_sent_once(app: App) {
        let (worker, mut said) = worker(&app);
        let worker = worker.spawn();
        let to = |name: &str| report::partial(name.to_owned());
        let chain = add::call(1, 1).then(fail::partial("no".into())).then(add::partial(1)).on_error(to("chain"));
        let good = add::call(1, 1).then(add::partial(1)).on_error(to("nobody"));
        assert_eq!(within("a result", good.send(&app).await.expect("sent")).await, Ok(3));
        within("a failure", chain.send(&app).await.expect("sent")).await.expect_err("broken");
        assert_eq!(within("a report", said.recv()).await.as_deref(), Some("chain: fail failed no true"));
        let scoped = add::call(1, 1).then(add::partial(1)).on_error(to("nobody")).then(fail::partial("after".into()));
        within("a failure", scoped.send(&app).await.expect("sent")).await.expect_err("broken");
        let failing = || [fail::call(1, "one".into()), fail::call(2, "one".into()), add::call(1, 1)];
        let both = group(failing()).on_error(to("group")).send(&app).await.expect("sent");
        within("a failure", both).await.expect_err("broken");
        assert_eq!(within("a report", said.recv()).await.as_deref(), Some("group: fail failed one false"));
        let chord = group(failing()).then(sum::partial()).on_error(to("chord").then(Partial::<(), i64>::named("says").arg("told").expect("JSON").queue("default")));
        within("a failure", chord.send(&app).await.expect("sent")).await.expect_err("broken");
        assert_eq!(within("a report", said.recv()).await.as_deref(), Some("chord: fail failed one false"));
        let one = fail::call(1, "alone".into()).on_error(to("call")).send(&app).await.expect("sent");
        within("a failure", one).await.expect_err("broken");
        assert_eq!(within("a report", said.recv()).await.as_deref(), Some("call: fail failed alone true"));
        worker.stop().await.expect("stopped");
        assert!(said.try_recv().is_err());
    }

    async fn a_cancelled_workflow_ends(app: App) {
        let (worker, mut said) = worker(&app);
        let worker = worker.spawn();
        let chord = group([waits::call(1), waits::call(2)]).then(count::partial()).on_error(report::partial("cancelled".into()));
        let handle = chord.send(&app).await.expect("sent");
        for _ in 0..2 {
            assert!(within("a start", said.recv()).await.expect("a start").starts_with("waits"));
        }
        handle.cancel().await.expect("cancelled");
        let failure = within("a failure", handle.result()).await.expect_err("cancelled");
        assert_eq!(failure.kind, FailureKind::Cancelled);
        assert!(within("a report", said.recv()).await.expect("a report").starts_with("cancelled: "));
        worker.stop().await.expect("stopped");
        assert!(said.try_recv().is_err());
    }

    async fn an_expired_step_fails_the_whole(app: App) {
        let (worker, _) = worker(&app);
        let worker = worker.spawn();
        let late = add::call(1, 1).then(add::partial(1).queue("nobody").expires(MILLISECOND)).send(&app).await.expect("sent");
        eventually("the second step waits", || async { app.depth("nobody").await.is_ok_and(|depth| depth.ready == 1) }).await;
        tokio::time::sleep(5 * MILLISECOND).await;
        let rescue = crate::tasks::worker(&app).0.queue("nobody", 1).spawn();
        let failure = within("a failure", late).await.expect_err("too late");
        assert_eq!(failure.kind, FailureKind::Expired);
        rescue.stop().await.expect("stopped");
        worker.stop().await.expect("stopped");
    }

    async fn a_body_that_fails_keeps_its_results_for_another_life(app: App) {
        let (worker, mut said) = worker(&app);
        let worker = worker.spawn();
        let chord = group([add::call(1, 1), add::call(2, 2)]).then(second_life::partial());
        let failure = within("a failure", chord.send(&app).await.expect("sent")).await.expect_err("its first life");
        assert_eq!(failure.task, "second_life");
        eventually("a dead letter", || async { app.dead_letters("default").count().await.unwrap_or(0) == 1 }).await;
        let retried = app.dead_letters("default").retry(garenne::Dead::all()).await.expect("retried");
        assert_eq!((retried, within("its second life", said.recv()).await.as_deref()), (1, Some("6 at last")));
        worker.stop().await.expect("stopped");
    }
}
