//! What sending a call returns.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, TryStreamExt};
use serde::de::DeserializeOwned;

use crate::app::App;
use crate::awaited::{Awaited, Outcome};
use crate::broker::BoxFuture;
use crate::error::Result;
use crate::failure::{Failure, FailureKind};
use crate::progress::Progress;
use crate::waiters::Waiting;

/// Calls of a workflow that are cancelled at a time.
const CANCELLED_AT_A_TIME: usize = 64;

/// A call that was sent: await it, or [`result`](Self::result), for what the task returned.
///
/// Dropping it forgets the call's result, not the call.
///
/// ```standalone_crate
/// # use garenne::{App, Worker, task};
/// # #[task]
/// # async fn add(a: i64, b: i64) -> i64 { a + b }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let app = App::in_memory();
/// # let worker = Worker::new(&app).queue("default", 1).spawn();
/// let handle = add::call(2, 3).send(&app).await?;
/// println!("sent as {}", handle.id());
/// match handle.await {
///     Ok(sum) => println!("2 + 3 = {sum}"),
///     Err(failure) => println!("{failure}"), // which task, what happened, after how many attempts
/// }
/// # worker.stop().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "the call is sent; await the handle for its result, or drop it with `let _ =` to forget it"]
pub struct Handle<T> {
    id: String,
    task: String,
    /// All calls that are cancelled with it, if it is a workflow's; otherwise it is its own.
    ids: Option<Arc<[String]>>,
    pub(crate) app: App,
    pub(crate) awaited: Awaited,
    /// When the call is due, where it was not at once; of a workflow, the last one at the latest.
    due: Option<SystemTime>,
    result: PhantomData<fn() -> T>,
}

impl<T> Handle<T> {
    pub(crate) fn new(id: String, task: String, app: App, waiting: Option<Arc<Waiting>>) -> Self {
        let awaited = waiting.map_or(Awaited::Nothing, Awaited::One);
        Self::of_workflow(id, task, Vec::new(), app, awaited)
    }

    pub(crate) fn of_workflow(
        id: String,
        task: String,
        ids: Vec<String>,
        app: App,
        awaited: Awaited,
    ) -> Self {
        Self {
            id,
            task,
            ids: (!ids.is_empty()).then(|| ids.into()),
            app,
            awaited,
            due: None,
            result: PhantomData,
        }
    }

    /// The handle of a call that is due at this time.
    pub(crate) fn due(self, due: Option<SystemTime>) -> Self {
        Self { due, ..self }
    }

    /// The handle of a call that was sent before, here or elsewhere, by Rust or Python: its result is read
    /// from the app's [result backend](crate::AppBuilder::result_backend).
    ///
    /// Whether there ever was such a call, nobody knows: a handle of one that was not waits, as Celery's
    /// `AsyncResult` does.
    ///
    /// # Errors
    /// Where the app has no result backend, or it cannot be reached.
    #[cfg(feature = "redis")]
    pub async fn from_id(app: &App, id: impl Into<String>) -> Result<Self> {
        let id = id.into();
        let waiting = app.await_kept(&id).await?;
        Ok(Self::new(id, String::new(), app.clone(), Some(waiting)))
    }

    /// The call's id; of a workflow its last call's, and of a group an id of its own.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The task's name; in a workflow, of its last call.
    #[must_use]
    pub fn task(&self) -> &str {
        &self.task
    }

    /// Asks all workers not to run the call. One that runs it drops it, if the task is `async`; a plain
    /// one finds [`Context::is_cancelled`](crate::Context::is_cancelled) true. Who awaits the call gets a
    /// failure of the kind [`Cancelled`](FailureKind::Cancelled) when a worker meets the call, unless it was
    /// done already.
    ///
    /// Brokers remember a cancelled call for a day from the time on at which it was sent to be due. (So one that
    /// waits for longer in its queue, or for its next attempt, may run after all.)
    ///
    /// Of a workflow, all calls are cancelled.
    ///
    /// # Errors
    /// Where the broker could not be told.
    pub async fn cancel(&self) -> Result<()> {
        let Some(ids) = &self.ids else {
            return self.cancel_call(&self.id).await;
        };
        stream::iter(ids.iter().map(Ok))
            .try_for_each_concurrent(CANCELLED_AT_A_TIME, |id| self.cancel_call(id))
            .await
    }

    async fn cancel_call(&self, id: &str) -> Result<()> {
        match self.due {
            Some(due) => self.app.cancel_delayed(id, due).await,
            None => self.app.cancel(id).await,
        }
    }
}

impl<T> Handle<T> {
    /// What the task tells of its progress while it runs ([`Context::progress`](crate::Context::progress); in
    /// Python, `update_state` with a state of one's own): a stream that ends when the call is done.
    ///
    /// It is news, not a record: who is slow gets the newest, and nothing is told to calls that were sent with
    /// [`ignore_result`](crate::Call::ignore_result).
    ///
    /// In a workflow it is the last call that is heard; of a group, none.
    ///
    /// ```standalone_crate
    /// # use garenne::{App, Context, Worker, task};
    /// #[task]
    /// async fn copy(ctx: &Context, files: u32) -> u32 {
    ///     for file in 1..=files {
    ///         // … and after each one:
    ///         ctx.progress(&file).await;
    ///     }
    ///     files
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let app = App::in_memory();
    /// # let worker = Worker::new(&app).queue("default", 1).spawn();
    /// let handle = copy::call(3).send(&app).await?;
    /// let mut progress = handle.progress_as::<u32>();
    /// while let Some(file) = progress.next().await {
    ///     println!("{file} of 3"); // always the last one, and perhaps others before
    /// }
    /// assert_eq!(handle.await?, 3);
    /// # worker.stop().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn progress(&self) -> Progress<serde_json::Value> {
        self.progress_as()
    }

    /// As [`progress`](Self::progress), typed. What is no `P` is skipped, with a warning in the log.
    pub fn progress_as<P: DeserializeOwned + Send + 'static>(&self) -> Progress<P> {
        Progress::of(self.app.clone(), self.awaited.one().cloned())
    }
}

impl<T: DeserializeOwned> Handle<T> {
    /// What the task returned, or why there is nothing. May be called any number of times.
    ///
    /// Waits at most as long as the app's result timeout (a day unless set), and then fails with the kind
    /// [`Unknown`](FailureKind::Unknown); the call itself goes on.
    pub fn result(&self) -> impl Future<Output = Result<T, Failure>> + Send + use<T> {
        self.result_within(self.app.result_timeout())
    }

    /// As [`result`](Self::result), waiting no longer than `timeout`.
    pub fn result_within(
        &self,
        timeout: Duration,
    ) -> impl Future<Output = Result<T, Failure>> + Send + use<T> {
        let (id, task, awaited) = (self.id.clone(), self.task.clone(), self.awaited.clone());
        let app = self.app.clone();
        async move {
            // The app is what reads the reply: it lives at least as long as somebody waits.
            let _app = app;
            let outcome = tokio::time::timeout(timeout, awaited.outcome(no_reply));
            let outcome = outcome.await.unwrap_or_else(|_| Err(too_late(timeout)));
            decode(outcome, &id, &task)
        }
    }
}

/// What a task returned, as a `T`.
pub(crate) fn decode<T: DeserializeOwned>(
    outcome: Outcome,
    id: &str,
    task: &str,
) -> Result<T, Failure> {
    let raw = outcome.map_err(|failure| complete(failure, id, task))?;
    serde_json::from_str(raw.get()).map_err(|error| {
        let expected = std::any::type_name::<T>();
        let message = format!("the task succeeded, but its result is no `{expected}`: {error}");
        Failure::new(task, id, FailureKind::Unknown, message)
    })
}

/// A reply does not always say whose failure it is.
fn complete(mut failure: Failure, id: &str, task: &str) -> Failure {
    if failure.task.is_empty() {
        failure.task = task.to_owned();
    }
    if failure.id.is_empty() {
        failure.id = id.to_owned();
    }
    failure
}

pub(crate) fn no_reply() -> Failure {
    let message = "the call was sent with `ignore_result`: it has no reply";
    Failure::new("", "", FailureKind::Unknown, message)
}

pub(crate) fn too_late(timeout: Duration) -> Failure {
    let message = format!("no reply within {timeout:?}; the call may be waiting, running or done");
    Failure::new("", "", FailureKind::Unknown, message)
}

impl<T: DeserializeOwned + 'static> IntoFuture for Handle<T> {
    type Output = Result<T, Failure>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.result())
    }
}

impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("id", &self.id)
            .field("task", &self.task)
            .finish_non_exhaustive()
    }
}
