//! What can go wrong: [`enum@Error`] is ours, [`TaskError`] a task body's.

use std::fmt::{self, Display};
use std::time::Duration;

/// A `Result` whose error is [`enum@Error`] unless another is named.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error that another library gave us.
pub type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Why Garenne could not do what it was asked.
///
/// A task's own failure is never an `Error`: it arrives as a [`Failure`](crate::Failure) where the call is awaited.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The broker's URL cannot be used.
    InvalidUrl {
        /// The URL, its password masked.
        url: String,
        /// What is wrong with it and what would be right.
        reason: String,
    },
    /// No broker could be reached, or it refused us.
    Connect {
        /// The URL, its password masked.
        url: String,
        /// What the broker or the operating system said, and what to try.
        reason: String,
    },
    /// A queue, exchange, task or option has a name or value that is not allowed.
    Invalid {
        /// The kind of thing, for example `queue name`.
        what: &'static str,
        /// The value that was refused.
        value: String,
        /// Why.
        reason: String,
    },
    /// An argument or a result could not be encoded as JSON.
    Encode {
        /// The task's name.
        task: String,
        /// Which argument, for example ``argument `day` ``.
        what: String,
        /// What serde said.
        source: serde_json::Error,
    },
    /// The message is larger than the app allows.
    TooLarge {
        /// The task's name.
        task: String,
        /// Size of the encoded body in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The broker has no queue for this message: it was not stored.
    Unroutable {
        /// Where the message was to go.
        route: String,
    },
    /// The broker said no: the message was not stored, or the operation was not done.
    Refused {
        /// What was asked, with the queue or route.
        what: String,
        /// What the broker said, and what to do.
        reason: String,
    },
    /// The broker takes no messages at the moment (an alarm on memory or disk): this one was not sent.
    Blocked {
        /// Where the message was to go.
        route: String,
        /// The broker's reason.
        reason: String,
        /// How long it was tried.
        waited: Duration,
    },
    /// No broker could be reached within the deadline: the message was not sent.
    Unavailable {
        /// What was to be sent.
        what: String,
        /// How long it was tried.
        waited: Duration,
        /// The last error met.
        reason: String,
    },
    /// The message was sent but the broker did not confirm it in time: it may or may not be stored.
    ///
    /// Sending the same call again under the same id is safe for idempotent tasks.
    Unconfirmed {
        /// Where the message went.
        route: String,
        /// How long the confirm was awaited.
        waited: Duration,
    },
    /// The delivery is void: its connection ended, and the broker gives the message to a worker again.
    Stale {
        /// The queue it came from.
        queue: String,
    },
    /// The worker gets nothing although messages wait and slots are free, and neither a new subscription
    /// nor a new connection helped: start the process again.
    Deaf {
        /// The queue it should take from.
        queue: String,
        /// Messages that wait there.
        ready: u64,
        /// How long nothing came.
        quiet: Duration,
    },
    /// The app or worker was closed.
    Closed {
        /// What was closed.
        what: &'static str,
    },
    /// Two tasks have one name.
    DuplicateTask {
        /// The name.
        name: String,
        /// `file:line` of the first.
        first: String,
        /// `file:line` of the second.
        second: String,
    },
    /// A task borrows a state that the worker was not given.
    MissingState {
        /// The task's name.
        task: String,
        /// `file:line` of the task.
        location: String,
        /// The type's name.
        state: &'static str,
    },
    /// No task is linked into this binary.
    NoTasks,
    /// The worker was given nothing to consume.
    NoQueues,
    /// The broker's own machinery failed.
    Broker {
        /// What was being done.
        what: String,
        /// What went wrong below.
        source: Source,
    },
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidUrl { url, reason } => {
                write!(f, "broker URL `{url}` cannot be used: {reason}")
            }
            Self::Connect { url, reason } => write!(f, "cannot connect to {url}: {reason}"),
            Self::Invalid {
                what,
                value,
                reason,
            } => write!(f, "invalid {what} `{value}`: {reason}"),
            Self::Encode { task, what, source } => {
                write!(f, "task `{task}`: {what} cannot be encoded: {source}")
            }
            Self::TooLarge { task, size, limit } => write!(
                f,
                "task `{task}`: the message has {size} bytes, more than the limit of {limit} bytes; \
                 store large data elsewhere and send its address, or raise `max_message_size`"
            ),
            Self::Unroutable { route } => {
                write!(f, "{route} leads to no queue: the message was not stored")
            }
            Self::Refused { what, reason } => write!(f, "the broker refused {what}: {reason}"),
            Self::Blocked {
                reason,
                route,
                waited,
            } => write!(
                f,
                "the broker blocks publishers ({reason}): {route} was not sent within {waited:?}"
            ),
            Self::Unavailable {
                waited,
                what,
                reason,
            } => write!(
                f,
                "no broker within {waited:?}: {what} was not sent: {reason}"
            ),
            Self::Unconfirmed { route, waited } => write!(
                f,
                "{route} was sent but not confirmed within {waited:?}: it may or may not be stored"
            ),
            Self::Stale { queue } => write!(
                f,
                "the delivery from `{queue}` is void: its connection ended before it was settled"
            ),
            Self::Deaf {
                queue,
                ready,
                quiet,
            } => write!(
                f,
                "the worker is deaf: {ready} messages wait in queue `{queue}` and slots are free, but nothing \
                 came for {quiet:.0?}, with a new connection neither: start the process again (if others are \
                 meant to get them all, as with a single active consumer, see `Worker::deaf_after`)"
            ),
            Self::Closed { what } => write!(f, "{what} is closed"),
            Self::DuplicateTask {
                name,
                first,
                second,
            } => write!(
                f,
                "two tasks are named `{name}`: one at {first}, one at {second}; \
                 give one of them another name with `#[task(name = \"…\")]`"
            ),
            Self::MissingState {
                task,
                location,
                state,
            } => write!(
                f,
                "task `{task}` at {location} borrows `&{state}`: give it with `Worker::state(…)`"
            ),
            Self::NoTasks => write!(
                f,
                "no task is registered in this binary: a crate whose tasks are not otherwise used is not linked; \
                 add `use my_tasks as _;` to main.rs, or `.register::<my_tasks::add>()` to the worker"
            ),
            Self::NoQueues => write!(
                f,
                "the worker has no queue: add one with `.queue(\"default\", 4)`"
            ),
            Self::Broker { what, source } => write!(f, "{what}: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Encode { source, .. } => Some(source),
            Self::Broker { source, .. } => Some(&**source),
            _ => None,
        }
    }
}

impl Error {
    pub(crate) fn broker(what: impl Into<String>, source: impl Into<Source>) -> Self {
        Self::Broker {
            what: what.into(),
            source: source.into(),
        }
    }

    pub(crate) fn invalid(
        what: &'static str,
        value: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        Self::Invalid {
            what,
            value: value.into(),
            reason: reason.into(),
        }
    }

    /// Whether a message that met it would meet it again, however often it is sent.
    pub(crate) fn is_lasting(&self) -> bool {
        matches!(
            self,
            Self::Invalid { .. }
                | Self::Encode { .. }
                | Self::TooLarge { .. }
                | Self::Unroutable { .. }
                | Self::Refused { .. }
        )
    }

    /// Whether sending again later may succeed, with nothing else changed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. }
                | Self::Blocked { .. }
                | Self::Unavailable { .. }
                | Self::Unconfirmed { .. }
                | Self::Stale { .. }
        )
    }
}

/// What a task's body returns when it does not succeed.
///
/// Any displayable error becomes one through `?`, and is then retried as often as the task's `retries`
/// allow. The constructors say otherwise: [`permanent`](Self::permanent) is never retried,
/// [`retry_in`](Self::retry_in) is retried after a time of its own, [`snooze`](Self::snooze) runs again
/// later without counting as an attempt.
///
/// It deliberately does not implement `Display`, so that `From` can cover every type that does.
pub struct TaskError {
    pub(crate) then: Then,
    pub(crate) message: String,
    pub(crate) type_name: &'static str,
}

/// What the worker does after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    RetryWithBackoff,
    RetryIn(Duration),
    Snooze(Duration),
    GiveUp,
}

impl TaskError {
    /// An error that no retry would mend: the call fails at once.
    #[must_use]
    pub fn permanent<E: Display>(error: E) -> Self {
        Self {
            then: Then::GiveUp,
            ..Self::from(error)
        }
    }

    /// Run again after `delay`; it counts as an attempt.
    ///
    /// Allowed as often as the task's `retries`, or three times where the task names none.
    #[must_use]
    pub fn retry_in(delay: Duration) -> Self {
        Self {
            then: Then::RetryIn(delay),
            message: format!("asked to be retried in {delay:?}"),
            type_name: "garenne::Retry",
        }
    }

    /// Run again after `delay`, as if this attempt had not been.
    #[must_use]
    pub fn snooze(delay: Duration) -> Self {
        Self {
            then: Then::Snooze(delay),
            message: format!("snoozed for {delay:?}"),
            type_name: "garenne::Snooze",
        }
    }

    /// Says why, in the failure's history and in the logs.
    #[must_use]
    pub fn because<E: Display>(self, reason: E) -> Self {
        Self {
            message: format!("{reason:#}"),
            type_name: std::any::type_name::<E>(),
            ..self
        }
    }

    /// What went wrong, in words.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Debug for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskError")
            .field("then", &self.then)
            .field("message", &self.message)
            .finish()
    }
}

impl<E: Display> From<E> for TaskError {
    fn from(error: E) -> Self {
        // The alternate form prints anyhow's whole chain of causes, and changes nothing for most types.
        Self {
            then: Then::RetryWithBackoff,
            message: format!("{error:#}"),
            type_name: std::any::type_name::<E>(),
        }
    }
}
