//! A place for a test: a folder of its own, brokers on the file in it, messages to send.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use garenne::broker::sqlite::SqliteBroker;
use garenne::broker::{Broker, Consumer, Delivery, Publish, Route};
use garenne::error::Error;
use garenne::message::{Arguments, Message};

/// Longer than anything here takes on a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A directory of its own for each test, removed at its end.
pub(crate) struct Place(pub(crate) PathBuf);

impl Place {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("garenne-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.0.join("queue.db")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) async fn try_open(path: &Path, options: &str) -> Result<SqliteBroker, Error> {
    let url = format!("sqlite://{}{options}", path.display());
    SqliteBroker::open(&url.parse().unwrap()).await
}

pub(crate) async fn open(path: &Path) -> Arc<SqliteBroker> {
    Arc::new(try_open(path, "").await.unwrap())
}

fn message(id: &str) -> Message {
    Message::new(id.into(), "test.task", &Arguments::default())
}

pub(crate) fn publish(route: Route, id: &str) -> Publish {
    Publish {
        route,
        message: message(id),
        delay: Duration::ZERO,
        deadline: PATIENCE,
    }
}

pub(crate) fn to(queue: &str, id: &str) -> Publish {
    publish(Route::Queue(queue.into()), id)
}

pub(crate) async fn next(consumer: &mut Consumer) -> Delivery {
    tokio::time::timeout(PATIENCE, consumer.next())
        .await
        .expect("a delivery in time")
        .expect("an open consumer")
        .expect("a delivery")
}

pub(crate) async fn close(brokers: &[&Arc<SqliteBroker>]) {
    for broker in brokers {
        broker.close().await;
    }
}
