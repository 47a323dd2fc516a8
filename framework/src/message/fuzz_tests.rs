//! Whatever bytes and headers come, decoding ends with a value or a reason, and what is sent on because of
//! them is within bounds.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use serde_json::Value;
use serde_json::value::to_raw_value;

use super::{Arguments, Message, format_time, parse_time};
use crate::corpus::{config, headers, inputs, json, mutated};
use crate::failure::{Failure, FailureKind};
use crate::reply::Reply;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

/// Reads all that a worker reads of a message, and makes all that it makes of it.
fn survives(message: &Message) {
    let task = message.task().map(str::to_owned);
    assert!(task.is_ok() || task.is_err_and(|unreadable| !unreadable.0.is_empty()));
    let _ = (
        message.eta(),
        message.expires(),
        message.timeout(),
        message.backoff(),
    );
    let _ = (
        message.retries(),
        message.ignores_result(),
        message.history(),
    );
    assert!(message.attempt() >= 1);
    match Arguments::decode(message) {
        Ok(arguments) => decode_all(&arguments),
        Err(unreadable) => assert!(!unreadable.0.is_empty()),
    }
    let error = "\u{0}".repeat(10_000);
    let dead = message.dead("q", "failed", &error, NOW);
    assert_eq!(dead.body, message.body);
    assert!(dead.header_size() < 96 * 1024);
    if message.task().is_ok() {
        let next = message.next_attempt(&error, NOW);
        assert!(next.attempt() >= message.attempt());
        assert!(next.header_size() < 96 * 1024);
        assert!(next.task().is_ok());
    }
    let failure = Failure::new("t", &*message.id, FailureKind::Failed, &*error);
    let reply = Reply {
        id: message.id.clone(),
        outcome: Err(failure),
    };
    let reply = reply.encode(message, NOW);
    assert!(Reply::decode(&reply).is_ok_and(|reply| reply.is_some()));
    if let Err(unreadable) = Reply::decode(message) {
        assert!(!unreadable.0.is_empty());
    }
}

/// As tasks decode them.
fn decode_all(arguments: &Arguments) {
    for raw in arguments.args.iter().chain(arguments.kwargs.values()) {
        let _ = serde_json::from_str::<Value>(raw.get());
        let _ = serde_json::from_str::<i64>(raw.get());
        let _ = serde_json::from_str::<f64>(raw.get());
        let _ = serde_json::from_str::<String>(raw.get());
        let _ = serde_json::from_str::<Vec<Option<u8>>>(raw.get());
    }
}

fn of_body(body: Vec<u8>) -> Message {
    let mut message = Message::new("id".into(), "t", &Arguments::default());
    message.body = body.into();
    message
}

#[test]
fn fuzz_the_corpus() {
    for kind in ["bodies", "replies"] {
        for (_, bytes) in inputs(kind) {
            survives(&of_body(bytes));
        }
    }
    for (_, bytes) in inputs("envelopes") {
        if let Ok(message) = serde_json::from_slice(&bytes) {
            survives(&message);
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn fuzz_bodies(body in mutated("bodies")) {
        survives(&of_body(body));
    }

    #[test]
    fn fuzz_any_bytes(body in any::<Vec<u8>>()) {
        survives(&of_body(body));
    }

    #[test]
    fn fuzz_replies(body in mutated("replies"), headers in headers()) {
        survives(&Message { headers, ..of_body(body) });
    }

    #[test]
    fn fuzz_headers(
        id in ".{0,300}",
        headers in headers(),
        content_type in prop_oneof![Just("application/json".to_owned()), any::<String>()],
        content_encoding in prop_oneof![Just("utf-8".to_owned()), any::<String>()],
        correlation_id in any::<Option<String>>(),
        reply_to in any::<Option<String>>(),
        priority in any::<Option<u8>>(),
        arg in json(),
    ) {
        let body = serde_json::to_vec(&([arg], (), ())).expect("JSON");
        let message = Message {
            id, headers, content_type, content_encoding, correlation_id, reply_to, priority, ..of_body(body)
        };
        survives(&message);
        // As SQLite keeps it.
        let envelope = serde_json::to_vec(&message).expect("JSON");
        let read: Message = serde_json::from_slice(&envelope).expect("an envelope");
        prop_assert_eq!(read, Message { body: Arc::default(), ..message });
    }

    #[test]
    fn fuzz_numbers(float in prop::num::f64::ANY.prop_filter("JSON has no other", |float| float.is_finite()), single in prop::num::f32::NORMAL) {
        let mut sent = Arguments::default();
        sent.args.push(to_raw_value(&(float, single)).expect("JSON"));
        let message = Message::new("id".into(), "t", &sent);
        let read = Arguments::decode(&message).expect("arguments");
        let read: (f64, f32) = serde_json::from_str(read.args[0].get()).expect("numbers");
        prop_assert_eq!((read.0.to_bits(), read.1.to_bits()), (float.to_bits(), single.to_bits()));
    }

    #[test]
    fn fuzz_envelopes(bytes in mutated("envelopes")) {
        if let Ok(message) = serde_json::from_slice::<Message>(&bytes) {
            survives(&message);
        }
    }

    #[test]
    fn fuzz_times(text in "[+-]?[0-9]{0,7}-?[0-9]{0,3}-?[0-9]{0,3}T?[0-9:.,+Zz \\[\\]/A-Za-z-]{0,30}", seconds in -60_000_000_000_i64..300_000_000_000, nanos in 0..1_000_000_000_u32) {
        if let Some(time) = parse_time(&text) {
            prop_assert!(parse_time(&format_time(time)).is_some());
        }
        let length = Duration::new(seconds.unsigned_abs(), nanos);
        let time = if seconds < 0 { NOW.checked_sub(length) } else { NOW.checked_add(length) };
        let time = time.expect("a moment");
        let read = parse_time(&format_time(time)).expect("a time");
        // Microseconds are kept, and what lies beyond the calendar is as good as never.
        let apart = read.duration_since(time).or_else(|_| time.duration_since(read)).expect("one way");
        if seconds.abs() < 60_000_000_000 {
            prop_assert!(apart < Duration::from_micros(1), "{:?}", apart);
        }
    }
}

#[test]
fn fuzz_seeds_are_what_they_are_called() {
    let good = inputs("bodies")
        .into_iter()
        .filter(|(name, _)| name.contains("good"));
    for (name, body) in good {
        assert!(Arguments::decode(&of_body(body)).is_ok(), "{name}");
    }
    let good = inputs("replies")
        .into_iter()
        .filter(|(name, _)| name.contains("good"));
    for (name, body) in good {
        let reply = Reply::decode(&of_body(body)).expect(&name);
        assert!(reply.is_some(), "{name}");
    }
    for (name, envelope) in inputs("envelopes") {
        let read = serde_json::from_slice::<Message>(&envelope);
        assert_eq!(read.is_ok(), name.contains("good"), "{name}");
    }
}
