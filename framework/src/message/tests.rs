//! Messages as Celery writes them, as a hostile or broken sender writes them, and there and back again.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::reply::Reply;

use super::{
    Arguments, FARTHEST_EXPIRY, Headers, Message, format_time, header, is_deeper, parse_time,
};

pub(crate) const NOW: SystemTime = SystemTime::UNIX_EPOCH;

pub(crate) fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).expect("JSON")
}

pub(crate) fn with_body(body: impl Into<Vec<u8>>) -> Message {
    Message {
        id: "id-1".into(),
        content_type: "application/json".into(),
        content_encoding: "utf-8".into(),
        body: Arc::new(body.into()),
        ..Message::default()
    }
}

fn with_header(name: &str, value: Value) -> Message {
    let mut message = Message::new("id-1".into(), "t", &Arguments::default());
    message.headers.insert(name.to_owned(), value);
    message
}

/// The header table that Celery 5.7 sends with `add.delay(2, 3)`.
fn celery_headers() -> Headers {
    json!({
        "lang": "py", "task": "capture.add", "id": "45783609", "shadow": null, "eta": null,
        "expires": null, "group": null, "group_index": null, "retries": 0, "timelimit": [null, null],
        "root_id": "45783609", "parent_id": null, "argsrepr": "(2, 3)", "kwargsrepr": "{}",
        "origin": "gen28754@vm", "ignore_result": false, "replaced_task_nesting": 0,
        "stamped_headers": null, "stamps": {}
    })
    .as_object()
    .cloned()
    .expect("an object")
}

#[test]
fn a_message_of_celery_is_read() {
    let mut message = with_body(
        r#"[[2, 3], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#,
    );
    message.headers = celery_headers();
    message.reply_to = Some("2b199b5b".into());
    assert_eq!(message.task(), Ok("capture.add"));
    assert_eq!(message.attempt(), 1);
    assert_eq!((message.eta(), message.expires()), (None, None));
    assert_eq!((message.timeout(), message.retries()), (None, None));
    assert!(!message.ignores_result());
    assert!(message.history().is_empty());
    let arguments = Arguments::decode(&message).expect("arguments");
    let args: Vec<&str> = arguments.args.iter().map(|arg| arg.get()).collect();
    assert_eq!(args, ["2", "3"]);
    assert!(arguments.kwargs.is_empty());
}

#[test]
fn options_of_celery_are_read() {
    let mut message = with_body("[[], {}, {}]");
    message.headers = celery_headers();
    message.reply_to = Some("2b199b5b".into());
    message.set("retries", 2);
    message.set("timelimit", json!([30, 20]));
    message.set("expires", "2026-11-21T01:52:45.893351+00:00");
    message.set("ignore_result", true);
    assert_eq!(message.attempt(), 3);
    assert_eq!(message.timeout(), Some(Duration::from_secs(20)));
    assert_eq!(message.soft_timeout(), message.timeout());
    assert!(message.expires().is_some());
    assert!(message.ignores_result());
    message.set("timelimit", json!([1.5, null]));
    assert_eq!(message.timeout(), Some(Duration::from_millis(1500)));
    message.set("timelimit", json!([0, 2]));
    assert_eq!(message.timeout(), Some(Duration::from_secs(2)));
    for odd in [
        json!([-1, null]),
        json!(["30", -1]),
        json!([]),
        json!(30),
        json!([0, 0.0]),
    ] {
        message.set("timelimit", odd.clone());
        assert_eq!(message.timeout(), None, "{odd}");
    }
}

#[test]
fn every_form_of_a_body_is_read() {
    for (body, args, kwargs) in [
        ("[[2, 3], {}, {}]", 2, 0),
        ("[[2, 3], {}, null]", 2, 0),
        ("[[2, 3], null, {}]", 2, 0),
        (r#"[[], {"y": 3}, {"chain": []}]"#, 0, 1),
        (
            r#" [ [ {"deep": [[[]]]} ] , {"x": null, "y": "\u00fc"} , {} ] "#,
            1,
            2,
        ),
        ("[[123456789012345678901234567890], {}, {}]", 1, 0),
        (r#"[["größe 🐇"], {}, {}]"#, 1, 0),
    ] {
        let arguments = Arguments::decode(&with_body(body)).expect(body);
        let counted = (arguments.args.len(), arguments.kwargs.len());
        assert_eq!(counted, (args, kwargs), "{body}");
    }
    let mut untyped = with_body("[[1], {}, {}]");
    untyped.content_type = String::new();
    assert!(Arguments::decode(&untyped).is_ok());
}

#[test]
fn a_body_that_is_none_is_refused_with_a_reason() {
    for body in [
        &b""[..],
        b"[[1], {}]",
        b"[[1], {}, {}, {}]",
        br#"{"task": "t", "id": "1", "args": [], "kwargs": {}}"#,
        b"[[1], [], {}]",
        b"[{}, {}, {}]",
        b"[[1, 2], {}, {",
        b"[[1], {}, {}] more",
        b"[[NaN], {}, {}]",
        b"[[\"\xff\"], {}, {}]",
        b"\x80\x04\x95",
        b"null",
    ] {
        let error = Arguments::decode(&with_body(body)).expect_err("a refusal");
        assert!(error.0.contains("[args, kwargs, embed]"), "{error}");
        assert!(error.0.len() > "the body is not `[args, kwargs, embed]` in JSON: ".len());
    }
    for content_type in [
        "application/x-python-serialize",
        "application/x-msgpack",
        "text/plain",
    ] {
        let mut message = with_body("[[1], {}, {}]");
        message.content_type = content_type.into();
        let error = Arguments::decode(&message).expect_err("a refusal");
        assert!(error.0.contains(content_type), "{error}");
    }
}

#[test]
fn deep_nesting_is_no_crash() {
    let deep = format!("{}{}", "[".repeat(90_000), "]".repeat(90_000));
    // Arguments are kept as they are: how deep a task's own types go is their matter.
    assert!(Arguments::decode(&with_body(format!("[[{deep}], {{}}, {{}}]"))).is_ok());
    // What comes with them is passed over.
    assert!(Arguments::decode(&with_body(format!("[[], {{}}, {deep}]"))).is_ok());
    assert!(Reply::decode(&with_body(deep)).is_err());
}

#[test]
fn arguments_go_there_and_back() {
    let arguments = Arguments {
        args: vec![raw("1"), raw(r#""two""#), raw("[3.0, null]")],
        kwargs: [("größe".to_owned(), raw(r#"{"a":1}"#))].into(),
    };
    let message = Message::new("id-1".into(), "t", &arguments);
    let back = Arguments::decode(&message).expect("arguments");
    let texts = |of: &Arguments| -> Vec<String> {
        let values = of.args.iter().chain(of.kwargs.values());
        values.map(|value| value.get().to_owned()).collect()
    };
    assert_eq!(texts(&back), texts(&arguments));
    assert!(back.kwargs.contains_key("größe"));
    let args = "(1, \"two\", [3.0, null])";
    let kwargs = r#"{"größe":{"a":1}}"#;
    assert_eq!(message.repr(), (args.into(), kwargs.into()));
}

#[test]
fn long_arguments_are_shown_shortened() {
    let long = raw(&format!("\"{}\"", "ü".repeat(100_000)));
    let arguments = Arguments {
        args: vec![long.clone(), long.clone()],
        kwargs: [("x".to_owned(), long)].into(),
    };
    let mut message = Message::new("id-1".into(), "t", &arguments);
    message.spell_out(&arguments);
    for name in ["argsrepr", "kwargsrepr"] {
        let shown = message.text(name).expect("a text");
        assert!(shown.len() < 1000, "{} bytes in {name}", shown.len());
    }
}

#[test]
fn a_message_without_a_task_or_id_is_unreadable() {
    let no_task = with_body("[[], {}, {}]");
    assert!(no_task.task().is_err_and(|e| e.0.contains("`task`")));
    let no_id = Message::new(String::new(), "t", &Arguments::default());
    assert!(no_id.task().is_err_and(|e| e.0.contains("no id")));
    assert!(with_header("task", json!(7)).task().is_err());
}

#[test]
fn arguments_are_bounded() {
    let list = |count: usize| vec!["1"; count].join(",");
    assert!(Arguments::decode(&with_body(format!("[[{}], {{}}, 0]", list(1000)))).is_ok());
    let error = Arguments::decode(&with_body(format!("[[{}], {{}}, 0]", list(1001))));
    assert!(error.is_err_and(|e| e.0.contains("more than 1000 arguments")));
    let named: Vec<String> = (0..1001).map(|n| format!("\"{n}\": 1")).collect();
    let error = Arguments::decode(&with_body(format!("[[], {{{}}}, 0]", named.join(","))));
    assert!(error.is_err_and(|e| e.0.contains("more than 1000 arguments")));
}

#[test]
fn a_time_that_is_none_is_unreadable() {
    for name in ["eta", "expires"] {
        for value in [
            json!("soon"),
            json!(5),
            json!({}),
            json!("+010000-01-01T00:00:00Z"),
        ] {
            let error = with_header(name, value.clone())
                .task()
                .expect_err("no time");
            assert!(error.0.contains(name), "{error}");
        }
        // The calendar's last day, which we write for all later ones, is a time.
        for value in [json!(null), json!("9999-12-31T23:59:59.000000+00:00")] {
            assert_eq!(with_header(name, value).task(), Ok("t"));
        }
    }
}

#[test]
fn a_dead_letter_has_room_for_its_reason() {
    let mut message = with_header("large", "x".repeat(200_000).into());
    message.set("small", 1);
    assert!(
        message
            .task()
            .is_err_and(|e| e.0.contains("more than 65536"))
    );
    let dead = message.dead("q", "failed", &"\u{1b}".repeat(100_000), NOW);
    assert!(dead.header_size() < 96 * 1024, "{}", dead.header_size());
    assert_eq!(dead.text(header::LEFT_OUT), Some("large"));
    assert!(dead.headers.contains_key("small") && dead.text("task") == Some("t"));
    let mut again = with_header("large", "x".repeat(60_000).into());
    for _ in 0..20 {
        again = again.next_attempt(&"\u{1b}".repeat(10_000), NOW);
    }
    assert!(again.header_size() < 96 * 1024, "{}", again.header_size());
}

#[test]
fn what_workers_note_of_its_past_leaves_a_message_readable() {
    let room = 64 * 1024 - with_header("large", "".into()).header_size();
    let mut message = with_header("large", "x".repeat(room).into());
    assert!(message.check_headers().is_ok());
    message.set(header::EXCHANGE, "e".repeat(255));
    message.set(header::ROUTING_KEY, "k".repeat(255));
    for _ in 0..50 {
        message = message.next_attempt(&"\u{1b}".repeat(10_000), NOW);
        assert_eq!(message.task(), Ok("t"));
    }
    let dead = message.dead("q", "failed", &"\u{1b}".repeat(100_000), NOW);
    assert_eq!(dead.text(header::LEFT_OUT), None);
    assert!(dead.header_size() < 96 * 1024, "{}", dead.header_size());
    assert_eq!(dead.revived(NOW).task(), Ok("t"));
    // Who writes more under these names than we would gains nothing by it.
    for name in [header::HISTORY, header::EXCHANGE, header::DELIVERIES] {
        assert!(with_header(name, "x".repeat(90_000).into()).task().is_err());
        message.set("large", "");
        message.set(name, "x".repeat(90_000));
        let dead = message.dead("q", "failed", &"\u{1b}".repeat(100_000), NOW);
        assert!(dead.header_size() < 96 * 1024, "{}", dead.header_size());
    }
}

#[test]
fn hostile_counts_of_retries_are_clamped() {
    for (retries, attempt) in [
        (json!(0), 1),
        (json!(4), 5),
        (json!(-1), 1),
        (json!(i64::MIN), 1),
        (json!("7"), 1),
        (json!(null), 1),
        (json!([1]), 1),
        (json!(true), 1),
        (json!(2.9), 3),
        (json!(-2.5), 1),
        (json!(1e300), u32::MAX),
        (json!(u32::MAX), u32::MAX),
        (json!(1_u64 << 63), u32::MAX),
        (json!(u64::MAX), u32::MAX),
    ] {
        let message = with_header("retries", retries.clone());
        assert_eq!(message.attempt(), attempt, "{retries}");
        // A counter that cannot rise any more stays where it is.
        let next = message.next_attempt("no luck", NOW).attempt();
        assert_eq!(next, attempt.saturating_add(1), "{retries}");
    }
}

#[test]
fn times_in_all_of_pythons_forms_are_read() {
    let whole = parse_time("2026-11-21T01:52:45+00:00").expect("a time");
    for text in [
        "2026-11-21T01:52:45Z",
        "2026-11-21T01:52:45",
        "2026-11-21 01:52:45",
        "2026-11-21T02:52:45+01:00",
        "2026-11-20T20:52:45-05:00",
        "2026-11-21T01:52:45.000000+00:00",
        "2026-11-21T01:52:45.000",
    ] {
        assert_eq!(parse_time(text), Some(whole), "{text}");
    }
    let precise = whole + Duration::from_micros(893_351);
    for text in [
        "2026-11-21T01:52:45.893351+00:00",
        "2026-11-21T01:52:45.893351Z",
        "2026-11-21T01:52:45.893351",
        "2026-11-21T01:52:45.893351000",
    ] {
        assert_eq!(parse_time(text), Some(precise), "{text}");
    }
    assert_eq!(format_time(precise), "2026-11-21T01:52:45.893351+00:00");
    assert_eq!(format_time(whole), "2026-11-21T01:52:45.000000+00:00");
}

#[test]
fn what_is_no_time_is_none() {
    for text in [
        "",
        "soon",
        "1700000000",
        "2026-13-01T00:00:00Z",
        "2026-11-21T25:00:00Z",
        "01:52:45",
        "2026-11-21T01:52:45+99:00",
        "2026-11-21T01:52:45Z and more",
    ] {
        assert_eq!(parse_time(text), None, "{text:?}");
        assert_eq!(with_header("eta", json!(text)).eta(), None, "{text:?}");
    }
    for value in [json!(1_700_000_000), json!(null), json!({})] {
        assert_eq!(with_header("expires", value).expires(), None);
    }
    let never = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
    assert!(format_time(never).starts_with("9999-"));
}

#[test]
fn a_next_attempt_counts_and_remembers() {
    let mut message = with_header("eta", json!("2026-11-21T01:52:45Z"));
    message.set("tenant", "acme");
    message.reply_to = Some("garenne.reply.x".into());
    message.priority = Some(5);
    let next = message
        .next_attempt("first", NOW)
        .next_attempt("second", NOW);
    assert_eq!(next.attempt(), 3);
    assert_eq!(next.history(), ["first", "second"]);
    assert_eq!(next.eta(), None);
    assert_eq!(next.text("tenant"), Some("acme"));
    assert_eq!((&next.id, &next.body), (&message.id, &message.body));
    assert_eq!((next.reply_to, next.priority), (message.reply_to, Some(5)));
}

#[test]
fn the_history_is_bounded() {
    let mut message = with_header(header::HISTORY, json!("no JSON"));
    for i in 0..50 {
        message = message.next_attempt(&format!("{i} {}", "ü".repeat(50_000)), NOW);
    }
    let history = message.history();
    assert!(history.len() >= 10, "{} errors", history.len());
    assert!(
        history
            .last()
            .is_some_and(|newest| newest.starts_with("49 "))
    );
    let size = message.text(header::HISTORY).map_or(0, str::len);
    assert!(size < 20_000, "{size} bytes");
}

#[test]
fn copies_leave_the_brokers_notes_behind() {
    let mut message = with_header("x-tenant", json!("acme"));
    let notes = [
        "x-death",
        "x-first-death-reason",
        "x-last-death-queue",
        "x-delivery-count",
        "CC",
        "BCC",
    ];
    for name in notes {
        message.set(name, json!(["other-queue"]));
    }
    message.set(header::DELIVERIES, 3);
    message.set(header::RETURNED, true);
    for copy in [
        message.again(),
        message.next_attempt("no luck", NOW),
        message.dead("q", "failed", "no luck", NOW),
    ] {
        for name in notes
            .into_iter()
            .chain([header::DELIVERIES, header::RETURNED])
        {
            assert!(!copy.headers.contains_key(name), "{name}");
        }
        assert_eq!(copy.text("x-tenant"), Some("acme"));
    }
    assert_eq!(message.again().attempt(), message.attempt());
}

#[test]
fn a_dead_letter_says_why() {
    let message = with_header("retries", json!(2)).next_attempt("earlier", NOW);
    let dead = message.dead("images", "failed", &"x".repeat(100_000), NOW);
    assert_eq!(dead.text(header::REASON), Some("failed"));
    assert_eq!(dead.text(header::QUEUE), Some("images"));
    let died_at = dead.text(header::DIED_AT).and_then(parse_time);
    assert_eq!(died_at, Some(NOW));
    assert!(dead.text(header::ERROR).is_some_and(|e| e.len() == 8192));
    assert_eq!(dead.history().len(), 2);
    assert_eq!((dead.attempt(), dead.id), (4, message.id));
}

#[test]
fn what_is_sent_again_has_all_that_python_needs() {
    let mut foreign = Message {
        id: "a".into(),
        ..Message::default()
    };
    foreign.set("task", "t");
    let again = foreign.next_attempt("oh", NOW);
    assert_eq!(again.text("id"), Some("a"));
    assert_eq!(again.content_type, "application/json");
}

#[test]
fn far_expiries_are_hidden_from_python() {
    let mut message = Message::new("a".into(), "t", &Arguments::default());
    for (after, hidden) in [(FARTHEST_EXPIRY, false), (FARTHEST_EXPIRY * 2, true)] {
        message.set("expires", format_time(NOW + after));
        message.hide_far_expiry(NOW);
        assert_eq!(message.text("expires").is_none(), hidden);
        assert_eq!(message.expires(), Some(NOW + after));
    }
    message.set_deadline(NOW + Duration::from_secs(1));
    assert_eq!(message.expires(), Some(NOW + Duration::from_secs(1)));
}

#[test]
fn depth_is_counted_outside_of_texts() {
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(!is_deeper(deep(160).as_bytes(), 160));
    assert!(is_deeper(deep(161).as_bytes(), 160));
    assert!(!is_deeper(br#"["[[[[[[\"[[[[", {}, {}, {}, {}]"#, 2));
    assert!(is_deeper(br#"{"a": [{"b": 1}]}"#, 2));
    let long = "x".repeat(1000);
    assert!(is_deeper(
        format!("[\"{long}\", {}]", deep(160)).as_bytes(),
        160
    ));
    assert!(!is_deeper(
        format!("[\"{long}\", {}]", "[],".repeat(200)).as_bytes(),
        160
    ));
}

/// What the first version wrote and reads: its workers may run beside ours on one SQLite file.
#[test]
fn an_envelope_is_read_by_earlier_versions_and_theirs_by_us() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Earlier {
        id: String,
        headers: Headers,
        content_type: String,
        content_encoding: String,
        correlation_id: Option<String>,
        reply_to: Option<String>,
        priority: Option<u8>,
    }

    let message = Message::new("a".into(), "t", &Arguments::default());
    for message in [Message::default(), message] {
        let envelope = serde_json::to_string(&message).expect("JSON");
        let earlier: Earlier = serde_json::from_str(&envelope).expect("JSON");
        let theirs = serde_json::to_string(&earlier).expect("JSON");
        assert!(theirs.contains(r#""priority":null"#));
        let read: Message = serde_json::from_str(&theirs).expect("JSON");
        assert_eq!(
            read,
            Message {
                body: Arc::default(),
                ..message
            }
        );
    }
}
