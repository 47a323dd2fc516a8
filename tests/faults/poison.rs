//! Calls that kill the worker process which takes them, and a thousand that only panic.

use std::sync::Once;

use garenne::message::header;
use garenne::{FailureKind, Queue};

use super::child::{MAX_DELIVERIES, WorkerProcess};
use super::place::{Place, figure, on};
use super::tasks::{MEETING, PLANNED, aborts, echo, meet, panics, worker};
use crate::support::within;

on!(poison_is_put_aside: sqlite quorum classic);
on!(a_thousand_panics_change_nothing: memory sqlite quorum);

async fn poison_is_put_aside(place: Place) {
    let app = place.app().await;
    let mut process = WorkerProcess::start(&place, 1);
    let poison = aborts::call().queue(&place.queue);
    let poison = poison.send(&app).await.expect("sent");
    let neighbour = echo::call(7).queue(&place.queue);
    let neighbour = neighbour.send(&app).await.expect("sent");
    let mut ends = 0;
    let supervise = async {
        loop {
            process.ended().await;
            ends += 1;
            process = WorkerProcess::start(&place, 1);
        }
    };
    let failure = tokio::select! {
        () = supervise => unreachable!(),
        outcome = within("the caller is told", poison) => outcome.expect_err("no result"),
    };
    assert_eq!(failure.kind, FailureKind::Rejected, "{failure}");
    assert_eq!(within("the neighbour", neighbour).await, Ok(7));
    let lines = place.lines();
    figure!(
        place,
        "ended {} processes, with {ends} restarts",
        lines.len()
    );
    assert_eq!(lines.len(), MAX_DELIVERIES as usize, "{lines:?}");
    assert_eq!(reason(&place, &app).await.as_deref(), Some("poison"));
    let later = echo::call(8).queue(&place.queue);
    let later = later.send(&app).await.expect("sent");
    assert_eq!(within("a later call", later).await, Ok(8));
    drop(process);
    place.leave(app).await;
}

/// Why the one dead letter died.
async fn reason(place: &Place, app: &garenne::App) -> Option<String> {
    let name = Queue::new(&place.queue).dead_letter_name();
    let queue = Queue::new(format!("{}{name}", app.prefix()));
    let mut consumer = app.broker().consume(&queue, 1).await.expect("a queue");
    let delivery = within("a dead letter", consumer.next()).await;
    let delivery = delivery.expect("open").expect("a delivery");
    let reason = delivery.message.text(header::REASON).map(str::to_owned);
    delivery.ack(None).await.expect("settled");
    reason
}

async fn a_thousand_panics_change_nothing(place: Place) {
    quiet();
    let app = place.app().await;
    let worker = worker(&app, &*place.queue, MEETING, &place.journal()).spawn();
    let calls: Vec<_> = (0..1_000)
        .map(|_| panics::call().queue(&place.queue))
        .collect();
    let mut panicked = 0;
    for sent in app.send_all(calls).await {
        let outcome = within("an outcome", sent.expect("sent")).await;
        let failure = outcome.expect_err("a panic");
        assert_eq!(failure.kind, FailureKind::Panicked, "{failure}");
        assert!(failure.message.contains(PLANNED), "{failure}");
        panicked += 1;
    }
    // They wait for each other: every slot must be there.
    let calls: Vec<_> = (0..MEETING)
        .map(|_| meet::call().queue(&place.queue))
        .collect();
    for sent in app.send_all(calls).await {
        let met = within("a good call", sent.expect("sent")).await;
        met.expect("all slots run");
    }
    figure!(place, "all {MEETING} slots run after {panicked} panics");
    worker.stop().await.expect("stopped");
    place.leave(app).await;
}

/// Keeps the panics that are wanted out of the output.
fn quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let payload = panic.payload();
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
            if text != Some(PLANNED) {
                print(panic);
            }
        }));
    });
}
