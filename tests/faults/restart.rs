//! RabbitMQ is killed, or stopped, and comes back, with calls queued and calls running.

use std::time::Instant;

use futures_util::StreamExt;
use garenne::Handle;

use super::child::{Spawn, WorkerProcess};
use super::node::Node;
use super::place::{alone, figure};
use super::tasks::{echo, nap};
use crate::support::{unique, within};

const QUEUED: u64 = 1_000;
const RUNNING: u64 = 4;

#[test]
fn a_killed_broker_loses_nothing() {
    alone("a_killed_broker_loses_nothing", Node::start, |node| {
        restart(node, "kill")
    });
}

#[test]
fn a_stopped_broker_loses_nothing() {
    alone("a_stopped_broker_loses_nothing", Node::start, |node| {
        restart(node, "stop")
    });
}

async fn restart(node: Node, how: &str) {
    let place = node.place();
    let connected = WorkerProcess::start(&place, 8);
    let app = place.app().await;
    let later = unique("later");
    app.declare(&*later).await.expect("declared");
    let calls = (0..QUEUED).map(|n| echo::call(n).queue(&later));
    let mut queued = send(app.send_all(calls)).await;
    // Their attempts outlive the connection that brought them.
    let calls = (0..RUNNING).map(|n| nap::call(n, 3_000).queue(&place.queue));
    let running = send(app.send_all(calls)).await;
    place.line(RUNNING as usize).await;
    // The reply queue, too.
    node.remember_queues();

    node.run(how, &[]);
    node.run("start", &[]);
    let start = Instant::now();
    let call = echo::call(42).queue(&place.queue);
    let answer = within("sending", call.send(&app)).await.expect("sent");
    assert_eq!(within("a connected worker", answer).await, Ok(42));
    figure!(
        place,
        "{how}: a worker of before answers {:.1?} after the start",
        start.elapsed()
    );
    for (n, handle) in (0..).zip(running) {
        assert_eq!(within("what ran", handle).await, Ok(n));
    }
    let starts = place.lines().len();
    figure!(place, "{how}: {RUNNING} running calls, {starts} starts");

    let _late = Spawn::at(&place).queue(&later).slots(8).start();
    let drain = Instant::now();
    for (n, handle) in (0..).zip(queued.drain(..)) {
        assert_eq!(within("what was queued", handle).await, Ok(n));
    }
    figure!(
        place,
        "{how}: {QUEUED} queued calls answered in {:.1?}",
        drain.elapsed()
    );
    drop(connected);
    app.close().await;
}

async fn send(
    sending: impl StreamExt<Item = garenne::error::Result<Handle<u64>>>,
) -> Vec<Handle<u64>> {
    let sent = sending.map(|sent| sent.expect("sent")).collect();
    within("sending", sent).await
}
