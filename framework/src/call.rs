//! A call: a task with arguments and options, not yet sent.

use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::Value as Json;
use serde_json::value::RawValue;

use crate::app::{App, Outgoing};
use crate::broker::{Exchange, Queue, Route};
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::message::{Arguments, Message};
use crate::options::{CallOptions, Due};
use crate::retry::Backoff;
use crate::task::{Ack, Definition, Parameter};

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
    task: String,
    arguments: Arguments,
    options: CallOptions,
    /// An argument that could not be encoded; returned when the call is sent.
    problem: Option<Error>,
    result: PhantomData<fn() -> T>,
}

impl<T> Call<T> {
    fn new(task: String, queue: &str) -> Self {
        let options = CallOptions::to(queue);
        Self {
            task,
            arguments: Arguments::default(),
            options,
            problem: None,
            result: PhantomData,
        }
    }

    /// A call of a task whose function this binary does not have: another service's, or a Python one.
    /// Goes to the queue `default` unless [`queue`](Self::queue) says otherwise.
    ///
    /// ```
    /// # fn main() -> Result<(), garenne::Error> {
    /// let call = garenne::Call::<i64>::named("proj.tasks.add").queue("celery").arg(2)?.kwarg("y", 3)?;
    /// # drop(call);
    /// # Ok(())
    /// # }
    /// ```
    pub fn named(task: impl Into<String>) -> Self {
        Self::new(task.into(), crate::task::TaskOptions::DEFAULT.queue)
    }

    /// Adds an argument by position.
    ///
    /// # Errors
    /// [`Error::Encode`].
    pub fn arg<A: Serialize>(mut self, value: A) -> Result<Self> {
        let what = || format!("argument {}", self.arguments.args.len() + 1);
        let raw = encode(&self.task, what, &value)?;
        self.arguments.args.push(raw);
        Ok(self)
    }

    /// Adds an argument by name.
    ///
    /// # Errors
    /// [`Error::Encode`].
    pub fn kwarg<A: Serialize>(mut self, name: impl Into<String>, value: A) -> Result<Self> {
        let name = name.into();
        let raw = encode(&self.task, || format!("argument `{name}`"), &value)?;
        self.arguments.kwargs.insert(name, raw);
        Ok(self)
    }

    /// Goes to this queue. It is declared if it does not exist yet.
    pub fn queue(mut self, queue: impl Into<Queue>) -> Self {
        self.options.queue = queue.into();
        self
    }

    /// Goes through `exchange` to all queues that are bound to it, instead of to one queue.
    ///
    /// Each of these queues gets a copy. Awaited, the first reply counts.
    pub fn publish_to(mut self, exchange: &Exchange, routing_key: impl Into<String>) -> Self {
        self.options.exchange = Some((exchange.clone(), routing_key.into()));
        self
    }

    /// Is sent under this id instead of a random one. Sent twice, it is recognisably the same call.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.options.id = Some(id.into());
        self
    }

    /// Repeats a failed attempt at most this many times.
    pub fn retries(mut self, retries: u32) -> Self {
        self.options.retries = Some(retries);
        self
    }

    /// Waits this long between attempts, for example `SECOND..5 * MINUTE`.
    pub fn backoff(mut self, backoff: impl Into<Backoff>) -> Self {
        self.options.backoff = Some(backoff.into());
        self
    }

    /// Ends an attempt that takes longer.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// Is delivered before calls of lower priority, on queues that have priorities
    /// ([`Queue::max_priority`]); 0 is the lowest.
    pub fn priority(mut self, priority: u8) -> Self {
        self.options.priority = Some(priority);
        self
    }

    /// Is not started later than this after being sent.
    pub fn expires(mut self, after: Duration) -> Self {
        self.options.expires = Some(after);
        self
    }

    /// Is to be done within this time after being sent, with all its retries and all that its tasks send: the
    /// whole has one deadline. (A [`timeout`](Self::timeout) is each attempt's own, and what
    /// [`expires`](Self::expires) may take any time once it is started.)
    ///
    /// Past it, the call is not started (it fails with the kind [`Expired`]), an attempt that runs is ended
    /// ([`TimedOut`]), and a retry that would be due after it is not made: the call fails with the error of its
    /// last attempt. What a task sends through [`ctx.app()`](crate::Context::app) inherits the deadline, and may
    /// only have a nearer one of its own.
    ///
    /// [`Expired`]: crate::FailureKind::Expired
    /// [`TimedOut`]: crate::FailureKind::TimedOut
    pub fn deadline(mut self, after: Duration) -> Self {
        self.options.deadline = Some(after);
        self
    }

    /// When the worker acknowledges it.
    pub fn ack(mut self, ack: Ack) -> Self {
        self.options.ack = Some(ack);
        self
    }

    /// Is not started before this time has passed. It waits in the broker.
    pub fn countdown(mut self, countdown: Duration) -> Self {
        self.options.due = Due::In(countdown);
        self
    }

    /// Is not started before this moment. It waits in the broker.
    pub fn eta(mut self, eta: SystemTime) -> Self {
        self.options.due = Due::At(eta);
        self
    }

    /// Wants no reply: cheaper for calls that nobody awaits.
    pub fn ignore_result(mut self) -> Self {
        self.options.ignore_result = true;
        self
    }

    /// Carries a header of your own, which headers exchanges can route by and the task can read with
    /// [`Context::header`](crate::Context::header).
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Json>) -> Self {
        self.options.headers.insert(name.into(), value.into());
        self
    }

    /// Sends it; resolves when the broker has confirmed that it is stored.
    ///
    /// # Errors
    /// Every [`Error`] of sending says whether the call is stored. Within the app's send timeout (30 s
    /// unless set) there is always an answer.
    pub async fn send(self, app: &App) -> Result<Handle<T>> {
        let outgoing = self.prepare(app.now())?;
        let id = outgoing.message.id.clone();
        let task = outgoing.message.text("task").unwrap_or_default().to_owned();
        let due = outgoing.message.eta();
        let waiting = app.send(outgoing).await?;
        Ok(Handle::new(id, task, app.clone(), waiting).due(due))
    }

    /// What goes to the broker if it is sent at `now`.
    fn prepare(self, now: SystemTime) -> Result<Outgoing> {
        let (task, arguments, options) = self.into_parts()?;
        outgoing(&task, &arguments, options, now)
    }

    /// The task's name, the arguments and the options.
    pub(crate) fn into_parts(self) -> Result<(String, Arguments, CallOptions)> {
        match self.problem {
            Some(problem) => Err(problem),
            None => Ok((self.task, self.arguments, self.options)),
        }
    }
}

/// What goes to the broker if a call of `task` is sent at `now`.
pub(crate) fn outgoing(
    task: &str,
    arguments: &Arguments,
    options: CallOptions,
    now: SystemTime,
) -> Result<Outgoing> {
    options.validate(task, now)?;
    let id = options
        .id
        .clone()
        .unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let mut message = Message::new(id, task, arguments);
    let delay = options.write_to(&mut message, now);
    let route = match &options.exchange {
        Some((exchange, key)) => Route::Exchange {
            exchange: exchange.name().to_owned(),
            routing_key: key.clone(),
        },
        None => Route::Queue(options.queue.name().to_owned()),
    };
    Ok(Outgoing {
        message,
        route,
        queue: options.queue,
        exchange: options.exchange.map(|(exchange, _)| exchange),
        delay,
        wants_reply: !options.ignore_result,
    })
}

fn encode<A: Serialize>(
    task: &str,
    what: impl FnOnce() -> String,
    value: &A,
) -> Result<Box<RawValue>> {
    serde_json::value::to_raw_value(value).map_err(|source| Error::Encode {
        task: task.to_owned(),
        what: what(),
        source,
    })
}

/// Builds the call of a registered task. Used by `#[task]`.
#[doc(hidden)]
pub struct CallBuilder {
    definition: &'static Definition,
    arguments: Arguments,
    problem: Option<Error>,
}

impl CallBuilder {
    /// Begins a call of the task.
    #[must_use]
    pub fn new(definition: &'static Definition) -> Self {
        Self {
            definition,
            arguments: Arguments::default(),
            problem: None,
        }
    }

    /// Encodes the next argument. A failure is kept, and returned when the call is sent.
    #[must_use]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "the generated code has the value and nothing else to do with it"
    )]
    pub fn argument<A>(mut self, parameter: &Parameter<A>, value: A) -> Self {
        match (parameter.encode)(&value) {
            Ok(raw) => self.arguments.args.push(raw),
            Err(source) => {
                self.problem = self.problem.or_else(|| {
                    Some(Error::Encode {
                        task: self.definition.name.to_owned(),
                        what: format!("argument `{}`", parameter.name),
                        source,
                    })
                });
            }
        }
        self
    }

    /// The call, with the options of the task's attribute.
    pub fn call<T>(self) -> Call<T> {
        let options = &self.definition.options;
        let mut call = Call::new(self.definition.name.to_owned(), options.queue);
        call.arguments = self.arguments;
        call.problem = self.problem;
        call.options.priority = options.priority;
        call.options.expires = options.expires;
        call
    }
}

impl<T> fmt::Debug for Call<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("task", &self.task)
            .field("queue", &self.options.queue.name())
            .finish_non_exhaustive()
    }
}
