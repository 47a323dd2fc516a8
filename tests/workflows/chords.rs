//! Groups that something follows.

use crate::on_every_broker;
use garenne::{App, DAY, Partial, SECOND, Workflow, group};

use crate::support::{self, within};
use crate::tasks::*;

on_every_broker! {
    async fn a_body_gets_its_members_results_in_order(app: App) {
        let (worker, _) = worker(&app);
        let worker = worker.spawn();
        let total = group([add::call(1, 2), multiply::call(3, 4)]).then(sum::partial());
        assert_eq!(within("a result", total.send(&app).await.expect("sent")).await, Ok(15));
        let members = [slow::call(1, 60), slow::call(2, 30), slow::call(3, 0)];
        let shown = group(members).then(Partial::<Vec<i64>, String>::named("show").queue("default"));
        assert_eq!(within("a result", shown.send(&app).await.expect("sent")).await.as_deref(), Ok("[1,2,3]"));
        let after = group((0..50).map(|n| add::call(n, 0))).then(sum::partial()).then(multiply::partial(2)).then(describe::partial("m".into()));
        assert_eq!(within("a result", after.send(&app).await.expect("sent")).await.as_deref(), Ok("2450 m"));
        let unheard = group([add::call(1, 1)]).then(add::call(20, 22).ignoring_input());
        assert_eq!(within("a result", unheard.send(&app).await.expect("sent")).await, Ok(42));
        worker.stop().await.expect("stopped");
    }

    async fn chords_are_nested(app: App) {
        let (worker, _) = worker(&app);
        let worker = worker.spawn();
        let leaf = |n: i64| group((0..3).map(move |m| add::call(n, m))).then(sum::partial()); // 3n + 3
        let branch = |n: i64| group([leaf(n), leaf(n + 1), add::call(n, 0).into()]).then(sum::partial()); // 7n + 9
        let tree = group([branch(0), branch(1)]).then(sum::partial()).then(add::partial(1));
        assert_eq!(within("a result", tree.send(&app).await.expect("sent")).await, Ok(9 + 16 + 1));
        worker.stop().await.expect("stopped");
    }

    async fn a_member_may_end_in_a_group(app: App) {
        let (worker, _) = worker(&app);
        let worker = worker.spawn();
        let pair = |n: i64| add::call(n, 0).then(group([add::partial(1), add::partial(2)]));
        let show = || Partial::<Vec<Vec<i64>>, String>::named("show").queue("default");
        let shown = group([pair(0), pair(10), group([add::call(5, 5)]).into()]).then(show());
        assert_eq!(within("a result", shown.send(&app).await.expect("sent")).await.as_deref(), Ok("[[1,2],[11,12],[10]]"));
        worker.stop().await.expect("stopped");
    }

    async fn a_chain_fans_out_and_in_again(app: App) {
        let (worker, _) = worker(&app);
        let worker = worker.spawn();
        let fan = || group([add::partial(1).into(), add::partial(2).then(add::partial(100)), multiply::partial(3).into()]).then(sum::partial());
        let once = add::call(1, 1).then(fan()).then(add::partial(1000)); // 3 + 104 + 6 + 1000
        assert_eq!(within("a result", once.send(&app).await.expect("sent")).await, Ok(1113));
        let twice = add::call(1, 1).then(fan()).then(fan()); // 113: 114 + 215 + 339
        assert_eq!(within("a result", twice.send(&app).await.expect("sent")).await, Ok(668));
        let inside = group([add::call(1, 1).then(fan()), Workflow::from(add::call(1, 0))]).then(sum::partial());
        assert_eq!(within("a result", inside.send(&app).await.expect("sent")).await, Ok(114));
        let after_group = group([add::call(1, 0), add::call(2, 0)]).then(group([sum::partial().into(), sum::partial().then(add::partial(1))]));
        assert_eq!(within("results", after_group.send(&app).await.expect("sent")).await, Ok(vec![3, 4]));
        let chain_of_groups = group([add::call(1, 0), add::call(2, 0)]).then(group([sum::partial(), sum::partial()])).then(sum::partial());
        assert_eq!(within("a result", chain_of_groups.send(&app).await.expect("sent")).await, Ok(6));
        worker.stop().await.expect("stopped");
    }

    async fn retries_happen_inside_of_members_and_bodies(app: App) {
        let (worker, _) = worker(&app);
        let worker = worker.spawn();
        let chord = group((0..5).map(flaky::call)).then(sum::partial()).then(flaky::partial());
        assert_eq!(within("a result", chord.send(&app).await.expect("sent")).await, Ok(10));
        let body = group([add::call(1, 1)]).then(Partial::<Vec<i64>, i64>::named("fails_once").queue("default"));
        assert_eq!(within("a result", body.send(&app).await.expect("sent")).await, Ok(2));
        worker.stop().await.expect("stopped");
    }

    async fn a_body_runs_once(app: App) {
        let (worker, mut said) = worker(&app);
        let worker = worker.spawn();
        let mut handles = Vec::new();
        for n in 0..20 {
            let chord = group((0..10).map(|m| add::call(n, m))).then(count::partial());
            handles.push(chord.send(&app).await.expect("sent"));
        }
        let mut ids = std::collections::BTreeSet::new();
        for handle in handles {
            ids.insert(format!("counted by {}", handle.id()));
            assert_eq!(within("a count", handle).await, Ok(10));
        }
        worker.stop().await.expect("stopped");
        for _ in 0..20 {
            assert!(ids.remove(&said.recv().await.expect("a body")));
        }
        assert!(said.try_recv().is_err());
    }

    async fn members_of_a_dead_worker_count_once(app: App) {
        let (dying, mut holds) = worker_that(&app, Ends(false));
        let dying = dying.spawn();
        let members: Vec<Workflow<i64>> = (0..10).map(|n| held::call(n).into()).chain((10..20).map(|n| add::call(n, 0).into())).collect();
        let handle = group(members).then(count::partial()).send(&app).await.expect("sent");
        for _ in 0..10 {
            assert!(within("a member", holds.recv()).await.expect("a member").starts_with("holds"));
        }
        dying.abort().await;
        let (worker, mut said) = worker(&app);
        let worker = worker.spawn();
        assert_eq!(within("a count", handle.result()).await, Ok(20));
        worker.stop().await.expect("stopped");
        assert_eq!(said.recv().await, Some(format!("counted by {}", handle.id())));
        assert!(said.try_recv().is_err());
    }

    async fn a_thousand_members_have_one_body(app: App) {
        let (worker, _) = worker(&app);
        let worker = worker.spawn();
        let chord = group((0..1_000).map(|n| add::call(n, 1))).then(sum::partial());
        assert_eq!(within("a result", chord.send(&app).await.expect("sent")).await, Ok(500_500));
        worker.stop().await.expect("stopped");
    }

    async fn a_bodys_deadline_counts_from_its_turn(app: App) {
        let (worker, _) = worker(&app);
        let worker = worker.spawn();
        let chord = group([slow::call(3, 2_500)]).then(sum::partial().deadline(2 * SECOND));
        assert_eq!(within("a result", chord.send(&app).await.expect("sent")).await, Ok(3));
        worker.stop().await.expect("stopped");
    }

    async fn what_cannot_meet_is_refused(app: App) {
        let twice = [add::call(1, 1).id("same"), add::call(1, 2).id("same")];
        let late = group([add::call(1, 1), add::call(1, 2).countdown(31 * DAY)]);
        let error = group(twice).send(&app).await.expect_err("one id").to_string();
        assert!(error.contains("`same`"), "{error}");
        let error = late.then(sum::partial()).send(&app).await.expect_err("too late").to_string();
        assert!(error.contains("`add`") && error.contains("30 days"), "{error}");
    }
}
