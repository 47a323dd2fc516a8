//! Hostile metadata: ids, names, dates, numbers, and what only we and the broker should write.

use garenne::message::{Message, header as ours};
use serde_json::{Value, json};

use super::case::{Case, Expected, body, changed, header};
use Expected::{Dead, Dropped, Runs, Waits};

/// Written by a sender that is not ours, which leaves waiting to the worker.
const FOREIGN: &str = "py";

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    [
        identity(),
        times(),
        numbers(),
        forged(),
        addresses(),
        sizes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn with_id(name: &'static str, id: impl Into<String>, expected: Expected) -> Case {
    changed(
        name,
        |message| {
            message.id = id.into();
            message.set("id", message.id.clone());
        },
        expected,
    )
}

fn identity() -> Vec<Case> {
    let unreadable = |words| Dead("unreadable", words);
    let unknown = |words| Dead("unknown_task", words);
    let bare = |message: &mut Message| {
        message.id.clear();
        message.headers.clear();
    };
    vec![
        with_id("no id", "", unreadable("has no id")),
        with_id(
            "an id of 256 bytes",
            "x".repeat(256),
            unreadable("its id has 256 bytes"),
        ),
        with_id("an id of 255 bytes", "x".repeat(255), Runs),
        with_id(
            "an id of 30,000 bytes",
            "ö".repeat(15_000),
            unreadable("its id has 30000 bytes"),
        ),
        with_id("an id with NUL, CR and LF", "a\0b\r\nc: d", Runs),
        with_id("an id of emoji", "🦀".repeat(60), Runs),
        with_id("an id like the broker's names", "amq.gen-x", Runs),
        with_id("an id like a path", "../../etc/passwd", Runs),
        header(
            "no task",
            "task",
            Value::Null,
            unreadable("no `task` header"),
        ),
        header(
            "a task that is a number",
            "task",
            7,
            unreadable("no `task` header"),
        ),
        header(
            "a task that is a table",
            "task",
            json!({"add": 1}),
            unreadable("no `task` header"),
        ),
        header("an empty task", "task", "", unknown("no task ``")),
        header(
            "a task that nobody knows",
            "task",
            "os.system",
            unknown("`os.system`"),
        ),
        header(
            "a terminal's escapes as task",
            "task",
            "\u{1b}[2J\r\nERROR",
            unknown("`\\u{1b}[2J\\r\\nERROR`"),
        ),
        header(
            "a task of 300 bytes",
            "task",
            "x".repeat(300),
            unreadable("its task name has 300 bytes"),
        ),
        header(
            "a task of 20,000 bytes",
            "task",
            "x".repeat(20_000),
            unreadable("has 20000 bytes"),
        ),
        changed("no headers at all", bare, unreadable("no `task` header")),
        changed(
            "Celery's protocol 1",
            |message| {
                bare(message);
                message.body =
                    br#"{"task": "add", "id": "1", "args": [2, 3], "kwargs": {}, "retries": 0}"#
                        .to_vec()
                        .into();
            },
            unreadable("message protocol 2"),
        ),
        changed(
            "nobody to tell",
            |message| message.correlation_id = None,
            Runs,
        ),
    ]
}

fn times() -> Vec<Case> {
    let foreign = |name, key: &str, value: Value, expected| {
        let mut case = header(name, key, value, expected);
        case.message.set("lang", FOREIGN);
        case
    };
    let no_time = Dead("unreadable", "is no time in RFC 3339");
    vec![
        foreign(
            "an eta in the year 9999",
            "eta",
            "9999-12-31T23:59:59+00:00".into(),
            Waits,
        ),
        changed(
            "our own eta in the year 9999",
            |message| {
                message.set("eta", "9999-12-31T23:59:59+00:00");
                message.set("lang", "rust");
            },
            Runs,
        ),
        foreign(
            "an eta in the year 10000",
            "eta",
            "+010000-01-01T00:00:00Z".into(),
            no_time,
        ),
        foreign(
            "an eta before Christ",
            "eta",
            "-004713-11-24T12:00:00Z".into(),
            Runs,
        ),
        foreign("an eta that is no date", "eta", "soon".into(), no_time),
        foreign("an eta that is a number", "eta", json!(1e300), no_time),
        foreign(
            "an eta of 30,000 bytes",
            "eta",
            "9".repeat(30_000).into(),
            no_time,
        ),
        foreign(
            "an eta on the 30th of February",
            "eta",
            "2026-02-30T00:00:00+00:00".into(),
            no_time,
        ),
        foreign(
            "an eta without an offset",
            "eta",
            "2001-01-01T00:00:00".into(),
            Runs,
        ),
        header("expires that is no date", "expires", "never", no_time),
        header(
            "expires that is a table",
            "expires",
            json!({"at": 0}),
            no_time,
        ),
        header("expires that is negative", "expires", -1, no_time),
        header(
            "expired in 1970",
            "expires",
            "1970-01-01T00:00:00+00:00",
            Dropped,
        ),
        header(
            "expired before Christ",
            "expires",
            "-000044-03-15T00:00:00Z",
            Dropped,
        ),
        header(
            "expires in the year 9999",
            "expires",
            "9999-12-31T23:59:59+00:00",
            Runs,
        ),
        header("expires that is null", "expires", Value::Null, Runs),
        header("a time limit that is text", "timelimit", "soon", Runs),
        header(
            "negative time limits",
            "timelimit",
            json!([-1, -1e300]),
            Runs,
        ),
        header(
            "a time limit of 10^300 s",
            "timelimit",
            json!([1e300, null]),
            Runs,
        ),
        header(
            "a time limit of 10^18 s",
            "timelimit",
            json!([1e18, null]),
            Runs,
        ),
        header("time limits in a table", "timelimit", json!({"0": 1}), Runs),
    ]
}

fn numbers() -> Vec<Case> {
    let two_to_63 = || json!(9_223_372_036_854_775_808_f64);
    let failing = |name, key: &str, value: Value| {
        let mut case = body(name, "fail", "[[12], {}, {}]", Dead("failed", "[2J"));
        case.message.headers.insert(key.to_owned(), value);
        case
    };
    vec![
        header("retries that are text", "retries", "many", Runs),
        header("2^63 retries", "retries", two_to_63(), Runs),
        header("-5 retries", "retries", -5, Runs),
        header("retries in a table", "retries", json!({"a": [1]}), Runs),
        failing("2^63 retries of a failure", "retries", two_to_63()),
        failing("allowed retries that are text", ours::RETRIES, "all".into()),
        failing("-1 retries allowed", ours::RETRIES, json!(-1)),
        failing("allowed retries in a table", ours::RETRIES, json!({"a": 1})),
        failing("a backoff that is none", ours::BACKOFF, json!([-1, "x"])),
        failing("a history that is no JSON", ours::HISTORY, "[[[".into()),
        failing(
            "a history of 40,000 bytes",
            ours::HISTORY,
            json!([" ".repeat(40_000)]).to_string().into(),
        ),
        header(
            "an acknowledgement of another kind",
            ours::ACK,
            "sometimes",
            Runs,
        ),
        header(
            "an acknowledgement that is a number",
            ours::ACK,
            1e300,
            Runs,
        ),
        header("ignore_result that is text", "ignore_result", "true", Runs),
        header("ignore_result", "ignore_result", true, Runs).unheard(),
        changed(
            "the highest priority",
            |message| message.priority = Some(255),
            Runs,
        ),
    ]
}

fn forged() -> Vec<Case> {
    let poison = || Dead("poison", "seems to kill the workers");
    vec![
        header("2^63 deliveries", ours::DELIVERIES, i64::MAX, poison()),
        header("-1 deliveries", ours::DELIVERIES, i64::MIN, Runs),
        header("deliveries that are text", ours::DELIVERIES, "9", Runs),
        header(
            "deliveries in a table",
            ours::DELIVERIES,
            json!({"n": [9]}),
            Runs,
        ),
        header(
            "the broker's count of deliveries",
            "x-delivery-count",
            1_000_000,
            Runs,
        ),
        header(
            "the broker's count that is text",
            "x-delivery-count",
            "many",
            Runs,
        ),
        header(
            "the broker's count of acquisitions",
            "x-acquired-count",
            -7,
            Runs,
        ),
        header(
            "a forged death",
            "x-death",
            json!([{"count": 99, "reason": "delivery_limit", "queue": "q", "exchange": "", "routing-keys": ["q"]}]),
            Runs,
        ),
        header("a death that is no table", "x-death", "never", Runs),
        header("the way of a delay", "garenne-to", "amq.fanout", Runs),
        header("a delay's digits", "garenne-d5", true, Runs),
        header("an origin", "garenne-exchange", "amq.topic", Runs),
        header("a reason to be dead", ours::REASON, "poison", Runs),
        header(
            "our note of what was malformed",
            ours::MALFORMED,
            "\u{1b}[2Jno",
            Dead("unreadable", "`\\u{1b}[2Jno`"),
        ),
        header(
            "a stranger's header in our name",
            "garenne-x",
            json!({"a": [null]}),
            Runs,
        ),
        header("stamps that are text", "stamps", "x", Runs),
    ]
}

fn addresses() -> Vec<Case> {
    let to = |name, address: &str| {
        changed(
            name,
            |message| message.reply_to = Some(address.to_owned()),
            Runs,
        )
        .unheard()
    };
    vec![
        to("a reply to nowhere", "no-such-queue"),
        to("a reply to no name", ""),
        to("a reply to 255 bytes", &"x".repeat(255)),
        to("a reply to NUL, CR and LF", "a\0b\r\nc"),
        to("a reply to the calls' own queue", super::live::QUEUE_HERE),
        to("a reply to the dead letters", super::live::DEAD_HERE),
        to("a reply to the cancelled calls", "garenne.cancelled"),
        to("a reply to the delays", "garenne.delay.3"),
        to("a reply to what nothing took", "garenne.unrouted"),
        to("a reply to another's reply queue", "garenne.reply.00000000"),
    ]
}

fn sizes() -> Vec<Case> {
    let too_large = || Dead("unreadable", "more than 65536");
    let many = |message: &mut Message| {
        for n in 0..5_000 {
            message.set(&format!("h{n}"), "x");
        }
    };
    vec![
        header("60,000 bytes of headers", "x", "x".repeat(60_000), Runs),
        header(
            "70,000 bytes of headers",
            "x",
            "x".repeat(70_000),
            too_large(),
        ),
        header(
            "120,000 bytes of headers",
            "x",
            "x".repeat(120_000),
            too_large(),
        ),
        header(
            "an array of 10,000 numbers",
            "x",
            vec![1; 10_000],
            too_large(),
        ),
        changed("5,000 headers", many, Runs),
        changed(
            "a header of 255 bytes",
            |message| message.set(&"x".repeat(255), 1),
            Runs,
        ),
        header("headers nested 30 deep", "x", nested(29), Runs),
    ]
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(Value::Null, |inner, _| json!({"a": inner}))
}
