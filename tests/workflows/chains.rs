//! Calls one after the other.

use crate::on_every_broker;
use garenne::{App, Call, Error, MILLISECOND, Partial, Queue, SECOND, Workflow, group};

use crate::support::{self, eventually, within};
use crate::tasks::*;

on_every_broker! {
    async fn chains_of_any_length_come_to_their_end(app: App) {
        let (worker, _) = worker(&app);
        let worker = worker.spawn();
        for length in 1..=5 {
            let mut chain = Workflow::from(add::call(1, 0));
            for _ in 1..length {
                chain = chain.then(add::partial(10));
            }
            let handle = chain.send(&app).await.expect("sent");
            assert_eq!(within("a result", handle).await, Ok(1 + 10 * (length - 1)));
        }
        let long = (0..100).fold(Workflow::from(add::call(0, 0)), |chain, _| chain.then(add::partial(1)));
        assert_eq!(within("a result", long.send(&app).await.expect("sent")).await, Ok(100));
        worker.stop().await.expect("stopped");
        eventually("no reply is awaited any more", || async { app.awaited() == 0 }).await;
    }

    async fn each_step_goes_to_its_queue_with_its_options(app: App) {
        let (worker, _) = worker(&app);
        let worker = worker.queue(Queue::new("third").max_priority(5), 1).spawn();
        let scaled = multiply::partial(10).retries(2).backoff(MILLISECOND..SECOND).timeout(SECOND);
        let metres = describe::partial("metres".into()).queue(Queue::new("third").max_priority(5)).priority(3).countdown(50 * MILLISECOND);
        let started = std::time::Instant::now();
        let handle = add::call(2, 3).then(scaled).then(metres).send(&app).await.expect("sent");
        assert_eq!(handle.task(), "describe");
        assert_eq!(within("a result", handle).await.as_deref(), Ok("50 metres"));
        assert!(started.elapsed() >= 50 * MILLISECOND);
        worker.stop().await.expect("stopped");
    }

    async fn chains_in_chains_are_one(app: App) {
        let (worker, _) = worker(&app);
        let worker = worker.spawn();
        let scale = add::partial(1).then(multiply::partial(10));
        let chain = Workflow::from(add::call(1, 2)).then(scale).then(add::partial(2).then(describe::partial("m".into())));
        assert_eq!(within("a result", chain.send(&app).await.expect("sent")).await.as_deref(), Ok("42 m"));
        let alone: Workflow<i64> = add::call(1, 1).into();
        assert_eq!(within("a result", alone.send(&app).await.expect("sent")).await, Ok(2));
        worker.stop().await.expect("stopped");
    }

    async fn a_step_may_go_without_the_result_before_it(app: App) {
        let (worker, mut said) = worker(&app);
        let worker = worker.spawn();
        let first = says::call("first".into());
        let second = first.then(says::call("second".into()).ignoring_input()).then(add::call(1, 2).ignoring_input());
        let whole = second.then(add::call(5, 5).then(add::partial(1)).ignoring_input()).then(add::partial(4));
        assert_eq!(within("a result", whole.send(&app).await.expect("sent")).await, Ok(15));
        assert_eq!(said.recv().await.as_deref(), Some("first"));
        assert_eq!(said.recv().await.as_deref(), Some("second"));
        let group = says::call("x".into()).then(group([add::call(1, 1), add::call(2, 2)]).ignoring_input()).then(sum::partial());
        assert_eq!(within("a result", group.send(&app).await.expect("sent")).await, Ok(6));
        worker.stop().await.expect("stopped");
    }

    async fn foreign_names_find_their_tasks(app: App) {
        let (worker, _) = worker(&app);
        let worker = worker.spawn();
        // Of tasks that are known by name only, the queues are others' to make.
        for queue in ["default", "other"] {
            app.declare(queue).await.expect("declared");
        }
        let add = Call::<i64>::named("add").arg(1).expect("JSON").kwarg("b", 2).expect("JSON");
        let multiply = Partial::<i64, i64>::named("multiply").queue("other").arg(3).expect("JSON");
        let whole = add.then(multiply).then(Partial::<i64, String>::named("describe").kwarg("unit", "m").expect("JSON"));
        assert_eq!(within("a result", whole.send(&app).await.expect("sent")).await.as_deref(), Ok("9 m"));
        worker.stop().await.expect("stopped");
    }

    async fn steps_know_their_parent_and_root(app: App) {
        let (worker, mut said) = worker(&app);
        let worker = worker.spawn();
        let chain = family::call(None).id("one").then(Partial::<i64, i64>::named("family").id("two"));
        let whole = chain.then(group([Partial::<i64, i64>::named("family").id("three")])).then(count::partial().id("four"));
        let handle = whole.send(&app).await.expect("sent");
        assert_eq!((handle.id(), within("a result", handle.result()).await), ("four", Ok(1)));
        let said: Vec<String> = [said.recv().await, said.recv().await, said.recv().await].into_iter().flatten().collect();
        assert_eq!(said[..2], ["one nobody one", "two one one"]);
        let words: Vec<&str> = said[2].split(' ').collect();
        assert_eq!((words[0], words[2]), ("three", "one"));
        worker.stop().await.expect("stopped");
    }

    async fn a_task_sends_workflows_of_its_own(app: App) {
        let (worker, _) = worker(&app);
        let worker = worker.spawn();
        let handle = sends_more::call(4).then(add::partial(100)).send(&app).await.expect("sent");
        assert_eq!(within("a result", handle).await, Ok(110));
        worker.stop().await.expect("stopped");
    }

    async fn what_is_wrong_is_said_when_it_is_sent(app: App) {
        let bad = |error: Error| error.to_string();
        let keys = std::collections::HashMap::from([((1, 2), 3)]);
        let error = Call::<i64>::named("add").arg(keys).expect_err("keys that JSON has not");
        assert!(bad(error).contains("argument 1"));
        let large = says::call("x".into()).then(Partial::<String, i64>::named("t").arg("y".repeat(9 << 20)).expect("JSON"));
        let error = bad(large.send(&app).await.expect_err("too large"));
        assert!(error.contains("workflow") && error.contains("`says"), "{error}");
        let nowhere = add::call(1, 2).then(add::partial(1).queue("amq.mine")).send(&app).await;
        assert!(bad(nowhere.expect_err("a bad name")).contains("queue name"));
        let through = add::call(1, 2).publish_to(&garenne::Exchange::fanout("logs"), "").then(add::partial(1)).send(&app).await;
        assert!(bad(through.expect_err("several queues")).contains("in a workflow"));
        eventually("no reply is awaited any more", || async { app.awaited() == 0 }).await;
    }
}
