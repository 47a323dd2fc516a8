//! RabbitMQ has no memory or no disk left, and takes no messages: senders are told in time, what runs goes on.

use std::time::{Duration, Instant};

use garenne::{App, Error};

use super::node::Node;
use super::place::{Place, aside, figure};
use super::tasks::{echo, marks, worker};
use crate::support::{eventually, within};

const SEND_TIMEOUT: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(2);
/// How long the tasks run, into the alarm.
const WORK: u64 = 1_500;

#[test]
fn an_alarm_blocks_senders_but_not_acknowledgements() {
    let name = "an_alarm_blocks_senders_but_not_acknowledgements";
    aside(name, Node::start, |node| async move {
        let place = node.place();
        let memory = "set_vm_memory_high_watermark";
        alarm(
            &node,
            &place,
            &[memory, "0.00001"],
            &[memory, "absolute", "1GB"],
        )
        .await;
        let disk = "set_disk_free_limit";
        alarm(&node, &place, &[disk, "9000GB"], &[disk, "200MB"]).await;
    });
}

/// Messages of the queue, those in workers' hands included.
fn unsettled(node: &Node, queue: &str) -> usize {
    let list = node.run("ctl", &["list_queues", "--silent", "name", "messages"]);
    let mut lines = list.lines().filter_map(|line| line.split_once('\t'));
    let line = lines.find(|(name, _)| *name == queue);
    let count = line.and_then(|(_, count)| count.parse().ok());
    count.unwrap_or_else(|| panic!("no queue {queue}: {list}"))
}

async fn alarm(node: &Node, place: &Place, begin: &[&str], end: &[&str]) {
    let what = begin[0];
    let workers = place.app().await;
    let worker = worker(&workers, &*place.queue, 4, &place.journal()).spawn();
    assert!(worker.ready().await);
    let app = App::builder(&place.url).send_timeout(SEND_TIMEOUT);
    let app = app.connect().await.expect("the test's node");
    let before = place.lines().len();
    let mut awaited = Vec::new();
    for n in 0..2 {
        let call = marks::call(n, WORK).queue(&place.queue);
        awaited.push(call.send(&app).await.expect("sent"));
    }
    for n in 2..4 {
        let call = marks::call(n, 2 * WORK).queue(&place.queue).ignore_result();
        drop(call.send(&app).await.expect("sent"));
    }
    place.line(before + 4).await;
    node.run("ctl", begin);

    // RabbitMQ says so only to who has published; that message is on the wire already.
    let first = echo::call(3).queue(&place.queue).send(&app).await;
    let error = first.map(|_| ()).expect_err("blocked");
    assert!(
        matches!(error, Error::Unconfirmed { .. } | Error::Blocked { .. }),
        "{error:?}"
    );
    let start = Instant::now();
    let second = echo::call(4).queue(&place.queue).send(&app).await;
    let took = start.elapsed();
    let error = second.map(|_| ()).expect_err("blocked");
    assert!(matches!(error, Error::Blocked { .. }), "{error:?}");
    assert!(took < LIMIT, "{took:?}");
    figure!(place, "{what}: told after {took:.1?}: {error}");

    // What needs no reply leaves the queue during the alarm; what needs one waits with it.
    let queue = format!("{}{}", app.prefix(), place.queue);
    eventually("an acknowledgement", || async {
        unsettled(node, &queue) <= 2
    })
    .await;
    node.run("ctl", end);
    for (n, handle) in (0..).zip(awaited) {
        assert_eq!(within("a result", handle).await, Ok(n));
    }
    eventually("an empty queue", || async { unsettled(node, &queue) == 0 }).await;
    assert_eq!(place.lines().len(), before + 4, "each ran once");
    worker.stop().await.expect("stopped");
    workers.close().await;
    app.close().await;
}
