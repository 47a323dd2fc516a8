//! What is to follow a call: the third part of a message's body.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::arguments::NOTHING_FOLLOWS;
use super::{Arguments, Joined, Message, Signatures, Unreadable, without_nan};

/// What is to follow a call, as Celery's canvas writes it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Embed {
    /// Sent when the call has succeeded, each with its result.
    pub callbacks: Signatures,
    /// Sent when the call has failed for good.
    pub errbacks: Signatures,
    /// Sent one after the other, each with the result of the one before; the next one is last.
    pub chain: Signatures,
    /// The body of a chord of Celery's, which counts its members in the result backend.
    pub chord: Option<Box<RawValue>>,
    /// Ours: the join whose body this call is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub garenne_join: Option<Joined>,
}

impl Embed {
    /// The body of the chord of Celery's that the call is a member of.
    #[must_use]
    pub fn chord(&self) -> Option<&RawValue> {
        let chord = self.chord.as_deref();
        chord.filter(|chord| !matches!(chord.get(), "null" | "[]" | "{}"))
    }

    /// What is to follow the call that `message` asks for.
    ///
    /// # Errors
    /// As for [`Arguments::decode`].
    pub fn of(message: &Message) -> Result<Self, Unreadable> {
        match message.body.ends_with(NOTHING_FOLLOWS) {
            true => Ok(Self::default()),
            false => Arguments::decode_all(message).map(|(_, embed)| embed),
        }
    }

    /// What can be read of it, also where the call itself cannot be read: those who were to follow are to be told.
    pub(crate) fn readable_of(message: &Message) -> Self {
        Self::of(message)
            .ok()
            .or_else(|| Self::alone(&message.body))
            .or_else(|| Self::alone(&without_nan(&message.body)))
            .unwrap_or_default()
    }

    /// What is to follow a call with whatever arguments.
    fn alone(body: &[u8]) -> Option<Self> {
        let (_, _, embed): (IgnoredAny, IgnoredAny, &RawValue) =
            serde_json::from_slice(body).ok()?;
        serde_json::from_str(embed.get()).ok()
    }

    /// Whether nothing follows, and nothing went before.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.callbacks.is_empty()
            && self.errbacks.is_empty()
            && self.chain.is_empty()
            && self.chord.is_none()
            && self.garenne_join.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_is_known_of_a_call_that_cannot_be_read() {
        let many = vec!["1"; 1001].join(", ");
        for arguments in [
            "[NaN], {}",
            "[], {\"n\": -Infinity}",
            &format!("[{many}], {{}}"),
            "[1e400], {\"\\ud800\": 1}",
            "7, 7",
        ] {
            for inside in ["1", "NaN"] {
                let next = format!(r#"{{"task": "next", "args": [{inside}], "kwargs": {{}}}}"#);
                let message = Message {
                    body: format!("[{arguments}, {{\"chain\": [{next}]}}]")
                        .into_bytes()
                        .into(),
                    ..Message::default()
                };
                assert!(Embed::of(&message).is_err(), "{arguments}");
                let embed = Embed::readable_of(&message);
                assert_eq!(embed.chain.0.len(), 1, "{arguments} {inside}");
            }
        }
        let nothing = Message {
            body: b"\x80\x04}".to_vec().into(),
            ..Message::default()
        };
        assert!(Embed::readable_of(&nothing).is_empty());
    }
}
