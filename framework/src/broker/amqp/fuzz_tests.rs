//! Whatever frames come, lapin can read what we hand on, and what is read of them can be sent on.

use std::io::Result;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_io::AsyncRead;
use lapin::BasicProperties;
use lapin::protocol::basic::parse_properties;
use lapin::types::{AMQPValue, DecimalValue, FieldArray, FieldTable, ShortString};
use proptest::prelude::*;

use super::stream::Sanitized;
use super::{delay, sanitize, wire};
use crate::corpus::{config, headers, inputs, mutated};
use crate::message::{Message, header};

/// A content header's payload that came as `payload` is fit for lapin.
fn is_mended(payload: &[u8]) {
    let mended = sanitize::content_header(payload);
    if let Some(mended) = &mended {
        assert_eq!(sanitize::content_header(mended), None, "mended twice");
        assert!(mended.len() <= payload.len().max(4000));
        if let Some(size) = payload.get(4..12) {
            assert_eq!(mended.get(4..12), Some(size), "the size of the body");
        }
    }
    let payload = mended.as_deref().unwrap_or(payload);
    if payload.starts_with(&[0, 60]) {
        let (rest, properties) = parse_properties(&payload[12..]).expect("lapin reads it");
        assert!(rest.is_empty());
        let message = wire::message(&properties, Vec::new());
        let dead = message.dead("q", "unreadable", "no", std::time::SystemTime::UNIX_EPOCH);
        wire::properties_and_body(dead).expect("the dead letter can be sent");
    }
}

fn survives(payload: &[u8]) {
    is_mended(payload);
    if let Some(mended) = sanitize::method(payload) {
        assert_eq!(sanitize::method(&mended), None);
    }
}

#[test]
fn fuzz_the_corpus() {
    for kind in ["properties", "methods"] {
        for (_, bytes) in inputs(kind) {
            survives(&bytes);
        }
    }
}

#[test]
fn what_was_lost_is_said() {
    let names = ["not-text", "deep"];
    for (name, payload) in inputs("properties") {
        let Some(mended) = sanitize::content_header(&payload) else {
            assert!(name.contains("good"), "{name}");
            continue;
        };
        assert!(names.iter().any(|kind| name.contains(kind)), "{name}");
        let (_, properties) = parse_properties(&mended[12..]).expect(&name);
        let message = wire::message(&properties, Vec::new());
        assert!(message.text(header::MALFORMED).is_some(), "{name}");
        assert_eq!(message.text("task"), Some("add"), "{name}");
    }
}

fn amqp() -> impl Strategy<Value = AMQPValue> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(AMQPValue::Boolean),
        any::<i8>().prop_map(AMQPValue::ShortShortInt),
        any::<u8>().prop_map(AMQPValue::ShortShortUInt),
        any::<u16>().prop_map(AMQPValue::ShortUInt),
        any::<u32>().prop_map(AMQPValue::LongUInt),
        any::<i64>().prop_map(AMQPValue::LongLongInt),
        prop::num::f32::ANY.prop_map(AMQPValue::Float),
        prop::num::f64::ANY.prop_map(AMQPValue::Double),
        any::<(u8, u32)>()
            .prop_map(|(scale, value)| AMQPValue::DecimalValue(DecimalValue { scale, value })),
        any::<Vec<u8>>().prop_map(|bytes| AMQPValue::LongString(bytes.into())),
        any::<Vec<u8>>().prop_map(|bytes| AMQPValue::ByteArray(bytes.into())),
        any::<u64>().prop_map(AMQPValue::Timestamp),
        Just(AMQPValue::Void),
    ];
    leaf.prop_recursive(40, 80, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3)
                .prop_map(|values| AMQPValue::FieldArray(FieldArray::from(values))),
            prop::collection::vec((".{0,60}", inner), 0..3)
                .prop_map(|entries| AMQPValue::FieldTable(table(entries))),
        ]
    })
}

fn table(entries: Vec<(String, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(
            ShortString::try_new(name.as_str()).unwrap_or_default(),
            value,
        );
    }
    table
}

/// Frames, and the pieces in which they arrive.
struct Pieces(Vec<u8>, Vec<u16>, usize);

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<Result<usize>> {
        let this = &mut *self;
        let size = this
            .1
            .get(this.2 % this.1.len().max(1))
            .map_or(1, |size| usize::from(*size) + 1);
        this.2 += 1;
        let count = size.min(out.len()).min(this.0.len());
        out[..count].copy_from_slice(&this.0[..count]);
        this.0.drain(..count);
        Poll::Ready(Ok(count))
    }
}

fn read_all(stream: &mut Sanitized<Pieces>, room: usize) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut part = vec![0; room];
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match Pin::new(&mut *stream).poll_read(&mut context, &mut part) {
            Poll::Ready(Ok(0)) => return Ok(all),
            Poll::Ready(Ok(count)) => all.extend(&part[..count]),
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => unreachable!("the pieces are there"),
        }
    }
}

/// What is handed on without a copy, where it is a body.
fn large() -> impl Strategy<Value = Vec<u8>> {
    (0..200_000_usize).prop_map(|size| (0..=u8::MAX).cycle().take(size).collect())
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&[kind, 0, 1][..], &length, payload, &[0xce]].concat()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn fuzz_properties(payload in prop_oneof![4 => mutated("properties"), 1 => mutated("methods")]) {
        survives(&payload);
    }

    #[test]
    fn fuzz_any_frames(payload in any::<Vec<u8>>(), basic in any::<bool>()) {
        let class: &[u8] = if basic { &[0, 60, 0, 60] } else { &[] };
        survives(&[class, &payload].concat());
    }

    #[test]
    fn fuzz_tables(entries in prop::collection::vec((".{0,60}", amqp()), 0..4)) {
        let properties = BasicProperties::default().with_headers(table(entries));
        let message = wire::message(&properties, Vec::new());
        if message.check_headers().is_ok() && message.id.len() < 256 {
            let id = message.id.clone();
            let sent = wire::properties_and_body(message).expect("what came can be sent");
            let again = wire::message(&sent.0, Vec::new());
            prop_assert_eq!(again.id, id);
        }
        prop_assert!(wire::fits(&properties));
    }

    #[test]
    fn fuzz_headers_there_and_back(headers in headers(), id in ".{1,60}") {
        let mut message = Message { headers, ..Message::default() };
        message.set("id", id.as_str());
        message.id = id;
        if message.check_headers().is_ok() {
            let sent = wire::properties_and_body(message.clone()).expect("it can be sent");
            let again = wire::message(&sent.0, Vec::new());
            prop_assert_eq!(&again.id, &message.id);
            for (name, value) in &again.headers {
                let sent = &message.headers[name];
                // Numbers that AMQP lacks are rounded.
                prop_assert!(value == sent || !sent.is_i64(), "{}: {} {}", name, value, sent);
            }
        }
    }

    #[test]
    fn fuzz_ids_made_unique(id in any::<String>(), number in any::<u64>()) {
        prop_assert!(wire::numbered_id(&id, number).len() <= 255);
    }

    #[test]
    fn fuzz_delays(millis in 0_u64..1 << 37, nanos in 0_u32..1_000_000) {
        let wait = Duration::from_millis(millis) + Duration::from_nanos(nanos.into());
        let within = wait <= Duration::from_millis((1 << 36) - 1);
        prop_assert_eq!(delay::climb(delay::Which::Usual, wait, None).is_ok(), within);
    }

    #[test]
    fn fuzz_streams(
        payloads in prop::collection::vec(
            (1..5_u8, prop_oneof![3 => mutated("properties"), 3 => any::<Vec<u8>>(), 1 => large()]),
            0..6,
        ),
        sizes in prop::collection::vec(any::<u16>(), 1..6),
        room in prop_oneof![1..5000_usize, 5000..200_000_usize],
    ) {
        let sent = payloads.iter().flat_map(|(kind, payload)| frame(*kind, payload)).collect();
        let read = read_all(&mut Sanitized::new(Pieces(sent, sizes, 0)), room).expect("frames");
        let expected: Vec<u8> = payloads
            .iter()
            .flat_map(|(kind, payload)| {
                let mended = match kind {
                    1 => sanitize::method(payload),
                    2 => sanitize::content_header(payload),
                    _ => None,
                };
                frame(*kind, mended.as_ref().unwrap_or(payload))
            })
            .collect();
        prop_assert!(read == expected);
    }

    #[test]
    fn fuzz_streams_of_any_bytes(bytes in any::<Vec<u8>>(), sizes in prop::collection::vec(any::<u16>(), 1..6)) {
        let length = bytes.len();
        let mut stream = Sanitized::new(Pieces(bytes, sizes, 0));
        if let Ok(read) = read_all(&mut stream, 100) {
            prop_assert!(read.len() <= length + 5000);
        }
    }
}
