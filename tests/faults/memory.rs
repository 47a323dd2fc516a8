//! What stays in memory after many tasks, many reconnects and many messages: nothing.
//! `GARENNE_TEST_MESSAGES` says how many messages.

use std::collections::VecDeque;
use std::time::Instant;

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};

use super::child::{Spawn, memory};
use super::place::{Place, alone, by_itself, figure, long};
use super::proxy::Proxy;
use super::tasks::echo;
use crate::support::within;

/// In KiB.
const WORKER_GROWTH: i64 = 10 * 1024;
const SENDER_GROWTH: i64 = 5 * 1024;
const AWAITED: usize = 500;
/// Messages after which memory is looked at for the first time.
const EARLY: u64 = 10_000;

#[test]
fn tasks_and_reconnects_leave_nothing_behind() {
    let name = "tasks_and_reconnects_leave_nothing_behind";
    alone(name, Place::quorum, reconnects);
}

async fn reconnects(place: Place) {
    let (calls, early, cuts) = match long() {
        true => (1_000_000, 10_000, 50),
        false => (6_000, 2_000, 10),
    };
    let proxy = Proxy::start(&place.server()).await;
    let url = place.through(proxy.address);
    let worker = Spawn::at(&place).url(url).slots(16).start();
    let app = place.app().await;
    let start = Instant::now();
    let mut sending = app.send_all((0..calls).map(|n| echo::call(n).queue(&place.queue)));
    let mut awaited = VecDeque::new();
    let (mut answered, mut before, mut cut) = (0, 0, 0);
    while answered < calls {
        if awaited.len() < AWAITED
            && let Some(sent) = within("sending", sending.next()).await
        {
            awaited.push_back(sent.expect("sent"));
            continue;
        }
        let handle = awaited.pop_front().expect("one at least");
        assert_eq!(within("a result", handle).await, Ok(answered));
        answered += 1;
        // The buffers of a first connection are fresh memory, which counts only once it is written: those of
        // the fourth are not.
        if answered < early && answered % (early / 4) == 0 {
            proxy.cut();
        }
        if answered == early {
            before = worker.memory();
        }
        if answered > early && (answered - early) % ((calls - early) / cuts) == 0 {
            proxy.cut();
            cut += 1;
        }
    }
    let after = worker.memory();
    figure!(
        place,
        "{calls} tasks and {cut} reconnects in {:.0?}: a worker's memory is {after} KiB, after {early} tasks it was {before} KiB",
        start.elapsed()
    );
    assert_eq!(cut, cuts);
    assert!(
        after - before < WORKER_GROWTH,
        "{before} KiB, later {after}"
    );
    drop(worker);
    place.leave(app).await;
}

#[test]
fn confirmed_messages_leave_nothing_behind() {
    let name = "confirmed_messages_leave_nothing_behind";
    by_itself(name, Place::quorum, confirmed);
}

async fn confirmed(place: Place) {
    let asked = std::env::var("GARENNE_TEST_MESSAGES").ok();
    let asked = asked.map(|asked| asked.parse::<u64>().expect("a number"));
    let calls = asked.unwrap_or(if long() { 10_000_000 } else { 20_000 });
    let app = place.app().await;
    // A queue that keeps the newest only: the broker's memory is not what this is about.
    let connection = Connection::connect(&place.url, ConnectionProperties::default());
    let connection = connection.await.expect("the test's broker");
    let channel = connection.create_channel().await.expect("a channel");
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1_000));
    let name = format!("{}{}", app.prefix(), place.queue);
    let durable = QueueDeclareOptions::durable();
    let declared = channel.queue_declare(name.into(), durable, arguments).await;
    declared.expect("declared");
    let start = Instant::now();
    let mut sending =
        app.send_all((0..calls).map(|n| echo::call(n).queue(&place.queue).ignore_result()));
    let (mut sent, mut sizes) = (0, Vec::new());
    while let Some(outcome) = within("sending", sending.next()).await {
        drop(outcome.expect("confirmed"));
        sent += 1;
        if sent == EARLY || sent % (calls / 10) == 0 {
            sizes.push(memory(std::process::id()));
        }
    }
    let rate = calls as f64 / start.elapsed().as_secs_f64();
    figure!(
        place,
        "{calls} messages confirmed, {rate:.0} a second; memory in KiB: {sizes:?}"
    );
    let most = sizes.iter().max().expect("ten");
    assert!(most - sizes[0] < SENDER_GROWTH, "{sizes:?}");
    place.leave(app).await;
}
