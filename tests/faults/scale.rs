//! A hundred thousand calls through two worker processes, and a million from one iterator.

use std::collections::VecDeque;
use std::time::Instant;

use super::child::{WorkerProcess, memory};
use super::place::{Place, figure, on};
use super::tasks::echo;
use crate::support::within;

const CALLS: u64 = 100_000;
/// How many handles the client keeps.
const AWAITED: usize = 2_000;
const WORKER_GROWTH: i64 = 20 * 1024;
const SENDER_GROWTH: i64 = 30 * 1024;
const MILLION: u64 = 1_000_000;

on!(alone a_hundred_thousand_calls_in_flat_memory: sqlite quorum);
on!(by_itself an_endless_iterator_takes_bounded_memory: sqlite);

async fn a_hundred_thousand_calls_in_flat_memory(place: Place) {
    let workers = [
        WorkerProcess::start(&place, 16),
        WorkerProcess::start(&place, 16),
    ];
    let app = place.app().await;
    let start = Instant::now();
    let mut sending = app.send_all((0..CALLS).map(|n| echo::call(n).queue(&place.queue)));
    let mut awaited = VecDeque::new();
    let (mut answered, mut early) = (0, [0, 0]);
    loop {
        let sent = within("sending", sending.next()).await;
        let ended = sent.is_none();
        awaited.extend(sent.map(|sent| sent.expect("sent")));
        while awaited.len() >= AWAITED || (ended && !awaited.is_empty()) {
            let handle = awaited.pop_front().expect("one at least");
            assert_eq!(within("a result", handle).await, Ok(answered));
            answered += 1;
            if answered == CALLS / 5 {
                early = workers.each_ref().map(WorkerProcess::memory);
            }
        }
        if ended {
            break;
        }
    }
    assert_eq!(answered, CALLS);
    let rate = CALLS as f64 / start.elapsed().as_secs_f64();
    figure!(place, "{CALLS} calls and results: {rate:.0} calls/s");
    for (worker, early) in workers.iter().zip(early) {
        let late = worker.memory();
        figure!(place, "a worker's memory: {early} KiB, later {late} KiB");
        assert!(late - early < WORKER_GROWTH, "{early} KiB, later {late}");
    }
    drop(workers);
    place.leave(app).await;
}

async fn an_endless_iterator_takes_bounded_memory(place: Place) {
    let app = place.app().await;
    let start = Instant::now();
    let echoes = (0..MILLION).map(|n| echo::call(n).queue(&place.queue).ignore_result());
    let mut sending = app.send_all(echoes);
    let (mut sent, mut early) = (0, 0);
    while let Some(outcome) = within("sending", sending.next()).await {
        drop(outcome.expect("sent"));
        sent += 1;
        if sent == MILLION / 10 {
            early = memory(std::process::id());
        }
    }
    assert_eq!(sent, MILLION);
    let rate = MILLION as f64 / start.elapsed().as_secs_f64();
    let late = memory(std::process::id());
    figure!(
        place,
        "{MILLION} calls sent: {rate:.0} calls/s, memory {early} KiB, later {late} KiB"
    );
    assert!(late - early < SENDER_GROWTH, "{early} KiB, later {late}");
    let depth = app.depth(&place.queue).await.expect("a queue");
    assert_eq!(depth.ready, MILLION, "each of them is stored");
    app.close().await;
}
