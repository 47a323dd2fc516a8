//! Rust and real Python Celery, several versions of it, calling each other: a line for each case.
//!
//! ```text
//! cargo test -p garenne --features compression,msgpack --test interop -- [WORD]   cases whose name has WORD
//! ```
//!
//! `GARENNE_TEST_CELERY_VENVS` names the environments of Python with Celery, separated by `:`.

#[path = "interop/case.rs"]
mod case;
#[path = "interop/place.rs"]
mod place;
mod support;
#[path = "interop/tasks.rs"]
mod tasks;
#[path = "interop/to_python/mod.rs"]
mod to_python;

use std::process::ExitCode;

use case::Tally;
use garenne::{Queue, QueueType, SECOND};
use place::{Client, Place};

/// How many versions of Celery are tested at once: what their workers do is mostly to wait.
const AT_ONCE: usize = 2;

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let wanted = arguments.find(|argument| !argument.starts_with("--"));
    let wanted = wanted.unwrap_or_default();
    let tally = Tally::default();
    let places = Place::all();
    for several in places.chunks(AT_ONCE) {
        let runs = several.iter().map(|place| run(place, &wanted, &tally));
        futures_util::future::join_all(runs).await;
    }
    tally.conclude()
}

/// All cases with one version of Celery.
async fn run(place: &Place, wanted: &str, tally: &Tally) {
    let app = place.app().await;
    // Rust makes them before Python comes.
    let ours = ["ours", "rust-ours"].map(|kind| place.queue_of(kind));
    for queue in &ours {
        let queue = Queue::new(queue.as_str());
        let queue = match place.version.starts_with("5.3") {
            // Its workers cannot take from quorum queues.
            true => queue.queue_type(QueueType::Classic),
            false => queue,
        };
        app.declare(queue).await.expect("declared");
    }
    let mut client = Client::start(place, wanted);
    let python = place.python_worker("both", "4");
    // One at a time, so that what waits is taken by its priority.
    let shared = place.python_worker("shared", "1");
    client.declared().await;
    let worker = tasks::worker(&app, &place.queue_of("rust"))
        .queue(place.queue_of("rust-priority"), 1)
        .queue(place.queue_of("rust-quorum"), 2)
        .queue(ours[1].as_str(), 2)
        .spawn();
    assert!(worker.ready().await, "the Rust worker starts");
    python.ready(&app, &place.queue).await;
    shared.ready(&app, &ours[0]).await;
    let side = to_python::Side::new(place, &app);
    futures_util::future::join(
        client.run(place, tally),
        to_python::run(&side, wanted, place, tally),
    )
    .await;
    drop((python, shared));
    worker.stop().await.expect("stopped");
    let kinds = [
        "",
        "priority",
        "quorum",
        "rust",
        "rust-priority",
        "rust-quorum",
    ];
    for queue in kinds.map(|kind| place.queue_of(kind)).iter().chain(&ours) {
        app.delete(queue).await.expect("deleted");
    }
    tokio::time::timeout(10 * SECOND, app.close())
        .await
        .expect("closed");
}
