//! The file: whose it is, and what it must not be.

use std::path::Path;

use garenne::broker::{Broker, Queue};
use garenne::error::Error;

use super::place::{Place, close, open, try_open};

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
