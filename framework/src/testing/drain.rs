//! Runs all that is there, to the end, in the order of time.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::rehearsal;
use crate::app::App;
use crate::broker::Queue;
use crate::worker::{Ran, RunningWorker, Worker};

/// Calls of one queue that run at a time, so that a task can await another.
const SLOTS: usize = 16;
/// Deliveries after which something is taken to go on for ever: of one call, and of all.
const LIMIT_OF_ONE: u32 = 10_000;
const LIMIT: usize = 1_000_000;
/// How long to wait for something to happen before looking again.
const TICK: Duration = Duration::from_secs(60);
/// The same while time is paused.
const PAUSED_TICK: Duration = Duration::from_secs(24 * 3600);
/// So many of those in a row are longer than any delay: nothing will happen any more.
const PAUSED_TICKS: u32 = 1000;

/// Runs all calls that are in the queues of `app`, their retries and those that are due later, and what they send
/// in turn, until nothing is left; returns what happened, in the order in which it did.
///
/// With tokio's time paused (`#[tokio::test(start_paused = true)]`, from tokio's feature `test-util` among your
/// dev-dependencies) time jumps from one thing to the next: hours pass in milliseconds, and each run is like
/// the other. What tasks borrow is lent by [`drain_with`]; here a task that borrows something is refused.
///
/// # Panics
/// Where the app is not in memory, where something goes on for ever, and where time is not paused and nothing
/// happens for a minute.
pub async fn drain(app: &App) -> Vec<Ran> {
    drain_with(Worker::new(app)).await
}

/// As [`drain`], with the state that `worker` lends to tasks. It need not name queues.
///
/// # Panics
/// As [`drain`].
pub async fn drain_with(worker: Worker) -> Vec<Ran> {
    let app = worker.app().clone();
    let broker = &rehearsal(&app).broker;
    let (observer, mut ended) = mpsc::unbounded_channel();
    let mut workers: HashMap<String, RunningWorker> = HashMap::new();
    let (mut happened, mut times) = (Vec::new(), HashMap::<String, u32>::new());
    let paused = is_paused();
    let tick = if paused { PAUSED_TICK } else { TICK };
    let mut quiet = 0;
    loop {
        let waiting = broker.unfinished();
        for queue in waiting.keys() {
            if !workers.contains_key(queue) {
                let name = queue.strip_prefix(app.prefix()).unwrap_or(queue);
                let twin = worker.twin(Queue::new(name), SLOTS, observer.clone());
                workers.insert(queue.clone(), twin.spawn());
            }
        }
        if waiting.is_empty() {
            break;
        }
        let next = async {
            tokio::select! {
                biased;
                ran = ended.recv() => ran,
                // It may be in a queue that nobody serves yet.
                () = broker.sending() => None,
            }
        };
        let found = timeout(tick, next).await;
        quiet = if found.is_ok() { 0 } else { quiet + 1 };
        match found {
            Ok(Some(ran)) => {
                let times = times.entry(ran.id.clone()).or_default();
                *times += 1;
                if *times > LIMIT_OF_ONE || happened.len() > LIMIT {
                    let all = happened.len();
                    panic!("it goes on for ever: {all} deliveries, {times} of this call: {ran:?}");
                }
                happened.push(ran);
            }
            Err(_) if !paused => panic!(
                "nothing happened for {TICK:?}, and {waiting:?} is left: pause tokio's time with \
                 `#[tokio::test(start_paused = true)]` to have delays pass at once"
            ),
            Err(_) if quiet > PAUSED_TICKS => panic!(
                "nothing happened for {quiet} days, and {waiting:?} is left: a task waits for what only the test \
                 could give it"
            ),
            _ => {}
        }
    }
    for (queue, worker) in workers {
        if let Err(error) = worker.stop().await {
            panic!("the worker of queue `{queue}` failed: {error}");
        }
    }
    while let Ok(ran) = ended.try_recv() {
        happened.push(ran);
    }
    happened
}

/// Whether tokio's clock stands still while time passes.
fn is_paused() -> bool {
    let before = tokio::time::Instant::now();
    std::thread::sleep(Duration::from_millis(2));
    before == tokio::time::Instant::now()
}
