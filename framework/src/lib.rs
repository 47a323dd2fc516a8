//! A distributed task queue on RabbitMQ, one SQLite file, or memory: put `#[task]` on a function, start
//! workers, call it from another process and await its typed result.
//!
//! ```standalone_crate
//! use garenne::{App, Worker, task};
//!
//! #[task]
//! async fn add(a: i64, b: i64) -> i64 {
//!     a + b
//! }
//!
//! #[tokio::main]
//! async fn main() -> anyhow::Result<()> {
//!     let app = App::in_memory(); // or `App::connect("amqp://…")`, `App::connect("sqlite://…")`
//!     let worker = Worker::new(&app).queue("default", 4).spawn();
//!
//!     let handle = add::call(2, 3).send(&app).await?;
//!     assert_eq!(handle.await?, 5);
//!
//!     worker.stop().await?;
//!     Ok(())
//! }
//! ```
//!
//! In the order in which a call meets them: [`task`](macro@task), [`Call`], [`App`], [`Handle`]; [`Queue`] and
//! [`Exchange`]; [`Worker`], [`Context`], [`TaskError`]; [`Failure`] and [`Error`]; [`DeadLetters`]. What the brokers have in
//! common is in [`broker`].
//!
//! What happens is told through [`tracing`](https://docs.rs/tracing), under targets that begin with `garenne`: without a
//! subscriber nothing is logged.

// The way of a call, from the function to the wire …
pub mod app;
pub mod app_builder;
mod awaited;
pub mod call;
pub mod celery;
mod clock;
pub mod handle;
mod hashed;
mod id;
pub mod message;
mod options;
pub mod progress;
pub mod registry;
mod rehearsal;
pub mod reply;
#[cfg(feature = "redis")]
mod result_store;
pub mod results;
pub mod send_all;
mod step;
pub mod task;
mod waiters;
pub mod workflow;
// … what carries it …
pub mod broker;
// … and what runs it.
pub mod context;
pub mod control;
pub mod dead_letters;
pub mod event;
pub mod retry;
pub mod scheduler;
pub mod testing;
pub mod worker;

pub mod error;
pub mod exit;
pub mod failure;

pub use app::App;
pub use app_builder::AppBuilder;
pub use broker::{Exchange, ExchangeKind, HeaderMatch, Queue, QueueType};
pub use call::Call;
pub use context::Context;
pub use control::{Control, Rate};
pub use dead_letters::{Dead, DeadLetter, DeadLetters};
pub use error::{Error, TaskError};
pub use event::{Event, EventKind};
pub use exit::Exit;
pub use failure::{Failure, FailureKind};
pub use garenne_macros::task;
pub use handle::Handle;
pub use progress::Progress;
pub use results::Results;
pub use retry::Backoff;
#[cfg(feature = "cron")]
pub use scheduler::cron;
pub use scheduler::{
    Missed, RunningScheduler, Schedule, ScheduleEntry, Scheduler, Schedules, at, every,
};
pub use send_all::SendAll;
pub use task::{Ack, Task};
pub use time::{DAY, HOUR, MILLISECOND, MINUTE, SECOND};
pub use worker::{Prefetch, RunningWorker, Worker, shutdown_signal};
pub use workflow::{Group, Partial, Workflow, group};

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

/// The README's examples are tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

#[cfg(test)]
mod corpus;

/// So are those of the guide to running it.
#[cfg(doctest)]
#[doc = include_str!("../../docs/operations.md")]
struct Operations;
