//! `kill -9` in the middle of commits. `GARENNE_TEST_KILLS` says how often; 1,000 take ten minutes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use garenne::broker::{Broker, Queue};

use super::child::{child, wait_for};
use super::place::{Place, close, next, open, to};

/// Kills unless the environment says otherwise.
const KILLS: usize = 10;

fn kills() -> usize {
    let asked = std::env::var("GARENNE_TEST_KILLS").ok();
    asked.map_or(KILLS, |kills| kills.parse().unwrap())
}

fn assert_sound(file: &Path) {
    let db = rusqlite::Connection::open(file).unwrap();
    let verdict: String = db
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(verdict, "ok");
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
    for round in 0..kills() {
        let (mut publisher, mut lines) = child("publish", &place.file());
        for _ in 0..=round % 10 * 5 {
            let line = wait_for(&mut lines, "CONFIRMED");
            confirmed.insert(line["CONFIRMED ".len()..].to_owned());
        }
        publisher.kill().unwrap();
        publisher.wait().unwrap();
        assert_sound(&place.file());
    }
    let broker = open(&place.file()).await;
    let depth = broker.depth("q").await.unwrap().ready as usize;
    let mut stored = BTreeSet::new();
    let mut consumer = broker.consume(&Queue::new("q"), 100).await.unwrap();
    for _ in 0..depth {
        let delivery = next(&mut consumer).await;
        assert!(stored.insert(delivery.message.id.clone()), "each once");
        delivery.ack(None).await.unwrap();
    }
    let lost: Vec<_> = confirmed.difference(&stored).collect();
    assert!(lost.is_empty(), "{lost:?}");
    println!(
        "{} kills, {} confirmed, {} found",
        kills(),
        confirmed.len(),
        stored.len()
    );
    close(&[&broker]).await;
    assert_sound(&place.file());
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_while_settling_neither_loses_nor_doubles() {
    const MESSAGES: usize = 2000;
    let place = Place::new();
    let broker = open(&place.file()).await;
    for queue in ["q", "done"] {
        broker.declare(&Queue::new(queue)).await.unwrap();
    }
    let ids: Vec<String> = (0..MESSAGES).map(|n| n.to_string()).collect();
    let sent = ids.iter().map(|id| broker.publish(to("q", id)));
    for outcome in futures_util::future::join_all(sent).await {
        outcome.unwrap();
    }
    for round in 0..kills() {
        let (mut mover, mut lines) = child("move", &place.file());
        for _ in 0..=round % 10 {
            wait_for(&mut lines, "MOVED");
        }
        mover.kill().unwrap();
        mover.wait().unwrap();
    }
    assert_sound(&place.file());
    // What the dead held is given back to a consumer.
    let mut found = BTreeMap::<String, Vec<&str>>::new();
    for queue in ["done", "q"] {
        let mut consumer = broker.consume(&Queue::new(queue), 1).await.unwrap();
        while found.len() < MESSAGES {
            let next = tokio::time::timeout(std::time::Duration::from_secs(1), consumer.next());
            let Ok(Some(delivery)) = next.await else {
                break;
            };
            let delivery = delivery.unwrap();
            let id = delivery.message.id.clone();
            found.entry(id).or_default().push(queue);
            delivery.ack(None).await.unwrap();
        }
    }
    let moved = found
        .values()
        .filter(|queues| ***queues == ["done"])
        .count();
    println!("{} kills, {moved} of {MESSAGES} moved", kills());
    assert!(found.values().all(|queues| queues.len() == 1), "{found:?}");
    assert_eq!(found.len(), MESSAGES);
    close(&[&broker]).await;
}
