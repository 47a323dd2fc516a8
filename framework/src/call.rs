//! A call: a task with arguments and options, not yet sent.

use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::Value as Json;

use crate::app::{App, Outgoing};
use crate::broker::{Exchange, Queue};
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::message::Arguments;
use crate::options::{CallOptions, Due};
use crate::retry::Backoff;
use crate::step::{Sketch, Step, option_setters};
use crate::task::{Ack, Definition, Parameter, TaskOptions};

/// A task with arguments and options, not yet sent; `T` is what the task returns.
///
/// Made by `call(…)` on the task's name, or by [`Call::named`] where the function is elsewhere. What the
/// setters say goes before what the task's attribute says.
///
/// ```standalone_crate
/// use garenne::{App, Worker, HOUR, MINUTE, SECOND, task};
///
/// #[task(retries = 2)]
/// async fn greet(name: String) -> String {
///     format!("hello, {name}")
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let app = App::in_memory();
/// let worker = Worker::new(&app).queue("letters", 1).spawn();
///
/// let call = greet::call("Ann".into()).queue("letters").expires(HOUR).retries(5).backoff(SECOND..MINUTE);
/// assert_eq!(call.send(&app).await?.await?, "hello, Ann");
/// # worker.stop().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a call does nothing until it is sent: `.send(&app).await`"]
pub struct Call<T> {
    pub(crate) step: Step,
    result: PhantomData<fn() -> T>,
}

impl<T> Call<T> {
    pub(crate) fn of(step: Step) -> Self {
        Self {
            step,
            result: PhantomData,
        }
    }

    /// A call of a task whose function this binary does not have: another service's, or a Python one.
    /// Goes to the queue `default` unless [`queue`](Self::queue) says otherwise, which is made, as workers with
    /// Garenne want it, where it is missing.
    ///
    /// To have its arguments and its result checked, declare it: `#[task(name = "proj.tasks.add", extern)]` on
    /// `async fn add(x: i64, y: i64) -> i64;`. The queue of such a task is not made, which is safer where its
    /// workers are Python's: one of Celery's ends when it finds its queue made in another way than its own.
    ///
    /// ```
    /// # fn main() -> Result<(), garenne::Error> {
    /// let call = garenne::Call::<i64>::named("proj.tasks.add").queue("celery").arg(2)?.kwarg("y", 3)?;
    /// # drop(call);
    /// # Ok(())
    /// # }
    /// ```
    pub fn named(task: impl Into<String>) -> Self {
        Self::of(Step::named(task.into()))
    }

    /// Adds an argument by position.
    ///
    /// # Errors
    /// [`Error::Encode`].
    pub fn arg<A: Serialize>(mut self, value: A) -> Result<Self> {
        self.step.arg(&value)?;
        Ok(self)
    }

    /// Adds an argument by name.
    ///
    /// # Errors
    /// [`Error::Encode`].
    pub fn kwarg<A: Serialize>(mut self, name: impl Into<String>, value: A) -> Result<Self> {
        self.step.kwarg(name.into(), &value)?;
        Ok(self)
    }

    /// Goes through `exchange` to all queues that are bound to it, instead of to one queue.
    ///
    /// Each of these queues gets a copy. Awaited, the first reply counts.
    pub fn publish_to(mut self, exchange: &Exchange, routing_key: impl Into<String>) -> Self {
        self.step.options.exchange = Some((exchange.clone(), routing_key.into()));
        self
    }

    option_setters!();

    fn options_mut(&mut self) -> &mut CallOptions {
        &mut self.step.options
    }

    /// Sends it; resolves when the broker has confirmed that it is stored.
    ///
    /// # Errors
    /// Every [`Error`] of sending says whether the call is stored. Within the app's send timeout (30 s
    /// unless set) there is always an answer.
    pub async fn send(self, app: &App) -> Result<Handle<T>> {
        self.prepare(app.now())?.send(app.clone()).await
    }

    /// The call as it goes out at `now`.
    pub(crate) fn prepare(self, now: SystemTime) -> Result<Prepared<T>> {
        let (outgoing, task) = self.step.prepare(now)?;
        Ok(Prepared {
            outgoing: Box::new(outgoing),
            task,
            result: PhantomData,
        })
    }

    /// What would go to the broker if it were sent at `now`, under no id.
    ///
    /// # Errors
    /// Why it could not be sent.
    pub(crate) fn sketch(&self, now: SystemTime) -> Result<Sketch> {
        self.step.sketch(now)
    }

    /// The task's name, the arguments and the options.
    ///
    /// # Errors
    /// An argument that could not be encoded.
    pub(crate) fn into_parts(self) -> Result<(String, Arguments, CallOptions)> {
        self.step.into_parts()
    }
}

/// A call that needs nothing but to be sent: small, since many are under way at a time.
pub(crate) struct Prepared<T> {
    outgoing: Box<Outgoing>,
    task: String,
    result: PhantomData<fn() -> T>,
}

impl<T> Prepared<T> {
    pub(crate) async fn send(self, app: App) -> Result<Handle<T>> {
        let message = &self.outgoing.message;
        let id = message.id.clone();
        let due = message.eta();
        let waiting = app.send(self.outgoing).await?;
        Ok(Handle::new(id, self.task, app, waiting).due(due))
    }
}

/// Builds the call of a registered task. Used by `#[task]`.
#[doc(hidden)]
pub struct CallBuilder {
    pub(crate) step: Step,
}

impl CallBuilder {
    /// Begins a call of the task, with the options of its attribute.
    #[must_use]
    pub fn new(definition: &'static Definition) -> Self {
        let mut builder = Self::with_options(definition.name, &definition.options);
        builder.step.is_ours = true;
        builder
    }

    /// Begins a call of a task that runs elsewhere, with the options of its declaration.
    #[must_use]
    pub fn of_foreign(name: &str, options: &TaskOptions) -> Self {
        let mut builder = Self::with_options(name, options);
        builder.step.is_foreign = true;
        builder
    }

    fn with_options(name: &str, options: &TaskOptions) -> Self {
        let mut step = Step::new(name.to_owned(), options.queue);
        step.options.queue.shards = options.shards;
        step.options.priority = options.priority;
        step.options.expires = options.expires;
        Self { step }
    }

    /// Encodes the next argument. A failure is kept, and returned when the call is sent.
    #[must_use]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "the generated code has the value and nothing else to do with it"
    )]
    pub fn argument<A>(mut self, parameter: &Parameter<A>, value: A) -> Self {
        match (parameter.encode)(&value) {
            Ok(raw) => self.step.arguments.args.push(raw),
            Err(source) => {
                self.step.problem = self.step.problem.or_else(|| {
                    Some(Error::Encode {
                        task: self.step.task.clone(),
                        what: format!("argument `{}`", parameter.name),
                        source,
                    })
                });
            }
        }
        self
    }

    /// The call.
    pub fn call<T>(self) -> Call<T> {
        Call::of(self.step)
    }
}

impl<T> fmt::Debug for Call<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("task", &self.step.task)
            .field("queue", &self.step.options.queue.name())
            .finish_non_exhaustive()
    }
}
