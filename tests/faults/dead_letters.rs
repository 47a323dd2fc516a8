//! Dead letters by the ten thousand, and an operator who is killed while retrying them.
//!
//! `GARENNE_TEST_LETTERS` says how many; 100,000 take some minutes.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use garenne::broker::{Publish, Route};
use garenne::message::{Arguments, Message};
use garenne::{App, Dead, Queue};

use super::child::memory;
use super::place::{Place, figure, on};
use crate::support::{eventually, within};

const URL: &str = "GARENNE_CHILD_URL";
const QUEUE: &str = "GARENNE_CHILD_QUEUE";
const LETTERS: usize = 10_000;
/// KiB
const GROWTH: i64 = 30 * 1024;
/// Letters of which a killed operator's retries may be repeated: a page of them.
const PAGE: usize = 100;

on!(alone a_killed_retry_loses_no_letter: sqlite quorum classic);
on!(by_itself many_letters_take_bounded_memory: sqlite quorum);

/// Puts `count` dead letters to the place's queue.
async fn dead(app: &App, queue: &str, count: usize) {
    app.declare(queue).await.expect("declared");
    let name = Queue::new(format!("{}{queue}", app.prefix())).dead_letter_name();
    let numbers: Vec<usize> = (0..count).collect();
    for some in numbers.chunks(500) {
        let stored = some.iter().map(|n| {
            let id = format!("letter-{n}");
            let message = Message::new(id, "echo", &Arguments::default());
            let message = message.dead(queue, "failed", "no luck", SystemTime::now());
            app.broker().publish(Publish {
                route: Route::Queue(name.clone()),
                message,
                delay: Duration::ZERO,
                deadline: Duration::from_secs(30),
            })
        });
        for outcome in futures_util::future::join_all(stored).await {
            outcome.expect("stored");
        }
    }
}

/// An operator in a process of its own, who retries all letters of the place.
fn operator(place: &Place) -> Child {
    Command::new(std::env::current_exe().expect("this binary"))
        .args([
            "--exact",
            "faults::dead_letters::child_operator",
            "--ignored",
        ])
        .env(URL, &place.url)
        .env(QUEUE, &place.queue)
        .stdout(Stdio::null())
        .spawn()
        .expect("a child")
}

#[test]
#[ignore = "no test, but what the operators' processes run"]
fn child_operator() {
    let (Ok(url), Ok(queue)) = (std::env::var(URL), std::env::var(QUEUE)) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let app = App::connect(url).await.expect("the test's broker");
        let retried = app.dead_letters(&queue).retry(Dead::all()).await;
        retried.expect("retried");
        app.close().await;
    });
}

async fn a_killed_retry_loses_no_letter(place: Place) {
    let count = LETTERS / 4;
    let app = place.app().await;
    dead(&app, &place.queue, count).await;
    let letters = app.dead_letters(&place.queue);
    let waiting = async || app.depth(&place.queue).await.expect("a queue").ready as usize;
    let mut kills = 0;
    // Each is killed a little later in its work; one that was faster is let end.
    for round in 1..=4 {
        let before = waiting().await;
        let mut child = operator(&place);
        let enough = before + round * 150;
        eventually("retries", || async {
            waiting().await >= enough || letters.count().await.expect("a count") == 0
        })
        .await;
        child.kill().expect("killed");
        child.wait().expect("ended");
        kills += 1;
        // The broker notices the end, and gives back what the operator was looking at.
        eventually("all letters", || async {
            waiting().await + letters.count().await.expect("a count") as usize >= count
        })
        .await;
    }
    // The broker may take its time to give back what the last one was looking at.
    eventually("the rest", || async {
        letters.retry(Dead::all()).await.expect("retried");
        letters.count().await.expect("a count") == 0
    })
    .await;

    let waits = waiting().await;
    let queue = Queue::new(format!("{}{}", app.prefix(), place.queue));
    let mut consumer = app.broker().consume(&queue, 200).await.expect("a consumer");
    let mut seen = BTreeMap::<String, usize>::new();
    for _ in 0..waits {
        let next = within("a call", consumer.next()).await;
        let delivery = next.expect("open").expect("a delivery");
        *seen.entry(delivery.message.id.clone()).or_default() += 1;
        delivery.ack(None).await.expect("settled");
    }
    let twice = waits - seen.len();
    figure!(
        place,
        "{count} letters, {kills} operators killed: {twice} calls sent twice"
    );
    assert_eq!(seen.len(), count, "none is lost");
    // On SQLite a letter's end and its call's new life are one transaction.
    let allowed = if place.broker == "SQLite" {
        0
    } else {
        kills * PAGE
    };
    assert!(twice <= allowed, "{twice} of them twice");
    drop(consumer);
    place.leave(app).await;
}

async fn many_letters_take_bounded_memory(place: Place) {
    let asked = std::env::var("GARENNE_TEST_LETTERS").ok();
    let count = asked.map_or(LETTERS, |count| count.parse().expect("a number"));
    let app = place.app().await;
    dead(&app, &place.queue, count).await;
    let letters = app.dead_letters(&place.queue);
    let early = memory(std::process::id());

    let start = Instant::now();
    assert_eq!(
        letters
            .list(Dead::all().limit(20))
            .await
            .expect("listed")
            .len(),
        20
    );
    figure!(
        place,
        "the first 20 of {count} letters: {:.0?}",
        start.elapsed()
    );
    let start = Instant::now();
    let last = format!("letter-{}", count - 1);
    assert!(letters.show(&last).await.expect("looked").is_some());
    figure!(
        place,
        "the last of {count} letters: {:.1?}",
        start.elapsed()
    );
    let start = Instant::now();
    let (mut stream, mut seen) = (letters.stream(Dead::all()), 0);
    while let Some(letter) = within("a letter", stream.next()).await {
        drop(letter.expect("readable"));
        seen += 1;
    }
    assert_eq!(seen, count);
    figure!(place, "{count} letters listed: {:.1?}", start.elapsed());
    let start = Instant::now();
    assert_eq!(
        letters.discard(Dead::all().id(last)).await.expect("gone"),
        1
    );
    let retried = letters.retry(Dead::all()).await.expect("retried");
    assert_eq!(retried as usize, count - 1);
    figure!(place, "{retried} letters retried: {:.1?}", start.elapsed());

    let late = memory(std::process::id());
    figure!(place, "memory {early} KiB, later {late} KiB");
    assert!(late - early < GROWTH, "{early} KiB, later {late}");
    place.leave(app).await;
}
