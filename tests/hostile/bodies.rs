//! Hostile bodies, and what is said of them.

use super::case::{Case, Expected, body, call_of, changed};
use Expected::{Dead, Runs};

const UNREADABLE: Expected = Dead("unreadable", "the body is not `[args, kwargs, embed]`");
const ARGUMENTS: Expected = Dead("arguments", "argument");

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    [broken(), shapes(), large(), formats(), outcomes()]
        .into_iter()
        .flatten()
        .collect()
}

fn broken() -> Vec<Case> {
    vec![
        body("an empty body", "add", "", UNREADABLE),
        body("a truncated body", "add", "[[2, 3], {}, {", UNREADABLE),
        body("trailing bytes", "add", "[[2, 3], {}, {}] x", UNREADABLE),
        body("two documents", "add", "[[2, 3], {}, {}][]", UNREADABLE),
        body("zero bytes", "add", vec![0; 64], UNREADABLE),
        body("NaN", "add", call_of("NaN, 3"), UNREADABLE),
        body("-Infinity", "add", call_of("-Infinity, 3"), UNREADABLE),
        body("1e999", "add", call_of("1e999, 3"), ARGUMENTS),
        body("1e999 as any value", "echo", call_of("1e999"), ARGUMENTS),
        body(
            "an integer of 10,000 digits",
            "add",
            call_of(&format!("{}, 3", "9".repeat(10_000))),
            ARGUMENTS,
        ),
        body("2^64", "add", call_of("18446744073709551616, 3"), ARGUMENTS),
        body(
            "bytes that are not UTF-8",
            "echo",
            b"[[\"\xff\xfe\"], {}, {}]",
            UNREADABLE,
        ),
        body(
            "overlong UTF-8",
            "echo",
            b"[[\"\xc0\xaf\"], {}, {}]",
            UNREADABLE,
        ),
        body(
            "half a surrogate pair",
            "echo",
            call_of(r#""\ud800""#),
            ARGUMENTS,
        ),
        body(
            "a byte order mark",
            "add",
            "\u{feff}[[2, 3], {}, {}]",
            UNREADABLE,
        ),
        body(
            "UTF-16",
            "add",
            b"[\0[\x002\0,\x003\0]\0,\0{\0}\0,\0{\0}\0]\0",
            UNREADABLE,
        ),
        body(
            "control characters in a string",
            "echo",
            call_of("\"\u{1}\""),
            UNREADABLE,
        ),
        body(
            "JSON with comments",
            "add",
            "[[2, 3], {}, {}] // ok",
            UNREADABLE,
        ),
    ]
}

fn shapes() -> Vec<Case> {
    vec![
        body("null", "add", "null", UNREADABLE),
        body("a number", "add", "1e999", UNREADABLE),
        body("a string", "add", "\"[[2, 3], {}, {}]\"", UNREADABLE),
        body(
            "an object",
            "add",
            r#"{"args": [2, 3], "kwargs": {}}"#,
            UNREADABLE,
        ),
        body(
            "args that are no list",
            "add",
            r#"[{"a": 2}, {}, {}]"#,
            UNREADABLE,
        ),
        body("args that are null", "add", "[null, {}, {}]", UNREADABLE),
        body(
            "kwargs that are no map",
            "add",
            "[[2, 3], [], {}]",
            UNREADABLE,
        ),
        body("no embed", "add", "[[2, 3], {}]", UNREADABLE),
        body("a fourth part", "add", "[[2, 3], {}, {}, {}]", UNREADABLE),
        body(
            "unknown keys in embed",
            "add",
            r#"[[2, 3], {}, {"x": 1, "y": [{}]}]"#,
            Runs,
        ),
        body(
            "a chain that cannot be read",
            "add",
            r#"[[2, 3], {}, {"callbacks": [], "errbacks": null, "chain": [{"task": 7}], "chord": null}]"#,
            Dead("unsupported", "what is to follow it cannot be read"),
        ),
        body(
            "a callback that is a list",
            "add",
            r#"[[2, 3], {}, {"callbacks": [[]]}]"#,
            Dead("unsupported", "what is to follow it cannot be read"),
        ),
        body(
            "a chain that goes on with a chord that nobody counts",
            "add",
            r#"[[2, 3], {}, {"chain": [{"task": "celery.chord", "subtask_type": "chord", "kwargs": {"header": [{"task": "a"}], "body": {"task": "b"}}}]}]"#,
            Dead("unsupported", "followed by a chord of Celery's"),
        ),
        body(
            "a chord that would be lost",
            "add",
            r#"[[2, 3], {}, {"chord": {"task": "add"}}]"#,
            Dead("unsupported", "a chord of Celery's"),
        ),
        body(
            "the body of a join that is none",
            "add",
            r#"[[3], {}, {"garenne_join": {"join": "add", "members": ["a"]}}]"#,
            Dead("join", "are gone"),
        ),
        body(
            "a join that cannot be read",
            "add",
            r#"[[3], {}, {"garenne_join": {"join": 7}}]"#,
            Dead("unreadable", "what is to follow the call cannot be read"),
        ),
        body("embed that is null", "add", "[[2, 3], {}, null]", Runs),
        body(
            "a key twice",
            "add",
            r#"[[], {"a": 9, "a": 2, "b": 3}, {}]"#,
            Runs,
        ),
        body(
            "an unknown argument",
            "add",
            r#"[[2, 3], {"c": 4}, {}]"#,
            ARGUMENTS,
        ),
        body(
            "an argument given twice",
            "add",
            r#"[[2, 3], {"b": 4}, {}]"#,
            ARGUMENTS,
        ),
        body(
            "an argument too many",
            "add",
            "[[2, 3, 4], {}, {}]",
            ARGUMENTS,
        ),
        body("an argument too few", "add", "[[2], {}, {}]", ARGUMENTS),
        body(
            "an argument of another type",
            "add",
            r#"[[2, "3"], {}, {}]"#,
            ARGUMENTS,
        ),
        body(
            "an argument with a hostile name",
            "add",
            "[[2, 3], {\"\\u001b[2J\": 1}, {}]",
            ARGUMENTS,
        ),
    ]
}

fn large() -> Vec<Case> {
    let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let chains = |depth: usize| {
        let open = r#"{"task": "c", "subtask_type": "chain", "kwargs": {"tasks": ["#;
        open.repeat(depth) + r#"{"task": "add"}"# + &"]}}".repeat(depth)
    };
    let keys = |count: usize| {
        let keys: Vec<String> = (0..count).map(|n| format!("\"k{n:06}\":1")).collect();
        format!("[[], {{{}}}, {{}}]", keys.join(","))
    };
    let million = 1_000_000;
    vec![
        body("a million brackets", "add", "[".repeat(million), UNREADABLE),
        body(
            "args a million deep",
            "echo",
            call_of(&deep(million)),
            ARGUMENTS,
        ),
        body(
            "kwargs a million deep",
            "echo",
            format!("[[], {{\"value\": {}}}, {{}}]", deep(million)),
            ARGUMENTS,
        ),
        body(
            "embed a million deep",
            "add",
            format!("[[2, 3], {{}}, {}]", deep(million)),
            Runs,
        ),
        body(
            "chains in chains, 3,000 deep",
            "add",
            format!("[[2, 3], {{}}, {{\"chain\": [{}]}}]", chains(3_000)),
            Dead("unsupported", "nested"),
        ),
        body("args 100 deep", "echo", call_of(&deep(100)), Runs),
        body(
            "a million arguments",
            "add",
            format!("[[{}1], {{}}, {{}}]", "1,".repeat(million)),
            Dead("unreadable", "more than 1000 arguments"),
        ),
        body(
            "500,000 named arguments",
            "add",
            keys(million / 2),
            Dead("unreadable", "more than 1000 arguments"),
        ),
        body(
            "a million named arguments",
            "add",
            keys(million),
            Dead("too_large", "more than the 8388608"),
        ),
        body(
            "an argument of 4 MB",
            "echo",
            call_of(&format!("\"{}\"", "x".repeat(4 << 20))),
            Runs,
        ),
        body(
            "17 MB",
            "echo",
            call_of(&format!("\"{}\"", "x".repeat(17 << 20))),
            Dead("too_large", "more than the"),
        ),
    ]
}

fn formats() -> Vec<Case> {
    let format = |name, content_type: &str, encoding: &str, body: &[u8], expected| {
        changed(
            name,
            |message| {
                message.content_type = content_type.into();
                message.content_encoding = encoding.into();
                message.body = body.to_vec().into();
            },
            expected,
        )
    };
    let json = "application/json";
    let good = b"[[2, 3], {}, {}]";
    // The beginning of ten megabytes of zeros, compressed.
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xed\xc1\x01\x0d\0\0\0\xc2\xa0\xf7Om\x0e7\xa0\0";
    let type_ = Dead("unsupported", "only application/json is");
    let encoding = Dead("unsupported", "only utf-8 is");
    vec![
        format(
            "pickle",
            "application/x-python-serialize",
            "binary",
            b"\x80\x04cos\nsystem\n(S'id'\ntR.",
            type_,
        ),
        format(
            "pickle in base64",
            "application/x-python-serialize",
            "base64",
            b"gASVAAAA",
            Dead("unsupported", "base64"),
        ),
        format(
            "YAML",
            "application/x-yaml",
            "utf-8",
            b"[[2, 3], {}, {}]",
            type_,
        ),
        format(
            "MessagePack",
            "application/x-msgpack",
            "binary",
            b"\x93\x92\x02\x03\x80\x80",
            type_,
        ),
        format("text", "text/plain", "utf-8", good, type_),
        format(
            "a terminal's escapes as content type",
            "\u{1b}[2J\r\nx",
            "utf-8",
            good,
            type_,
        ),
        format(
            "a content type of 255 bytes",
            &"x".repeat(255),
            "utf-8",
            good,
            type_,
        ),
        format("no content type", "", "utf-8", good, Runs),
        format(
            "a charset",
            "Application/JSON; charset=utf-8",
            "UTF-8",
            good,
            Runs,
        ),
        format("gzip", json, "gzip", gzip, encoding),
        format(
            "zlib",
            json,
            "zlib",
            b"x\x9c\xed\xc1\x01\x0d\0\0\0\xc2",
            encoding,
        ),
        format(
            "zstd",
            json,
            "zstd",
            b"\x28\xb5\x2f\xfd\0\x58\x49\0\0",
            encoding,
        ),
        format("deflate that is none", json, "deflate", good, encoding),
        format("UTF-16 as encoding", json, "utf-16", good, encoding),
        format("gzip that says nothing", json, "utf-8", gzip, UNREADABLE),
        changed(
            "a decompression bomb, as Celery marks it",
            |message| {
                message.set("compression", "application/x-gzip");
                message.body = gzip.to_vec().into();
            },
            Dead("unsupported", "compressed with `application/x-gzip`"),
        ),
    ]
}

fn outcomes() -> Vec<Case> {
    vec![
        body(
            "a result beyond the limit",
            "grow",
            call_of("9000000"),
            Dead("result", "more than the limit"),
        ),
        body(
            "an error of 20 MB",
            "fail",
            call_of("20000000"),
            Dead("failed", "[2J"),
        ),
    ]
}
