//! Why a call has no result: what a caller sees.

use std::fmt::{self, Display};

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
#[derive(Debug, Clone, PartialEq, Eq)]
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
    pub error_type: Box<str>,
    /// How many attempts failed or were under way; 0 when the task was never started. An attempt that ended
    /// with its worker's death is not counted.
    pub attempts: u32,
    /// How it came about: Python's traceback, or the errors of all attempts of a task in Rust.
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
            error_type: Box::default(),
            attempts: 0,
            traceback: None,
        }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            task,
            id,
            kind,
            attempts,
            message,
            ..
        } = self;
        write!(
            f,
            "task `{task}` ({id}) {kind} after {attempts} attempt(s): {message}"
        )
    }
}

impl std::error::Error for Failure {}
