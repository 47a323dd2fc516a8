//! RabbitMQ closes all connections again and again while calls flow.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::child::{Spawn, WorkerProcess};
use super::node::Node;
use super::place::{Place, alone, figure, on};
use super::proxy::Proxy;
use super::tasks::{arrives, echo, marks, nap, now};
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

/// From the end of all connections to the next task; a tenth of it on an idle machine.
const LONGEST: Duration = Duration::from_secs(2);
const HOUR: u64 = 3_600_000;

on!(alone a_worker_takes_no_more_than_it_can_run_after_a_cut: quorum classic);

async fn a_worker_takes_no_more_than_it_can_run_after_a_cut(place: Place) {
    let proxy = Proxy::start(&place.server()).await;
    let url = place.through(proxy.address);
    let worker = Spawn::at(&place).url(url).start();
    let app = place.app().await;
    let mut gaps = Vec::new();
    for n in 0..5 {
        let cut = now();
        proxy.cut();
        let call = arrives::call(n).queue(&place.queue);
        let handle = call.send(&app).await.expect("sent");
        assert_eq!(within("a result", handle).await, Ok(n));
        let line = place.lines().pop().expect("a line");
        let (_, at) = line.split_once(' ').expect("number and time");
        let at: u128 = at.parse().expect("a time");
        gaps.push(Duration::from_nanos((at - cut) as u64));
    }
    gaps.sort_unstable();
    figure!(
        place,
        "the next task runs {:.0?} after a cut, at most {:.0?}",
        gaps[2],
        gaps[4]
    );
    assert!(gaps[4] < LONGEST, "{gaps:?}");
    // One slot, one long task: all others are for whoever comes.
    let long = marks::call(1, HOUR).queue(&place.queue);
    let long = long.send(&app).await.expect("sent");
    place.line(6).await;
    let mut others = Vec::new();
    for n in 0..20 {
        let call = echo::call(n).queue(&place.queue);
        others.push(call.send(&app).await.expect("sent"));
    }
    let other = WorkerProcess::start(&place, 1);
    for (n, handle) in (0..).zip(others) {
        assert_eq!(within("what it did not hold", handle).await, Ok(n));
    }
    drop((worker, other, long));
    place.leave(app).await;
}
