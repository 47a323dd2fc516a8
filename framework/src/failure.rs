//! Why a call has no result: what a caller sees.

use std::fmt::{self, Display};

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

/// How a call came not to succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// The worker could not run the call: unknown task, unreadable message, wrong arguments, poison.
    Rejected,
    /// What became of the call is not known: no reply came in time, or it could not be read.
    #[serde(other)]
    Unknown,
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
///
/// It travels in messages, too, as an argument: of what [`on_error`](crate::Workflow::on_error) names, and in
/// collected results. Where a Python worker names a failed call by its id alone, the rest is left open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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

/// A failure as it is written.
#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    task: String,
    id: String,
    kind: FailureKind,
    #[serde(default)]
    message: String,
    #[serde(default)]
    error_type: String,
    #[serde(default)]
    attempts: u32,
    #[serde(default)]
    traceback: Option<String>,
}

impl<'de> Deserialize<'de> for Failure {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Failure;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a failure, or a failed call's id")
            }

            fn visit_str<E>(self, id: &str) -> Result<Failure, E> {
                let message = "a Python worker says no more than that it failed";
                Ok(Failure::new("", id, FailureKind::Failed, message))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Failure, A::Error> {
                let written = Written::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Failure {
                    task: written.task,
                    id: written.id,
                    kind: written.kind,
                    message: written.message,
                    error_type: written.error_type.into(),
                    attempts: written.attempts,
                    traceback: written.traceback,
                })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_travels_in_messages() {
        let failure = Failure {
            error_type: "demo::Error".into(),
            attempts: 3,
            traceback: Some("here".into()),
            ..Failure::new("demo", "id-1", FailureKind::TimedOut, "too slow")
        };
        let text = serde_json::to_string(&failure).expect("JSON");
        assert!(text.contains(r#""kind":"timed_out""#), "{text}");
        assert_eq!(serde_json::from_str::<Failure>(&text).ok(), Some(failure));
        for kind in FailureKind::ALL {
            let word = serde_json::to_value(kind).expect("JSON");
            assert_eq!(word, kind.as_str());
        }
        let newer = r#"{"id": "a", "kind": "melted", "colour": "red"}"#;
        let newer: Failure = serde_json::from_str(newer).expect("a later version's");
        assert_eq!((newer.kind, &*newer.id), (FailureKind::Unknown, "a"));
    }

    #[test]
    fn a_python_worker_gives_the_failed_calls_id() {
        let failure: Failure = serde_json::from_str(r#""id-1""#).expect("an id");
        assert_eq!((&*failure.id, failure.kind), ("id-1", FailureKind::Failed));
        assert!(serde_json::from_str::<Failure>("7").is_err());
    }
}
