//! What a task can know of the attempt that runs it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::app::App;
use crate::broker::{BoxFuture, Standing};
use crate::message::Message;

/// What a task can know of the attempt that runs it: add a parameter `ctx: &Context`.
///
/// ```
/// use garenne::{Context, TaskError, SECOND, task};
///
/// #[task(retries = 3)]
/// async fn poll(ctx: &Context, url: String) -> Result<(), TaskError> {
///     println!("attempt {} of {} ({url})", ctx.attempt(), ctx.id());
///     if ctx.attempt() < 3 {
///         return Err(TaskError::retry_in(10 * SECOND).because("not ready yet"));
///     }
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Context(Arc<Attempt>);

pub(crate) struct Attempt {
    pub(crate) app: App,
    /// The same for the attempt's children, once the task asks for it.
    pub(crate) inside: OnceLock<App>,
    pub(crate) message: Arc<Message>,
    pub(crate) task: &'static str,
    pub(crate) queue: String,
    pub(crate) number: u32,
    pub(crate) deadline: Option<Instant>,
    /// Where the task tells its progress; `None` where nobody waits for it.
    pub(crate) progress: Option<Arc<Newest>>,
    /// Whether nobody wants it to go on.
    pub(crate) cancelled: AtomicBool,
    /// Whether the delivery that the attempt stands on is void.
    pub(crate) stale: Standing,
}

impl Context {
    pub(crate) fn new(attempt: Attempt) -> Self {
        Self(Arc::new(attempt))
    }

    /// Nobody wants the attempt to go on.
    pub(crate) fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }

    /// The call's id: the same in every attempt, so it serves as an idempotency key.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.message.id
    }

    /// The number of this attempt; the first is 1. Work repeated after a worker's death keeps its number.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.number
    }

    /// The task's name.
    #[must_use]
    pub fn task(&self) -> &str {
        self.0.task
    }

    /// The queue that the call was taken from.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.0.queue
    }

    /// The call that began it all: the same for this call and for all that its tasks send, and they in turn.
    #[must_use]
    pub fn root_id(&self) -> &str {
        self.0.message.root_id()
    }

    /// The call whose task has sent this one, if a task did.
    #[must_use]
    pub fn parent_id(&self) -> Option<&str> {
        self.header("parent_id")?.as_str()
    }

    /// When this attempt's time is up: the end of its time limit or the call's
    /// [deadline](crate::Call::deadline), whichever is nearer, where it has one of them.
    #[must_use]
    pub fn deadline(&self) -> Option<std::time::Instant> {
        self.0.deadline.map(Instant::into_std)
    }

    /// The app, to send further calls from inside the task: its children, which know their
    /// [parent](Self::parent_id) and [root](Self::root_id), and inherit the call's
    /// [deadline](crate::Call::deadline).
    ///
    /// ```standalone_crate
    /// # use garenne::{App, Context, Error, HOUR, Worker, task};
    /// #[task]
    /// async fn page(ctx: &Context, url: String) -> String {
    ///     format!("{url}, found by {}", ctx.parent_id().unwrap_or("hand"))
    /// }
    ///
    /// #[task]
    /// async fn crawl(ctx: &Context, site: String) -> Result<u32, Error> {
    ///     let pages = (0..3).map(move |n| page::call(format!("{site}/{n}")).ignore_result());
    ///     for sent in ctx.app().send_all(pages).await {
    ///         let _ = sent?;
    ///     }
    ///     Ok(3)
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let app = App::in_memory();
    /// # let worker = Worker::new(&app).queue("default", 1).spawn();
    /// // All four are to be done within the hour.
    /// assert_eq!(crawl::call("example.com".into()).deadline(HOUR).send(&app).await?.await?, 3);
    /// # worker.stop().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn app(&self) -> &App {
        let attempt = &self.0;
        attempt
            .inside
            .get_or_init(|| attempt.app.inside(attempt.message.origin()))
    }

    /// Tells who awaits the call how far it has come: it reaches [`Handle::progress`](crate::Handle::progress),
    /// and in Python the state `PROGRESS` with `value` as its `info`.
    ///
    /// It costs the task hardly more than encoding `value`, however often it is called: at most ten values a
    /// second go out, always the newest, and the last one before the call's reply. Nothing is sent where nobody
    /// waits, and a value that cannot be stored, or is no JSON, is left out. It is told when this returns: a
    /// plain task need not await it.
    pub fn progress<P: Serialize + ?Sized>(&self, value: &P) -> Told {
        if let Some(progress) = &self.0.progress {
            match serde_json::value::to_raw_value(value) {
                Ok(raw) if raw.get().len() <= self.0.app.max_message_size() => {
                    progress.tell(raw);
                }
                Ok(raw) => {
                    let size = raw.get().len();
                    tracing::warn!(id = self.id(), size, "progress is too large to be told");
                }
                Err(error) => tracing::warn!(id = self.id(), %error, "progress is no JSON"),
            }
        }
        Told
    }

    /// A header of the call.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Value> {
        self.0.message.headers.get(name)
    }

    /// Whether nobody wants this attempt to go on: the call was cancelled, its time is up, or the worker
    /// stops and its grace period is over. An `async` task is dropped then; a plain one should ask now
    /// and then, and return.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Relaxed)
            || self
                .0
                .deadline
                .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Whether the broker has taken the delivery back, because the connection was lost, or because
    /// RabbitMQ's `consumer_timeout` is shorter than the task: another worker may be running the same
    /// call, and what this attempt returns may not count.
    ///
    /// It becomes false again when the call is delivered again to this worker, which does not run it a
    /// second time then.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.0.stale.is_stale()
    }

    /// Resolves when [`is_stale`](Self::is_stale) is or becomes true.
    pub async fn stale(&self) {
        self.0.stale.stale().await;
    }
}

/// The newest that a task has told of its progress, until it is taken.
#[derive(Default)]
pub(crate) struct Newest {
    value: Mutex<Option<Box<RawValue>>>,
    told: Notify,
}

impl Newest {
    fn value(&self) -> MutexGuard<'_, Option<Box<RawValue>>> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, value: Box<RawValue>) {
        *self.value() = Some(value);
        self.told.notify_one();
    }

    pub(crate) fn take(&self) -> Option<Box<RawValue>> {
        self.value().take()
    }

    pub(crate) fn is_there(&self) -> bool {
        self.value().is_some()
    }

    /// Resolves when something is told that may not have been taken yet.
    pub(crate) async fn told(&self) {
        self.told.notified().await;
    }
}

/// Progress was [told](Context::progress). Awaited, it lets other tasks of the runtime go on.
#[derive(Debug, Clone, Copy)]
pub struct Told;

impl IntoFuture for Told {
    type Output = ();
    type IntoFuture = BoxFuture<'static, ()>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(tokio::task::yield_now())
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("id", &self.0.message.id)
            .field("task", &self.0.task)
            .field("attempt", &self.0.number)
            .finish_non_exhaustive()
    }
}
