//! A worker that gets no files, and tasks that never end.

use std::time::Duration;

use garenne::{App, FailureKind};

use super::child::Spawn;
use super::place::{Place, alone, figure, on};
use super::proxy::Proxy;
use super::tasks::{echo, opens, spins, worker};
use crate::support::within;

/// How long all files are taken.
const TAKEN: u64 = 3_000;
/// Of a processor, in that time.
const COST: Duration = Duration::from_millis(600);

on!(alone a_task_that_never_ends_gives_its_slot_back: memory sqlite quorum);

async fn a_task_that_never_ends_gives_its_slot_back(place: Place) {
    let app = place.app().await;
    let worker = worker(&app, &*place.queue, 1, &place.journal()).spawn();
    let endless = spins::call(1, 10_000).queue(&place.queue);
    let endless = endless.timeout(Duration::from_millis(200));
    let endless = endless.send(&app).await.expect("sent");
    let next = echo::call(2).queue(&place.queue);
    let next = next.send(&app).await.expect("sent");
    let failure = within("the time limit", endless)
        .await
        .expect_err("no result");
    assert_eq!(failure.kind, FailureKind::TimedOut, "{failure}");
    assert_eq!(within("the next call", next).await, Ok(2));
    worker.stop().await.expect("stopped");
    place.leave(app).await;
}

#[test]
fn a_worker_without_files_waits_for_better_times() {
    let name = "a_worker_without_files_waits_for_better_times";
    alone(name, Place::quorum, no_files);
}

async fn no_files(place: Place) {
    let proxy = Proxy::start(&place.server()).await;
    let url = place.through(proxy.address);
    let worker = Spawn::at(&place).url(url).slots(2).limit("-n 64").start();
    let app: App = place.app().await;
    let greedy = opens::call(TAKEN).queue(&place.queue);
    let greedy = greedy.send(&app).await.expect("sent");
    place.line(1).await;
    let before = worker.cpu();
    // The connections are gone, and there is no file for another one.
    proxy.reset();
    let next = echo::call(2).queue(&place.queue);
    let next = next.send(&app).await.expect("sent");
    assert_eq!(
        within("the greedy task", greedy)
            .await
            .map(|files| files > 20),
        Ok(true)
    );
    let cost = worker.cpu() - before;
    figure!(
        place,
        "without a file for {TAKEN} ms: {cost:.0?} of a processor"
    );
    assert!(cost < COST, "{cost:?}");
    assert_eq!(within("the next call", next).await, Ok(2));
    assert_eq!(place.lines().len(), 1, "it ran once");
    drop(worker);
    place.leave(app).await;
}
