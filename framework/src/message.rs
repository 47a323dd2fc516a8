//! What crosses the wire to ask for a run: a [`Message`], in Celery's message
//! protocol 2 (headers for metadata, a JSON body `[args, kwargs, embed]`), with our own headers prefixed
//! `garenne-`. Knows nothing of brokers or of registered tasks, and reads no clock.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::fmt::temporal::DateTimePrinter;
use jiff::tz::Offset;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

mod arguments;
mod canvas;
mod check;
mod embed;
mod foreign;
mod lenient;
mod origin;
mod past;
mod signature;
mod stamps;
mod unpack;

pub use arguments::Arguments;
pub use canvas::{Beginning, Chord, First};
pub(crate) use canvas::{DEPTH as CANVAS_DEPTH, Kind};
#[cfg(feature = "amqp")]
pub(crate) use check::DEPTH_LIMIT;
pub(crate) use check::{BODY_DEPTH_LIMIT, is_deeper};
pub use embed::Embed;
pub(crate) use lenient::without_nan;
pub use origin::Origin;
pub use past::PastError;
pub use signature::{Following, Joined, Part, Signature, SignatureOptions, Signatures};
pub(crate) use stamps::values as stamp_values;

/// How far away an expiry may be for Python: RabbitMQ counts its milliseconds in 32 bits.
pub(crate) const FARTHEST_EXPIRY: Duration = Duration::from_secs(49 * 24 * 3600);

/// A message's header table, as JSON values.
pub type Headers = Map<String, Value>;

/// Names of the headers that Garenne reads and writes beside Celery's own.
pub mod header {
    /// How many retries the call allows, where the sender says so.
    pub const RETRIES: &str = "garenne-retries";
    /// `[base, max]` of the backoff in seconds, where the sender says so.
    pub const BACKOFF: &str = "garenne-backoff";
    /// `early` or `late`, where the sender says when to acknowledge.
    pub const ACK: &str = "garenne-ack";
    /// By when the call is to be done, with its retries and all that its tasks send; RFC 3339.
    pub const DEADLINE: &str = "garenne-deadline";
    /// The errors of earlier attempts, in JSON: an array of objects with `attempt`, `at` and `error`, the
    /// newest last.
    pub const HISTORY: &str = "garenne-history";
    /// How often this copy's predecessors were delivered and came back unsettled.
    pub const DELIVERIES: &str = "garenne-deliveries";
    /// Whether it is a copy that took the place of a message which was given back.
    pub const RETURNED: &str = "garenne-returned";
    /// Whether it was put off until now: it has its place in the line of those that wait for a rate limit.
    pub const POSTPONED: &str = "garenne-postponed";
    /// Why a dead letter is dead: one word.
    pub const REASON: &str = "garenne-reason";
    /// Why a dead letter is dead: a sentence.
    pub const ERROR: &str = "garenne-error";
    /// The queue that a dead letter came from.
    pub const QUEUE: &str = "garenne-queue";
    /// When a dead letter died, RFC 3339.
    pub const DIED_AT: &str = "garenne-died-at";
    /// The exchange that a message which was published again had come by first.
    pub const EXCHANGE: &str = "garenne-exchange";
    /// The routing key that it had come with.
    pub const ROUTING_KEY: &str = "garenne-routing-key";
    /// How often a dead letter of this call was sent to its queue again.
    pub const REVIVALS: &str = "garenne-revivals";
    /// What of a message could not be read on the way to its worker, and so was left out.
    pub const MALFORMED: &str = "garenne-malformed";
    /// Names of headers that a dead letter lost because they were too large.
    pub const LEFT_OUT: &str = "garenne-left-out";
    /// How many attempts a dead letter took.
    pub const ATTEMPTS: &str = "garenne-attempts";
    /// The join that a call is a member of, in JSON.
    pub const JOIN: &str = "garenne-join";
    /// As Celery's `expires`, where that would be farther away than Python can bear.
    pub const EXPIRES: &str = "garenne-expires";
    /// What an error callback wants instead of the failed call's id, which Celery gives it: `failure`.
    pub const INPUT: &str = "garenne-input";
}

/// What a broker carries: metadata and a body it does not look into.
///
/// Serialised, it has no body, and none of the optional fields that are `None`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Message {
    /// The call's id; empty in a foreign message that has none.
    pub id: String,
    /// Metadata: Celery's headers, ours, and the user's.
    pub headers: Headers,
    /// The body's media type.
    pub content_type: String,
    /// The body's encoding, `utf-8` for JSON.
    pub content_encoding: String,
    /// What a reply must carry to be recognised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// The queue that wants the reply; `None` if nobody waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// 0 (lowest) to 255, on queues that have priorities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// The body, shared: it may be large, and copies of a message have the same.
    #[serde(skip)]
    pub body: Arc<Vec<u8>>,
}

/// What nearly all messages say of their bodies.
pub(crate) mod usual {
    pub(super) const MEDIA_TYPE: &str = "application/json";
    pub(super) const ENCODING: &str = "utf-8";

    pub(crate) fn media_type() -> String {
        MEDIA_TYPE.into()
    }

    pub(crate) fn encoding() -> String {
        ENCODING.into()
    }
}

/// Why a message cannot be run: said to the caller and kept with the dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable(pub String);

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreadable {}

impl Message {
    /// A new call of `task`, first attempt.
    ///
    /// What a worker of ours takes for granted, or reads in the body, is left out: RabbitMQ decodes each header of each
    /// message.
    #[must_use]
    pub fn new(id: String, task: &str, arguments: &Arguments) -> Self {
        let mut headers = Headers::new();
        headers.insert("task".into(), task.into());
        headers.insert("id".into(), id.as_str().into());
        Self {
            correlation_id: Some(id.clone()),
            id,
            headers,
            content_type: usual::media_type(),
            content_encoding: usual::encoding(),
            reply_to: None,
            priority: None,
            body: arguments.encode().into(),
        }
    }

    /// The number of this attempt; the first is 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.count("retries").unwrap_or(0).saturating_add(1)
    }

    /// How many retries the sender allows, where it says so.
    #[must_use]
    pub fn retries(&self) -> Option<u32> {
        self.count(header::RETRIES)
    }

    /// When the call is due, where it is not due at once.
    #[must_use]
    pub fn eta(&self) -> Option<SystemTime> {
        self.time("eta")
    }

    /// After which time the call is not started any more.
    #[must_use]
    pub fn expires(&self) -> Option<SystemTime> {
        self.time("expires").or_else(|| self.time(header::EXPIRES))
    }

    /// Keeps an expiry that is far away from Python, whose retry of the call would be refused by RabbitMQ and end
    /// its channel: it sends the time until then as the message's own expiration, which has a limit.
    pub(crate) fn hide_far_expiry(&mut self, now: SystemTime) {
        let after = self
            .time("expires")
            .and_then(|expires| expires.duration_since(now).ok());
        if after.is_some_and(|after| after > FARTHEST_EXPIRY)
            && let Some(expires) = self.headers.remove("expires")
        {
            self.headers.insert(header::EXPIRES.into(), expires);
        }
    }

    /// How long one attempt may run, where the sender says so: the nearer one of Celery's two time limits.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        let limits = [self.time_limit(0), self.soft_timeout()];
        limits.into_iter().flatten().min()
    }

    /// Celery's soft time limit.
    #[must_use]
    pub fn soft_timeout(&self) -> Option<Duration> {
        self.time_limit(1)
    }

    fn time_limit(&self, place: usize) -> Option<Duration> {
        let seconds = self.headers.get("timelimit")?.get(place)?.as_f64()?;
        let limit = Duration::try_from_secs_f64(seconds).ok()?;
        // As in Celery, 0 is no limit.
        (!limit.is_zero()).then_some(limit)
    }

    /// `(base, max)` of the backoff, where the sender says so.
    #[must_use]
    pub fn backoff(&self) -> Option<(Duration, Duration)> {
        let value = self.headers.get(header::BACKOFF)?;
        let seconds = |i: usize| Duration::try_from_secs_f64(value.get(i)?.as_f64()?).ok();
        Some((seconds(0)?, seconds(1)?))
    }

    /// Whether nobody wants this call's result.
    #[must_use]
    pub fn ignores_result(&self) -> bool {
        self.reply_to.is_none() || self.headers.get("ignore_result") == Some(&Value::Bool(true))
    }

    /// A header's text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.as_str()
    }

    pub(crate) fn count(&self, name: &str) -> Option<u32> {
        let value = self.headers.get(name)?;
        let number = value
            .as_i64()
            .or_else(|| value.as_f64().map(|f| f as i64))?;
        Some(u32::try_from(number.clamp(0, i64::from(u32::MAX))).unwrap_or(u32::MAX))
    }

    fn time(&self, name: &str) -> Option<SystemTime> {
        parse_time(self.text(name)?)
    }

    /// Sets or clears a header.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        match value.into() {
            Value::Null => self.headers.remove(name),
            value => self.headers.insert(name.to_owned(), value),
        };
    }

    /// The same message to be run [`again`](Self::again), later.
    #[must_use]
    pub fn postponed(&self) -> Self {
        let mut next = self.again();
        next.set(header::POSTPONED, true);
        next
    }

    /// Whether it was put off until now.
    #[must_use]
    pub fn is_postponed(&self) -> bool {
        self.headers.get(header::POSTPONED) == Some(&Value::Bool(true))
    }

    /// Whether it is a copy of an earlier message, which may have been settled after it was made: whoever makes a
    /// copy may be killed before the first one is off its queue.
    #[must_use]
    pub fn is_copy(&self) -> bool {
        self.attempt() > 1 || self.is_postponed()
    }

    /// The same message to be run again without an attempt spent: what the broker noted of the old
    /// delivery is left behind, which would otherwise be counted against the new one.
    #[must_use]
    pub fn again(&self) -> Self {
        let mut next = self.clone();
        next.headers.retain(|name, _| !is_brokers_own(name));
        next.headers.remove(header::DELIVERIES);
        next.headers.remove(header::RETURNED);
        next.headers.remove("eta");
        next.headers.remove(header::POSTPONED);
        // We run what comes without these; a Python worker on the same queue would not survive it.
        if next.content_type.is_empty() {
            next.content_type = usual::media_type();
        }
        if !next.id.is_empty()
            && next.headers.contains_key("task")
            && !next.headers.contains_key("id")
        {
            next.headers.insert("id".into(), next.id.as_str().into());
        }
        next
    }
}

/// Headers in which a broker keeps book of a message's past; copied into a new message they would be
/// believed by old servers (`x-death`) or even be routing instructions (`CC`, `BCC`).
pub(crate) fn is_brokers_own(name: &str) -> bool {
    name.starts_with("x-death")
        || name.starts_with("x-first-death-")
        || name.starts_with("x-last-death-")
        || matches!(name, "x-delivery-count" | "x-acquired-count" | "CC" | "BCC")
}

/// RFC 3339 with microseconds and `+00:00`, the form that every Python reads.
#[must_use]
pub fn format_time(time: SystemTime) -> String {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(6));
    match jiff::Timestamp::try_from(time) {
        Ok(stamp) => PRINTER.timestamp_with_offset_to_string(&stamp, Offset::UTC),
        // Only times past the year 9999 cannot be written: they are as good as never.
        Err(_) => "9999-12-31T23:59:59.000000+00:00".into(),
    }
}

/// Reads RFC 3339; a time without an offset means UTC.
#[must_use]
pub fn parse_time(text: &str) -> Option<SystemTime> {
    let stamp = text.parse::<jiff::Timestamp>().ok().or_else(|| {
        let civil: jiff::civil::DateTime = text.parse().ok()?;
        let zoned = civil.to_zoned(jiff::tz::TimeZone::UTC);
        // The calendar's first and last days cannot be moments.
        Some(zoned.map_or_else(|_| nearest(civil.year()), |zoned| zoned.timestamp()))
    })?;
    Some(stamp.into())
}

fn nearest(year: i16) -> jiff::Timestamp {
    match year > 0 {
        true => jiff::Timestamp::MAX,
        false => jiff::Timestamp::MIN,
    }
}

/// The longest beginning of `text` with at most `limit` bytes.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
pub(crate) mod tests;
