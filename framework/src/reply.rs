//! The answer to a call on the wire: a result or a failure, in the form of Celery's rpc backend. Pure.

use std::borrow::Cow;
use std::time::SystemTime;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::failure::{Failure, FailureKind};
use crate::message::{Headers, Message, Unreadable, cut, format_time, usual, without_nan};

mod exception;
mod progress;

use exception::{ExceptionBody, exception, traceback};
pub use progress::Progress;

/// Longest name in bytes that AMQP carries.
const NAME_LIMIT: usize = 255;
/// Bytes of an error's text that a reply carries.
const TEXT_LIMIT: usize = 64 * 1024;

/// Bytes that the body of a reply to a call that has succeeded takes beside its id and its result.
const WITHOUT_RESULT: usize = 128;

/// The answer to a call.
#[derive(Debug)]
pub struct Reply {
    /// The call's id.
    pub id: String,
    /// The result, still encoded, or why there is none.
    pub outcome: Result<Box<RawValue>, Failure>,
}

/// The body of a reply, as Celery's rpc backend writes it.
#[derive(Serialize, Deserialize)]
struct ReplyBody<'a> {
    #[serde(borrow)]
    status: Cow<'a, str>,
    result: Option<&'a RawValue>,
    #[serde(default)]
    traceback: Option<String>,
    #[serde(default, skip_deserializing)]
    children: [(); 0],
    #[serde(default, skip_deserializing)]
    date_done: Option<String>,
    #[serde(borrow)]
    task_id: Cow<'a, str>,
    /// What Celery's form has no place for, and its readers pass over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    garenne: Option<Note>,
}

/// What is read of a reply that cannot be read in full.
#[derive(Deserialize)]
struct Outline {
    status: String,
    task_id: String,
    #[serde(rename = "result")]
    _result: IgnoredAny,
}

/// What we say of a failure beside Celery's description of an exception.
#[derive(Serialize, Deserialize)]
struct Note {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    attempts: u32,
    #[serde(default)]
    task: String,
    #[serde(default)]
    error_type: String,
    /// The call that has failed, in a reply to another one that was to follow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
}

impl<'a> ReplyBody<'a> {
    fn new(status: &'a str, result: &'a RawValue, task_id: &'a str) -> Self {
        Self {
            status: status.into(),
            result: Some(result),
            traceback: None,
            children: [],
            date_done: None,
            task_id: task_id.into(),
            garenne: None,
        }
    }

    fn result(&self) -> Box<RawValue> {
        self.result.unwrap_or(RawValue::NULL).to_owned()
    }
}

impl Reply {
    /// Its state and its result, as Celery names and writes them.
    #[must_use]
    pub fn state(&self) -> (&'static str, Box<RawValue>) {
        let (status, result) = self.stated();
        (status, result.into_owned())
    }

    fn stated(&self) -> (&'static str, Cow<'_, RawValue>) {
        match &self.outcome {
            Ok(value) => ("SUCCESS", Cow::Borrowed(value)),
            Err(failure) => (status(failure.kind), Cow::Owned(exception(failure))),
        }
    }

    /// The message that carries this reply to who awaits `request`.
    #[must_use]
    pub fn encode(&self, request: &Message, now: SystemTime) -> Message {
        self.encode_for(request.correlation_id.as_deref(), request, now)
    }

    /// The message that carries this reply to who knows the call by `correlation_id`, or by its id. `request`
    /// is what has failed, if something did: the same call, or one that it was to follow.
    #[must_use]
    pub fn encode_for(
        &self,
        correlation_id: Option<&str>,
        request: &Message,
        now: SystemTime,
    ) -> Message {
        let (status, result) = self.stated();
        let failure = self.outcome.as_ref().err();
        let traceback = failure.map(|failure| {
            let said = failure.traceback.clone();
            said.unwrap_or_else(|| traceback(failure, request))
        });
        let note = |failure: &Failure| Note {
            kind: failure.kind.as_str().into(),
            attempts: failure.attempts,
            task: cut(&failure.task, NAME_LIMIT).into(),
            error_type: cut(&failure.error_type, NAME_LIMIT).into(),
            id: (failure.id != self.id).then(|| cut(&failure.id, NAME_LIMIT).into()),
        };
        let mut body = ReplyBody::new(status, &result, &self.id);
        body.traceback = traceback;
        body.date_done = Some(format_time(now));
        body.garenne = failure.map(note);
        Self::message(correlation_id, &body)
    }

    /// The message that carries `body` to who knows the call by `correlation_id`.
    fn message(correlation_id: Option<&str>, body: &ReplyBody<'_>) -> Message {
        let id = &*body.task_id;
        let result = body.result.map_or(0, |result| result.get().len());
        let mut json = Vec::with_capacity(WITHOUT_RESULT + id.len() + result);
        serde_json::to_writer(&mut json, body).expect("a reply always serialises");
        Message {
            id: cut(id, NAME_LIMIT).to_owned(),
            headers: Headers::new(),
            content_type: usual::media_type(),
            content_encoding: usual::encoding(),
            correlation_id: Some(correlation_id.unwrap_or(id).to_owned()),
            reply_to: None,
            priority: None,
            body: json.into(),
        }
    }

    fn illegible(id: String, text: String) -> Self {
        Self {
            outcome: Err(Failure::new("", &*id, FailureKind::Unknown, text)),
            id,
        }
    }

    /// Reads a reply; `None` for the news of a call that is not finished yet (`STARTED`, `RETRY`, …). One that says
    /// that its call is over, but not legibly how, is a failure: no better one will come.
    ///
    /// # Errors
    /// [`Unreadable`] with the reason.
    pub fn decode(message: &Message) -> Result<Option<Self>, Unreadable> {
        let body: ReplyBody<'_> = match serde_json::from_slice(&message.body) {
            Ok(body) => body,
            Err(error) => {
                let format = message.unsupported();
                let is_foreign = format.is_some();
                let reason = format.unwrap_or_else(|| error.to_string());
                let text = format!("the reply cannot be read: {reason}");
                return match (outline(message), &message.correlation_id) {
                    (Some(reply), _) if is_final(&reply.status) => {
                        Ok(Some(Self::illegible(reply.task_id, text)))
                    }
                    // Another will be in the same format.
                    (None, Some(id)) if is_foreign => Ok(Some(Self::illegible(id.clone(), text))),
                    _ => Err(Unreadable(text)),
                };
            }
        };
        let outcome = match &*body.status {
            "SUCCESS" => Ok(body.result()),
            "FAILURE" | "REVOKED" => Err(failure(&body)),
            _ => return Ok(None),
        };
        Ok(Some(Self {
            id: body.task_id.into_owned(),
            outcome,
        }))
    }
}

fn is_final(status: &str) -> bool {
    matches!(status, "SUCCESS" | "FAILURE" | "REVOKED")
}

/// What can be read of a reply with numbers or characters in it that JSON has not.
fn outline(message: &Message) -> Option<Outline> {
    serde_json::from_slice(&without_nan(&message.body)).ok()
}

fn status(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Expired | FailureKind::Cancelled => "REVOKED",
        _ => "FAILURE",
    }
}

fn failure(body: &ReplyBody<'_>) -> Failure {
    let exception = body
        .result
        .and_then(|raw| serde_json::from_str::<ExceptionBody>(raw.get()).ok());
    let said = exception.as_ref().map(|e| match &e.exc_message {
        Value::Array(parts) => parts.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => plain(other),
    });
    let note = body.garenne.as_ref();
    let kind = note.and_then(|note| {
        let mut kinds = FailureKind::ALL.into_iter();
        kinds.find(|kind| kind.as_str() == note.kind)
    });
    let kind = kind.unwrap_or_else(|| python_kind(body, exception.as_ref(), said.as_deref()));
    let error_type = match (note, exception) {
        (Some(note), _) => Some(note.error_type.clone()),
        (None, Some(e)) => Some(match e.exc_module {
            Some(module) if !module.is_empty() => format!("{module}.{}", e.exc_type),
            _ => e.exc_type,
        }),
        (None, None) => None,
    };
    let id = note.and_then(|note| note.id.clone());
    Failure {
        error_type: error_type.unwrap_or_default().into(),
        attempts: note.map_or(0, |note| note.attempts),
        traceback: body.traceback.clone(),
        ..Failure::new(
            note.map_or("", |note| &*note.task),
            id.unwrap_or_else(|| body.task_id.clone().into_owned()),
            kind,
            said.unwrap_or_else(|| "the worker gave no reason".into()),
        )
    }
}

fn python_kind(
    body: &ReplyBody<'_>,
    exception: Option<&ExceptionBody>,
    said: Option<&str>,
) -> FailureKind {
    match exception.map(|e| e.exc_type.as_str()) {
        Some("TaskRevokedError") if said == Some("expired") => FailureKind::Expired,
        Some("TaskRevokedError") => FailureKind::Cancelled,
        Some("TimeLimitExceeded" | "SoftTimeLimitExceeded") => FailureKind::TimedOut,
        Some("NotRegistered") => FailureKind::Rejected,
        _ if body.status == "REVOKED" => FailureKind::Cancelled,
        _ => FailureKind::Failed,
    }
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests;
