//! What speaks against running a message, as far as that can be seen without knowing its task.

use serde_json::Value;

use super::past::HISTORY_LIMIT;
use super::{Headers, Message, Unreadable, cut, header, parse_time, usual};

/// Longest id and longest task name in bytes: AMQP's short string.
const NAME_LIMIT: usize = 255;
/// Bytes of headers that a message may come with, beside what workers note of its past; AMQP's frames leave
/// room for twice as much.
pub(crate) const HEADER_LIMIT: usize = 64 * 1024;
/// Bytes that a header may take in which workers note a message's past, beside its history.
const NOTE_LIMIT: usize = 512;
/// How deep the table of headers may be nested, itself counted.
pub(crate) const DEPTH_LIMIT: usize = 32;
/// How deep what a message carries may be nested: more than serde reads, and much less than what ends a Python
/// worker with several processes, which pickles it between them (some 300).
pub(crate) const BODY_DEPTH_LIMIT: usize = 160;
/// Bytes of a sender's text shown in ours.
const SHOWN: usize = 200;
/// Bytes kept of the names of headers that a dead letter had to leave out.
const NAMES_LIMIT: usize = 1000;

impl Message {
    /// The task's name.
    ///
    /// # Errors
    /// [`Unreadable`] where the message names no task or no id, or where its headers are out of bounds or
    /// were lost.
    pub fn task(&self) -> Result<&str, Unreadable> {
        let unreadable = |text: String| Err(Unreadable(text));
        if let Some(malformed) = self.headers.get(header::MALFORMED) {
            return unreadable(shown(malformed));
        }
        let Some(task) = self.text("task") else {
            let text = "the message has no `task` header with a task's name; \
                        Celery must send its message protocol 2";
            return unreadable(text.into());
        };
        if self.id.is_empty() {
            return unreadable("the message has no id".into());
        }
        for (what, text) in [("id", &*self.id), ("task name", task)] {
            if text.len() > NAME_LIMIT {
                let size = text.len();
                return unreadable(format!(
                    "its {what} has {size} bytes, more than {NAME_LIMIT}"
                ));
            }
        }
        for name in ["eta", "expires", header::EXPIRES, header::DEADLINE] {
            if let Some(value) = self.headers.get(name).filter(|value| !value.is_null())
                && value.as_str().and_then(parse_time).is_none()
            {
                return unreadable(format!(
                    "its header `{name}` is no time in RFC 3339: {}",
                    shown(value)
                ));
            }
        }
        self.check_headers()?;
        Ok(task)
    }

    /// Whether the headers are within the bounds of all brokers.
    pub(crate) fn check_headers(&self) -> Result<(), Unreadable> {
        let size = self.bounded_size();
        if size > HEADER_LIMIT {
            let text = format!("its headers have {size} bytes, more than {HEADER_LIMIT}");
            return Err(Unreadable(text));
        }
        let sound = |(name, value): &(&String, &Value)| {
            name.len() <= NAME_LIMIT && is_sound(value, DEPTH_LIMIT - 1)
        };
        match self.headers.iter().find(|header| !sound(header)) {
            Some((name, _)) => Err(Unreadable(format!(
                "its header {} is nested more than {DEPTH_LIMIT} deep, or has a name of more than {NAME_LIMIT} bytes",
                shown(&name.as_str().into())
            ))),
            None => Ok(()),
        }
    }

    /// Why the body cannot be read at all: another format than ours, or one that is compressed.
    #[must_use]
    pub fn unsupported(&self) -> Option<String> {
        let compression = self.headers.get("compression");
        if let Some(compression) = compression.filter(|value| !value.is_null()) {
            let compression = shown(compression);
            return Some(format!(
                "the body is compressed with {compression}, which is not accepted"
            ));
        }
        if self.content_type == usual::MEDIA_TYPE && self.content_encoding == usual::ENCODING {
            return None;
        }
        let media_type = self.content_type.split(';').next();
        let media_type = media_type.unwrap_or_default().trim();
        let encoding = self.content_encoding.trim();
        let known = ["", "utf-8", "utf8", "us-ascii", "ascii", "binary"];
        if !known
            .iter()
            .any(|known| encoding.eq_ignore_ascii_case(known))
        {
            let encoding = shown(&self.content_encoding.as_str().into());
            return Some(format!(
                "content encoding {encoding} is not accepted: only utf-8 is"
            ));
        }
        if !media_type.is_empty() && !media_type.eq_ignore_ascii_case("application/json") {
            let media_type = shown(&self.content_type.as_str().into());
            return Some(format!(
                "content type {media_type} is not accepted: only application/json is"
            ));
        }
        None
    }

    /// The bytes that the headers take on the wire, at most.
    pub(crate) fn header_size(&self) -> usize {
        table_size(&self.headers)
    }

    /// The bytes that count against the limit. What workers note of a message's past does not, within a
    /// limit of its own: a message that was accepted once stays readable, however often it is retried.
    fn bounded_size(&self) -> usize {
        let notes = self.headers.iter();
        let notes = notes.map(|entry| entry_size(entry).min(room_for(entry.0)));
        self.header_size() - notes.sum::<usize>()
    }

    /// Leaves the largest headers out until the others are within bounds, and says which.
    pub(super) fn shed(&mut self) {
        let mut size = self.bounded_size();
        let mut left_out = String::new();
        while size > HEADER_LIMIT {
            let entries = self.headers.iter();
            let largest = entries.max_by_key(|entry| entry_size(*entry));
            let Some(name) = largest.map(|(name, _)| name.clone()) else {
                break;
            };
            self.headers.remove(&name);
            size = self.bounded_size();
            if left_out.len() < NAMES_LIMIT {
                left_out.push_str(cut(&name, SHOWN));
                left_out.push(' ');
            }
        }
        if !left_out.is_empty() {
            self.set(header::LEFT_OUT, cut(left_out.trim_end(), NAMES_LIMIT));
        }
    }
}

/// Whether sound JSON is nested deeper than `limit`.
pub(crate) fn is_deeper(json: &[u8], limit: usize) -> bool {
    // Looked at byte by byte, a large body takes longer than all else that is done with it; to count is far faster.
    if json.len() <= limit || openings(json) <= limit {
        return false;
    }
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > limit {
            return true;
        }
    }
    false
}

/// How many brackets of arrays and objects there are, those in texts among them.
fn openings(json: &[u8]) -> usize {
    // In sums that fit a byte, and with the one bit in which the two differ set: the compiler does many at a time.
    let sum = |chunk: &[u8]| {
        let each = chunk.iter().map(|byte| u8::from(byte | 0x20 == b'{'));
        usize::from(each.fold(0, u8::wrapping_add))
    };
    json.chunks(usize::from(u8::MAX)).map(sum).sum()
}

/// A value of a sender's, short and without control characters.
fn shown(value: &Value) -> String {
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    format!("`{}`", cut(&text, SHOWN).escape_debug())
}

/// Whether nothing in `value` is nested deeper than `depth`, or has too long a name.
fn is_sound(value: &Value, depth: usize) -> bool {
    match value {
        Value::Array(values) => depth > 0 && values.iter().all(|value| is_sound(value, depth - 1)),
        Value::Object(table) => {
            let short = |name: &String| name.len() <= NAME_LIMIT;
            depth > 0
                && table
                    .iter()
                    .all(|(name, value)| short(name) && is_sound(value, depth - 1))
        }
        _ => true,
    }
}

/// Bytes that a worker may write under this name when a call is to run again.
fn room_for(name: &str) -> usize {
    match name {
        header::HISTORY => HISTORY_LIMIT + NOTE_LIMIT,
        "retries"
        | header::DELIVERIES
        | header::RETURNED
        | header::EXCHANGE
        | header::ROUTING_KEY
        | header::REVIVALS => NOTE_LIMIT,
        _ => 0,
    }
}

fn table_size(table: &Headers) -> usize {
    4 + table.iter().map(entry_size).sum::<usize>()
}

fn entry_size((name, value): (&String, &Value)) -> usize {
    1 + name.len() + value_size(value)
}

fn value_size(value: &Value) -> usize {
    1 + match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 8,
        Value::String(text) => 4 + text.len(),
        Value::Array(values) => 4 + values.iter().map(value_size).sum::<usize>(),
        Value::Object(table) => table_size(table),
    }
}
