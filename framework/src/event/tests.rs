use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;

use super::*;
use crate::message::Arguments;

fn at(seconds: f64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs_f64(seconds)
}

fn sent(kind: EventKind) -> (String, Value) {
    let (key, message) = encode("w@h", &[Event::new("w@h", at(1000.5), kind)]);
    assert_eq!(message.text("hostname"), Some("w@h"));
    (key, serde_json::from_slice(&message.body).expect("JSON"))
}

#[test]
fn events_are_celerys() {
    let call = Message::new("a".into(), "add", &Arguments::default());
    let (key, body) = sent(EventKind::TaskReceived(CallSummary::of(&call)));
    assert_eq!(key, "task.received");
    assert_eq!(
        body,
        json!({"type": "task-received", "hostname": "w@h", "timestamp": 1000.5, "uuid": "a", "name": "add",
            "args": "()", "kwargs": "{}", "root_id": "a", "parent_id": null, "retries": 0, "eta": null, "expires": null})
    );
    let (key, body) = sent(EventKind::WorkerHeartbeat(WorkerStatus::default()));
    assert_eq!(key, "worker.heartbeat");
    assert_eq!(
        (&body["type"], &body["freq"]),
        (&json!("worker-heartbeat"), &json!(0.0))
    );
    assert!(body.get("utcoffset").is_none() && body.get("clock").is_none());
}

#[test]
fn pythons_events_are_read_alone_and_in_company() {
    let body = br#"[{"hostname":"pyw@cap","utcoffset":0,"pid":1,"clock":2,"timestamp":1795226040.25,"uuid":"x",
        "result":"5","runtime":0.5,"type":"task-succeeded"},
        {"hostname":"h","timestamp":1,"type":"task-custom","uuid":"y"}, {"no": "event"}, 7]"#.to_vec();
    let message = Message {
        body: body.into(),
        ..Message::default()
    };
    let events: Vec<Event> = decode(&message).into_iter().collect();
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(
        (events[0].name(), events[0].id()),
        ("task-succeeded", Some("x"))
    );
    assert_eq!(events[0].at, at(1_795_226_040.25));
    assert_eq!(
        (events[1].name(), events[1].id()),
        ("task-custom", Some("y"))
    );
}

#[test]
fn events_survive_the_round_trip() {
    let kinds = [
        EventKind::TaskStarted { id: "a".into() },
        EventKind::TaskRevoked {
            id: "a".into(),
            terminated: true,
            expired: false,
        },
        EventKind::WorkerOffline(WorkerStatus {
            pid: 7,
            freq: 10.0,
            ..WorkerStatus::default()
        }),
    ];
    for kind in kinds {
        let event = Event::new("w@h", at(5.0), kind);
        let (_, message) = encode("w@h", std::slice::from_ref(&event));
        assert_eq!(decode(&message), [event]);
    }
}
