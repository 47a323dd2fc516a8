//! A worker is told to stop when that is hard: its broker is away, silent or full, or its task does not
//! listen.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use garenne::{App, Handle};

use super::child::{MAX_DELIVERIES, Spawn, WorkerProcess};
use super::node::Node;
use super::place::{Place, aside, figure, on};
use super::tasks::{arrives, marks, spins};
use crate::support::within;

const GRACE: Duration = Duration::from_secs(1);
/// What a stop may take beyond its grace period: six seconds to hand back, seven to disconnect.
const BEYOND: Duration = Duration::from_secs(15);
const HOUR: u64 = 3_600_000;

#[test]
fn a_stop_ends_in_time_whatever_the_broker_does() {
    aside(
        "a_stop_ends_in_time_whatever_the_broker_does",
        Node::start,
        without_a_broker,
    );
}

on!(alone a_stop_does_not_wait_for_a_task_that_does_not_listen: sqlite quorum);
on!(alone a_second_signal_hands_back_at_once: sqlite quorum);
on!(alone what_was_done_ahead_is_done_once: sqlite quorum classic);
on!(alone what_outlasts_the_grace_period_runs_elsewhere: sqlite quorum classic);

/// A worker process that is busy for an hour.
async fn busy(place: &Place, app: &App, spawn: Spawn) -> (WorkerProcess, Handle<u64>) {
    let started = place.lines().len();
    let worker = spawn.start();
    let call = marks::call(7, HOUR).queue(&place.queue);
    let handle = within("sending", call.send(app)).await.expect("sent");
    place.line(started + 1).await;
    (worker, handle)
}

/// Tells it to stop; how long that took.
async fn stop(worker: &mut WorkerProcess) -> Duration {
    let told = Instant::now();
    worker.signal("TERM");
    let status = worker.ended().await;
    assert!(status.success(), "{status}");
    told.elapsed()
}

async fn without_a_broker(node: Node) {
    let watermark = "set_vm_memory_high_watermark";
    for trouble in ["blocked", "frozen", "killed"] {
        let place = node.place();
        let app = place.app().await;
        let spawn = Spawn::at(&place).grace(GRACE);
        let (mut worker, handle) = busy(&place, &app, spawn).await;
        node.remember_queues();
        match trouble {
            "blocked" => node.run("ctl", &[watermark, "0.00001"]),
            "frozen" => node.run("pause", &[]),
            _ => node.run("kill", &[]),
        };
        let took = stop(&mut worker).await;
        figure!(place, "{trouble}: a busy worker stopped in {took:.1?}");
        assert!(took >= GRACE, "{trouble}: {took:?}");
        assert!(took < GRACE + BEYOND, "{trouble}: {took:?}");
        match trouble {
            "blocked" => node.run("ctl", &[watermark, "absolute", "1GB"]),
            "frozen" => node.run("resume", &[]),
            _ => node.run("start", &[]),
        };
        // It is not lost: the next worker gets it.
        let lines = place.lines().len();
        let next = Spawn::at(&place).start();
        let again = place.line(lines + 1).await;
        assert_eq!(again.last().map(String::as_str), Some("7 1"), "{trouble}");
        drop((next, handle));
        app.close().await;
    }
}

async fn a_stop_does_not_wait_for_a_task_that_does_not_listen(place: Place) {
    let app = place.app().await;
    let mut worker = Spawn::at(&place).grace(GRACE).start();
    let call = spins::call(3, HOUR).queue(&place.queue);
    let handle = call.send(&app).await.expect("sent");
    place.line(1).await;
    let took = stop(&mut worker).await;
    figure!(
        place,
        "a worker with a task that spins stopped in {took:.1?}"
    );
    assert!(took >= GRACE && took < GRACE + BEYOND, "{took:?}");
    let _next = Spawn::at(&place).start();
    assert_eq!(place.line(2).await, ["3", "3"]);
    drop(handle);
    place.leave(app).await;
}

async fn a_second_signal_hands_back_at_once(place: Place) {
    let app = place.app().await;
    let spawn = Spawn::at(&place).heeds_signals();
    let (mut worker, handle) = busy(&place, &app, spawn).await;
    let second = WorkerProcess::start(&place, 1);
    worker.signal("TERM");
    // The first signal is not answered by an event; it must have arrived before the second.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(place.lines().len(), 1, "within its grace period it goes on");
    let told = Instant::now();
    worker.signal("TERM");
    let status = worker.ended().await;
    let took = told.elapsed();
    assert!(status.success(), "{status}");
    assert_eq!(place.line(2).await, ["7 1", "7 1"]);
    figure!(
        place,
        "ended {took:.1?} after the second signal, elsewhere after {:.1?}",
        told.elapsed()
    );
    assert!(told.elapsed() < Duration::from_secs(2), "{took:?}");
    drop((second, handle));
    place.leave(app).await;
}

async fn what_was_done_ahead_is_done_once(place: Place) {
    const CALLS: usize = 5_000;
    let app = place.app().await;
    let queue = place.queue.clone();
    let calls = (0..CALLS as u64).map(move |n| arrives::call(n).queue(&queue).ignore_result());
    for sent in app.send_all(calls).await {
        let _ = sent.expect("sent");
    }
    for done in [500, 1_000, 1_500] {
        let mut worker = Spawn::at(&place).ahead().start();
        place.line(done).await;
        stop(&mut worker).await;
    }
    let mut last = Spawn::at(&place).slots(8).start();
    place.line(CALLS).await;
    stop(&mut last).await;
    let lines = place.lines();
    let distinct: HashSet<_> = lines.iter().map(|line| line.split(' ').next()).collect();
    assert_eq!((lines.len(), distinct.len()), (CALLS, CALLS));
    place.leave(app).await;
}

async fn what_outlasts_the_grace_period_runs_elsewhere(place: Place) {
    let app = place.app().await;
    let spawn = || {
        let spawn = Spawn::at(&place).deliveries(MAX_DELIVERIES);
        spawn.grace(Duration::from_millis(200))
    };
    let (mut worker, handle) = busy(&place, &app, spawn()).await;
    // More often than it may be delivered without being settled: handing back is free.
    for stops in 1..=MAX_DELIVERIES as usize + 2 {
        let took = stop(&mut worker).await;
        assert!(took < BEYOND, "{took:?}");
        worker = spawn().start();
        let lines = place.line(stops + 1).await;
        assert!(lines.iter().all(|line| line == "7 1"), "{lines:?}");
    }
    figure!(
        place,
        "handed back {} times, still attempt 1",
        place.lines().len() - 1
    );
    drop((worker, handle));
    place.leave(app).await;
}
