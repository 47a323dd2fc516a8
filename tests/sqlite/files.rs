//! The file: whose it is, and what it must not be.

use std::path::Path;

use garenne::broker::{Broker, Join, Queue, Route};
use garenne::error::Error;

use super::place::{Place, close, next, open, publish, to, try_open};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_file_from_before_there_were_joins_gets_them() {
    let place = Place::new();
    let broker = open(&place.file()).await;
    let queue = Queue::new("q");
    broker.declare(&queue).await.unwrap();
    broker.publish(to("q", "kept")).await.unwrap();
    close(&[&broker]).await;
    let db = rusqlite::Connection::open(place.file()).unwrap();
    db.execute_batch(
        "DROP TABLE listener; DROP TABLE announcement;
         DROP TABLE join_part; DROP TABLE join_body; DROP TABLE open_join;
         UPDATE message SET envelope = json_set(envelope, '$.reply_to', NULL, '$.priority', NULL);
         PRAGMA user_version = 1",
    )
    .unwrap();
    drop(db);
    let broker = open(&place.file()).await;
    let join = "garenne.join.1".to_owned();
    let opened = Join {
        name: join.clone(),
        parts: 1,
        body: to("q", "body"),
    };
    broker.open_join(opened).await.unwrap();
    let part = Route::Join {
        join,
        parts: 1,
        fire: false,
    };
    broker.publish(publish(part, "part")).await.unwrap();
    let mut consumer = broker.consume(&queue, 1).await.unwrap();
    for id in ["kept", "body"] {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.message, to("q", id).message);
        delivery.ack(None).await.unwrap();
    }
    drop(consumer);
    close(&[&broker]).await;
}
