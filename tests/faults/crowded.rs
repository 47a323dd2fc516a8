//! Tasks that leave no thread to anybody else.

use std::time::Duration;

use tokio::time::timeout;

use super::place::{Place, alone, figure, long};
use super::tasks::{echo, hogs, worker};
use crate::support::within;

/// As many as the worker's runtime has threads.
const THREADS: u64 = 2;
/// How long they are busy, in milliseconds; in the long version. The broker gives a silent connection up after
/// two heartbeats, 4 s here.
const BUSY: (u64, u64) = (8_000, 600_000);

#[test]
fn busy_threads_do_not_starve_the_connection() {
    let heartbeat = || {
        let mut place = Place::quorum()?;
        place.url.push_str("&heartbeat=2");
        Some(place)
    };
    alone(
        "busy_threads_do_not_starve_the_connection",
        heartbeat,
        crowded,
    );
}

async fn crowded(place: Place) {
    let millis = if long() { BUSY.1 } else { BUSY.0 };
    // The caller must not share the threads that the tasks keep busy.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS as usize)
        .enable_all()
        .build()
        .expect("a runtime");
    let (url, queue, journal) = (place.url.clone(), place.queue.clone(), place.journal());
    let started = runtime.spawn(async move {
        let app = garenne::App::connect(url).await.expect("the broker");
        let worker = worker(&app, queue, THREADS as usize, &journal).spawn();
        worker.ready().await;
        (app, worker)
    });
    let (workers_app, worker) = started.await.expect("no panic");
    let app = place.app().await;
    let mut busy = Vec::new();
    for n in 0..THREADS {
        let call = hogs::call(n, millis).queue(&place.queue);
        busy.push(call.send(&app).await.expect("sent"));
    }
    place.line(THREADS as usize).await;
    let next = echo::call(5).queue(&place.queue);
    let next = next.send(&app).await.expect("sent");
    for handle in busy {
        let alive = timeout(Duration::from_millis(2 * millis), handle).await;
        let alive = alive.expect("in time");
        assert_eq!(alive, Ok(true), "the delivery outlives the work");
    }
    assert_eq!(within("the next call", next).await, Ok(5));
    let starts = place.lines().len();
    figure!(
        place,
        "{THREADS} tasks busy for {millis} ms on all threads, heartbeat 2 s: {starts} starts"
    );
    assert_eq!(starts, THREADS as usize);
    let stop = runtime.spawn(async move {
        worker.stop().await.expect("stopped");
        workers_app.close().await;
    });
    stop.await.expect("no panic");
    runtime.shutdown_timeout(Duration::ZERO);
    place.leave(app).await;
}
