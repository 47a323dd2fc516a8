//! The SQLite broker against what only it can meet: several processes on one file, kill -9, a full disk,
//! a file that is something else. What every broker must do is said elsewhere.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use garenne::broker::sqlite::SqliteBroker;
use garenne::broker::{Broker, Consumer, Delivery, Exchange, Publish, Queue, Route};
use garenne::error::Error;
use garenne::message::{Arguments, Message};

/// Which part a child process plays, and on which file.
const ROLE: &str = "GARENNE_TEST_ROLE";
const FILE: &str = "GARENNE_TEST_FILE";
/// Longer than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A directory of its own for each test, removed at its end.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("garenne-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("queue.db")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn try_open(path: &Path, options: &str) -> Result<SqliteBroker, Error> {
    let url = format!("sqlite://{}{options}", path.display());
    SqliteBroker::open(&url.parse().unwrap()).await
}

async fn open(path: &Path) -> Arc<SqliteBroker> {
    Arc::new(try_open(path, "").await.unwrap())
}

fn message(id: &str) -> Message {
    Message::new(id.into(), "test.task", &Arguments::default())
}

fn publish(route: Route, id: &str) -> Publish {
    Publish {
        route,
        message: message(id),
        delay: Duration::ZERO,
        deadline: PATIENCE,
    }
}

fn to(queue: &str, id: &str) -> Publish {
    publish(Route::Queue(queue.into()), id)
}

async fn next(consumer: &mut Consumer) -> Delivery {
    tokio::time::timeout(PATIENCE, consumer.next())
        .await
        .expect("a delivery in time")
        .expect("an open consumer")
        .expect("a delivery")
}

async fn close(brokers: &[&Arc<SqliteBroker>]) {
    for broker in brokers {
        broker.close().await;
    }
}

/// This test binary again, as another process that plays `role` on `file`.
fn child(role: &str, file: &Path) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "child_process",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(ROLE, role)
        .env(FILE, file)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap());
    (child, lines)
}

/// Reads a child's lines up to one that begins with `word`.
fn wait_for(lines: &mut impl BufRead, word: &str) -> String {
    let mut line = String::new();
    loop {
        line.clear();
        assert!(
            lines.read_line(&mut line).unwrap() > 0,
            "the child ended before it said {word}"
        );
        // The test harness writes its own words into the same line.
        if let Some(at) = line.find(word) {
            return line[at..].trim().to_owned();
        }
    }
}

/// Not a test: what the children of the other tests do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_process() {
    let (Ok(role), Ok(file)) = (std::env::var(ROLE), std::env::var(FILE)) else {
        return;
    };
    let broker = open(Path::new(&file)).await;
    match role.as_str() {
        "hold" => {
            let mut consumer = broker.consume(&Queue::new("q"), 3).await.unwrap();
            let mut held = Vec::new();
            for _ in 0..3 {
                held.push(next(&mut consumer).await);
            }
            println!("\nHOLDING");
            std::future::pending::<()>().await;
        }
        "publish" => {
            for n in 0.. {
                let id = format!("{}-{n}", std::process::id());
                broker.publish(to("q", &id)).await.unwrap();
                println!("\nCONFIRMED {id}");
            }
        }
        "echo" => {
            let mut consumer = broker.consume(&Queue::new("q"), 4).await.unwrap();
            println!("\nREADY");
            loop {
                let delivery = next(&mut consumer).await;
                let address = delivery.message.reply_to.clone().unwrap();
                let id = delivery.message.id.clone();
                delivery
                    .ack(Some(publish(Route::Reply(address), &id)))
                    .await
                    .unwrap();
            }
        }
        "contend" => {
            let mut consumer = broker.consume(&Queue::new("work"), 8).await.unwrap();
            let publisher = {
                let broker = Arc::clone(&broker);
                tokio::spawn(async move {
                    for n in 0..250 {
                        let id = format!("{}-{n}", std::process::id());
                        broker.publish(to("work", &id)).await.unwrap();
                    }
                })
            };
            loop {
                let delivery = next(&mut consumer).await;
                let id = delivery.message.id.clone();
                delivery.ack(Some(to("done", &id))).await.unwrap();
                if publisher.is_finished() && broker.depth("work").await.unwrap().ready == 0 {
                    break;
                }
            }
            publisher.await.unwrap();
            drop(consumer);
            broker.close().await;
            println!("\nDONE");
        }
        other => panic!("no such role: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_brokers_on_one_file_hand_over_at_once() {
    let place = Place::new();
    let (a, b) = (open(&place.file()).await, open(&place.file()).await);
    let mut consumer = b.consume(&Queue::new("q"), 1).await.unwrap();
    let mut times = Vec::new();
    for n in 0..50 {
        let started = Instant::now();
        a.publish(to("q", &n.to_string())).await.unwrap();
        let delivery = next(&mut consumer).await;
        times.push(started.elapsed());
        assert_eq!(
            (delivery.message.id.as_str(), delivery.deliveries),
            (n.to_string().as_str(), 1)
        );
        assert_eq!(delivery.routing_key, "q");
        delivery.ack(None).await.unwrap();
    }
    times.sort();
    println!(
        "publish in one, delivery in the other: median {:?}, worst {:?}",
        times[25], times[49]
    );
    assert!(times[25] < Duration::from_millis(50));
    close(&[&a, &b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_gives_its_deliveries_back() {
    let place = Place::new();
    let broker = open(&place.file()).await;
    broker.declare(&Queue::new("q")).await.unwrap();
    for n in 0..3 {
        broker.publish(to("q", &n.to_string())).await.unwrap();
    }
    let (mut holder, mut lines) = child("hold", &place.file());
    wait_for(&mut lines, "HOLDING");
    let mut consumer = broker.consume(&Queue::new("q"), 3).await.unwrap();
    assert_eq!(broker.depth("q").await.unwrap().ready, 0);
    holder.kill().unwrap();
    let killed = Instant::now();
    for n in 0..3 {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.message.id, n.to_string());
        assert_eq!((delivery.deliveries, delivery.redelivered), (2, true));
        delivery.ack(None).await.unwrap();
    }
    let took = killed.elapsed();
    println!("deliveries of a killed process are back after {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    holder.wait().unwrap();
    assert_eq!(
        broker.depth("q").await.unwrap().consumers,
        1,
        "the dead one's consumer is gone"
    );
    close(&[&broker]).await;
    let locks = std::fs::read_dir(format!("{}-locks", place.file().display())).unwrap();
    assert_eq!(locks.count(), 0, "no lock file is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_loses_nothing_confirmed() {
    let place = Place::new();
    let mut confirmed = BTreeSet::new();
    open(&place.file())
        .await
        .declare(&Queue::new("q"))
        .await
        .unwrap();
    for round in 0..10 {
        let (mut publisher, mut lines) = child("publish", &place.file());
        for _ in 0..=round * 5 {
            let line = wait_for(&mut lines, "CONFIRMED");
            confirmed.insert(line["CONFIRMED ".len()..].to_owned());
        }
        publisher.kill().unwrap();
        publisher.wait().unwrap();
    }
    let broker = open(&place.file()).await;
    let mut stored = BTreeSet::new();
    let mut consumer = broker.consume(&Queue::new("q"), 100).await.unwrap();
    while !confirmed.is_subset(&stored) {
        let delivery = next(&mut consumer).await;
        stored.insert(delivery.message.id.clone());
        delivery.ack(None).await.unwrap();
    }
    println!("{} confirmed, all found", confirmed.len());
    close(&[&broker]).await;
    let db = rusqlite::Connection::open(place.file()).unwrap();
    let verdict: String = db
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(verdict, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_crosses_processes_and_back() {
    let place = Place::new();
    let broker = open(&place.file()).await;
    let (mut worker, mut lines) = child("echo", &place.file());
    wait_for(&mut lines, "READY");
    let mut replies = broker.replies().await.unwrap();
    let mut times = Vec::new();
    for n in 0..50 {
        let started = Instant::now();
        let mut request = to("q", &n.to_string());
        request.message.reply_to = Some(replies.address.clone());
        broker.publish(request).await.unwrap();
        let reply = tokio::time::timeout(PATIENCE, replies.messages.recv())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(reply.id, n.to_string());
        times.push(started.elapsed());
    }
    times.sort();
    println!(
        "call to another process and its reply: median {:?}, worst {:?}",
        times[25], times[49]
    );
    assert!(times[25] < Duration::from_millis(100));
    worker.kill().unwrap();
    worker.wait().unwrap();
    close(&[&broker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_processes_contend_without_loss_or_double() {
    let place = Place::new();
    let broker = open(&place.file()).await;
    for queue in ["work", "done"] {
        broker.declare(&Queue::new(queue)).await.unwrap();
    }
    let started = Instant::now();
    let children: Vec<_> = (0..8).map(|_| child("contend", &place.file())).collect();
    // One that saw its last message taken by another waits for a next; here is one for each.
    let ended = tokio::task::spawn_blocking(move || {
        for (mut child, mut lines) in children {
            wait_for(&mut lines, "DONE");
            child.wait().unwrap();
        }
    });
    let mut extra = 0;
    while !ended.is_finished() {
        broker
            .publish(to("work", &format!("extra-{extra}")))
            .await
            .unwrap();
        extra += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ended.await.unwrap();
    let left = broker.depth("work").await.unwrap().ready;
    let done = broker.depth("done").await.unwrap().ready;
    assert_eq!(left + done, 8 * 250 + extra, "neither lost nor done twice");
    println!(
        "8 processes, 2000 messages published, moved on: {:?}",
        started.elapsed()
    );
    close(&[&broker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_ours_are_refused_and_left_alone() {
    let place = Place::new();
    let garbage = place.0.join("garbage.db");
    for content in [&b"short"[..], &[7; 10_000]] {
        std::fs::write(&garbage, content).unwrap();
        let error = try_open(&garbage, "").await.map(drop).unwrap_err();
        assert!(matches!(error, Error::Connect { .. }), "{error}");
        assert!(
            error.to_string().contains("not a SQLite database"),
            "{error}"
        );
        assert_eq!(std::fs::read(&garbage).unwrap(), content);
    }
    let foreign = place.0.join("foreign.db");
    rusqlite::Connection::open(&foreign)
        .unwrap()
        .execute_batch("CREATE TABLE t (x)")
        .unwrap();
    let error = try_open(&foreign, "").await.map(drop).unwrap_err();
    assert!(error.to_string().contains("another program"), "{error}");
    let error = try_open(&place.0, "").await.map(drop).unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    let error = try_open(Path::new(":memory:"), "")
        .await
        .map(drop)
        .unwrap_err();
    assert!(error.to_string().contains("memory://"), "{error}");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn the_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let file = place.0.join("new/deeper/queue.db");
    let broker = open(&file).await;
    broker.declare(&Queue::new("q")).await.unwrap();
    for path in [
        file.clone(),
        file.with_extension("db-wal"),
        file.with_extension("db-shm"),
    ] {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
    close(&[&broker]).await;
}

/// User and system time of this process, in clock ticks of 10 ms.
#[cfg(target_os = "linux")]
fn ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap()..].split(' ').collect();
    fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_costs_nothing() {
    let place = Place::new();
    let broker = open(&place.file()).await;
    let (mut idle, mut lines) = child("echo", &place.file());
    wait_for(&mut lines, "READY");
    let before = ticks(idle.id());
    let seconds = 3;
    // What is measured is time passing by.
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let percent = (ticks(idle.id()) - before) as f64 / seconds as f64;
    println!("an idle worker takes {percent:.2} % of a core");
    assert!(percent < 1.0, "{percent} %");
    idle.kill().unwrap();
    idle.wait().unwrap();
    close(&[&broker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delayed_messages_are_never_early_and_hardly_late() {
    let place = Place::new();
    let (a, b) = (open(&place.file()).await, open(&place.file()).await);
    let mut consumer = b.consume(&Queue::new("q"), 4).await.unwrap();
    for delay in [30, 1, 120, 60] {
        let delay = Duration::from_millis(delay);
        let due = SystemTime::now() + delay;
        a.publish(Publish {
            delay,
            ..to("q", "x")
        })
        .await
        .unwrap();
        let delivery = next(&mut consumer).await;
        let late = SystemTime::now().duration_since(due).expect("not early");
        println!("delayed by {delay:?}: late by {late:?}");
        assert!(late < Duration::from_millis(250), "{late:?}");
        delivery.ack(None).await.unwrap();
    }
    close(&[&a, &b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_settlement_stores_all_or_nothing() {
    let place = Place::new();
    let broker = open(&place.file()).await;
    let mut consumer = broker.consume(&Queue::new("q"), 1).await.unwrap();
    broker.publish(to("q", "1")).await.unwrap();
    let delivery = next(&mut consumer).await;
    let nowhere = delivery
        .reject(to("q.dead", "1"), Some(to("nowhere", "1")))
        .await;
    assert!(
        matches!(nowhere, Err(Error::Unroutable { .. })),
        "{nowhere:?}"
    );
    assert_eq!(broker.depth("q.dead").await.unwrap().ready, 0);
    let delivery = next(&mut consumer).await;
    assert_eq!(
        (delivery.deliveries, delivery.redelivered),
        (1, true),
        "it came back, at no cost"
    );
    broker.delete("q").await.unwrap();
    let stale = delivery.reject(to("q.dead", "1"), None).await;
    assert!(matches!(stale, Err(Error::Stale { .. })), "{stale:?}");
    assert_eq!(broker.depth("q.dead").await.unwrap().ready, 0);
    let gone = broker.publish(to("q", "2")).await;
    assert!(matches!(gone, Err(Error::Unroutable { .. })), "{gone:?}");
    broker.declare(&Queue::new("q")).await.unwrap();
    broker.publish(to("q", "3")).await.unwrap();
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.message.id, "3", "the slot is free again");
    delivery.ack(None).await.unwrap();
    close(&[&broker]).await;
    assert!(consumer.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_consumer_gives_back_what_nobody_has_seen() {
    let place = Place::new();
    let broker = open(&place.file()).await;
    let mut first = broker.consume(&Queue::new("q"), 5).await.unwrap();
    for n in 0..5 {
        broker.publish(to("q", &n.to_string())).await.unwrap();
    }
    let held = next(&mut first).await;
    drop(first);
    let mut second = broker.consume(&Queue::new("q"), 5).await.unwrap();
    for n in 1..5 {
        let delivery = next(&mut second).await;
        assert_eq!(
            (delivery.message.id.as_str(), delivery.deliveries),
            (n.to_string().as_str(), 1)
        );
        delivery.ack(None).await.unwrap();
    }
    held.ack(None).await.unwrap();
    let depth = broker.depth("q").await.unwrap();
    assert_eq!((depth.ready, depth.consumers), (0, 1));
    close(&[&broker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_queue_goes_with_its_consumer_but_not_its_deliveries() {
    let place = Place::new();
    let (a, b) = (open(&place.file()).await, open(&place.file()).await);
    let news = Exchange::topic("news");
    let queue = Queue::exclusive().bind(&news, "#.sport");
    let mut consumer = a.consume(&queue, 1).await.unwrap();
    let route = Route::Exchange {
        exchange: "news".into(),
        routing_key: "eu.sport".into(),
    };
    for id in ["1", "2"] {
        b.publish(publish(route.clone(), id)).await.unwrap();
    }
    let delivery = next(&mut consumer).await;
    assert_eq!(
        (delivery.exchange.as_str(), delivery.routing_key.as_str()),
        ("news", "eu.sport")
    );
    drop(consumer);
    // Answered after the consumer's end, which was asked for before.
    a.declare_exchange(&news).await.unwrap();
    assert!(b.depth(queue.name()).await.is_err(), "the queue is gone");
    let nobody = b.publish(publish(route, "3")).await;
    assert!(
        matches!(nobody, Err(Error::Unroutable { .. })),
        "{nobody:?}"
    );
    delivery.ack(None).await.unwrap();
    close(&[&a, &b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_replies_than_there_is_room_for_wait_their_turn() {
    let place = Place::new();
    let (a, b) = (open(&place.file()).await, open(&place.file()).await);
    let mut replies = a.replies().await.unwrap();
    let count = 3000;
    let publishes = (0..count).map(|n| {
        b.publish(publish(
            Route::Reply(replies.address.clone()),
            &n.to_string(),
        ))
    });
    for outcome in futures_util::future::join_all(publishes).await {
        outcome.unwrap();
    }
    let mut seen = BTreeSet::new();
    while seen.len() < count {
        let reply = tokio::time::timeout(PATIENCE, replies.messages.recv());
        assert!(seen.insert(reply.await.unwrap().unwrap().id), "each once");
    }
    let address = replies.address.clone();
    close(&[&a]).await;
    b.publish(publish(Route::Reply(address), "late"))
        .await
        .unwrap();
    close(&[&b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancellations_reach_every_process() {
    let place = Place::new();
    let (a, b) = (open(&place.file()).await, open(&place.file()).await);
    a.cancel("early").await.unwrap();
    let mut here = a.cancellations().await.unwrap();
    let mut there = b.cancellations().await.unwrap();
    assert_eq!(
        (&here.known, &there.known),
        (&vec!["early".to_owned()], &vec!["early".to_owned()])
    );
    a.cancel("late").await.unwrap();
    for later in [&mut here.later, &mut there.later] {
        let id = tokio::time::timeout(PATIENCE, later.recv()).await.unwrap();
        assert_eq!(id.as_deref(), Some("late"));
    }
    close(&[&a, &b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_taken_for_dead_joins_again() {
    let place = Place::new();
    let (a, b) = (open(&place.file()).await, open(&place.file()).await);
    let mut consumer = a.consume(&Queue::new("q"), 1).await.unwrap();
    b.publish(to("q", "1")).await.unwrap();
    let void = next(&mut consumer).await;
    // Someone tidies up the directory of the locks.
    std::fs::remove_dir_all(format!("{}-locks", place.file().display())).unwrap();
    let again = next(&mut consumer).await;
    assert_eq!(again.deliveries, 2);
    assert!(void.stale().is_stale());
    let stale = void.ack(None).await;
    assert!(matches!(stale, Err(Error::Stale { .. })), "{stale:?}");
    again.ack(None).await.unwrap();
    b.publish(to("q", "2")).await.unwrap();
    assert_eq!(next(&mut consumer).await.message.id, "2");
    close(&[&a, &b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_says_whether_the_message_may_be_stored() {
    let place = Place::new();
    let broker = open(&place.file()).await;
    broker.declare(&Queue::new("q")).await.unwrap();
    let other = rusqlite::Connection::open(place.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let deadline = Duration::from_millis(100);
    let taken = broker
        .publish(Publish {
            deadline,
            ..to("q", "1")
        })
        .await;
    assert!(matches!(taken, Err(Error::Unconfirmed { .. })), "{taken:?}");
    let queued = broker
        .publish(Publish {
            deadline,
            ..to("q", "2")
        })
        .await;
    assert!(
        matches!(queued, Err(Error::Unavailable { .. })),
        "{queued:?}"
    );
    other.execute_batch("COMMIT").unwrap();
    broker.publish(to("q", "3")).await.unwrap();
    let depth = broker.depth("q").await.unwrap();
    assert_eq!(depth.ready, 2, "the second was never sent");
    close(&[&broker]).await;
}
