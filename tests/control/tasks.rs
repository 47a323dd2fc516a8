//! Tasks that say when they run and go on when they are told to, and workers for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use garenne::{App, Call, Control, RunningWorker, SECOND, Worker, task};
use serde_json::value::RawValue;
use tokio::sync::{Notify, Semaphore};

use crate::support::{unique, within};

/// Counts those who have entered, and lets them out.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<Inside>);

struct Inside {
    entered: AtomicUsize,
    news: Notify,
    exits: Semaphore,
}

impl Default for Inside {
    fn default() -> Self {
        Self {
            entered: AtomicUsize::new(0),
            news: Notify::new(),
            exits: Semaphore::new(0),
        }
    }
}

impl Gate {
    /// Lets so many out.
    pub(crate) fn open(&self, count: usize) {
        self.0.exits.add_permits(count);
    }

    pub(crate) fn entered(&self) -> usize {
        self.0.entered.load(Ordering::SeqCst)
    }

    /// Waits until so many have entered in all.
    pub(crate) async fn has_let_in(&self, count: usize) {
        let reached = async {
            loop {
                let news = self.0.news.notified();
                if self.entered() >= count {
                    return;
                }
                news.await;
            }
        };
        within("tasks that enter", reached).await;
    }
}

/// Runs until the gate lets it out.
#[task(name = "control.pass")]
pub(crate) async fn pass(gate: &Gate, number: u32) -> u32 {
    gate.0.entered.fetch_add(1, Ordering::SeqCst);
    gate.0.news.notify_waiters();
    if let Ok(exit) = gate.0.exits.acquire().await {
        exit.forget();
    }
    number
}

/// Takes what it cannot read, and runs until the gate lets it out.
#[task(name = "control.hold")]
pub(crate) async fn hold(gate: &Gate, thing: Box<RawValue>) -> usize {
    gate.0.entered.fetch_add(1, Ordering::SeqCst);
    gate.0.news.notify_waiters();
    if let Ok(exit) = gate.0.exits.acquire().await {
        exit.forget();
    }
    thing.get().len()
}

#[task(name = "control.add")]
pub(crate) async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task(name = "control.fail")]
pub(crate) async fn fail(text: String) -> Result<(), String> {
    Err(text)
}

/// A worker with a name, a queue and a gate of its own.
pub(crate) struct Crew {
    pub(crate) app: App,
    pub(crate) node: String,
    pub(crate) queue: String,
    pub(crate) gate: Gate,
    pub(crate) worker: RunningWorker,
}

impl Crew {
    pub(crate) async fn new(app: &App, slots: usize) -> Self {
        Self::with(app, slots, |worker| worker).await
    }

    pub(crate) async fn with(app: &App, slots: usize, more: impl FnOnce(Worker) -> Worker) -> Self {
        let (node, queue) = (format!("{}@test", unique("node")), unique("queue"));
        let gate = Gate::default();
        let worker = Worker::new(app)
            .name(&node)
            .queue(queue.as_str(), slots)
            .state(gate.clone())
            .grace(SECOND);
        let worker = more(worker).spawn();
        assert!(worker.ready().await);
        Self {
            app: app.clone(),
            node,
            queue,
            gate,
            worker,
        }
    }

    /// Remote control of this worker alone.
    pub(crate) fn control(&self) -> Control {
        self.app.control().to([&self.node]).timeout(10 * SECOND)
    }

    pub(crate) fn call<T>(&self, call: Call<T>) -> Call<T> {
        call.queue(self.queue.as_str())
    }

    pub(crate) async fn stop(self) {
        self.gate.open(1000);
        within("the worker's stop", self.worker.stop())
            .await
            .expect("stopped");
        self.app.delete(&self.queue).await.expect("deleted");
    }
}
