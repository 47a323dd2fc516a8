//! What is to follow a call: the third part of a message's body.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::arguments::NOTHING_FOLLOWS;
use super::{Arguments, Joined, Message, Signatures, Unreadable};

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
