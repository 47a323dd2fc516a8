//! Joins that are not as the body finds them in ordinary times.

use crate::on_every_broker;
use std::time::Duration;

use garenne::broker::{Publish, Replies, Route};
use garenne::dead_letters::Dead;
use garenne::message::{Arguments, Message, header};
use garenne::{App, SECOND, group};
use serde_json::json;

use crate::support::{self, unique, within};
use crate::tasks::*;

/// The body of a join that is gone.
async fn body(app: &App, id: &str, address: &str) -> Publish {
    let mut message = Message::new(id.into(), "sum", &Arguments::default());
    message.reply_to = Some(address.to_owned());
    let join = unique(&format!("{}garenne.join.gone", app.prefix()));
    let joined = json!({"join": join, "members": ["a"]});
    let errback = json!({"task": "says", "args": ["an errback"], "immutable": true});
    let embed = json!({"garenne_join": joined, "errbacks": [errback]});
    message.body = json!([[], {}, embed]).to_string().into_bytes().into();
    app.declare("default").await.expect("a queue");
    Publish {
        route: Route::Queue(format!("{}default", app.prefix())),
        message,
        delay: Duration::ZERO,
        deadline: 10 * SECOND,
    }
}

#[tokio::test]
async fn results_that_are_too_large_together_are_refused() {
    let app = App::builder("memory://").max_message_size(20_000);
    let app = app.connect().await.expect("memory");
    let (worker, _) = worker(&app);
    let worker = worker.spawn();
    for (members, reason) in [(2, None), (20, Some("more than the limit of 20000 bytes"))] {
        let members = (0..members).map(|_| says::call("x".repeat(8_000)));
        let chord = group(members).then(show::call(1.into()).ignoring_input());
        let outcome = within("an outcome", chord.send(&app).await.expect("sent")).await;
        match reason {
            None => assert_eq!(outcome.as_deref(), Ok("1")),
            Some(reason) => {
                let failure = outcome.expect_err("too large");
                assert!(failure.message.contains(reason), "{failure}");
            }
        }
    }
    let dead = app
        .dead_letters("default")
        .list(Dead::all())
        .await
        .expect("listed");
    let reasons: Vec<_> = dead.iter().map(|letter| &*letter.reason).collect();
    assert_eq!(reasons, ["too_large"]);
    worker.stop().await.expect("stopped");
}

on_every_broker! {
    async fn a_copy_of_a_body_that_is_settled_says_nothing(app: App) {
        let Replies { address, mut messages } = app.broker().replies().await.expect("a reply queue");
        for (name, value) in [("retries", json!(1)), (header::POSTPONED, json!(true))] {
            let mut copy = body(&app, name, &address).await;
            copy.message.set(name, value);
            app.broker().publish(copy).await.expect("stored");
        }
        app.broker().publish(body(&app, "first", &address).await).await.expect("stored");
        let (worker, mut said) = worker(&app);
        let worker = worker.spawn();
        let told = within("a reply", messages.recv()).await.expect("open");
        assert_eq!(told.correlation_id.as_deref(), Some("first"));
        assert_eq!(within("its errback", said.recv()).await.as_deref(), Some("an errback"));
        worker.stop().await.expect("stopped");
        assert!(said.try_recv().is_err());
        assert!(tokio::time::timeout(Duration::ZERO, messages.recv()).await.is_err());
        let dead = app.dead_letters("default").list(Dead::all()).await.expect("listed");
        let dead: Vec<_> = dead.iter().map(|letter| (&*letter.id, &*letter.reason)).collect();
        assert_eq!(dead, [("first", "join")]);
    }
}
