//! What workers answer.

use garenne::broker::{Announcement, Channel, ChannelKind};
use garenne::control::CallState;
use garenne::message::Message;
use garenne::{App, MILLISECOND, SECOND, Worker};
use serde_json::value::RawValue;
use serde_json::{Map, json};

use crate::on_every_broker;
use crate::support::{self, within};
use crate::tasks::{Crew, Gate, add, hold, pass};

/// Says something on the control channel that may be no request.
async fn say(app: &App, body: &[u8], expires: f64) {
    let mut message = Message {
        content_type: "application/json".into(),
        body: body.to_vec().into(),
        ..Message::default()
    };
    message.set("expires", expires);
    let announcement = Announcement {
        channel: Channel::new(ChannelKind::Control, app.prefix()),
        key: String::new(),
        message,
    };
    let said = within("an announcement", app.broker().announce(announcement)).await;
    said.expect("announced");
}

on_every_broker! {
    async fn a_ping_is_answered_by_all_or_by_those_named(app: App) {
        let (a, b) = (Crew::new(&app, 1).await, Crew::new(&app, 1).await);
        let both = app.control().to([&a.node, &b.node]).timeout(10 * SECOND);
        assert_eq!(both.ping().await.expect("asked").len(), 2);
        let one = a.control().ping().await.expect("asked");
        assert_eq!(one.keys().collect::<Vec<_>>(), [&a.node]);
        let nobody = app.control().to(["nobody@nowhere"]).timeout(100 * MILLISECOND);
        assert!(nobody.ping().await.expect("asked").is_empty());
        a.stop().await;
        b.stop().await;
    }

    async fn a_running_call_is_told(app: App) {
        let crew = Crew::new(&app, 1).await;
        let handle = crew.call(pass::call(7)).send(&app).await.expect("sent");
        crew.gate.has_let_in(1).await;
        let control = crew.control();
        let active = control.active().await.expect("asked").remove(&crew.node).expect("an answer").expect("calls");
        assert_eq!((active.len(), active[0].id.as_str(), active[0].task.as_str()), (1, handle.id(), "control.pass"));
        assert_eq!((&active[0].args, &active[0].kwargs), (&json!([7]), &json!({})));
        assert!(active[0].time_start.is_some());
        let found = control.query_task([handle.id(), "other"]).await.expect("asked").remove(&crew.node);
        let found = found.expect("an answer").expect("calls");
        assert_eq!((found.len(), found[handle.id()].0), (1, CallState::Active));
        for calls in [control.reserved().await, control.scheduled().await] {
            assert_eq!(calls.expect("asked")[&crew.node].as_ref().map(Vec::len), Ok(0));
        }
        crew.gate.open(1);
        assert_eq!(within("a result", handle).await, Ok(7));
        crew.stop().await;
    }

    async fn a_call_is_told_whose_arguments_are_no_values(app: App) {
        let things = [r#""\ud800""#.to_owned(), "1e999".into(), "9".repeat(400), format!("{}{}", "[".repeat(150), "]".repeat(150))];
        let crew = Crew::new(&app, things.len()).await;
        let mut handles = Vec::new();
        for thing in &things {
            let thing = RawValue::from_string(thing.clone()).expect("JSON");
            handles.push(crew.call(hold::call(thing)).send(&app).await.expect("sent"));
        }
        crew.gate.has_let_in(things.len()).await;
        for _ in 0..2 {
            let active = crew.control().active().await.expect("asked").remove(&crew.node);
            let active = active.expect("an answer").expect("calls");
            assert_eq!(active.len(), things.len());
            assert!(active.iter().all(|call| !call.args.as_array().expect("a list").is_empty()), "{active:?}");
        }
        crew.gate.open(things.len());
        for (thing, handle) in things.iter().zip(handles) {
            assert_eq!(within("a result", handle).await, Ok(thing.len()));
        }
        crew.stop().await;
    }

    async fn a_worker_tells_how_it_is(app: App) {
        let crew = Crew::new(&app, 3).await;
        for n in 0..5 {
            let sum = crew.call(add::call(n, 1)).send(&app).await.expect("sent");
            within("a result", sum).await.expect("a sum");
        }
        let control = crew.control();
        let stats = control.stats().await.expect("asked").remove(&crew.node).expect("an answer").expect("stats");
        assert_eq!((stats.pid, stats.slots, stats.total["control.add"]), (std::process::id(), 3, 5));
        assert!(stats.all["broker"].is_object() && !format!("{stats:?}").contains("guest:guest"));
        let tasks = control.registered().await.expect("asked").remove(&crew.node).expect("an answer");
        assert!(tasks.expect("tasks").contains(&"control.add".to_owned()));
        let queues = control.active_queues().await.expect("asked").remove(&crew.node).expect("an answer");
        let queues = queues.expect("queues");
        assert_eq!((queues.len(), &queues[0].name, queues[0].concurrency), (1, &crew.queue, Some(3)));
        for method in ["conf", "clock", "report"] {
            let answer = control.request(method, Map::new()).await.expect("asked");
            assert!(answer[&crew.node].is_ok(), "{method}: {answer:?}");
        }
        crew.stop().await;
    }

    async fn what_is_no_request_does_no_harm(app: App) {
        let crew = Crew::new(&app, 1).await;
        for body in [&b""[..], b"{", b"[]", br#"{"method": 1}"#, br#"{"method": "revoke"}"#,
            br#"{"method": "ping", "reply_to": {"exchange": "amq.topic", "routing_key": "x"}, "ticket": "t"}"#] {
            say(&app, body, 0.0).await;
        }
        say(&app, &[b'x'; 2 << 20], 0.0).await;
        // Nobody waits for it any more.
        let late = json!({"method": "shutdown", "destination": [crew.node]}).to_string();
        say(&app, late.as_bytes(), 1000.0).await;
        let unknown = crew.control().request("no_such_command", Map::new()).await.expect("asked");
        assert_eq!(unknown[&crew.node].as_ref().expect_err("unknown").0, "KeyError('no_such_command')");
        assert!(crew.control().ping().await.expect("asked")[&crew.node].is_ok());
        crew.stop().await;
    }

    async fn the_second_worker_of_a_name_gets_another(app: App) {
        let crew = Crew::new(&app, 1).await;
        let second = Worker::new(&app).name(&crew.node).queue(crew.queue.as_str(), 1).state(Gate::default()).spawn();
        assert!(second.ready().await);
        let name = crew.node.trim_end_matches("@test");
        let mut nodes = app.control().timeout(2 * SECOND).ping().await.expect("asked");
        nodes.retain(|node, _| node.starts_with(name));
        assert_eq!(nodes.len(), 2, "{nodes:?}");
        assert!(nodes.contains_key(&crew.node));
        within("a stop", second.stop()).await.expect("stopped");
        crew.stop().await;
    }
}
