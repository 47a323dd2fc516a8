//! A distributed task queue.
#![doc(html_root_url = "https://docs.rs/garenne")]

pub mod app;
pub mod broker;
pub mod call;
pub mod context;
pub mod error;
pub mod handle;
pub mod message;
pub mod registry;
pub mod reply;
pub mod retry;
pub mod send_all;
pub mod task;
pub mod worker;

pub use app::{App, AppBuilder};
pub use broker::{Exchange, ExchangeKind, HeaderMatch, Queue, QueueType};
pub use call::Call;
pub use context::Context;
pub use error::{Error, Failure, FailureKind, TaskError};
pub use garenne_macros::task;
pub use handle::Handle;
pub use retry::Backoff;
pub use send_all::SendAll;
pub use task::{Ack, Task};
pub use time::{DAY, HOUR, MILLISECOND, MINUTE, SECOND};
pub use worker::{RunningWorker, Worker, shutdown_signal};

/// Durations to multiply: `10 * SECOND`.
mod time {
    use std::time::Duration;

    /// A thousandth of a second.
    pub const MILLISECOND: Duration = Duration::from_millis(1);
    /// One second.
    pub const SECOND: Duration = Duration::from_secs(1);
    /// Sixty seconds.
    pub const MINUTE: Duration = Duration::from_secs(60);
    /// Sixty minutes.
    pub const HOUR: Duration = Duration::from_secs(60 * 60);
    /// Twenty-four hours.
    pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);
}

/// What the code that `#[task]` writes talks to. Not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use crate::broker::BoxFuture;
    pub use crate::call::CallBuilder;
    pub use crate::registry::Registered;
    pub use crate::retry::Backoff;
    pub use crate::task::{
        Ack, Borrow, Definition, Fails, Fallible, Invocation, Lent, Outcome, Parameter, Run,
        RunError, TaskOptions, Value, encode, failed,
    };
    pub use inventory;
}
