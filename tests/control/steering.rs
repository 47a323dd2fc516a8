//! What workers do when they are told to.

use std::time::Instant;

use garenne::control::Refusal;
use garenne::{App, FailureKind, HOUR, MILLISECOND, Rate, SECOND, Worker};

use crate::on_every_broker;
use crate::support::{self, eventually, unique, within};
use crate::tasks::{Crew, Gate, add, pass};

on_every_broker! {
    async fn a_revoked_call_is_dropped_and_a_running_one_goes_on(app: App) {
        let crew = Crew::new(&app, 1).await;
        let runs = crew.call(pass::call(1)).send(&app).await.expect("sent");
        crew.gate.has_let_in(1).await;
        let waits = crew.call(add::call(1, 2)).send(&app).await.expect("sent");
        for id in [runs.id(), waits.id()] {
            let said = crew.control().revoke(id).await.expect("asked");
            assert!(said[&crew.node].is_ok(), "{said:?}");
        }
        let known = crew.control().revoked().await.expect("asked").remove(&crew.node).expect("an answer");
        assert!(known.expect("ids").contains(&waits.id().to_owned()));
        // Until the broker's news of the same have come back.
        eventually("remembered", || async {
            let remembered = app.broker().cancellations().await.expect("cancellations");
            [runs.id(), waits.id()].iter().all(|id| remembered.known.iter().any(|known| known.ends_with(id)))
        }).await;
        let later = Crew::new(&app, 1).await;
        let known = later.control().revoked().await.expect("asked").remove(&later.node).expect("an answer");
        assert!(known.expect("ids").contains(&runs.id().to_owned()));
        later.stop().await;
        crew.gate.open(1);
        assert_eq!(within("a result", runs).await, Ok(1));
        let failure = within("a failure", waits).await.expect_err("dropped");
        assert_eq!(failure.kind, FailureKind::Cancelled);
        crew.stop().await;
    }

    async fn a_terminated_call_ends_at_once(app: App) {
        let crew = Crew::new(&app, 1).await;
        let runs = crew.call(pass::call(1)).send(&app).await.expect("sent");
        crew.gate.has_let_in(1).await;
        let said = crew.control().terminate(runs.id()).await.expect("asked");
        assert_eq!(said[&crew.node].as_deref(), Ok(format!("terminate: {}", runs.id()).as_str()));
        let failure = within("a failure", runs).await.expect_err("ended");
        assert_eq!(failure.kind, FailureKind::Cancelled);
        let said = crew.control().terminate("unknown").await.expect("asked");
        assert_eq!(said[&crew.node].as_deref(), Ok("terminate: tasks unknown"));
        crew.stop().await;
    }

    async fn a_rate_limit_is_kept(app: App) {
        let crew = Crew::new(&app, 4).await;
        let control = crew.control();
        let said = control.rate_limit("control.add", Rate::per(5, SECOND)).await.expect("asked");
        assert_eq!(said[&crew.node].as_deref(), Ok("new rate limit set successfully"));
        let tasks = control.registered().await.expect("asked").remove(&crew.node).expect("an answer").expect("tasks");
        assert!(tasks.iter().any(|task| task.starts_with("control.add [rate_limit=")), "{tasks:?}");
        let begin = Instant::now();
        let mut handles = Vec::new();
        for n in 0..8 {
            // An attempt that were spent would show: there is only one.
            handles.push(crew.call(add::call(n, 1)).retries(0).send(&app).await.expect("sent"));
        }
        // Others are not held up.
        let other = crew.call(pass::call(5)).send(&app).await.expect("sent");
        crew.gate.open(1);
        assert_eq!(within("a result", other).await, Ok(5));
        for handle in handles {
            within("a result", handle).await.expect("a sum");
        }
        // Eight in seven fifths of a second; one may be half a turn early.
        assert!(begin.elapsed() >= 1200 * MILLISECOND, "{:?}", begin.elapsed());
        let unknown = control.rate_limit("no.such.task", None).await.expect("asked");
        assert_eq!(unknown[&crew.node], Err(Refusal("unknown task".into())));
        control.rate_limit("control.add", None).await.expect("asked");
        let handle = crew.call(add::call(1, 1)).send(&app).await.expect("sent");
        assert_eq!(within("a result", handle).await, Ok(2));
        crew.stop().await;
    }

    async fn a_time_limit_is_kept_and_lifted(app: App) {
        let crew = Crew::new(&app, 1).await;
        let control = crew.control();
        let said = control.time_limit("control.pass", 50 * MILLISECOND).await.expect("asked");
        assert_eq!(said[&crew.node].as_deref(), Ok("time limits set successfully"));
        let late = crew.call(pass::call(1)).send(&app).await.expect("sent");
        assert_eq!(within("a failure", late).await.expect_err("too long").kind, FailureKind::TimedOut);
        // What a call says of itself counts more.
        let own = crew.call(pass::call(2)).timeout(HOUR).send(&app).await.expect("sent");
        crew.gate.has_let_in(2).await;
        tokio::time::sleep(100 * MILLISECOND).await;
        crew.gate.open(1);
        assert_eq!(within("a result", own).await, Ok(2));
        control.time_limit("control.pass", None).await.expect("asked");
        let free = crew.call(pass::call(3)).send(&app).await.expect("sent");
        crew.gate.has_let_in(3).await;
        tokio::time::sleep(100 * MILLISECOND).await;
        crew.gate.open(1);
        assert_eq!(within("a result", free).await, Ok(3));
        crew.stop().await;
    }

    async fn slots_are_added_and_taken(app: App) {
        let crew = Crew::new(&app, 1).await;
        let slots = async || {
            let queues = crew.control().active_queues().await.expect("asked").remove(&crew.node).expect("an answer");
            queues.expect("queues")[0].concurrency
        };
        let mut handles = Vec::new();
        for n in 0..9 {
            handles.push(crew.call(pass::call(n)).send(&app).await.expect("sent"));
        }
        crew.gate.has_let_in(1).await;
        let said = crew.control().pool_grow(2).await.expect("asked");
        assert_eq!(said[&crew.node].as_deref(), Ok("pool will grow"));
        crew.gate.has_let_in(3).await;
        assert_eq!(crew.gate.entered(), 3);
        eventually("three slots", || async { slots().await == Some(3) }).await;
        let said = crew.control().pool_shrink(5).await.expect("asked");
        assert_eq!(said[&crew.node].as_deref(), Ok("pool will shrink"));
        eventually("one slot", || async { slots().await == Some(1) }).await;
        crew.gate.open(3);
        crew.gate.has_let_in(4).await;
        tokio::time::sleep(150 * MILLISECOND).await;
        assert_eq!(crew.gate.entered(), 4, "one slot is left");
        let said = crew.control().pool_shrink(1).await.expect("asked");
        assert!(said[&crew.node].is_err(), "the last one stays: {said:?}");
        crew.gate.open(6);
        for (n, handle) in (0..).zip(handles) {
            assert_eq!(within("a result", handle).await, Ok(n));
        }
        crew.stop().await;
    }

    async fn queues_are_added_and_taken(app: App) {
        let crew = Crew::new(&app, 1).await;
        let (more, control) = (unique("more"), crew.control());
        let said = control.add_consumer(&more, 2).await.expect("asked");
        assert_eq!(said[&crew.node].as_deref(), Ok(format!("add consumer {more}").as_str()));
        let sum = add::call(2, 3).queue(more.as_str()).send(&app).await.expect("sent");
        assert_eq!(within("a result", sum).await, Ok(5));
        let runs = pass::call(1).queue(more.as_str()).send(&app).await.expect("sent");
        crew.gate.has_let_in(1).await;
        let said = control.cancel_consumer(&more).await.expect("asked");
        assert_eq!(said[&crew.node].as_deref(), Ok(format!("no longer consuming from {more}").as_str()));
        crew.gate.open(1);
        assert_eq!(within("what ran goes on", runs).await, Ok(1));
        // RabbitMQ counts a consumer until the last of its deliveries is settled.
        eventually("no consumer", || async { app.depth(&more).await.expect("a depth").consumers == 0 }).await;
        let waits = add::call(1, 1).queue(more.as_str()).send(&app).await.expect("sent");
        eventually("it waits", || async { app.depth(&more).await.expect("a depth").ready == 1 }).await;
        // The other queue is served as ever, and so is this one when it is back.
        let sum = crew.call(add::call(4, 5)).send(&app).await.expect("sent");
        assert_eq!(within("a result", sum).await, Ok(9));
        control.add_consumer(&more, 1).await.expect("asked");
        assert_eq!(within("a result", waits).await, Ok(2));
        let wrong = control.add_consumer("", 1).await.expect("asked");
        assert!(wrong[&crew.node].is_err(), "{wrong:?}");
        crew.stop().await;
        app.delete(&more).await.expect("deleted");
    }

    async fn a_worker_stops_when_it_is_told(app: App) {
        let (node, queue) = (format!("{}@test", unique("node")), unique("queue"));
        let worker = Worker::new(&app).name(&node).queue(queue.as_str(), 1).state(Gate::default());
        let (ready, mut events) = (app.clone(), app.events().await.expect("events"));
        let run = tokio::spawn(worker.run(std::future::pending()));
        while within("events", events.next()).await.is_some_and(|event| event.node != node) {}
        ready.control().to([&node]).shutdown().await.expect("asked");
        within("its end", run).await.expect("no panic").expect("stopped in order");
        app.delete(&queue).await.expect("deleted");
    }
}
