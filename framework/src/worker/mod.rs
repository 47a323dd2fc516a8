//! A worker: takes deliveries from its queues, a slot each, and stops without losing one.

mod activity;
mod ahead;
mod body;
mod cancel;
mod check;
mod continuation;
mod control;
mod deaf;
mod execute;
mod health;
mod inline;
mod joined;
#[cfg(feature = "redis")]
mod kept;
mod lanes;
mod limits;
mod memory;
mod node;
mod observe;
mod pace;
mod progress;
mod run;
mod serve;
mod settle;
mod signal;
mod stamps;
mod start;
mod suspect;
mod teller;
mod verdict;

use std::any::TypeId;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicIsize;
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::app::App;
use crate::broker::Queue;
use crate::error::{Error, Result};
use crate::registry::Registry;
use crate::task::{Definition, Lent, State, Task};
use activity::Activity;
pub use ahead::Prefetch;
use cancel::CancelledCalls;
use health::Health;
use limits::Limits;
use memory::{Outcomes, Running};
use observe::Observer;
pub use observe::{Outcome, Ran};
pub use signal::{ShutdownSignal, shutdown_signal};
use suspect::Suspects;
use teller::Teller;

/// Takes calls from queues and runs their tasks.
///
/// Any number of workers, in any number of processes on any number of machines, may take from the same
/// queues. Every task linked into the binary is known to every worker in it.
///
/// ```standalone_crate
/// use garenne::{App, MINUTE, Worker, task};
///
/// struct Db;
///
/// #[task]
/// async fn count(db: &Db, table: String) -> u64 {
///     table.len() as u64
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let app = App::in_memory();
/// # let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
/// # stop.send(()).ok();
/// # let shutdown = async { stopped.await.unwrap_or(()) };
/// Worker::new(&app)
///     .queue("default", 32) // 32 at a time
///     .queue("reports", 2)
///     .state(Db)            // what tasks borrow
///     .grace(MINUTE)
///     .run(shutdown)        // usually `garenne::shutdown_signal()`
///     .await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a worker does nothing until `.run(…).await` or `.spawn()`"]
#[derive(Clone)]
pub struct Worker {
    app: App,
    queues: Vec<(Queue, usize)>,
    state: State,
    /// A type of which `state` was given twice.
    repeated: Option<&'static str>,
    tasks: Vec<&'static Definition>,
    grace: Duration,
    max_deliveries: u32,
    prefetch: Prefetch,
    deaf_after: Option<Duration>,
    health: Option<String>,
    /// A test, which is told of each delivery.
    observer: Option<Observer>,
    name: Option<String>,
    events: bool,
}

/// What all slots of a running worker share.
struct Shared {
    app: App,
    tasks: Registry,
    state: Arc<State>,
    max_deliveries: u32,
    prefetch: Prefetch,
    slots: usize,
    cancelled: CancelledCalls,
    stamps: stamps::RevokedStamps,
    running: Running,
    outcomes: Outcomes,
    suspects: Suspects,
    /// Threads of plain tasks whose time is up but which go on.
    runaways: Arc<AtomicIsize>,
    observer: Option<Observer>,
    health: Health,
    /// Its voice in events, and its name among the nodes.
    teller: Teller,
    activity: Activity,
    limits: Limits,
    /// The queues that it takes from, each with its slots.
    queues: watch::Sender<Vec<(Queue, usize)>>,
    /// Somebody told it by remote control to stop.
    told_to_stop: Notify,
    since: Instant,
    /// True once the worker is told to stop: nothing is begun any more.
    stopping: watch::Sender<bool>,
    /// True once the grace period is over: what still runs is handed back.
    hand_back: watch::Sender<bool>,
}

impl Worker {
    /// A worker for the queues of this app's broker.
    pub fn new(app: &App) -> Self {
        Self {
            app: app.clone(),
            queues: Vec::new(),
            state: State::default(),
            repeated: None,
            tasks: Vec::new(),
            grace: Duration::from_secs(30),
            max_deliveries: 5,
            prefetch: Prefetch::Strict,
            deaf_after: Some(Duration::from_secs(5)),
            health: None,
            name: None,
            events: false,
            observer: None,
        }
    }

    pub(crate) fn app(&self) -> &App {
        &self.app
    }

    /// A worker for tests that is like this one but for its queue, and tells `observer` of each delivery. Tasks
    /// that borrow what it does not have are refused when they are called.
    pub(crate) fn twin(&self, queue: Queue, concurrency: usize, observer: Observer) -> Self {
        Self {
            queues: vec![(queue, concurrency)],
            grace: Duration::ZERO,
            deaf_after: None,
            health: None,
            observer: Some(observer),
            ..self.clone()
        }
    }

    /// Takes from `queue`, running at most `concurrency` of its calls at a time. It takes a call only
    /// when it has a free slot for it, so that no call waits behind a long one while another worker is
    /// free. Where the queue is divided, by itself or by its tasks' `shards`, the slots are divided, too: each of the
    /// shards has one at least.
    pub fn queue(mut self, queue: impl Into<Queue>, concurrency: usize) -> Self {
        self.queues.push((queue.into(), concurrency));
        self
    }

    /// Lends `value` to every task that has a parameter `&T`. Once for each type.
    pub fn state<T: Lent>(mut self, value: T) -> Self {
        if !self.state.insert(value) {
            self.repeated = Some(std::any::type_name::<T>());
        }
        self
    }

    /// Runs this task, too, if the linker did not find it by itself: `.register::<tasks::add>()`.
    pub fn register<T: Task>(mut self) -> Self {
        self.tasks.push(T::DEFINITION);
        self
    }

    /// How long running tasks may go on once the worker is told to stop; 30 s unless set. What is not
    /// done by then is handed back to its queue, and runs elsewhere.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// How often a call may be delivered without being settled before it counts as poison, which kills
    /// the workers that take it; 5 unless set.
    ///
    /// The calls that ran beside it die with it and are counted, too. So that they are not blamed, those
    /// that have used up half of their deliveries run one at a time in each process.
    pub fn max_deliveries(mut self, deliveries: u32) -> Self {
        self.max_deliveries = deliveries.max(1);
        self
    }

    /// How many calls it takes from a queue: one for each free slot unless set, or [more of short
    /// ones](Prefetch::Adaptive).
    pub fn prefetch(mut self, prefetch: Prefetch) -> Self {
        self.prefetch = prefetch;
        self
    }

    /// How long nothing may come from a queue in which messages wait while slots are free; 5 s unless set.
    /// Then the worker subscribes anew, after that time again it connects anew, and then
    /// [`run`](Self::run) ends with [`Error::Deaf`], for a supervisor to start a new process ([`Exit`]
    /// gives that a code of its own).
    ///
    /// `None` switches this off, for queues whose messages others are meant to get while they can, as with
    /// RabbitMQ's single active consumer.
    ///
    /// [`Exit`]: crate::Exit
    pub fn deaf_after(mut self, silence: impl Into<Option<Duration>>) -> Self {
        self.deaf_after = silence.into();
        self
    }

    /// Answers over HTTP how the worker is: at a port of this machine (`"8080"`), or at an IP address and
    /// a port (`"0.0.0.0:8080"`). Off unless asked for.
    ///
    /// `GET /live` is refused (503) when only a new process helps, `/ready` while the worker starts, stops
    /// or lacks its broker, `/consuming` also when it gets nothing although it should. The body is JSON
    /// and says why. A thread of its own answers, whatever the tasks do to the runtime.
    pub fn health(mut self, address: impl Into<String>) -> Self {
        self.health = Some(address.into());
        self
    }

    /// Its name among all workers, for [remote control](App::control) and [events](App::events): `name` or
    /// `name@host`. Unless set it is one that no other worker has. Where another worker has it, a part is added to it.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Whether to tell, through [`App::events`], what happens to each call, from the start; not unless set, or
    /// [somebody asks for it](crate::Control::enable_events).
    pub fn events(mut self, events: bool) -> Self {
        self.events = events;
        self
    }

    /// Works until `shutdown` resolves, then finishes what runs within the grace period, and hands the
    /// rest back. With [`shutdown_signal`], a second signal hands back at once.
    ///
    /// # Errors
    /// At the start, what [`Error`] says of tasks, state and queues; later, only what waiting does not
    /// mend.
    pub async fn run<F>(self, shutdown: F) -> Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let second_signal = TypeId::of::<F>() == TypeId::of::<ShutdownSignal>();
        let mut shutdown = std::pin::pin!(shutdown);
        let started = tokio::select! {
            biased;
            started = self.start() => started?,
            () = &mut shutdown => {
                tracing::info!("told to stop before it had started");
                return Ok(());
            }
        };
        started.serve(shutdown, second_signal).await
    }

    /// Works in the background until told to stop. Whether it could start, [`RunningWorker::ready`] tells, and
    /// the log.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn(self) -> RunningWorker {
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = watch::channel(false);
        let task = tokio::spawn(async move {
            let started = self.start().await.inspect_err(|error| {
                tracing::error!("the worker did not start: {error}");
            })?;
            ready.send_replace(true);
            // A dropped `RunningWorker` leaves the worker to itself.
            let shutdown = async {
                if stopped.await.is_err() {
                    std::future::pending().await
                }
            };
            started.serve(shutdown, false).await
        });
        RunningWorker {
            stop: Some(stop),
            ready: is_ready,
            task,
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}

/// A worker in the background. Dropped, it goes on by itself.
#[must_use = "keep it to stop the worker; dropped, the worker goes on by itself"]
pub struct RunningWorker {
    stop: Option<oneshot::Sender<()>>,
    ready: watch::Receiver<bool>,
    task: JoinHandle<Result<()>>,
}

impl RunningWorker {
    /// Resolves when the worker consumes, or could not start: `true` if it consumes. Why it could not,
    /// [`stop`](Self::stop) tells.
    pub async fn ready(&self) -> bool {
        // An error means that the worker has ended before it was ready.
        self.ready.clone().wait_for(|ready| *ready).await.is_ok()
    }

    /// Ends it at once, as a crash would: what runs is dropped, and goes back to its queue.
    pub async fn abort(mut self) {
        self.task.abort();
        // Nothing but the news that it was aborted.
        let _ = (&mut self.task).await;
    }

    /// Stops it as [`Worker::run`] does when its shutdown resolves.
    ///
    /// # Errors
    /// What [`Worker::run`] would have returned.
    pub async fn stop(mut self) -> Result<()> {
        // A closed channel means that the worker has ended already.
        self.stop.take().map(|stop| stop.send(()));
        (&mut self.task)
            .await
            .unwrap_or_else(|panic| Err(Error::broker("the worker", panic)))
    }
}

impl Drop for RunningWorker {
    fn drop(&mut self) {
        // Forgotten rather than dropped, the sender never tells the worker to stop.
        std::mem::forget(self.stop.take());
    }
}

impl fmt::Debug for RunningWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningWorker").finish_non_exhaustive()
    }
}
