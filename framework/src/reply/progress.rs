//! News of a call that still runs, in the form of Celery's custom states.

use serde_json::value::RawValue;

use super::{Reply, ReplyBody};
use crate::message::Message;

/// The state under which Python sees the progress of our tasks.
const STATE: &str = "PROGRESS";
/// Celery's own states; all others are a task's news of itself.
const BUILT_IN: [&str; 9] = [
    "PENDING", "RECEIVED", "STARTED", "SUCCESS", "FAILURE", "REVOKED", "REJECTED", "RETRY",
    "IGNORED",
];

/// How far a call has come, in its task's own terms.
#[derive(Debug)]
pub struct Progress {
    /// The call's id.
    pub id: String,
    /// What the task said.
    pub value: Box<RawValue>,
}

impl Progress {
    /// The message that carries this news to who awaits `request`.
    #[must_use]
    pub fn encode(self, request: &Message) -> Message {
        let body = ReplyBody::new(STATE, &self.value, &self.id);
        Reply::message(request.correlation_id.as_deref(), &body)
    }

    /// Reads what a task, in Rust or Python, tells of its progress; `None` for anything else.
    #[must_use]
    pub fn decode(message: &Message) -> Option<Self> {
        let body: ReplyBody<'_> = serde_json::from_slice(&message.body).ok()?;
        (!BUILT_IN.contains(&&*body.status)).then(|| Self {
            value: body.result(),
            id: body.task_id.into_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Arguments;
    use crate::message::tests::{raw, with_body};

    #[test]
    fn progress_is_no_reply_but_is_read_back() {
        let request = Message::new("id-1".into(), "t", &Arguments::default());
        let progress = Progress {
            id: "id-1".into(),
            value: raw(r#"{"done":1}"#),
        };
        let message = progress.encode(&request);
        assert_eq!(message.correlation_id.as_deref(), Some("id-1"));
        assert!(Reply::decode(&message).expect("readable").is_none());
        let back = Progress::decode(&message).expect("progress");
        assert_eq!((&*back.id, back.value.get()), ("id-1", r#"{"done":1}"#));
        let body: serde_json::Value = serde_json::from_slice(&message.body).expect("JSON");
        assert_eq!(body["status"], "PROGRESS");
    }

    #[test]
    fn a_state_of_ones_own_is_progress_and_celerys_are_not() {
        let body = |state| format!(r#"{{"status":"{state}","result":[1],"task_id":"a"}}"#);
        let decoded = |state| Progress::decode(&with_body(body(state)));
        assert_eq!(decoded("UPLOADING").expect("own").value.get(), "[1]");
        for state in BUILT_IN {
            assert!(decoded(state).is_none(), "{state}");
        }
        assert!(Progress::decode(&with_body("no JSON")).is_none());
    }
}
