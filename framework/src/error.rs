//! What can go wrong, for the person who gets it: [`Error`] is ours, [`TaskError`] a task body's,
//! [`Failure`] what a caller sees of a call that did not succeed.

use std::fmt::{self, Display};
use std::time::Duration;

/// A `Result` whose error is [`enum@Error`] unless another is named.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error that another library gave us.
pub type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Why Garenne could not do what it was asked.
///
/// A task's own failure is never an `Error`: it arrives as a [`Failure`] where the call is awaited.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The broker's URL cannot be used.
    #[error("broker URL `{url}` cannot be used: {reason}")]
    InvalidUrl {
        /// The URL, its password masked.
        url: String,
        /// What is wrong with it and what would be right.
        reason: String,
    },
    /// No broker could be reached, or it refused us.
    #[error("cannot connect to {url}: {reason}")]
    Connect {
        /// The URL, its password masked.
        url: String,
        /// What the broker or the operating system said, and what to try.
        reason: String,
    },
    /// A queue, exchange, task or option has a name or value that is not allowed.
    #[error("invalid {what} `{value}`: {reason}")]
    Invalid {
        /// The kind of thing, for example `queue name`.
        what: &'static str,
        /// The value that was refused.
        value: String,
        /// Why.
        reason: String,
    },
    /// An argument or a result could not be encoded as JSON.
    #[error("task `{task}`: {what} cannot be encoded: {source}")]
    Encode {
        /// The task's name.
        task: String,
        /// Which argument, for example ``argument `day` ``.
        what: String,
        /// What serde said.
        source: serde_json::Error,
    },
    /// The message is larger than the app allows.
    #[error(
        "task `{task}`: the message has {size} bytes, more than the limit of {limit} bytes; \
         store large data elsewhere and send its address, or raise `max_message_size`"
    )]
    TooLarge {
        /// The task's name.
        task: String,
        /// Size of the encoded body in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The broker has no queue for this message: it was not stored.
    #[error("{route} leads to no queue: the message was not stored")]
    Unroutable {
        /// Where the message was to go.
        route: String,
    },
    /// The broker said no: the message was not stored, or the operation was not done.
    #[error("the broker refused {what}: {reason}")]
    Refused {
        /// What was asked, with the queue or route.
        what: String,
        /// What the broker said, and what to do.
        reason: String,
    },
    /// The broker takes no messages at the moment (an alarm on memory or disk): this one was not sent.
    #[error("the broker blocks publishers ({reason}): {route} was not sent within {waited:?}")]
    Blocked {
        /// Where the message was to go.
        route: String,
        /// The broker's reason.
        reason: String,
        /// How long it was tried.
        waited: Duration,
    },
    /// No broker could be reached within the deadline: the message was not sent.
    #[error("no broker within {waited:?}: {what} was not sent: {reason}")]
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
    #[error("{route} was sent but not confirmed within {waited:?}: it may or may not be stored")]
    Unconfirmed {
        /// Where the message went.
        route: String,
        /// How long the confirm was awaited.
        waited: Duration,
    },
    /// The delivery is void: its connection ended, and the broker gives the message to a worker again.
    #[error("the delivery from `{queue}` is void: its connection ended before it was settled")]
    Stale {
        /// The queue it came from.
        queue: String,
    },
    /// The app or worker was closed.
    #[error("{what} is closed")]
    Closed {
        /// What was closed.
        what: &'static str,
    },
    /// Two tasks have one name.
    #[error(
        "two tasks are named `{name}`: one at {first}, one at {second}; \
         give one of them another name with `#[task(name = \"…\")]`"
    )]
    DuplicateTask {
        /// The name.
        name: String,
        /// `file:line` of the first.
        first: String,
        /// `file:line` of the second.
        second: String,
    },
    /// A task borrows a state that the worker was not given.
    #[error("task `{task}` at {location} borrows `&{state}`: give it with `Worker::state(…)`")]
    MissingState {
        /// The task's name.
        task: String,
        /// `file:line` of the task.
        location: String,
        /// The type's name.
        state: &'static str,
    },
    /// No task is linked into this binary.
    #[error(
        "no task is registered in this binary: a crate whose tasks are not otherwise used is not linked; \
         add `use my_tasks as _;` to main.rs, or `.register::<my_tasks::add>()` to the worker"
    )]
    NoTasks,
    /// The worker was given nothing to consume.
    #[error("the worker has no queue: add one with `.queue(\"default\", 4)`")]
    NoQueues,
    /// The broker's own machinery failed.
    #[error("{what}: {source}")]
    Broker {
        /// What was being done.
        what: String,
        /// What went wrong below.
        source: Source,
    },
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

/// How a call came not to succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// The task returned an error, and no retry is left.
    Failed,
    /// The task panicked.
    Panicked,
    /// The task ran longer than its time limit.
    TimedOut,
    /// The call was not started before its expiry.
    Expired,
    /// The call was cancelled.
    Cancelled,
    /// What became of the call is not known: no reply came in time, or it could not be read.
    Unknown,
    /// The worker could not run the call: unknown task, unreadable message, wrong arguments, poison.
    Rejected,
}

impl FailureKind {
    pub(crate) const ALL: [Self; 7] = [
        Self::Failed,
        Self::Panicked,
        Self::TimedOut,
        Self::Expired,
        Self::Cancelled,
        Self::Unknown,
        Self::Rejected,
    ];

    /// The word that stands for it on the wire and in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Panicked => "panicked",
            Self::TimedOut => "timed_out",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
            Self::Rejected => "rejected",
        }
    }
}

impl Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.as_str().replace('_', " "))
    }
}

/// Why a call has no result: what a caller sees.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("task `{task}` ({id}) {kind} after {attempts} attempt(s): {message}")]
#[non_exhaustive]
pub struct Failure {
    /// The task's name.
    pub task: String,
    /// The call's id.
    pub id: String,
    /// How it came about.
    pub kind: FailureKind,
    /// The error's words.
    pub message: String,
    /// The error's type, as the worker named it; empty where there is none.
    pub error_type: String,
    /// How many times the task was started; 0 when it never was.
    pub attempts: u32,
    /// What the worker knows of the place: a panic's location, a chain of causes, Python's traceback.
    pub traceback: Option<String>,
}

impl Failure {
    pub(crate) fn new(
        task: impl Into<String>,
        id: impl Into<String>,
        kind: FailureKind,
        message: impl Into<String>,
    ) -> Self {
        Self {
            task: task.into(),
            id: id.into(),
            kind,
            message: message.into(),
            error_type: String::new(),
            attempts: 0,
            traceback: None,
        }
    }
}
