//! What workers tell.

use std::collections::BTreeMap;

use garenne::event::Events;
use garenne::{App, Event, EventKind, MILLISECOND, SECOND, Worker};

use crate::on_every_broker;
use crate::support::{self, unique, within};
use crate::tasks::{Crew, Gate, add, fail, pass};

/// The next events of this node, up to one that ends it.
async fn until(events: &mut Events, node: &str, end: impl Fn(&Event) -> bool) -> Vec<Event> {
    let mut seen = Vec::new();
    let listen = async {
        while let Some(event) = events.next().await {
            if event.node == node {
                seen.push(event);
                if seen.last().is_some_and(&end) {
                    return;
                }
            }
        }
        panic!("the broker was closed");
    };
    within("events", listen).await;
    seen
}

fn names<'a>(events: &'a [Event], id: &str) -> Vec<&'a str> {
    let of_call = events.iter().filter(|event| event.id() == Some(id));
    of_call.map(Event::name).collect()
}

on_every_broker! {
    async fn calls_are_told_from_end_to_end(app: App) {
        let mut events = app.events().await.expect("events");
        let crew = Crew::with(&app, 1, |worker| worker.events(true)).await;
        // The only slot is taken until the next call has expired.
        let gone = crew.call(pass::call(1)).send(&app).await.expect("sent");
        crew.gate.has_let_in(1).await;
        let late = crew.call(add::call(0, 0)).expires(20 * MILLISECOND).send(&app).await.expect("sent");
        tokio::time::sleep(40 * MILLISECOND).await;
        gone.cancel().await.expect("cancelled");
        let good = crew.call(add::call(2, 3)).send(&app).await.expect("sent");
        let bad = crew.call(fail::call("no luck".into())).retries(1).backoff(MILLISECOND..MILLISECOND).send(&app).await.expect("sent");
        let ends = ["task-succeeded", "task-failed", "task-revoked"];
        let left = std::cell::Cell::new(4);
        let seen = until(&mut events, &crew.node, |event| {
            left.set(left.get() - usize::from(ends.contains(&event.name())));
            left.get() == 0
        }).await;
        assert_eq!(names(&seen, good.id()), ["task-received", "task-started", "task-succeeded"]);
        let twice = ["task-received", "task-started", "task-retried", "task-received", "task-started", "task-failed"];
        assert_eq!(names(&seen, bad.id()), twice);
        assert_eq!(names(&seen, late.id()), ["task-received", "task-revoked"]);
        assert_eq!(names(&seen, gone.id()), ["task-received", "task-started", "task-revoked"]);
        for event in &seen {
            match &event.kind {
                EventKind::TaskReceived(call) if call.id == good.id() => {
                    assert_eq!((call.task.as_str(), call.args.as_str()), ("control.add", "(2, 3)"));
                }
                EventKind::TaskSucceeded { result, .. } => assert_eq!(result, "5"),
                EventKind::TaskFailed { exception, .. } => assert_eq!(exception, "no luck"),
                EventKind::TaskRevoked { id, terminated, expired } => {
                    assert_eq!((*terminated, *expired), (id == gone.id(), id == late.id()));
                }
                _ => {}
            }
        }
        crew.stop().await;
    }

    async fn calls_are_told_only_where_somebody_asked(app: App) {
        let mut events = app.events().await.expect("events");
        let crew = Crew::new(&app, 1).await;
        let call = async || {
            let sum = crew.call(add::call(1, 1)).send(&app).await.expect("sent");
            let id = sum.id().to_owned();
            within("a result", sum).await.expect("a sum");
            id
        };
        let untold = call().await;
        let said = crew.control().enable_events().await.expect("asked");
        assert_eq!(said[&crew.node].as_deref(), Ok("task events enabled"));
        let again = crew.control().enable_events().await.expect("asked");
        assert_eq!(again[&crew.node].as_deref(), Ok("task events already enabled"));
        let told = call().await;
        let seen = until(&mut events, &crew.node, |event| event.name() == "task-succeeded").await;
        assert_eq!((names(&seen, &untold).len(), names(&seen, &told).len()), (0, 3));
        crew.control().disable_events().await.expect("asked");
        let untold = call().await;
        crew.control().heartbeat().await.expect("asked");
        let seen = until(&mut events, &crew.node, |event| event.name() == "worker-heartbeat").await;
        assert_eq!(names(&seen, &untold).len(), 0, "{seen:?}");
        crew.stop().await;
    }

    async fn workers_come_live_and_go(app: App) {
        let mut events = app.events().await.expect("events");
        let node = format!("{}@test", unique("node"));
        let queue = unique("queue");
        let worker = Worker::new(&app).name(&node).queue(queue.as_str(), 1).state(Gate::default()).grace(SECOND).spawn();
        until(&mut events, &node, |event| event.name() == "worker-online").await;
        app.control().to([&node]).heartbeat().await.expect("asked");
        let seen = until(&mut events, &node, |event| event.name() == "worker-heartbeat").await;
        let EventKind::WorkerHeartbeat(status) = &seen[seen.len() - 1].kind else { panic!("{seen:?}") };
        assert_eq!((status.pid, status.sw_ident.as_str()), (std::process::id(), "garenne"));
        // In memory, where nobody dies unseen, it is rarer.
        assert!(status.freq >= 10.0, "{status:?}");
        within("a stop", worker.stop()).await.expect("stopped");
        until(&mut events, &node, |event| event.name() == "worker-offline").await;
        app.delete(&queue).await.expect("deleted");
    }

    async fn many_calls_are_told_and_none_waits_for_that(app: App) {
        const CALLS: usize = 300;
        let mut events = app.events().await.expect("events");
        let crew = Crew::with(&app, 8, |worker| worker.events(true)).await;
        let calls = (0..CALLS).map(|n| crew.call(add::call(n as i64, 1)).ignore_result());
        let mut sending = app.send_all(calls.collect::<Vec<_>>());
        while let Some(sent) = sending.next().await {
            let _ = sent.expect("sent");
        }
        let done = std::cell::Cell::new(0);
        let seen = until(&mut events, &crew.node, |event| {
            done.set(done.get() + usize::from(event.name() == "task-succeeded"));
            done.get() == CALLS
        }).await;
        let mut counts = BTreeMap::<&str, usize>::new();
        for event in &seen {
            *counts.entry(event.name()).or_default() += 1;
        }
        for name in ["task-received", "task-started", "task-succeeded"] {
            assert_eq!(counts[name], CALLS, "{counts:?}");
        }
        crew.stop().await;
    }
}
