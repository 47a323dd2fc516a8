//! What no broker could carry is refused by the call that sends it, and hurts no other call.

use std::time::{Duration, SystemTime};

use garenne::{App, Call, DAY, Error, Exchange};
use serde_json::{Value, json};

use super::tasks::{self, add};
use crate::on_every_broker;
use crate::support::{self, unique, within};

/// A way to send too much, and what the error says.
type Refusal = (&'static str, Call<Value>, &'static str);

fn call() -> Call<Value> {
    Call::named("add")
        .arg(2)
        .and_then(|call| call.arg(3))
        .expect("encoded")
}

fn refusals() -> Vec<Refusal> {
    let long = "x".repeat(256);
    let nested = (0..200).fold(Value::Null, |inner, _| json!([inner]));
    let year_9999 = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_000);
    let large = Call::named("add")
        .arg("x".repeat(9 << 20))
        .expect("encoded");
    vec![
        ("a body of 9 MiB", large, "more than the limit of 8388608"),
        (
            "200 kB of headers",
            call().header("x", "x".repeat(200_000)),
            "more than 65536",
        ),
        (
            "5,000 large headers",
            (0..5_000).fold(call(), |call, n| {
                call.header(format!("{n}"), "x".repeat(20))
            }),
            "more than 65536",
        ),
        (
            "a header nested 200 deep",
            call().header("x", nested),
            "nested more than 32 deep",
        ),
        (
            "a header's name of 256 bytes",
            call().header(&long, 1),
            "more than",
        ),
        (
            "our own header",
            call().header("garenne-deliveries", 9),
            "Garenne's or Celery's own",
        ),
        (
            "a copy for another queue",
            call().header("BCC", json!(["q"])),
            "Garenne's or Celery's own",
        ),
        (
            "an id of 256 bytes",
            call().id(&long),
            "between 1 and 200 bytes",
        ),
        ("an empty id", call().id(""), "between 1 and 200 bytes"),
        (
            "a task's name of 256 bytes",
            Call::named(&long),
            "between 1 and 200 bytes",
        ),
        (
            "a queue's name of 256 bytes",
            call().queue(&*long),
            "more than 200",
        ),
        (
            "a queue of the broker's own",
            call().queue("amq.gen"),
            "`amq.`",
        ),
        (
            "a queue's name with NUL",
            call().queue("a\0b"),
            "control character",
        ),
        (
            "a queue's name with CR and LF",
            call().queue("a\r\nb"),
            "control character",
        ),
        ("no queue's name", call().queue(""), "empty"),
        (
            "a routing key of 256 bytes",
            call().publish_to(&Exchange::topic("t"), &long),
            "more than 255",
        ),
        (
            "an exchange's name of 256 bytes",
            call().publish_to(&Exchange::topic(&long), "k"),
            "more than 200",
        ),
        ("an eta in the year 9999", call().eta(year_9999), "away"),
        (
            "a countdown of a century",
            call().countdown(36_525 * DAY),
            "longer than",
        ),
        (
            "the longest countdown",
            call().countdown(Duration::MAX),
            "longer than",
        ),
    ]
}

on_every_broker! {
    async fn what_cannot_be_carried_is_refused_at_once(app: App) {
        let queue = unique("publish");
        let worker = tasks::worker(&app, &queue).spawn();
        for (name, refused, words) in refusals() {
            // Another call is under way meanwhile.
            let other = add::call(2, 3).queue(&*queue).send(&app);
            let (refused, other) = tokio::join!(refused.send(&app), other);
            let error = refused.expect_err(name);
            assert!(matches!(error, Error::Invalid { .. } | Error::TooLarge { .. }), "{name}: {error:?}");
            assert!(error.to_string().contains(words), "{name}: {error}");
            assert!(!error.is_transient(), "{name}");
            let sum = within(name, other.expect("sent")).await;
            assert_eq!(sum, Ok(5), "{name}");
        }
        worker.stop().await.expect("stopped");
        app.delete(&queue).await.expect("deleted");
    }

    async fn what_is_odd_but_valid_is_sent(app: App) {
        let queue = unique("größe 🦀 a/b?c&d=#*");
        let worker = tasks::worker(&app, &queue).spawn();
        let calls = [
            add::call(2, 3).id("a\0b\r\n\u{1b}[2J🦀"),
            add::call(2, 3).expires(Duration::MAX),
            add::call(2, 3).timeout(Duration::MAX),
            add::call(2, 3).eta(SystemTime::UNIX_EPOCH),
            add::call(2, 3).countdown(Duration::from_nanos(1)),
            add::call(2, 3).retries(u32::MAX).backoff(Duration::MAX..Duration::MAX),
            add::call(2, 3).priority(255),
            add::call(2, 3).header("", "").header("x\r\ny: z", f64::NAN).header("😀", json!({"": [null]})),
        ];
        for call in calls {
            let sent = call.queue(&*queue).send(&app).await.expect("sent");
            assert_eq!(within("a result", sent).await, Ok(5));
        }
        worker.stop().await.expect("stopped");
        app.delete(&queue).await.expect("deleted");
    }

    async fn one_id_sent_twice_runs_twice(app: App) {
        let queue = unique("twice");
        let worker = tasks::worker(&app, &queue).spawn();
        let first = add::call(2, 3).id("twice").queue(&*queue).send(&app).await.expect("sent");
        let second = add::call(20, 30).id("twice").queue(&*queue).send(&app).await.expect("sent");
        // Which answer comes first is open, and both calls get it.
        let sums = (within("a result", first).await, within("a result", second).await);
        assert!(matches!(sums, (Ok(5), Ok(5)) | (Ok(50), Ok(50)) | (Ok(5), Ok(50))), "{sums:?}");
        worker.stop().await.expect("stopped");
        app.delete(&queue).await.expect("deleted");
    }
}
