//! Replies as Celery writes them, and ours there and back again.

use serde_json::{Value, json};

use super::Reply;
use crate::failure::{Failure, FailureKind};
use crate::message::tests::{NOW, raw, with_body};
use crate::message::{Arguments, Message};

fn decoded(body: &str) -> Option<Reply> {
    Reply::decode(&with_body(body)).expect(body)
}

fn failed(body: &str) -> Failure {
    let reply = decoded(body).expect("a final reply");
    reply.outcome.expect_err("a failure")
}

#[test]
fn a_success_goes_there_and_back() {
    for result in [
        "5",
        "null",
        r#""größe""#,
        "[1,2.50,{}]",
        "123456789012345678901234567890",
    ] {
        let request = Message::new("id-1".into(), "t", &Arguments::default());
        let reply = Reply {
            id: "id-1".into(),
            outcome: Ok(raw(result)),
        };
        let message = reply.encode(&request, NOW);
        assert_eq!(message.correlation_id.as_deref(), Some("id-1"));
        assert_eq!(message.content_type, "application/json");
        let back = Reply::decode(&message)
            .expect("readable")
            .expect("a final reply");
        assert_eq!(back.id, "id-1");
        assert_eq!(back.outcome.expect("a success").get(), result);
        let body: Value = serde_json::from_slice(&message.body).expect("JSON");
        // A Python caller fails on a reply without one of these.
        for key in ["status", "result", "task_id", "traceback", "children"] {
            assert!(body.get(key).is_some(), "{key} in {body}");
        }
    }
}

#[test]
fn a_reply_carries_the_requests_correlation() {
    let mut request = Message::new("id-1".into(), "t", &Arguments::default());
    let reply = Reply {
        id: "id-1".into(),
        outcome: Ok(raw("1")),
    };
    request.correlation_id = Some("another".into());
    let message = reply.encode(&request, NOW);
    assert_eq!(message.correlation_id.as_deref(), Some("another"));
    request.correlation_id = None;
    let message = reply.encode(&request, NOW);
    assert_eq!(message.correlation_id.as_deref(), Some("id-1"));
}

#[test]
fn every_kind_of_failure_goes_there_and_back() {
    let request = Message::new("id-1".into(), "t", &Arguments::default());
    for kind in FailureKind::ALL {
        let failure = Failure {
            error_type: "billing::Error".into(),
            attempts: 3,
            traceback: Some("at main.rs:7".into()),
            ..Failure::new("billing.report", "id-1", kind, "no funds, \"sorry\"")
        };
        let reply = Reply {
            id: "id-1".into(),
            outcome: Err(failure.clone()),
        };
        let back = Reply::decode(&reply.encode(&request, NOW)).expect("readable");
        let back = back.expect("a final reply");
        let back = back.outcome.expect_err("a failure");
        assert_eq!(back.kind, kind);
        assert_eq!((&back.task, &back.id), (&failure.task, &failure.id));
        assert_eq!(
            (back.attempts, &back.traceback),
            (3, &failure.traceback),
            "{kind}"
        );
        match kind {
            // Told in Celery's own words.
            FailureKind::Expired => assert_eq!(back.message, "expired"),
            FailureKind::Cancelled => assert_eq!(back.message, "revoked"),
            _ => assert_eq!(back.message, failure.message),
        }
        if kind == FailureKind::Failed {
            assert_eq!(back.error_type, failure.error_type);
        }
    }
}

fn type_of<T, E>(failed: &Result<T, E>) -> &'static str {
    assert!(failed.is_err());
    std::any::type_name::<E>()
}

#[test]
fn error_types_have_a_name_that_python_can_use() {
    let request = Message::new("id-1".into(), "t", &Arguments::default());
    for (rust, module, name) in [
        ("my_crate::pool::PoolError", "my_crate::pool", "PoolError"),
        ("alloc::string::String", "builtins", "Exception"),
        ("&str", "builtins", "Exception"),
        ("", "builtins", "Exception"),
        ("alloc::boxed::Box<dyn Error>", "builtins", "Exception"),
        (type_of(&"x".parse::<u8>()), "builtins", "ValueError"),
        (type_of(&"x".parse::<f64>()), "builtins", "ValueError"),
        (type_of(&"x".parse::<bool>()), "builtins", "ValueError"),
        (type_of(&u8::try_from(300)), "builtins", "OverflowError"),
        (
            type_of(&String::from_utf8(vec![255])),
            "builtins",
            "UnicodeError",
        ),
        (
            type_of(&std::fs::File::open("/no/such")),
            "builtins",
            "OSError",
        ),
        (
            type_of(&std::env::var("NO_SUCH_VARIABLE")),
            "builtins",
            "KeyError",
        ),
        (
            type_of(&"".parse::<std::net::IpAddr>()),
            "builtins",
            "ValueError",
        ),
        (
            type_of(&serde_json::from_str::<u8>("x")),
            "builtins",
            "ValueError",
        ),
        (
            type_of(&"x".parse::<uuid::Uuid>()),
            "builtins",
            "ValueError",
        ),
        ("tokio::time::error::Elapsed", "builtins", "TimeoutError"),
        // What a Python worker said, handed on by a worker of ours.
        ("proj.errors.Broke", "proj.errors", "Broke"),
    ] {
        let failure = Failure {
            error_type: rust.into(),
            ..Failure::new("t", "id-1", FailureKind::Failed, "no")
        };
        let reply = Reply {
            id: "id-1".into(),
            outcome: Err(failure),
        };
        let message = reply.encode(&request, NOW);
        let body: Value = serde_json::from_slice(&message.body).expect("JSON");
        assert_eq!(body["result"]["exc_module"], module, "{rust}");
        assert_eq!(body["result"]["exc_type"], name, "{rust}");
        assert_eq!(body["result"]["exc_message"], json!(["no"]), "{rust}");
    }
}

#[test]
fn replies_of_python_are_read() {
    let success = decoded(
        r#"{"status": "SUCCESS", "result": 5, "traceback": null, "children": [],
            "date_done": "2026-11-21T01:52:49.782758+00:00", "task_id": "1f57"}"#,
    );
    let success = success.expect("a final reply");
    assert_eq!(success.id, "1f57");
    assert_eq!(success.outcome.expect("a success").get(), "5");

    let failure = failed(
        r#"{"status": "FAILURE", "result": {"exc_type": "ValueError", "exc_message": ["boom", 42],
            "exc_module": "builtins"}, "traceback": "Traceback (most recent call last):\n",
            "children": [], "date_done": "2026-11-21T01:52:49+00:00", "task_id": "3633"}"#,
    );
    assert_eq!(failure.kind, FailureKind::Failed);
    assert_eq!(failure.message, "boom, 42");
    assert_eq!(&*failure.error_type, "builtins.ValueError");
    assert!(
        failure
            .traceback
            .is_some_and(|t| t.starts_with("Traceback"))
    );
    assert_eq!(failure.id, "3633");
}

#[test]
fn pythons_exceptions_have_their_kind() {
    let reply = |status: &str, name: &str, module: &str, said: &str| {
        failed(&format!(
            r#"{{"status": "{status}", "task_id": "1", "traceback": null, "result":
                {{"exc_type": "{name}", "exc_module": "{module}", "exc_message": {said}}}}}"#
        ))
    };
    let celery = "celery.exceptions";
    let billiard = "billiard.exceptions";
    for (status, name, module, said, kind) in [
        (
            "REVOKED",
            "TaskRevokedError",
            celery,
            r#"["revoked"]"#,
            FailureKind::Cancelled,
        ),
        (
            "REVOKED",
            "TaskRevokedError",
            celery,
            r#"["terminated"]"#,
            FailureKind::Cancelled,
        ),
        (
            "REVOKED",
            "TaskRevokedError",
            celery,
            r#"["expired"]"#,
            FailureKind::Expired,
        ),
        (
            "FAILURE",
            "NotRegistered",
            celery,
            r#"["no.such.task"]"#,
            FailureKind::Rejected,
        ),
        (
            "FAILURE",
            "TimeLimitExceeded",
            billiard,
            "[30]",
            FailureKind::TimedOut,
        ),
        (
            "FAILURE",
            "KeyError",
            "builtins",
            r#""one text""#,
            FailureKind::Failed,
        ),
    ] {
        let failure = reply(status, name, module, said);
        assert_eq!(failure.kind, kind, "{name} {said}");
        assert_eq!(*failure.error_type, *format!("{module}.{name}"));
    }
    assert_eq!(
        reply("FAILURE", "KeyError", "", r#""one text""#).message,
        "one text"
    );
}

#[test]
fn odd_failures_are_failures_too() {
    for (body, kind) in [
        (
            r#"{"status": "FAILURE", "result": null, "task_id": "1"}"#,
            FailureKind::Failed,
        ),
        (
            r#"{"status": "FAILURE", "task_id": "1"}"#,
            FailureKind::Failed,
        ),
        (
            r#"{"status": "FAILURE", "result": "boom", "task_id": "1"}"#,
            FailureKind::Failed,
        ),
        (
            r#"{"status": "REVOKED", "result": null, "task_id": "1"}"#,
            FailureKind::Cancelled,
        ),
        (
            r#"{"status": "FAILURE", "result": {"exc_type": "E"}, "task_id": "1"}"#,
            FailureKind::Failed,
        ),
    ] {
        assert_eq!(failed(body).kind, kind, "{body}");
    }
}

#[test]
fn news_of_an_unfinished_call_is_no_reply() {
    for body in [
        r#"{"status": "STARTED", "result": {"pid": 29229, "hostname": "pyw@cap"}, "traceback": null,
            "children": [], "date_done": null, "task_id": "1f57"}"#,
        r#"{"status": "RETRY", "result": {"exc_type": "KeyError", "exc_message": ["again"],
            "exc_module": "builtins"}, "traceback": "celery.exceptions.Retry: Retry in 1s\n",
            "children": [[["79d1", null], null]], "date_done": null, "task_id": "79d1"}"#,
        r#"{"status": "PROGRESS", "result": {"done": 7}, "task_id": "79d1"}"#,
    ] {
        assert!(decoded(body).is_none(), "{body}");
    }
}

#[test]
fn a_reply_that_is_none_is_refused_with_a_reason() {
    for body in [
        "",
        "null",
        "[]",
        "{}",
        r#"{"status": "SUCCESS", "result": 5}"#,
        r#"{"status": "SUCCESS", "result": 5, "task_id""#,
    ] {
        let error = Reply::decode(&with_body(body)).expect_err(body);
        assert!(error.0.contains("cannot be read"), "{error}");
    }
}

#[test]
fn a_final_reply_that_cannot_be_read_is_a_failure() {
    let read = |body: &str| {
        Reply::decode(&Message {
            body: body.as_bytes().to_vec().into(),
            ..Message::default()
        })
    };
    for body in [
        r#"{"status": "SUCCESS", "result": NaN, "traceback": null, "task_id": "id"}"#,
        r#"{"status": "SUCCESS", "result": [1, -Infinity], "traceback": null, "task_id": "id"}"#,
        r#"{"status": "FAILURE", "result": {}, "traceback": "in \ud800", "task_id": "id"}"#,
    ] {
        let reply = read(body).expect("it is read").expect("it is over");
        let failure = reply.outcome.expect_err("its result is lost");
        assert_eq!((&*reply.id, &*failure.id), ("id", "id"));
        assert_eq!(failure.kind, FailureKind::Unknown);
        assert!(
            failure.message.starts_with("the reply cannot be read: "),
            "{failure}"
        );
    }
    for body in [
        r#"{"status": "PROGRESS", "result": NaN, "traceback": null, "task_id": "id"}"#,
        r#"{"status": "SUCCESS", "result": NaN, "task_id": 7}"#,
        r#"{"status": "SUCCESS", "result": NaN, "#,
    ] {
        assert!(read(body).is_err(), "{body}");
    }
    let pickled = Message {
        content_type: "application/x-python-serialize".into(),
        content_encoding: "binary".into(),
        correlation_id: Some("id".into()),
        body: b"\x80\x04}".to_vec().into(),
        ..Message::default()
    };
    let reply = Reply::decode(&pickled)
        .expect("it is read")
        .expect("it is over");
    let failure = reply.outcome.expect_err("its result is lost");
    assert!(
        failure.message.contains("application/x-python-serialize"),
        "{failure}"
    );
}
