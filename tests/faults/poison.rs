//! Calls that kill the worker process which takes them, and a thousand that only panic.

use std::future::Future;
use std::sync::Once;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use garenne::message::header;
use garenne::{Ack, FailureKind, Queue};

use super::child::{MAX_DELIVERIES, Spawn};
use super::place::{Place, figure, on};
use super::tasks::{Death, MEETING, PLANNED, dies, echo, lasts, meet, panics, worker};
use crate::support::within;

/// Room for a worker, but not for a task that wants it all; in KiB.
const MEMORY: &str = "-v 1200000";
const SLOTS: usize = 4;

on!(alone poison_is_put_aside: sqlite quorum classic);
on!(alone neighbours_of_poison_are_not_blamed: sqlite quorum classic);
on!(alone poison_that_is_acknowledged_early_works_once: sqlite quorum classic);
on!(alone a_thousand_panics_change_nothing: memory sqlite quorum);
on!(alone the_next_good_task_runs_at_once_after_a_thousand_panics: sqlite quorum);

/// Awaits `end`; worker processes that end, which they may before they could say that they are ready, are
/// replaced. How many did.
async fn supervised<T>(spawn: impl Fn() -> Spawn, end: impl Future<Output = T>) -> (T, usize) {
    let mut process = spawn().start();
    let mut ends = 0;
    tokio::pin!(end);
    loop {
        tokio::select! {
            biased;
            value = &mut end => return (value, ends),
            _ = process.wait() => {
                ends += 1;
                process = tokio::task::block_in_place(|| spawn().start());
            }
        }
    }
}

async fn poison_is_put_aside(place: Place) {
    let app = place.app().await;
    let deaths = [
        Death::Abort,
        Death::StackOverflow,
        Death::OutOfMemory,
        Death::Killed,
    ];
    for (round, how) in (1..).zip(deaths) {
        let poison = dies::call(how).queue(&place.queue);
        let poison = poison.send(&app).await.expect("sent");
        let neighbour = echo::call(7).queue(&place.queue);
        let neighbour = neighbour.send(&app).await.expect("sent");
        let both = async {
            let failure = within("the caller is told", poison).await;
            assert_eq!(within("the neighbour", neighbour).await, Ok(7));
            failure.expect_err("no result")
        };
        let spawn = || {
            Spawn::at(&place)
                .deliveries(MAX_DELIVERIES)
                .limit(MEMORY)
                .heeds_signals()
        };
        let (failure, ends) = supervised(spawn, both).await;
        assert_eq!(failure.kind, FailureKind::Rejected, "{failure}");
        let lines = place.lines();
        figure!(place, "{how:?} ended {ends} processes");
        assert_eq!(lines.len(), round * MAX_DELIVERIES as usize, "{lines:?}");
        assert_eq!(reason(&place, &app).await.as_deref(), Some("poison"));
    }
    place.leave(app).await;
}

/// Acknowledged before it ran, a call is out of the worker's hands when it ends the process.
async fn poison_that_is_acknowledged_early_works_once(place: Place) {
    const ROUNDS: usize = 5;
    let app = place.app().await;
    for round in 1..=ROUNDS {
        let poison = dies::call(Death::Abort).queue(&place.queue).ack(Ack::Early);
        drop(poison.send(&app).await.expect("sent"));
        let after = echo::call(7).queue(&place.queue);
        let after = after.send(&app).await.expect("sent");
        let after = async { within("the call behind it", after).await };
        let spawn = || Spawn::at(&place).heeds_signals();
        assert_eq!(supervised(spawn, after).await, (Ok(7), 1));
        assert_eq!(place.lines().len(), round);
    }
    place.leave(app).await;
}

/// A task that kills its process takes all others there with it: they run again, and only it is blamed.
async fn neighbours_of_poison_are_not_blamed(place: Place) {
    let app = place.app().await;
    let poison = dies::call(Death::Abort).queue(&place.queue);
    let poison = poison.send(&app).await.expect("sent");
    // None of them gets done before the poison works, and one gets no time for many attempts.
    let mut neighbours = Vec::new();
    for n in 0..2 * SLOTS as u64 {
        let call = lasts::call(n, 300).queue(&place.queue);
        neighbours.push(call.send(&app).await.expect("sent"));
    }
    let all = async {
        let failure = within("the caller is told", poison).await;
        for (n, neighbour) in (0..).zip(neighbours) {
            assert_eq!(within("a neighbour", neighbour).await, Ok(n));
        }
        failure.expect_err("no result")
    };
    let spawn = || {
        Spawn::at(&place)
            .deliveries(MAX_DELIVERIES)
            .slots(SLOTS)
            .heeds_signals()
    };
    let start = Instant::now();
    let (failure, ends) = supervised(spawn, all).await;
    let took = start.elapsed();
    figure!(
        place,
        "{ends} processes died, all neighbours done in {took:.1?}"
    );
    assert_eq!(failure.kind, FailureKind::Rejected, "{failure}");
    assert_eq!(place.lines().len(), MAX_DELIVERIES as usize);
    assert_eq!(reason(&place, &app).await.as_deref(), Some("poison"));
    let dead = Queue::new(&place.queue).dead_letter_name();
    assert_eq!(app.depth(&dead).await.expect("a queue").ready, 0);
    place.leave(app).await;
}

async fn the_next_good_task_runs_at_once_after_a_thousand_panics(place: Place) {
    quiet();
    let app = place.app().await;
    let worker = worker(&app, &*place.queue, 1, &place.journal()).spawn();
    let calls = (0..1_000).map(|_| panics::call().queue(&place.queue).ignore_result());
    let sent: Vec<_> = within("sending", app.send_all(calls).collect()).await;
    assert!(sent.iter().all(Result::is_ok), "all are sent");
    let last = panics::call().queue(&place.queue);
    let last = last.send(&app).await.expect("sent");
    within("the last panic", last).await.expect_err("a panic");
    // The best of some: other processes share the machine.
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let start = Instant::now();
        let call = echo::call(1).queue(&place.queue);
        let good = call.send(&app).await.expect("sent");
        assert_eq!(within("a good call", good).await, Ok(1));
        best = best.min(start.elapsed());
    }
    figure!(place, "the next good call is answered after {best:.1?}");
    assert!(best < Duration::from_millis(10), "{best:?}");
    worker.stop().await.expect("stopped");
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
