//! RabbitMQ restarts while calls are sent, and a crowd of workers that lose it at the same moment.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use garenne::{App, Error, FailureKind};

use super::child::WorkerProcess;
use super::node::Node;
use super::place::{alone, figure};
use super::tasks::{arrives, worker};
use crate::support::within;

/// Tasks that send one call after the other.
const SENDERS: u64 = 16;
/// How long calls are sent once the node is back.
const AFTER: Duration = Duration::from_secs(1);
const SEND_TIMEOUT: Duration = Duration::from_secs(20);

#[test]
fn a_restart_under_load_loses_no_call_and_hides_no_outcome() {
    let name = "a_restart_under_load_loses_no_call_and_hides_no_outcome";
    alone(name, Node::start, under_load);
}

async fn under_load(node: Node) {
    let place = node.place();
    let builder = App::builder(&place.url).send_timeout(SEND_TIMEOUT);
    let app = builder.connect().await.expect("the test's node");
    app.declare(&*place.queue).await.expect("declared");
    node.remember_queues();
    let _worker = WorkerProcess::start(&place, 8);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let (app, queue, stopped) = (app.clone(), place.queue.clone(), stopped.clone());
            tokio::spawn(async move {
                let (mut outcomes, mut longest) = (Vec::new(), Duration::ZERO);
                for n in (sender..).step_by(SENDERS as usize) {
                    if *stopped.borrow() {
                        break;
                    }
                    let start = Instant::now();
                    let call = arrives::call(n).queue(&queue).ignore_result();
                    let sent = call.send(&app).await.map(drop);
                    longest = longest.max(start.elapsed());
                    outcomes.push((n, sent));
                }
                (outcomes, longest)
            })
        })
        .collect();
    place.line(300).await;
    tokio::task::block_in_place(|| {
        node.run("kill", &[]);
        node.run("start", &[]);
    });
    tokio::time::sleep(AFTER).await;
    stop.send_replace(true);
    let (mut sent, mut unknown, mut refused, mut longest) = (Vec::new(), 0, 0, Duration::ZERO);
    for sender in senders {
        let (outcomes, slowest) = within("a sender", sender).await.expect("no panic");
        longest = longest.max(slowest);
        for (n, outcome) in outcomes {
            match outcome {
                Ok(()) => sent.push(n),
                Err(Error::Unconfirmed { .. }) => unknown += 1,
                Err(error) => {
                    assert!(error.is_transient(), "{error}");
                    refused += 1;
                }
            }
        }
    }
    // What was confirmed runs; a call that was sent again, because its confirm was lost, may run twice.
    let ran = async {
        loop {
            let mut ran: HashMap<u64, u32> = HashMap::new();
            for line in place.lines() {
                let n = line.split(' ').next().expect("a number");
                *ran.entry(n.parse().expect("a number")).or_default() += 1;
            }
            if sent.iter().all(|n| ran.contains_key(n)) {
                return ran;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let ran = within("all that was confirmed", ran).await;
    let twice = ran.values().filter(|runs| **runs > 1).count();
    figure!(
        place,
        "{} calls confirmed, {unknown} unknown, {refused} not sent, 0 lost, {twice} ran twice; \
         the longest send took {longest:.1?}",
        sent.len()
    );
    assert!(
        longest < SEND_TIMEOUT + Duration::from_secs(2),
        "{longest:?}"
    );
    app.close().await;
}

/// Workers, with two connections each.
const CROWD: usize = 30;
/// All of them are back by then.
const BACK: Duration = Duration::from_secs(10);

#[test]
fn a_crowd_of_workers_is_back_after_a_restart() {
    alone(
        "a_crowd_of_workers_is_back_after_a_restart",
        Node::start,
        crowd,
    );
}

async fn crowd(node: Node) {
    let place = Arc::new(node.place());
    let mut workers = Vec::new();
    for _ in 0..CROWD {
        let app = place.app().await;
        workers.push(worker(&app, &*place.queue, 1, &place.journal()).spawn());
    }
    for worker in &workers {
        assert!(worker.ready().await);
    }
    let app = place.app().await;
    node.remember_queues();
    node.run("kill", &[]);
    node.run("start", &[]);
    let start = Instant::now();
    let call = arrives::call(1).queue(&place.queue);
    let first = within("sending", call.send(&app)).await.expect("sent");
    assert_eq!(within("a result", first).await, Ok(1));
    let first = start.elapsed();
    let all = async {
        while app
            .depth(&place.queue)
            .await
            .map_or(0, |depth| depth.consumers)
            < CROWD as u64
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("all consumers", all).await;
    let all = start.elapsed();
    figure!(
        place,
        "the first call is answered after {first:.1?}, {CROWD} workers are back after {all:.1?}"
    );
    assert!(first < Duration::from_secs(2), "{first:?}");
    assert!(all < BACK, "{all:?}");
    let stopping = workers.into_iter().map(|worker| worker.stop());
    for stopped in futures_util::future::join_all(stopping).await {
        stopped.expect("stopped");
    }
    app.close().await;
}

#[test]
fn a_worker_hears_of_cancellations_when_their_memory_was_made_anew() {
    let name = "a_worker_hears_of_cancellations_when_their_memory_was_made_anew";
    alone(name, Node::start, new_memory);
}

/// The new stream's offsets begin anew, below what the worker had read of the old one.
async fn new_memory(node: Node) {
    let place = node.place();
    let app = place.app().await;
    let _worker = WorkerProcess::start(&place, 8);
    let cancel = async |n: u64, due: Duration| {
        let call = arrives::call(n).queue(&place.queue).countdown(due);
        let call = call.send(&app).await.expect("sent");
        call.cancel().await.expect("cancelled");
        let result = within("a result", call).await;
        let kind = result.as_ref().map_err(|failure| failure.kind);
        assert_eq!(kind, Err(FailureKind::Cancelled), "call {n}");
    };
    let soon = Duration::from_millis(300);
    join_all((0..5).map(|n| cancel(n, soon))).await;
    node.run("ctl", &["delete_queue", "garenne.cancelled"]);
    // The worker looks for the new one now and then.
    join_all((5..8).map(|n| cancel(n, 20 * soon))).await;
    app.close().await;
}

/// Calls are cancelled again by then: what RabbitMQ has lost for good is given up after 15 s.
const CANCELLED_AGAIN: Duration = Duration::from_secs(60);

#[test]
fn cancellation_survives_the_loss_of_what_remembers_it() {
    alone(
        "cancellation_survives_the_loss_of_what_remembers_it",
        Node::start,
        lost_memory,
    );
}

/// A node is killed before RabbitMQ has written down that there is a stream of cancelled calls, and keeps its name.
/// 4.3 ends the connection of who reads it; there it is made anew. Before, RabbitMQ says for good that its node is
/// down and lets nobody delete it: calls go on, and who cancels one is told.
async fn lost_memory(node: Node) {
    let is_made_anew = node.version() >= (4, 3);
    let place = node.place();
    let app = place.app().await;
    app.declare(&*place.queue).await.expect("declared");
    node.remember_queues();
    let _worker = WorkerProcess::start(&place, 8);
    let call = || arrives::call(1).queue(&place.queue);
    let first = within("sending", call().send(&app)).await.expect("sent");
    assert_eq!(within("a result", first).await, Ok(1));
    node.run("kill", &[]);
    node.run("start", &[]);
    let start = Instant::now();
    loop {
        let cancelled = call().countdown(Duration::from_millis(500));
        let cancelled = cancelled.send(&app).await.expect("sent");
        let asked = cancelled.cancel().await;
        let result = within("a result", cancelled).await;
        match (&asked, result) {
            (Ok(()), Err(failure)) if failure.kind == FailureKind::Cancelled => {
                figure!(
                    place,
                    "calls are cancelled again after {:.1?}",
                    start.elapsed()
                );
                break;
            }
            (Err(error), result) if !is_made_anew => {
                assert!(error.to_string().contains("garenne.cancelled"), "{error}");
                assert_eq!(result, Ok(1), "it ran");
                break;
            }
            _ => {}
        }
        assert!(start.elapsed() < CANCELLED_AGAIN, "{asked:?}");
    }
    app.close().await;
}
