//! `kill -9` of a worker process in the middle of a task.

use super::child::WorkerProcess;
use super::place::{Place, figure, on};
use super::tasks::{hangs_once, now};
use crate::support::within;

on!(alone a_killed_workers_call_runs_elsewhere_at_once: sqlite quorum classic);

async fn a_killed_workers_call_runs_elsewhere_at_once(place: Place) {
    let mut workers = [
        WorkerProcess::start(&place, 2),
        WorkerProcess::start(&place, 2),
    ];
    let app = place.app().await;
    let call = hangs_once::call().queue(&place.queue);
    let handle = call.send(&app).await.expect("sent");
    let first = place.line(1).await.remove(0);
    let holder: u32 = field(&first, 0);
    let holding = workers.iter_mut().find(|worker| worker.id() == holder);
    let killed = now();
    holding.expect("one of the two").kill();

    let (process, attempt) = within("the result", handle).await.expect("a result");
    let lines = place.lines();
    assert_eq!(lines.len(), 2, "it ran as often as was needed: {lines:?}");
    assert_ne!(process, holder);
    assert_eq!((attempt, field::<u32>(&lines[1], 1)), (1, 1));
    let millis = (field::<u128>(&lines[1], 2) - killed) / 1_000_000;
    figure!(place, "runs again {millis} ms after SIGKILL");
    assert!(millis < 2_000, "{millis} ms");
    place.leave(app).await;
}

fn field<T: std::str::FromStr>(line: &str, index: usize) -> T {
    let field = line
        .split(' ')
        .nth(index)
        .and_then(|text| text.parse().ok());
    field.expect("process, attempt and time")
}
