//! Calls side by side.

use crate::on_every_broker;
use std::collections::BTreeSet;

use garenne::{App, Call, FailureKind, Workflow, group};

use crate::support::{self, eventually, within};
use crate::tasks::*;

on_every_broker! {
    async fn a_group_has_its_members_results_in_order(app: App) {
        let (worker, _) = worker(&app);
        let worker = worker.spawn();
        let handle = group((0..10).map(|n| add::call(n, n))).send(&app).await.expect("sent");
        assert_eq!(within("results", handle.result()).await, Ok((0..10).map(|n| 2 * n).collect::<Vec<_>>()));
        let mixed: Vec<Workflow<i64>> = vec![slow::call(1, 50).into(), add::call(1, 1).then(multiply::partial(2))];
        assert_eq!(within("results", group(mixed).send(&app).await.expect("sent")).await, Ok(vec![1, 4]));
        worker.stop().await.expect("stopped");
        drop(handle);
        eventually("no reply is awaited any more", || async { app.awaited() == 0 }).await;
    }

    async fn groups_are_nested_to_any_depth(app: App) {
        let (worker, _) = worker(&app);
        let worker = worker.spawn();
        let inner = |n| group([add::call(n, 1), add::call(n, 2)]);
        let middle = |n| group([inner(n), inner(n + 10)]);
        let handle = group([middle(0), middle(100)]).send(&app).await.expect("sent");
        let expected = vec![vec![vec![1, 2], vec![11, 12]], vec![vec![101, 102], vec![111, 112]]];
        assert_eq!(within("results", handle).await, Ok(expected));
        worker.stop().await.expect("stopped");
    }

    async fn empty_groups_are_done_at_once(app: App) {
        let none = group(Vec::<Call<i64>>::new()).send(&app).await.expect("sent");
        assert_eq!(within("nothing", none.result()).await, Ok(vec![]));
        assert_eq!(none.results().next().await, None);
        none.cancel().await.expect("nothing to cancel");
        let (worker, _) = worker(&app);
        let worker = worker.spawn();
        let empty = || group(Vec::<Call<i64>>::new());
        let nested = group([empty(), group([add::call(1, 1)])]).send(&app).await.expect("sent");
        assert_eq!(within("results", nested).await, Ok(vec![vec![], vec![2]]));
        let chord = empty().then(sum::partial()).send(&app).await.expect("sent");
        assert_eq!(within("a result", chord).await, Ok(0));
        let nothing = Vec::<garenne::Partial<i64, i64>>::new;
        let middle = add::call(1, 1).then(group(nothing())).then(sum::partial()).then(add::partial(7));
        assert_eq!(within("a result", middle.send(&app).await.expect("sent")).await, Ok(7));
        let end = add::call(1, 1).then(group(nothing())).send(&app).await.expect("sent");
        assert_eq!(within("a result", end).await, Ok(vec![]));
        let member = group([empty(), group([add::call(1, 1)])]).then(garenne::Partial::<Vec<Vec<i64>>, String>::named("show").queue("default")).send(&app).await.expect("sent");
        assert_eq!(within("a result", member).await.as_deref(), Ok("[[],[2]]"));
        worker.stop().await.expect("stopped");
    }

    async fn results_come_as_members_are_done(app: App) {
        let (worker, _) = worker(&app);
        let worker = worker.spawn();
        let members = [slow::call(0, 400), slow::call(1, 10), fail::call(2, "no".into()), slow::call(3, 200)];
        let handle = group(members).send(&app).await.expect("sent");
        let (mut results, mut came) = (handle.results(), vec![]);
        while let Some((index, result)) = within("a result", results.next()).await {
            came.push(index);
            match index {
                2 => assert_eq!(result.expect_err("it fails").message, "no"),
                _ => assert_eq!(result, Ok(index as i64)),
            }
        }
        assert_eq!(came[2..], [3, 0], "{came:?}");
        assert_eq!(came.into_iter().collect::<BTreeSet<_>>().len(), 4);
        let late = within("the failure", handle.result()).await.expect_err("one has failed");
        assert_eq!((&*late.task, &*late.message), ("fail", "no"));
        let one = group([add::call(1, 1)]).then(garenne::Partial::<Vec<i64>, Vec<i64>>::named("garenne.collect").queue("default"));
        let mut one = one.send(&app).await.expect("sent").results();
        assert_eq!(within("an element", one.next()).await, Some((0, Ok(2))));
        assert_eq!(one.next().await, None);
        worker.stop().await.expect("stopped");
    }

    async fn a_result_fans_out(app: App) {
        let (worker, _) = worker(&app);
        let worker = worker.spawn();
        let fan = add::call(2, 3).then(group([multiply::partial(2), multiply::partial(3), multiply::partial(4)]));
        let handle = fan.send(&app).await.expect("sent");
        assert_eq!(within("results", handle.result()).await, Ok(vec![10, 15, 20]));
        let mut results = handle.results();
        let mut seen = BTreeSet::new();
        while let Some((index, result)) = results.next().await {
            seen.insert((index, result.expect("a result")));
        }
        assert_eq!(seen, BTreeSet::from([(0, 10), (1, 15), (2, 20)]));
        let deep = add::call(1, 0).then(group([group([add::partial(1), add::partial(2)]), group([add::partial(3), add::partial(4)])]));
        assert_eq!(within("results", deep.send(&app).await.expect("sent")).await, Ok(vec![vec![2, 3], vec![4, 5]]));
        worker.stop().await.expect("stopped");
    }

    async fn a_failure_before_the_fan_reaches_who_awaits_it(app: App) {
        let (worker, _) = worker(&app);
        let worker = worker.spawn();
        let fan = fail::call(0, "early".into()).then(group([multiply::partial(2), multiply::partial(3)]));
        let handle = fan.send(&app).await.expect("sent");
        let failure = within("a failure", handle.result()).await.expect_err("it fails");
        assert_eq!((&*failure.task, failure.kind, &*failure.message), ("fail", FailureKind::Failed, "early"));
        let mut results = handle.results();
        for _ in 0..2 {
            assert!(within("a failure", results.next()).await.expect("two").1.is_err());
        }
        worker.stop().await.expect("stopped");
    }

    async fn a_thousand_members_are_a_group(app: App) {
        let (worker, _) = worker(&app);
        let worker = worker.spawn();
        let handle = group((0..1_000).map(|n| add::call(n, 1))).send(&app).await.expect("sent");
        assert_eq!(within("results", handle).await, Ok((1..=1_000).collect::<Vec<i64>>()));
        worker.stop().await.expect("stopped");
    }
}
