//! A broker that goes away, and one that takes no messages for a while.

use std::time::{Duration, Instant};

use garenne::{App, Error, SECOND};

use super::node::Node;
use super::place::{Place, aside, figure};
use super::tasks::{echo, worker};
use crate::support::within;

const SEND_TIMEOUT: Duration = Duration::from_secs(2);
/// What a send may take: its timeout, and some for a busy machine.
const LIMIT: Duration = Duration::from_millis(3_500);

#[test]
fn sending_to_a_broker_that_is_away_fails_in_time() {
    aside(
        "sending_to_a_broker_that_is_away_fails_in_time",
        Node::start,
        away,
    );
}

#[test]
fn sending_to_a_blocked_broker_fails_in_time() {
    aside(
        "sending_to_a_blocked_broker_fails_in_time",
        Node::start,
        blocked,
    );
}

async fn connect(place: &Place) -> App {
    let builder = App::builder(&place.url).send_timeout(SEND_TIMEOUT);
    builder.connect().await.expect("the test's node")
}

/// Sends a call; how it ended and how long that took.
async fn send(app: &App, place: &Place) -> (Result<u64, Error>, Duration) {
    let start = Instant::now();
    let sent = echo::call(1).queue(&place.queue).send(app).await;
    let took = start.elapsed();
    assert!(took < LIMIT, "{took:?}");
    match sent {
        Ok(handle) => (Ok(within("a result", handle).await.expect("right")), took),
        Err(error) => (Err(error), took),
    }
}

/// Sends until it succeeds; how long that took.
async fn send_again(app: &App, place: &Place) -> Duration {
    let start = Instant::now();
    while let (Err(error), _) = send(app, place).await {
        assert!(start.elapsed() < 15 * SECOND, "{error}");
    }
    start.elapsed()
}

async fn away(node: Node) {
    let place = node.place();
    let app = connect(&place).await;
    let worker = worker(&app, &*place.queue, 2, &place.journal()).spawn();
    send(&app, &place).await.0.expect("all is well");
    node.remember_queues();
    for how in ["stop", "kill"] {
        node.run(how, &[]);
        for _ in 0..2 {
            let (outcome, took) = send(&app, &place).await;
            let error = outcome.expect_err("no broker");
            figure!(place, "{how}: after {took:.1?}: {error}");
            assert!(error.is_transient(), "{error}");
        }
        node.run("start", &[]);
        let back = send_again(&app, &place).await;
        figure!(
            place,
            "{how}: a call is answered {back:.1?} after the start"
        );
    }
    worker.stop().await.expect("stopped");
    app.close().await;
}

async fn blocked(node: Node) {
    let place = node.place();
    let app = connect(&place).await;
    let worker = worker(&app, &*place.queue, 2, &place.journal()).spawn();
    send(&app, &place).await.0.expect("all is well");
    let watermark = "set_vm_memory_high_watermark";
    node.run("ctl", &[watermark, "0.00001"]);
    // RabbitMQ says that it blocks only to who has published: that message is on the wire already, and
    // is stored when the block ends.
    let (outcome, took) = send(&app, &place).await;
    let error = outcome.expect_err("blocked");
    figure!(place, "at first, after {took:.1?}: {error}");
    assert!(
        matches!(error, Error::Unconfirmed { .. } | Error::Blocked { .. }),
        "{error:?}"
    );
    for _ in 0..2 {
        let (outcome, took) = send(&app, &place).await;
        let error = outcome.expect_err("blocked");
        figure!(place, "later, after {took:.1?}: {error}");
        assert!(matches!(error, Error::Blocked { .. }), "{error:?}");
    }
    node.run("ctl", &[watermark, "absolute", "1GB"]);
    let back = send_again(&app, &place).await;
    figure!(place, "a call is answered {back:.1?} after the end of it");
    worker.stop().await.expect("stopped");
    app.close().await;
}
