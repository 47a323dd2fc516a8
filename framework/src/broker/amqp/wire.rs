//! Translates messages to AMQP's properties and header tables, and back. Nothing that arrives makes it
//! fail: what JSON cannot hold is represented lossily.

use std::sync::Arc;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};
use serde_json::{Number, Value};

use crate::error::{Error, Result};
use crate::message::{DEPTH_LIMIT, Headers, Message, cut, is_brokers_own};

/// Headers and properties must fit one frame of 128 KiB, or the server closes the whole connection. More
/// than a call may be sent with: a retry and a dead letter carry errors, too.
const HEADER_LIMIT: usize = 96 * 1024;
/// AMQP's longest short string.
const SHORT_LIMIT: usize = 255;
/// Stands between a message id and the number that makes it unique among the publishes in flight.
const ID_SEPARATOR: &str = "#~";

/// The name as AMQP's short string.
pub(super) fn short(what: &'static str, text: impl Into<String>) -> Result<ShortString> {
    let text = text.into();
    match text.len() <= SHORT_LIMIT {
        true => Ok(ShortString::try_new(text).unwrap_or_default()),
        false => {
            let reason = format!(
                "it has {} bytes, more than AMQP's {SHORT_LIMIT}",
                text.len()
            );
            Err(Error::invalid(what, text, reason))
        }
    }
}

/// A name of our own making, which is known to be short.
pub(super) fn own(name: &str) -> ShortString {
    ShortString::try_new(name).unwrap_or_default()
}

/// A text as a header's value.
pub(super) fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// A table of arguments or headers.
pub(super) fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(own(name), value);
    }
    table
}

/// The message as AMQP's properties and its body.
pub(super) fn properties_and_body(mut message: Message) -> Result<(BasicProperties, Arc<Vec<u8>>)> {
    let id = message_id(&mut message)?;
    let mut properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_message_id(id)
        .with_headers(headers(message.headers)?);
    if !message.content_type.is_empty() {
        properties = properties.with_content_type(short("content type", message.content_type)?);
    }
    if !message.content_encoding.is_empty() {
        let encoding = short("content encoding", message.content_encoding)?;
        properties = properties.with_content_encoding(encoding);
    }
    if let Some(id) = message.correlation_id {
        properties = properties.with_correlation_id(short("correlation id", id)?);
    }
    if let Some(queue) = message.reply_to {
        properties = properties.with_reply_to(short("reply queue", queue)?);
    }
    // Said aloud: from 4.3 on a quorum queue takes no priority for one in the middle.
    let properties = properties.with_priority(message.priority.unwrap_or(0));
    Ok((properties, message.body))
}

/// The message's id, cut short where its header has the whole: a dead letter's may have any length.
fn message_id(message: &mut Message) -> Result<ShortString> {
    if message.text("id") == Some(&message.id) {
        let length = cut(&message.id, SHORT_LIMIT).len();
        message.id.truncate(length);
    }
    short("message id", std::mem::take(&mut message.id))
}

/// Headers of JSON values as an AMQP table.
pub(super) fn headers(headers: Headers) -> Result<FieldTable> {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        if !is_brokers_own(&name) {
            table.insert(short("header name", name)?, to_amqp(value)?);
        }
    }
    let size = table_size(&table);
    if size > HEADER_LIMIT {
        let id = match table.inner().get("id") {
            Some(AMQPValue::LongString(id)) => id.to_string(),
            _ => "?".to_owned(),
        };
        return Err(Error::invalid(
            "message",
            id,
            format!("its headers have {size} bytes, more than {HEADER_LIMIT}"),
        ));
    }
    Ok(table)
}

fn to_amqp(value: Value) -> Result<AMQPValue> {
    Ok(match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(b) => AMQPValue::Boolean(b),
        Value::Number(n) => number(&n),
        Value::String(s) => AMQPValue::LongString(s.into()),
        Value::Array(values) => {
            let values = values
                .into_iter()
                .map(to_amqp)
                .collect::<Result<Vec<_>>>()?;
            AMQPValue::FieldArray(FieldArray::from(values))
        }
        Value::Object(entries) => {
            let mut table = FieldTable::default();
            for (name, value) in entries {
                table.insert(short("header name", name)?, to_amqp(value)?);
            }
            AMQPValue::FieldTable(table)
        }
    })
}

/// Celery reads no unsigned integers, so signed ones are all that is written.
fn number(n: &Number) -> AMQPValue {
    match n.as_i64() {
        Some(n) => i32::try_from(n).map_or(AMQPValue::LongLongInt(n), AMQPValue::LongInt),
        None => AMQPValue::Double(n.as_f64().unwrap_or_default()),
    }
}

/// Whether a copy of a message can be stored with these headers and a few of ours.
pub(super) fn fits(properties: &BasicProperties) -> bool {
    let headers = properties.headers().as_ref();
    headers.is_none_or(|table| table_size(table) <= HEADER_LIMIT)
}

fn table_size(table: &FieldTable) -> usize {
    let entries = table.inner().iter();
    4 + entries
        .map(|(name, value)| 1 + name.as_str().len() + value_size(value))
        .sum::<usize>()
}

fn value_size(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::LongString(s) => 4 + s.len(),
        AMQPValue::FieldArray(values) => {
            4 + values.as_slice().iter().map(value_size).sum::<usize>()
        }
        AMQPValue::FieldTable(table) => table_size(table),
        _ => 8,
    }
}

/// The message that arrived as `properties` and `body`.
pub(super) fn message(properties: &BasicProperties, body: impl Into<Arc<Vec<u8>>>) -> Message {
    let text = |field: &Option<ShortString>| field.as_ref().map(|s| s.as_str().to_owned());
    let headers = properties
        .headers()
        .as_ref()
        .map_or_else(Headers::new, |table| json_table(table, 0));
    let id = match headers.get("id") {
        Some(Value::String(id)) => id.clone(),
        // What has neither is perhaps a call in Celery's protocol 1: its caller knows it by the other one.
        _ => {
            let message_id = properties.message_id().as_ref();
            let id = message_id.map(|id| plain_id(id.as_str()).to_owned());
            id.or_else(|| text(properties.correlation_id()))
                .unwrap_or_default()
        }
    };
    Message {
        id,
        headers,
        content_type: text(properties.content_type()).unwrap_or_default(),
        content_encoding: text(properties.content_encoding()).unwrap_or_default(),
        correlation_id: text(properties.correlation_id()),
        reply_to: text(properties.reply_to()),
        priority: properties.priority().filter(|priority| *priority > 0),
        body: body.into(),
    }
}

/// `id` made unique by `number`, within 255 bytes.
pub(super) fn numbered_id(id: &str, number: u64) -> String {
    let suffix = format!("{ID_SEPARATOR}{number}");
    format!("{}{suffix}", cut(id, SHORT_LIMIT - suffix.len()))
}

/// The id without the number that [`numbered_id`] appended.
fn plain_id(id: &str) -> &str {
    match id.rsplit_once(ID_SEPARATOR) {
        Some((plain, number)) if number.bytes().all(|b| b.is_ascii_digit()) => plain,
        _ => id,
    }
}

fn json_table(table: &FieldTable, depth: usize) -> Headers {
    // One by one: collecting would put them in a list first, to sort them.
    let mut headers = Headers::new();
    for (name, value) in table.inner() {
        headers.insert(name.as_str().to_owned(), to_json(value, depth + 1));
    }
    headers
}

fn to_json(value: &AMQPValue, depth: usize) -> Value {
    match value {
        // A hostile sender can nest deeper than any stack.
        _ if depth > DEPTH_LIMIT => Value::Null,
        AMQPValue::Boolean(b) => (*b).into(),
        AMQPValue::ShortShortInt(n) => (*n).into(),
        AMQPValue::ShortShortUInt(n) => (*n).into(),
        AMQPValue::ShortInt(n) => (*n).into(),
        AMQPValue::ShortUInt(n) => (*n).into(),
        AMQPValue::LongInt(n) => (*n).into(),
        AMQPValue::LongUInt(n) => (*n).into(),
        AMQPValue::LongLongInt(n) => (*n).into(),
        AMQPValue::Float(n) => f64::from(*n).into(),
        AMQPValue::Double(n) => (*n).into(),
        AMQPValue::DecimalValue(d) => (f64::from(d.value) / 10_f64.powi(i32::from(d.scale))).into(),
        AMQPValue::ShortString(s) => s.as_str().into(),
        AMQPValue::LongString(s) => String::from_utf8_lossy(s.as_bytes()).into(),
        AMQPValue::ByteArray(b) => String::from_utf8_lossy(b.as_slice()).into(),
        AMQPValue::Timestamp(seconds) => (*seconds).into(),
        AMQPValue::FieldArray(values) => {
            let values = values.as_slice().iter();
            values.map(|value| to_json(value, depth + 1)).collect()
        }
        AMQPValue::FieldTable(table) => Value::Object(json_table(table, depth)),
        AMQPValue::Void => Value::Null,
    }
}

/// A header's non-negative integer, whatever its width.
pub(super) fn count(properties: &BasicProperties, name: &str) -> Option<u32> {
    let value = properties.headers().as_ref()?.inner().get(name)?;
    let number = to_json(value, 0).as_i64()?;
    Some(u32::try_from(number.max(0)).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entries(value: Value) -> Headers {
        match value {
            Value::Object(headers) => headers,
            other => panic!("{other} is no table"),
        }
    }

    #[test]
    fn a_message_survives_the_round_trip() {
        let sent = Message {
            id: "a-1".into(),
            headers: entries(json!({
                "id": "a-1", "task": "größe", "retries": 0, "big": 5_000_000_000_i64, "none": null,
                "yes": true, "timelimit": [1.5, null], "nested": {"a": [1, "x"]},
            })),
            content_type: "application/json".into(),
            content_encoding: "utf-8".into(),
            correlation_id: Some("c".into()),
            reply_to: Some("r".into()),
            priority: Some(7),
            body: b"[]".to_vec().into(),
        };
        let (properties, body) = properties_and_body(sent.clone()).expect("valid");
        assert_eq!(properties.delivery_mode(), &Some(2));
        assert_eq!(message(&properties, body), sent);
    }

    #[test]
    fn what_json_cannot_hold_is_read_lossily() {
        let headers = table([
            ("bytes", AMQPValue::ByteArray(vec![0xff, b'a'].into())),
            ("latin1", AMQPValue::LongString(vec![b'g', 0xf6].into())),
            ("at", AMQPValue::Timestamp(1_700_000_000)),
            ("nan", AMQPValue::Double(f64::NAN)),
        ]);
        let read = message(&BasicProperties::default().with_headers(headers), vec![]);
        assert_eq!(
            Value::Object(read.headers),
            json!({"bytes": "\u{fffd}a", "latin1": "g\u{fffd}", "at": 1_700_000_000, "nan": null})
        );
        assert_eq!(read.id, "");
    }

    #[test]
    fn a_message_without_an_id_has_the_one_that_its_caller_knows() {
        let bare = BasicProperties::default().with_correlation_id(own("c"));
        assert_eq!(message(&bare, Vec::new()).id, "c");
        let named = bare.with_message_id(own("m#~3"));
        assert_eq!(message(&named, Vec::new()).id, "m");
    }

    #[test]
    fn deeply_nested_headers_end_in_null() {
        let mut value = AMQPValue::Void;
        for _ in 0..200 {
            value = AMQPValue::FieldTable(table([("n", value)]));
        }
        let mut json = to_json(&value, 0);
        while let Some(inner) = json.get_mut("n") {
            json = inner.take();
        }
        assert_eq!(json, Value::Null);
    }

    #[test]
    fn long_names_and_large_headers_are_refused() {
        let mut sent = Message {
            id: "x".repeat(256),
            ..Message::default()
        };
        assert!(properties_and_body(sent.clone()).is_err());
        sent.id.clear();
        sent.set("big", "x".repeat(HEADER_LIMIT));
        let error = properties_and_body(sent).expect_err("too large");
        let error = error.to_string();
        assert!(error.contains("more than 98304"), "{error}");
    }

    #[test]
    fn an_id_too_long_for_its_property_is_whole_in_its_header() {
        let mut sent = Message {
            id: "x".repeat(256),
            ..Message::default()
        };
        sent.set("id", sent.id.clone());
        let (properties, body) = properties_and_body(sent.clone()).expect("valid");
        assert_eq!(message(&properties, body).id, sent.id);
    }

    #[test]
    fn ids_made_unique_are_read_as_they_were() {
        for id in ["", "a", "a#1", &"ö".repeat(127)] {
            let unique = numbered_id(id, 12);
            assert!(unique.len() <= 255 && unique != id);
            assert!(id.starts_with(plain_id(&unique)));
        }
        assert_eq!(plain_id(&numbered_id("a#1", 3)), "a#1");
    }

    #[test]
    fn the_brokers_book_keeping_is_not_sent_on() {
        let headers = entries(json!({"x-death": [], "x-delivery-count": 3, "BCC": [], "mine": 1}));
        let table = super::headers(headers).expect("valid");
        assert_eq!(table.inner().len(), 1);
    }
}
