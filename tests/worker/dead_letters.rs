//! Dead letters: what they keep, and how they are listed, retried and discarded.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use garenne::broker::{Publish, Route};
use garenne::message::{Arguments, Message, header};
use garenne::{App, Call, Dead, DeadLetter, Exchange, HOUR, Queue, SECOND};

use crate::on_every_broker;
use crate::support::{self, eventually, within};
use crate::tasks::*;

/// Runs calls that fail for good, and returns when they are dead letters.
async fn dies<T: serde::de::DeserializeOwned + 'static>(
    app: &App,
    calls: Vec<Call<T>>,
) -> Vec<String> {
    let (worker, _) = worker(app, "default", 4);
    let worker = worker.spawn();
    let mut ids = Vec::new();
    for call in calls {
        let handle = call.send(app).await.expect("sent");
        ids.push(handle.id().to_owned());
        assert!(within("a failure", handle).await.is_err());
    }
    within("a stop", worker.stop()).await.expect("stopped");
    ids
}

/// A message in the dead letters of `default` as if a worker had put it there.
async fn dead(app: &App, id: &str, change: impl FnOnce(&mut Message)) {
    let mut message = Message::new(id.into(), "tells", &Arguments::default());
    message.body = br#"[["again"], {}, {}]"#.to_vec().into();
    change(&mut message);
    let message = message.dead("default", "failed", "no luck", SystemTime::now());
    app.declare("default").await.expect("declared");
    store(app, "default.dead", message).await;
}

async fn store(app: &App, queue: &str, message: Message) {
    let route = Route::Queue(format!("{}{queue}", app.prefix()));
    let publish = Publish {
        route,
        message,
        delay: Duration::ZERO,
        deadline: 10 * SECOND,
    };
    app.broker().publish(publish).await.expect("stored");
}

async fn list(app: &App, which: Dead) -> Vec<DeadLetter> {
    let letters = app.dead_letters("default");
    within("a list", letters.list(which)).await.expect("listed")
}

async fn ids(app: &App, which: Dead) -> Vec<String> {
    list(app, which)
        .await
        .into_iter()
        .map(|letter| letter.id)
        .collect()
}

async fn retry(app: &App, which: Dead) -> u64 {
    let letters = app.dead_letters("default");
    within("a retry", letters.retry(which))
        .await
        .expect("retried")
}

on_every_broker! {
    async fn a_letter_says_all_about_its_death(app: App) {
        let begin = SystemTime::now() - SECOND;
        let call = flaky::call(99).retries(2).header("tenant", "acme").priority(3);
        let id = dies(&app, vec![call]).await.remove(0);
        let letters = app.dead_letters("default");
        let letter = letters.show(&id).await.expect("found").expect("a letter");
        assert_eq!((letter.id.as_str(), letter.task.as_str()), (id.as_str(), "flaky"));
        assert_eq!((letter.reason.as_str(), letter.error.as_str()), ("failed", "attempt 3 is bad"));
        assert_eq!((letter.attempts, letter.revivals), (3, 0));
        assert_eq!((letter.queue.as_str(), letter.exchange.as_str()), ("default", ""));
        assert_eq!(letter.message.text("tenant"), Some("acme"));
        assert_eq!((letter.message.priority, letter.arguments().as_str()), (Some(3), "99"));
        assert!(letter.message.reply_to.is_some());
        let errors = letter.errors.iter().map(|past| (past.attempt, past.error.as_str()));
        let expected = [(1, "attempt 1 is bad"), (2, "attempt 2 is bad"), (3, "attempt 3 is bad")];
        assert_eq!(errors.collect::<Vec<_>>(), expected);
        let mut times = vec![begin];
        times.extend(letter.errors.iter().filter_map(|past| past.at));
        times.extend(letter.died_at);
        times.push(SystemTime::now());
        assert!(times.len() == 6 && times.is_sorted(), "{times:?}");
        assert_eq!(letters.show("another").await.expect("looked"), None);
        assert_eq!(letters.count().await.expect("a count"), 1);
    }

    async fn letters_are_listed_oldest_first_and_stay(app: App) {
        let failing = dies(&app, vec![fail::call("a".into()), fail::call("b".into()), fail::call("c".into())]).await;
        let unknown = dies(&app, vec![Call::<()>::named("no.such.task")]).await.remove(0);
        let panicking = dies(&app, vec![panics::call("ouch".into())]).await.remove(0);
        let all = [failing.clone(), vec![unknown.clone(), panicking.clone()]].concat();
        for _ in 0..3 {
            assert_eq!(ids(&app, Dead::all()).await, all);
            assert_eq!(ids(&app, Dead::all().limit(2)).await, all[..2]);
            assert_eq!(ids(&app, Dead::all().skip(1).limit(3)).await, all[1..4]);
            assert_eq!(ids(&app, Dead::all().task("fail")).await, failing);
            assert_eq!(ids(&app, Dead::all().task("fail").skip(1).limit(1)).await, failing[1..2]);
            assert_eq!(ids(&app, Dead::all().reason("panicked")).await, [panicking.as_str()]);
            assert_eq!(ids(&app, Dead::all().reason("unknown_task")).await, [unknown.as_str()]);
            assert_eq!(ids(&app, Dead::all().task("fail").reason("panicked")).await, [""; 0]);
            assert_eq!(ids(&app, Dead::all().id(&*failing[2])).await, failing[2..]);
            assert_eq!(ids(&app, Dead::all().limit(0)).await, [""; 0]);
        }
        assert_eq!(app.dead_letters("default").count().await.expect("a count"), 5);
        let missing = app.dead_letters("no-such-queue").list(Dead::all()).await.expect_err("no queue");
        assert!(missing.to_string().contains("no-such-queue.dead"), "{missing}");
    }

    async fn a_retried_letter_lives_again(app: App) {
        let id = dies(&app, vec![second_life::call().retries(1).header("tenant", "acme")]).await.remove(0);
        let other = dies(&app, vec![fail::call("no".into())]).await.remove(0);
        assert_eq!(retry(&app, Dead::all().id(&*id)).await, 1);
        assert_eq!(ids(&app, Dead::all()).await, [other]);
        assert_eq!(app.depth("default").await.expect("a depth").ready, 1);
        let (worker, mut said) = worker(&app, "default", 1);
        let worker = worker.spawn();
        let told = within("the second life", said.recv()).await.expect("told");
        assert_eq!(told, format!("{id} of acme, attempt 1 of life 2 after 2 errors"));
        worker.stop().await.expect("stopped");
        assert_eq!(app.depth("default").await.expect("a depth").ready, 0);
    }

    async fn who_still_awaits_a_retried_call_gets_its_result(app: App) {
        app.declare("default").await.expect("declared");
        let handle = add::call(2, 3).send(&app).await.expect("sent");
        // As RabbitMQ does it, or a worker of another kind: without a word to the caller.
        let queue = Queue::new(format!("{}default", app.prefix()));
        let mut consumer = app.broker().consume(&queue, 1).await.expect("a consumer");
        let delivery = within("the call", consumer.next()).await.expect("open").expect("a delivery");
        let dead = delivery.message.dead("default", "failed", "no luck", SystemTime::now());
        let route = Route::Queue(queue.dead_letter_name());
        let dead = Publish { route, message: dead, delay: Duration::ZERO, deadline: 10 * SECOND };
        delivery.reject(dead, None).await.expect("rejected");
        drop(consumer);
        assert_eq!(retry(&app, Dead::all()).await, 1);
        let (worker, _) = worker(&app, "default", 1);
        let worker = worker.spawn();
        assert_eq!(within("a result", handle).await, Ok(5));
        worker.stop().await.expect("stopped");
    }

    async fn calls_that_die_again_are_retried_once(app: App) {
        let dying = (0..7).map(|n| fail::call(n.to_string())).collect();
        let mut sent = dies(&app, dying).await;
        let (worker, _) = worker(&app, "default", 4);
        let worker = worker.spawn();
        assert_eq!(retry(&app, Dead::all().task("fail")).await, 7);
        let letters = app.dead_letters("default");
        eventually("seven dead letters", || async { letters.count().await.expect("a count") == 7 }).await;
        worker.stop().await.expect("stopped");
        let mut again = Vec::new();
        for letter in list(&app, Dead::all()).await {
            assert_eq!((letter.attempts, letter.revivals, letter.errors.len()), (1, 1, 2));
            again.push(letter.id);
        }
        sent.sort();
        again.sort();
        assert_eq!(again, sent);
    }

    async fn letters_are_discarded_as_selected(app: App) {
        let sent = dies(&app, vec![fail::call("a".into()), fail::call("b".into()), fail::call("c".into())]).await;
        let panicking = dies(&app, vec![panics::call("ouch".into())]).await.remove(0);
        let letters = app.dead_letters("default");
        assert_eq!(letters.discard(Dead::all().id(&*sent[1])).await.expect("discarded"), 1);
        assert_eq!(letters.discard(Dead::all().task("add")).await.expect("discarded"), 0);
        assert_eq!(letters.discard(Dead::all().reason("failed").limit(1)).await.expect("discarded"), 1);
        assert_eq!(ids(&app, Dead::all()).await, [sent[2].as_str(), &panicking]);
        assert_eq!(letters.discard(Dead::all()).await.expect("discarded"), 2);
        assert_eq!((letters.count().await.expect("a count"), app.depth("default").await.expect("a depth").ready), (0, 0));
    }

    async fn a_letter_keeps_the_way_it_came_by(app: App) {
        let news = Exchange::topic("news");
        let queue = || Queue::new("default").bind(&news, "#.sport");
        app.declare(queue()).await.expect("declared");
        for life in 0..2 {
            let (worker, _) = worker(&app, queue(), 2);
            let worker = worker.spawn();
            if life == 0 {
                let call = flaky::call(99).retries(2).publish_to(&news, "eu.sport");
                assert!(within("a failure", call.send(&app).await.expect("sent")).await.is_err());
            }
            let letters = app.dead_letters("default");
            eventually("a dead letter", || async { letters.count().await.expect("a count") == 1 }).await;
            let letter = list(&app, Dead::all()).await.remove(0);
            let way = (letter.queue.as_str(), letter.exchange.as_str(), letter.routing_key.as_str());
            assert_eq!(way, ("default", "news", "eu.sport"));
            assert_eq!((letter.attempts, letter.revivals), (3, life));
            worker.stop().await.expect("stopped");
            retry(&app, Dead::all()).await;
        }
    }

    async fn what_cannot_be_read_keeps_its_bytes(app: App) {
        app.declare("default").await.expect("declared");
        let garbage: [(&str, &[u8]); 4] = [("a", b"\xff\x00 garbage"), ("b", b""), ("c", b"[[1]]"), ("", b"{}")];
        for (id, body) in garbage {
            let mut message = Message::new(id.into(), "add", &Arguments::default());
            message.content_type = "application/x-python-serialize".into();
            message.body = body.to_vec().into();
            store(&app, "default", message).await;
        }
        // And what somebody else has put there.
        store(&app, "default.dead", Message { body: b"\xfe".to_vec().into(), ..Message::default() }).await;
        let (worker, _) = worker(&app, "default", 1);
        let worker = worker.spawn();
        let letters = app.dead_letters("default");
        eventually("dead letters", || async { letters.count().await.expect("a count") == 5 }).await;
        worker.stop().await.expect("stopped");
        let found: BTreeMap<_, _> = list(&app, Dead::all()).await.into_iter()
            .filter(|letter| ["unreadable", "unsupported"].contains(&&*letter.reason))
            .map(|letter| (letter.id.clone(), letter)).collect();
        for (id, body) in garbage {
            assert_eq!((found[id].body(), found[id].attempts), (body, 0), "{id}");
            assert_eq!(found[id].arguments(), String::from_utf8_lossy(body));
            assert_eq!(found[id].message.content_type, "application/x-python-serialize");
        }
        let foreign = list(&app, Dead::all().reason("unknown")).await;
        assert_eq!((foreign.len(), foreign[0].body()), (1, &b"\xfe"[..]));
        assert_eq!(retry(&app, Dead::all()).await, 5);
        assert_eq!(app.depth("default").await.expect("a depth").ready, 5);
    }

    async fn an_expiry_that_has_passed_kills_no_retried_call(app: App) {
        let past = garenne::message::format_time(SystemTime::now() - HOUR);
        dead(&app, "late", |message| message.set("expires", past)).await;
        assert_eq!(retry(&app, Dead::all()).await, 1);
        let (worker, mut said) = worker(&app, "default", 1);
        let worker = worker.spawn();
        assert_eq!(within("the call", said.recv()).await.as_deref(), Some("again"));
        worker.stop().await.expect("stopped");
    }

    async fn a_letter_that_cannot_be_sent_stays(app: App) {
        for id in ["first", "second", "third"] {
            dead(&app, id, |_| {}).await;
        }
        let mut lost = Message::new("lost".into(), "tells", &Arguments::default());
        lost = lost.dead("no-such-queue", "failed", "no luck", SystemTime::now());
        store(&app, "default.dead", lost).await;
        dead(&app, "last", |_| {}).await;
        let error = app.dead_letters("default").retry(Dead::all()).await.expect_err("one has no queue");
        assert!(error.to_string().contains("4 done") && error.to_string().contains("no-such-queue"), "{error}");
        assert_eq!(ids(&app, Dead::all()).await, ["lost"]);
        assert_eq!(app.depth("default").await.expect("a depth").ready, 4);
    }

    async fn two_operators_retry_each_letter_once(app: App) {
        const LETTERS: usize = 300;
        app.declare("default").await.expect("declared");
        for n in 0..LETTERS {
            dead(&app, &n.to_string(), |message| message.set(header::REVIVALS, 4)).await;
        }
        let letters = app.dead_letters("default");
        let operator = || async {
            let mut retried = 0;
            // What the other one is looking at may be hidden from this one.
            while letters.count().await.expect("a count") > 0 {
                retried += letters.retry(Dead::all()).await.expect("retried");
            }
            retried
        };
        let (one, two) = within("both", async { tokio::join!(operator(), operator()) }).await;
        assert_eq!(one + two, LETTERS as u64, "{one} and {two}");
        assert_eq!(app.depth("default").await.expect("a depth").ready, LETTERS as u64);
        let queue = Queue::new(format!("{}default", app.prefix()));
        let mut consumer = app.broker().consume(&queue, 50).await.expect("a consumer");
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..LETTERS {
            let delivery = within("a call", consumer.next()).await.expect("open").expect("a delivery");
            assert!(seen.insert(delivery.message.id.clone()), "{} twice", delivery.message.id);
            assert_eq!(delivery.message.revivals(), 5);
            delivery.ack(None).await.expect("settled");
        }
    }

    async fn many_letters_are_read_one_by_one(app: App) {
        const LETTERS: usize = 1000;
        app.declare("default").await.expect("declared");
        let names: Vec<String> = (0..LETTERS).map(|n| n.to_string()).collect();
        let stored = names.iter().map(|name| dead(&app, name, |_| {}));
        futures_util::future::join_all(stored).await;
        let mut letters = app.dead_letters("default").stream(Dead::all());
        let mut seen = std::collections::BTreeSet::new();
        while let Some(letter) = within("a letter", letters.next()).await {
            assert!(seen.insert(letter.expect("readable").id), "each once");
        }
        assert_eq!(seen.len(), LETTERS);
        assert_eq!(list(&app, Dead::all()).await.len(), 100, "unless more are asked for");
        assert_eq!(app.dead_letters("default").discard(Dead::all()).await.expect("discarded"), LETTERS as u64);
    }
}
