//! Locks: another program's on the file, and a process's own, by which it is known to live.

use std::time::{Duration, Instant};

use garenne::broker::{Broker, Publish, Queue};
use garenne::error::Error;
use garenne::{App, Worker, task};
use tokio::sync::Semaphore;

use super::place::{PATIENCE, Place, close, next, open, to};

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
    b.declare(&Queue::new("done")).await.unwrap();
    let stale = void.ack(Some(to("done", "1"))).await;
    assert!(matches!(stale, Err(Error::Stale { .. })), "{stale:?}");
    let done = b.depth("done").await.unwrap().ready;
    assert_eq!(done, 0, "the old owner stores nothing");
    again.ack(None).await.unwrap();
    b.publish(to("q", "2")).await.unwrap();
    assert_eq!(next(&mut consumer).await.message.id, "2");
    close(&[&a, &b]).await;
}

static RUNS: Semaphore = Semaphore::const_new(0);
static MAY_END: Semaphore = Semaphore::const_new(0);

#[task]
async fn held(number: u64) -> u64 {
    RUNS.add_permits(1);
    MAY_END.acquire().await.unwrap().forget();
    number
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_worker_is_taken_for_dead_is_answered_by_its_only_run() {
    let place = Place::new();
    let url = format!("sqlite://{}", place.file().display());
    let (ours, theirs) = (App::connect(&url).await, App::connect(&url).await);
    let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
    let broker = open(&place.file()).await;
    let worker = Worker::new(&theirs).queue("default", 2).spawn();
    let handle = held::call(7).send(&ours).await.unwrap();
    RUNS.acquire().await.unwrap().forget();
    let locks = format!("{}-locks", place.file().display());
    std::fs::remove_dir_all(&locks).unwrap();
    // It has the call again when its new lock is there and no message waits.
    let again = async {
        loop {
            let joined = std::fs::read_dir(&locks).is_ok_and(|locks| locks.count() >= 3);
            if joined && broker.depth("default").await.unwrap().ready == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
    MAY_END.add_permits(2);
    let answer = tokio::time::timeout(PATIENCE, handle).await.unwrap();
    assert_eq!(answer.unwrap(), 7);
    assert_eq!(RUNS.available_permits(), 0, "it ran once");
    worker.stop().await.unwrap();
    ours.close().await;
    theirs.close().await;
    close(&[&broker]).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_stays_locked_is_said_to_be() {
    let place = Place::new();
    let broker = open(&place.file()).await;
    let mut consumer = broker.consume(&Queue::new("q"), 1).await.unwrap();
    broker.publish(to("q", "before")).await.unwrap();
    let held = next(&mut consumer).await;
    let other = rusqlite::Connection::open(place.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let started = Instant::now();
    let refused = broker.publish(to("q", "refused")).await.unwrap_err();
    let took = started.elapsed();
    assert!(took < PATIENCE, "{took:?}");
    assert!(refused.is_transient(), "{refused}");
    let (text, file) = (refused.to_string(), place.file().display().to_string());
    assert!(
        text.contains("another program has kept") && text.contains(&file),
        "{text}"
    );

    // What is running meanwhile is settled when the file is free again.
    let settled = tokio::spawn(held.ack(None));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!settled.is_finished());
    other.execute_batch("COMMIT").unwrap();
    settled.await.unwrap().unwrap();
    broker.publish(to("q", "after")).await.unwrap();
    let delivery = next(&mut consumer).await;
    assert_eq!(
        delivery.message.id, "after",
        "what was refused is not stored"
    );
    delivery.ack(None).await.unwrap();
    close(&[&broker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_while_the_file_is_locked_hides_nothing_from_others() {
    let place = Place::new();
    let (ours, theirs) = (open(&place.file()).await, open(&place.file()).await);
    let queue = Queue::new("q");
    let consumer = ours.consume(&queue, 1).await.unwrap();
    let lease = ours.lease("l").await.unwrap();
    let other = rusqlite::Connection::open(place.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    drop((consumer, lease));
    // Neither can be carried out, any more than this.
    ours.publish(to("q", "refused")).await.unwrap_err();
    other.execute_batch("COMMIT").unwrap();

    let lease = tokio::time::timeout(PATIENCE, theirs.lease("l")).await;
    lease.expect("free").unwrap().release().await;
    let gone = async {
        while theirs.depth("q").await.unwrap().consumers > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("it ends");
    ours.publish(to("q", "a")).await.unwrap();
    let mut consumer = theirs.consume(&queue, 1).await.unwrap();
    let delivery = next(&mut consumer).await;
    assert_eq!((&*delivery.message.id, delivery.deliveries), ("a", 1));
    delivery.ack(None).await.unwrap();
    close(&[&ours, &theirs]).await;
}
