//! What operators do to a running RabbitMQ: they delete queues and exchanges, take permissions away and
//! give them back.

use std::time::{Duration, Instant};

use garenne::{App, Error};

use super::child::{Spawn, WorkerProcess};
use super::node::Node;
use super::place::{Place, alone, figure};
use super::tasks::{echo, worker};
use crate::support::within;

const LIMIT: Duration = Duration::from_secs(1);
/// How long the worker is watched for what it costs when it has nothing to do.
const IDLE: Duration = Duration::from_secs(2);
/// Of a processor, in that time.
const COST: Duration = Duration::from_millis(200);

#[test]
fn a_deleted_queue_is_back_at_once_and_costs_nothing() {
    let name = "a_deleted_queue_is_back_at_once_and_costs_nothing";
    alone(name, Place::quorum, deleted);
}

async fn deleted(place: Place) {
    let worker = WorkerProcess::start(&place, 2);
    let app = place.app().await;
    call(&app, &place, 1).await;
    for n in 2..5 {
        app.delete(&place.queue).await.expect("deleted");
        let start = Instant::now();
        // Nobody sends, so that nobody else declares it.
        while app
            .depth(&place.queue)
            .await
            .map_or(0, |depth| depth.consumers)
            == 0
        {
            assert!(start.elapsed() < LIMIT, "the worker does not consume again");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        figure!(place, "consumed from again after {:.0?}", start.elapsed());
        call(&app, &place, n).await;
    }
    let before = worker.cpu();
    tokio::time::sleep(IDLE).await;
    let cost = worker.cpu() - before;
    figure!(
        place,
        "the idle worker used {cost:.0?} of a processor in {IDLE:?}"
    );
    assert!(cost < COST, "{cost:?}");
    place.leave(app).await;
}

/// A call gets its result.
async fn call(app: &App, place: &Place, n: u64) {
    let call = echo::call(n).queue(&place.queue);
    let handle = within("sending", call.send(app)).await.expect("sent");
    assert_eq!(within("a result", handle).await, Ok(n));
}

#[test]
fn a_deleted_exchange_is_declared_again() {
    alone(
        "a_deleted_exchange_is_declared_again",
        Node::start,
        exchange,
    );
}

async fn exchange(node: Node) {
    let place = node.place();
    let app = place.app().await;
    let worker = worker(&app, &*place.queue, 2, &place.journal()).spawn();
    call(&app, &place, 1).await;
    let delete = "[rabbit_exchange:delete(rabbit_misc:r(<<\"/\">>, exchange, <<\"garenne\">>), false, <<\"test\">>)].";
    let said = node.run("ctl", &["eval", delete]);
    assert!(said.contains("ok"), "{said}");
    let start = Instant::now();
    call(&app, &place, 2).await;
    figure!(
        place,
        "the next call is answered after {:.0?}",
        start.elapsed()
    );
    // A call that waits needs the exchanges of the delays, too.
    let later = echo::call(3).queue(&place.queue);
    let later = later.countdown(Duration::from_millis(30)).send(&app).await;
    assert_eq!(within("a result", later.expect("sent")).await, Ok(3));
    worker.stop().await.expect("stopped");
    app.close().await;
}

#[test]
fn lost_permissions_are_told_and_their_return_is_noticed() {
    let name = "lost_permissions_are_told_and_their_return_is_noticed";
    alone(name, Node::start, permissions);
}

async fn permissions(node: Node) {
    let place = node.place();
    let ctl = |arguments: &[&str]| node.run("ctl", arguments);
    ctl(&["add_user", "ann", "secret"]);
    let allow = |what: &str| ctl(&["set_permissions", "ann", what, what, what]);
    allow(".*");
    let url = place.url.replace("guest:guest", "ann:secret");
    let worker = Spawn::at(&place).url(url.clone()).slots(2).start();
    let app = App::builder(url).send_timeout(5 * garenne::SECOND);
    let app = app.connect().await.expect("the test's node");
    call(&app, &place, 1).await;
    for n in [2, 3] {
        allow("^$");
        // A channel remembers what it was allowed, some servers' for as long as it lives.
        ctl(&["close_all_connections", "a test"]);
        let start = Instant::now();
        let refused = async {
            loop {
                let call = echo::call(n).queue(&place.queue).ignore_result();
                match call.send(&app).await {
                    Ok(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    Err(error) => return error,
                }
            }
        };
        let error = within("the refusal", refused).await;
        figure!(place, "told after {:.1?}: {error}", start.elapsed());
        assert!(
            matches!(&error, Error::Refused { reason, .. } if reason.contains("ACCESS_REFUSED")),
            "{error:?}"
        );
        assert!(!error.to_string().contains("secret"), "{error}");
        let before = worker.cpu();
        tokio::time::sleep(IDLE).await;
        let cost = worker.cpu() - before;
        figure!(
            place,
            "meanwhile the worker used {cost:.0?} of a processor in {IDLE:?}"
        );
        assert!(cost < 2 * COST, "{cost:?}");
        allow(".*");
        let start = Instant::now();
        call(&app, &place, n).await;
        figure!(
            place,
            "answered {:.1?} after the permissions are back",
            start.elapsed()
        );
    }
    drop(worker);
    app.close().await;
}
