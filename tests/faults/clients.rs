//! Callers that are gone when the reply comes, and backlogs that nobody drains.

use std::time::{Duration, Instant};

use super::child::{WorkerProcess, memory};
use super::place::{Place, figure, on};
use super::tasks::{echo, marks, worker};
use crate::support::{eventually, within};

/// Calls that wait for the worker.
const BACKLOG: (u64, u64) = (6_000, 1_000_000);
/// Calls that nobody awaits.
const FORGOTTEN: (u64, u64) = (10_000, 100_000);
/// In KiB.
const GROWTH: i64 = 10 * 1024;

on!(alone a_caller_that_is_gone_harms_nobody: sqlite quorum);
on!(alone a_backlog_costs_its_worker_no_memory: sqlite quorum);
on!(by_itself forgotten_calls_cost_their_sender_no_memory: quorum);

fn count((short, long): (u64, u64)) -> u64 {
    if super::place::long() { long } else { short }
}

async fn a_caller_that_is_gone_harms_nobody(place: Place) {
    let gone = place.app().await;
    let queue = gone.broker().clone();
    let call = marks::call(1, 0).queue(&place.queue);
    let handle = call.send(&gone).await.expect("sent");
    drop(queue);
    // Its reply queue is deleted with it.
    gone.close().await;
    drop(handle);
    let app = place.app().await;
    let worker = worker(&app, &*place.queue, 1, &place.journal()).spawn();
    place.line(1).await;
    let later = echo::call(2).queue(&place.queue);
    let start = Instant::now();
    let later = later.send(&app).await.expect("sent");
    assert_eq!(within("a later call", later).await, Ok(2));
    // It is neither run again nor a dead letter.
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "the reply held it up"
    );
    assert_eq!(place.lines(), ["1 1"]);
    worker.stop().await.expect("stopped");
    for name in [
        place.queue.clone(),
        garenne::Queue::new(&place.queue).dead_letter_name(),
    ] {
        eventually("an empty queue", || async {
            app.depth(&name).await.expect("a queue").ready == 0
        })
        .await;
    }
    place.leave(app).await;
}

async fn a_backlog_costs_its_worker_no_memory(place: Place) {
    let app = place.app().await;
    let calls = count(BACKLOG);
    let backlog = (0..calls).map(|n| echo::call(n).queue(&place.queue).ignore_result());
    let mut sending = app.send_all(backlog);
    while let Some(sent) = within("sending", sending.next()).await {
        drop(sent.expect("sent"));
    }
    let worker = WorkerProcess::start(&place, 4);
    let left = || async { app.depth(&place.queue).await.expect("a queue").ready };
    let mut sizes = Vec::new();
    for tenth in (0..9).rev() {
        while left().await > calls / 10 * tenth {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        sizes.push(worker.memory());
    }
    figure!(
        place,
        "a worker's memory while {calls} calls drain, in KiB: {sizes:?}"
    );
    let (first, most) = (sizes[0], sizes.iter().max().expect("nine"));
    assert!(most - first < GROWTH, "{sizes:?}");
    drop(worker);
    place.leave(app).await;
}

async fn forgotten_calls_cost_their_sender_no_memory(place: Place) {
    let app = place.app().await;
    let calls = count(FORGOTTEN);
    let start = Instant::now();
    let mut sizes = Vec::new();
    for n in 0..calls {
        let call = echo::call(n).queue(&place.queue);
        // One at a time, as a web server would, in sixteen requests at once.
        if n % 16 == 0 {
            drop(call.send(&app).await.expect("sent"));
        } else {
            let app = app.clone();
            tokio::spawn(async move { drop(call.send(&app).await.expect("sent")) });
        }
        if n % (calls / 10) == calls / 10 - 1 {
            sizes.push(memory(std::process::id()));
        }
    }
    eventually("the last ones", || async {
        app.depth(&place.queue).await.expect("a queue").ready == calls
    })
    .await;
    let rate = calls as f64 / start.elapsed().as_secs_f64();
    figure!(
        place,
        "{calls} calls sent and forgotten, {rate:.0} calls/s; memory in KiB: {sizes:?}"
    );
    assert_eq!(app.awaited(), 0, "nobody waits");
    let most = sizes.iter().max().expect("ten");
    assert!(most - sizes[1] < GROWTH, "{sizes:?}");
    place.leave(app).await;
}
