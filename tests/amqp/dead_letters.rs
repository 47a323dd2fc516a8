//! Dead letters that RabbitMQ made itself, or keeps in a queue of somebody else's making.

use std::time::{Duration, SystemTime};

use garenne::broker::{Publish, Route};
use garenne::message::{Arguments, Message};
use garenne::{App, Dead, DeadLetter, Exchange, Queue};
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, BasicRejectOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};
use tokio::time::{Instant, sleep};

use super::fixture::{SOON, next, proxied, raw_channel, unique, url};

/// An app whose queues have a prefix of their own, and a channel beside it.
async fn app(options: &str) -> Option<(App, Channel, lapin::Connection)> {
    let url = url()?;
    let prefix = unique("dead");
    let app = App::connect(format!("{url}?prefix={prefix}.{options}"));
    let (connection, channel) = raw_channel(&url).await;
    Some((app.await.expect("a server"), channel, connection))
}

async fn send(channel: &Channel, exchange: &str, key: &str, id: &str) {
    let properties = BasicProperties::default().with_message_id(id.into());
    let options = BasicPublishOptions::default();
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .expect("confirms");
    let publish = channel.basic_publish(exchange.into(), key.into(), options, b"\xff?", properties);
    publish.await.expect("sent").await.expect("taken");
}

/// Takes the next message from a queue, as somebody else's consumer would.
async fn get(channel: &Channel, queue: &str) -> lapin::message::BasicGetMessage {
    let end = Instant::now() + SOON;
    loop {
        let got = channel.basic_get(queue.into(), BasicGetOptions::default());
        if let Some(got) = got.await.expect("an answer") {
            return got;
        }
        assert!(Instant::now() < end, "nothing came to {queue}");
        sleep(Duration::from_millis(5)).await;
    }
}

async fn reject(channel: &Channel, queue: &str) {
    let tag = get(channel, queue).await.delivery_tag;
    let options = BasicRejectOptions { requeue: false };
    channel.basic_reject(tag, options).await.expect("rejected");
}

/// The first dead letter of `q`, which RabbitMQ may bring a little late.
async fn letter(app: &App) -> DeadLetter {
    let end = Instant::now() + SOON;
    loop {
        let letters = app.dead_letters("q").list(Dead::all()).await;
        if let Some(letter) = letters.expect("listed").pop() {
            return letter;
        }
        assert!(Instant::now() < end, "no dead letter");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn a_rejected_message_is_a_dead_letter(options: &str) {
    let begin = SystemTime::now() - Duration::from_secs(2);
    let Some((app, channel, _connection)) = app(options).await else {
        return;
    };
    let news = Exchange::topic("news");
    app.declare(Queue::new("q").bind(&news, "#"))
        .await
        .expect("declared");
    let name = format!("{}q", app.prefix());
    for (exchange, key) in [
        ("garenne", &*name),
        (&format!("{}news", app.prefix()), "eu.sport"),
    ] {
        send(&channel, exchange, key, "foreign").await;
        reject(&channel, &name).await;
        let letter = letter(&app).await;
        assert_eq!(
            (letter.id.as_str(), letter.reason.as_str()),
            ("foreign", "rejected")
        );
        assert!(letter.error.contains("a consumer rejected it"), "{letter}");
        assert_eq!((letter.queue.as_str(), letter.body()), ("q", &b"\xff?"[..]));
        let way = (letter.exchange.as_str(), letter.routing_key.as_str());
        let expected = if exchange == "garenne" {
            ("", "q")
        } else {
            ("news", key)
        };
        assert_eq!(way, expected);
        let died = letter.died_at.expect("noted");
        assert!(died >= begin && died <= SystemTime::now() + Duration::from_secs(1));

        let letters = app.dead_letters("q");
        assert_eq!(
            letters
                .retry(Dead::all().reason("rejected"))
                .await
                .expect("retried"),
            1
        );
        assert_eq!(letters.count().await.expect("a count"), 0);
        let mut consumer = app
            .broker()
            .consume(&Queue::new(&*name), 1)
            .await
            .expect("a consumer");
        let again = next(&mut consumer).await;
        assert_eq!(
            (again.message.id.as_str(), &again.message.body[..]),
            ("foreign", &b"\xff?"[..])
        );
        assert_eq!((again.deliveries, again.message.errors().len()), (1, 1));
        assert!(
            again
                .message
                .headers
                .keys()
                .all(|name| !name.starts_with("x-")),
            "{again:?}"
        );
        again.ack(None).await.expect("settled");
    }
    app.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_reject_from_a_quorum_queue_is_a_dead_letter() {
    a_rejected_message_is_a_dead_letter("&queue_type=quorum").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_reject_from_a_classic_queue_is_a_dead_letter() {
    a_rejected_message_is_a_dead_letter("&queue_type=classic").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_settles_is_a_dead_letter_with_rabbitmqs_reason() {
    let Some((app, channel, _connection)) = app("").await else {
        return;
    };
    app.declare("q").await.expect("declared");
    let name = format!("{}q", app.prefix());
    send(&channel, "garenne", &name, "poison").await;
    // Its limit is 20 deliveries that came back.
    while app.dead_letters("q").count().await.expect("a count") == 0 {
        let (connection, other) = raw_channel(&url().expect("named")).await;
        let got = other.basic_get(name.as_str().into(), BasicGetOptions::default());
        if let Some(got) = got.await.expect("an answer") {
            // What is rejected counts on every version; since 4.3 what is only given back does not.
            let options = BasicRejectOptions { requeue: true };
            other
                .basic_reject(got.delivery_tag, options)
                .await
                .expect("given back");
        }
        connection.close(200, "bye".into()).await.expect("closed");
    }
    let letter = letter(&app).await;
    assert_eq!(
        (letter.id.as_str(), letter.reason.as_str()),
        ("poison", "delivery_limit")
    );
    let letters = app.dead_letters("q");
    assert_eq!(
        letters
            .discard(Dead::all().reason("delivery_limit"))
            .await
            .expect("gone"),
        1
    );
    assert_eq!(letters.count().await.expect("a count"), 0);
    app.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_loses_nothing_where_others_limit_deliveries() {
    let Some((app, channel, _connection)) = app("").await else {
        return;
    };
    let name = format!("{}q.dead", app.prefix());
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    // As RabbitMQ 4 limits every quorum queue that is not told otherwise.
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(20));
    let options = QueueDeclareOptions::durable();
    channel
        .queue_declare(name.as_str().into(), options, arguments)
        .await
        .expect("declared");
    app.declare("q").await.expect("declared");
    for id in ["a", "b", "c"] {
        send(&channel, "garenne", &name, id).await;
    }
    for round in 0..50 {
        let seen = app
            .dead_letters("q")
            .list(Dead::all())
            .await
            .expect("listed");
        let mut ids: Vec<_> = seen.into_iter().map(|letter| letter.id).collect();
        ids.sort();
        assert_eq!(ids, ["a", "b", "c"], "round {round}");
    }
    assert_eq!(
        app.dead_letters("q")
            .discard(Dead::all())
            .await
            .expect("gone"),
        3
    );
    app.close().await;
}

/// `(3 done, 2 perhaps, others stay)`: the numbers before the words.
fn said(error: &str, word: &str) -> u64 {
    let (before, _) = error.split_once(word).unwrap_or_default();
    let number = before.trim_end().rsplit(['(', ' ']).next();
    number.and_then(|n| n.parse().ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_makes_no_letter_count_as_done_that_is_not() {
    let Some(url) = url() else { return };
    let (proxy, through) = proxied(&url).await;
    let prefix = unique("count");
    let app = |url: &str| App::connect(format!("{url}?prefix={prefix}."));
    let (direct, operator) = (app(&url).await.expect("a server"), app(&through).await);
    let operator = operator.expect("a server");
    direct.declare("q").await.expect("declared");
    let dead = Queue::new(format!("{prefix}.q")).dead_letter_name();
    let stored = (0..250).map(|n| {
        let message = Message::new(format!("{n}"), "t", &Arguments::default());
        direct.broker().publish(Publish {
            route: Route::Queue(dead.clone()),
            message: message.dead("q", "failed", "no luck", SystemTime::now()),
            delay: Duration::ZERO,
            deadline: SOON,
        })
    });
    for outcome in futures_util::future::join_all(stored).await {
        outcome.expect("stored");
    }
    let letters = direct.dead_letters("q");
    let waiting = async || direct.depth("q").await.expect("a queue").ready;
    let mut uncertain = 0;
    loop {
        let there = letters.count().await.expect("counted");
        if there == 0 {
            break;
        }
        let begin = waiting().await;
        let retrying = operator.dead_letters("q");
        let retrying = tokio::spawn(async move { retrying.retry(Dead::all()).await });
        while !retrying.is_finished() && waiting().await < begin + 60 {
            sleep(Duration::from_millis(1)).await;
        }
        proxy.cut();
        let outcome = retrying.await.expect("no panic");
        // What was being looked at is given back by the server, in its time.
        let mut left = letters.count().await.expect("counted");
        let end = Instant::now() + Duration::from_secs(2);
        while left < there && Instant::now() < end {
            sleep(Duration::from_millis(20)).await;
            left = left.max(letters.count().await.expect("counted"));
        }
        let (least, most) = match &outcome {
            Ok(done) => (*done, *done),
            Err(error) => {
                let text = error.to_string();
                let (done, perhaps) = (said(&text, "done"), said(&text, "perhaps"));
                uncertain += perhaps;
                (done, done + perhaps)
            }
        };
        assert!(
            (least..=most).contains(&(there - left)),
            "{there} letters, then {left}: {outcome:?}"
        );
    }
    println!("{uncertain} letters were said to be uncertain");
    for app in [operator, direct] {
        let _ = app.delete("q").await;
        let _ = app.delete("q.dead").await;
        app.close().await;
    }
}
