//! What only AMQP's own frames can say: bytes that are no text, types that JSON lacks, tables without end,
//! and properties that the broker itself minds.

use super::case::{Case, Expected, frame};
use crate::raw::{array, json, nested_arrays, nested_tables, place, table, text};
use Expected::{Dead, Refused, Runs};

const NOT_TEXT: &[u8] = b"a\xff\xfe\x80b";

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    [not_text(), types(), deep(), properties()]
        .into_iter()
        .flatten()
        .collect()
}

fn not_text() -> Vec<Case> {
    let short = |name, place, words| {
        frame(
            name,
            move |properties| properties.short(place, NOT_TEXT),
            Dead("unreadable", words),
        )
    };
    vec![
        short(
            "a correlation id that is not UTF-8",
            place::CORRELATION_ID,
            "its correlation id is not UTF-8",
        )
        .unheard(),
        short(
            "a reply address that is not UTF-8",
            place::REPLY_TO,
            "its reply-to is not UTF-8",
        )
        .unheard(),
        short(
            "a message id that is not UTF-8",
            place::MESSAGE_ID,
            "its message id is not UTF-8",
        ),
        short(
            "a content type that is not UTF-8",
            place::CONTENT_TYPE,
            "its content type is not UTF-8",
        ),
        short(
            "a content encoding that is not UTF-8",
            place::CONTENT_ENCODING,
            "its content encoding",
        ),
        short(
            "a type that is not UTF-8",
            place::TYPE,
            "its type is not UTF-8",
        ),
        short(
            "an app id that is not UTF-8",
            place::APP_ID,
            "its app id is not UTF-8",
        ),
        frame(
            "255 bytes that are not UTF-8, everywhere",
            |properties| {
                [
                    place::CORRELATION_ID,
                    place::REPLY_TO,
                    place::MESSAGE_ID,
                    place::TYPE,
                    place::APP_ID,
                ]
                .into_iter()
                .fold(properties, |properties, place| {
                    properties.short(place, &[0xff; 255])
                })
            },
            Dead(
                "unreadable",
                "its correlation id is not UTF-8; its reply-to",
            ),
        )
        .unheard(),
        frame(
            "a header's name that is not UTF-8",
            |properties| properties.header(NOT_TEXT, &json(&1.into())),
            Dead(
                "unreadable",
                "one of its headers has a name that is not UTF-8",
            ),
        ),
        frame(
            "a nested name that is not UTF-8",
            |properties| properties.header(b"x", b"F\0\0\0\x04\x02\xff\xfeV"),
            Dead("unreadable", "its header `x` has a name that is not UTF-8"),
        ),
        frame(
            "a header's text that is not UTF-8",
            |properties| properties.header(b"x", &text(NOT_TEXT)),
            Runs,
        ),
        frame(
            "a task's name that is not UTF-8",
            |properties| properties.header(b"task", &text(NOT_TEXT)),
            Dead("unknown_task", "no task `a"),
        ),
    ]
}

fn types() -> Vec<Case> {
    let all = || {
        vec![
            ("bool", b"t\x01".to_vec()),
            ("i8", b"b\xff".to_vec()),
            ("u8", b"B\xff".to_vec()),
            ("i16", b"s\xff\xff".to_vec()),
            ("u16", b"u\xff\xff".to_vec()),
            ("i32", b"I\x80\0\0\0".to_vec()),
            ("u32", b"i\xff\xff\xff\xff".to_vec()),
            ("i64", b"l\x80\0\0\0\0\0\0\0".to_vec()),
            ("f32", b"f\x7f\x7f\xff\xff".to_vec()),
            ("f64", b"d\x7f\xef\xff\xff\xff\xff\xff\xff".to_vec()),
            ("decimal", b"D\xff\xff\xff\xff\xff".to_vec()),
            ("timestamp", b"T\x7f\xff\xff\xff\xff\xff\xff\xff".to_vec()),
            ("bytes", b"x\0\0\0\x03\xff\0\xfe".to_vec()),
            ("text", text(b"\0\xff")),
            ("void", b"V".to_vec()),
            ("empty table", table(&[])),
            ("empty array", array(&[])),
        ]
    };
    let mixed = move || {
        table(&[
            ("table", table(&all())),
            ("array", array(&[array(&[]), b"V".to_vec(), text(b"")])),
        ])
    };
    let places = [
        "task",
        "id",
        "retries",
        "timelimit",
        "garenne-retries",
        "garenne-backoff",
        "garenne-history",
        "x-delivery-count",
    ];
    let mut cases = vec![
        frame(
            "a header of every type",
            move |properties| properties.header(b"x", &mixed()),
            Runs,
        ),
        frame(
            "our headers of every type",
            move |properties| {
                places
                    .iter()
                    .filter(|name| !["task", "id"].contains(name))
                    .fold(properties, |properties, name| {
                        properties.header(
                            name.as_bytes(),
                            &array(&[table(&[("a", b"D\xff\xff\xff\xff\xff".to_vec())])]),
                        )
                    })
            },
            Runs,
        ),
        frame(
            "an eta that is a timestamp",
            |properties| properties.header(b"eta", b"T\x7f\xff\xff\xff\xff\xff\xff\xff"),
            Dead("unreadable", "is no time"),
        ),
        frame(
            "expires that is bytes",
            |properties| properties.header(b"expires", b"x\0\0\0\x01\xff"),
            Dead("unreadable", "is no time"),
        ),
        frame(
            "a task that is bytes",
            |properties| properties.header(b"task", b"x\0\0\0\x01\xff"),
            Dead("unknown_task", "no task"),
        ),
        frame(
            "40,000 voids",
            |properties| {
                properties.header(
                    b"x",
                    &[b"A\0\0\x9c\x40".to_vec(), vec![b'V'; 40_000]].concat(),
                )
            },
            Runs,
        ),
        frame(
            "100,000 voids",
            |properties| {
                properties.header(
                    b"x",
                    &[b"A\0\x01\x86\xa0".to_vec(), vec![b'V'; 100_000]].concat(),
                )
            },
            Dead("unreadable", "more than 65536"),
        ),
        frame(
            "100,000 bytes that are no text",
            |properties| properties.header(b"x", &text(&[0xff; 100_000])),
            Dead("unreadable", "more than 65536"),
        ),
    ];
    for (name, bytes) in [
        ("a header that is NaN", &b"d\x7f\xf8\0\0\0\0\0\0"[..]),
        ("a header that is infinite", b"f\x7f\x80\0\0"),
        ("a header of a type that there is not", b"?\0"),
        ("a header whose length lies", b"S\xff\xff\xff\xffx"),
    ] {
        cases.push(frame(
            name,
            move |properties| properties.header(b"x", bytes),
            Refused,
        ));
    }
    cases
}

fn deep() -> Vec<Case> {
    let nested = |name, value: Vec<u8>, expected| {
        frame(
            name,
            move |properties| properties.header(b"x", &value),
            expected,
        )
    };
    let too_deep = || Dead("unreadable", "its header `x` is nested more than 32 deep");
    vec![
        nested("tables 30 deep", nested_tables(30), Runs),
        nested("tables 40 deep", nested_tables(40), too_deep()),
        nested("tables 2,500 deep", nested_tables(2_500), too_deep()),
        nested("tables 6,000 deep", nested_tables(6_000), too_deep()),
        nested("arrays 5,000 deep", nested_arrays(5_000), too_deep()),
        frame(
            "tables 1,000 deep, and other properties that are not UTF-8",
            |properties| {
                let id = place::CORRELATION_ID;
                properties
                    .header(b"x", &nested_tables(1_000))
                    .short(id, NOT_TEXT)
            },
            Dead(
                "unreadable",
                "its correlation id is not UTF-8; its header `x` is nested",
            ),
        )
        .unheard(),
    ]
}

fn properties() -> Vec<Case> {
    let short = |name, place, bytes: &'static [u8], expected| {
        frame(
            name,
            move |properties| properties.short(place, bytes),
            expected,
        )
    };
    vec![
        short(
            "an expiration that is no number",
            place::EXPIRATION,
            b"abc",
            Refused,
        ),
        short("a negative expiration", place::EXPIRATION, b"-1", Refused),
        short(
            "an expiration that is not UTF-8",
            place::EXPIRATION,
            NOT_TEXT,
            Refused,
        ),
        short("another's user id", place::USER_ID, b"admin", Refused),
        short("a cluster id", place::CLUSTER_ID, b"x", Runs),
        short(
            "direct reply-to without a consumer",
            place::REPLY_TO,
            b"amq.rabbitmq.reply-to",
            Refused,
        ),
        short(
            "another's direct reply-to",
            place::REPLY_TO,
            b"amq.rabbitmq.reply-to.g1h2AA.x==",
            Runs,
        )
        .unheard(),
        frame(
            "a delivery mode that loses messages",
            |properties| properties.bytes(place::DELIVERY_MODE, &[1]),
            Runs,
        ),
        frame(
            "the last of all timestamps",
            |properties| properties.bytes(place::TIMESTAMP, &[0xff; 8]),
            Runs,
        ),
        frame(
            "a copy to a queue that there is not",
            |properties| properties.header(b"CC", &array(&[text(b"no-such-queue")])),
            Runs,
        ),
        frame(
            "a copy to what is no list",
            |properties| properties.header(b"CC", &text(b"x")),
            Refused,
        ),
        frame(
            "a blind copy to an exchange's name",
            |properties| properties.header(b"BCC", &array(&[text(b"amq.topic"), text(b"")])),
            Runs,
        ),
    ]
}
