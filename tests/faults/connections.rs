//! RabbitMQ closes all connections again and again while calls flow.

use std::collections::VecDeque;
use std::time::Instant;

use super::child::WorkerProcess;
use super::node::Node;
use super::place::{alone, figure};
use super::tasks::nap;
use crate::support::within;

const CALLS: u64 = 2_000;
const CUTS: u64 = 5;

#[test]
fn closed_connections_lose_nothing() {
    alone("closed_connections_lose_nothing", Node::start, cut);
}

async fn cut(node: Node) {
    let place = node.place();
    let _workers = [
        WorkerProcess::start(&place, 8),
        WorkerProcess::start(&place, 8),
    ];
    let app = place.app().await;
    let start = Instant::now();
    let mut sending = app.send_all((0..CALLS).map(|n| nap::call(n, 20).queue(&place.queue)));
    let (mut awaited, mut sent) = (VecDeque::new(), 0);
    let mut cutting: Vec<std::thread::JoinHandle<()>> = Vec::new();
    let node = std::sync::Arc::new(node);
    while let Some(outcome) = within("sending", sending.next()).await {
        awaited.push_back(outcome.expect("sent"));
        sent += 1;
        if awaited.len() < 300 && sent < CALLS {
            continue;
        }
        let handle = awaited.pop_front().expect("one at least");
        let n = sent - 1 - awaited.len() as u64;
        assert_eq!(within("a result", handle).await, Ok(n));
        if n % (CALLS / (CUTS + 2)) == 99 && (cutting.len() as u64) < CUTS {
            let node = node.clone();
            cutting.push(std::thread::spawn(move || {
                node.run("ctl", &["close_all_connections", "a test"]);
            }));
        }
    }
    for (n, handle) in (CALLS - awaited.len() as u64..).zip(awaited) {
        assert_eq!(within("a result", handle).await, Ok(n));
    }
    let took = start.elapsed();
    let cuts = cutting.len();
    for thread in cutting {
        thread.join().expect("the connections are closed");
    }
    let mut ran: Vec<u64> = place
        .lines()
        .iter()
        .map(|n| n.parse().expect("a number"))
        .collect();
    let runs = ran.len() as u64;
    ran.sort_unstable();
    ran.dedup();
    figure!(
        place,
        "{CALLS} calls right in {took:.1?}, all connections closed {cuts} times, {} calls run twice",
        runs - CALLS
    );
    assert_eq!(cuts as u64, CUTS);
    assert!(ran.into_iter().eq(0..CALLS), "each call ran");
    app.close().await;
}
