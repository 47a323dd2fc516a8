//! One dead letter, as it is shown.

use std::fmt;
use std::time::SystemTime;

use crate::message::{Arguments, Message, PastError, header, parse_time};

/// The reason of a message that does not say why it is dead.
const NO_REASON: &str = "unknown";

/// A message that nothing will run again by itself, and how it came to that.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The call's id; empty where the message has none.
    pub id: String,
    /// The task's name; empty where the message names none.
    pub task: String,
    /// Why it is dead, in one word: `failed`, `panicked`, `timed_out` (the last attempt did);
    /// `arguments`, `unknown_task`, `unreadable`, `unsupported`, `too_large` (it cannot be run); `result`
    /// (its result cannot be returned); `follower` (what is to follow it can never be sent); `join` (the
    /// results that it is to get are gone); `poison` (it ended too many workers); `stopped` (its worker
    /// was, after an early acknowledgement); RabbitMQ's own `delivery_limit`, `rejected`, `expired` and
    /// `maxlen`; or `unknown`.
    pub reason: String,
    /// Why it is dead, in a sentence.
    pub error: String,
    /// How every attempt failed, the oldest first, those of earlier lives included: the newest that fit
    /// 16 KiB.
    pub errors: Vec<PastError>,
    /// How many attempts were made in its last life.
    pub attempts: u32,
    /// How often it was retried from the dead letters before.
    pub revivals: u32,
    /// When it died, where that is known.
    pub died_at: Option<SystemTime>,
    /// The queue that it was taken from.
    pub queue: String,
    /// The exchange that it was sent to; empty if it was sent to its queue.
    pub exchange: String,
    /// The routing key that it was sent with.
    pub routing_key: String,
    /// The message with its original headers and body, and the notes of its death among the headers.
    pub message: Message,
}

impl DeadLetter {
    /// Reads the dead letter that `message` is, taken from the dead letters of `queue`.
    pub(super) fn read(message: Message, queue: &str, prefix: &str) -> Self {
        let text = |name: &str| message.text(name).map(str::to_owned);
        let plain = |name: String| name.strip_prefix(prefix).map(str::to_owned).unwrap_or(name);
        let queue = text(header::QUEUE).map_or_else(|| queue.to_owned(), plain);
        let attempts = message.count(header::ATTEMPTS);
        Self {
            id: message.id.clone(),
            task: text("task").unwrap_or_default(),
            reason: text(header::REASON).unwrap_or_else(|| NO_REASON.into()),
            error: text(header::ERROR).unwrap_or_default(),
            errors: message.errors(),
            attempts: attempts.unwrap_or_else(|| message.attempt() - 1),
            revivals: message.revivals(),
            died_at: text(header::DIED_AT).as_deref().and_then(parse_time),
            exchange: text(header::EXCHANGE).map_or_else(String::new, plain),
            routing_key: text(header::ROUTING_KEY).unwrap_or_else(|| queue.clone()),
            queue,
            message,
        }
    }

    /// The arguments as they would be written in a call: `2, 3, y: [1]`, each in JSON. Of a message that
    /// cannot be read, its body as text.
    #[must_use]
    pub fn arguments(&self) -> String {
        let Ok(Arguments { args, kwargs }) = Arguments::decode(&self.message) else {
            return String::from_utf8_lossy(&self.message.body).into_owned();
        };
        let by_position = args.iter().map(|value| value.get().to_owned());
        let by_name = kwargs
            .iter()
            .map(|(name, value)| format!("{name}: {value}"));
        by_position.chain(by_name).collect::<Vec<_>>().join(", ")
    }

    /// The body as it was sent, byte for byte.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.message.body
    }
}

impl fmt::Display for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            task,
            reason,
            attempts,
            error,
            ..
        } = self;
        write!(
            f,
            "task `{task}` ({id}) {reason} after {attempts} attempt(s): {error}"
        )
    }
}
