//! What integration tests share: an app of its own for each test, on every broker.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test crate uses its own part of it"
)]

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use garenne::App;

/// Fails a test that takes longer: nothing may wait for ever.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Awaits `future`, and fails the test if it takes longer than [`PATIENCE`].
pub async fn within<F: IntoFuture>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future.into_future()).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: nothing happened within {PATIENCE:?}"),
    }
}

/// Asks again and again until `ready` holds; for what no event tells.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut ready: impl FnMut() -> F) {
    let poll = async {
        while !ready().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(what, poll).await;
}

/// A name that no other test has.
pub fn unique(name: &str) -> String {
    format!(
        "{name}-{}",
        &uuid::Uuid::new_v4().simple().to_string()[..12]
    )
}

/// A file that is deleted at the end.
pub struct TempFile(pub PathBuf);

impl TempFile {
    pub fn new(extension: &str) -> Self {
        Self(std::env::temp_dir().join(format!("{}.{extension}", unique("garenne"))))
    }

    pub fn url(&self) -> String {
        format!("sqlite://{}", self.0.display())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let name = self
            .0
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        for entry in std::fs::read_dir(std::env::temp_dir())
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry.file_name().to_string_lossy().starts_with(&name) {
                let path = entry.path();
                let _ = if path.is_dir() {
                    std::fs::remove_dir_all(path)
                } else {
                    std::fs::remove_file(path)
                };
            }
        }
    }
}

/// The URL of the RabbitMQ to test with, its queues and exchanges under a prefix of their own; `None`,
/// said aloud, where there is none. Where one is required, its lack fails the test.
pub fn rabbitmq() -> Option<String> {
    match std::env::var("GARENNE_TEST_AMQP") {
        Ok(url) if !url.is_empty() => Some(format!("{url}?prefix={}.", unique("test"))),
        _ if std::env::var_os("GARENNE_TEST_REQUIRE_AMQP").is_some() => {
            panic!("GARENNE_TEST_AMQP must name a RabbitMQ")
        }
        _ => {
            eprintln!("skipped: GARENNE_TEST_AMQP names no RabbitMQ");
            None
        }
    }
}

/// One of the brokers, for one test.
pub struct Fixture {
    pub app: App,
    /// The broker's URL, where other connections can be made.
    pub url: Option<String>,
    _file: Option<TempFile>,
}

impl Fixture {
    pub fn memory() -> Self {
        Self {
            app: App::in_memory(),
            url: None,
            _file: None,
        }
    }

    pub async fn sqlite() -> Self {
        let file = TempFile::new("db");
        let url = file.url();
        let app = App::connect(&url).await.expect("a new file");
        Self {
            app,
            url: Some(url),
            _file: Some(file),
        }
    }

    pub async fn rabbitmq() -> Option<Self> {
        let url = rabbitmq()?;
        let app = App::connect(&url).await.expect("the test's RabbitMQ");
        Some(Self {
            app,
            url: Some(url),
            _file: None,
        })
    }
}

/// Runs each test on every broker: `async fn name(app: App) { … }`.
#[macro_export]
macro_rules! on_every_broker {
    ($($(#[$attribute:meta])* async fn $name:ident($app:ident: App) $body:block)+) => {
        mod memory {
            use super::*;
            $($(#[$attribute])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let fixture = support::Fixture::memory();
                super::cases::$name(fixture.app.clone()).await;
                fixture.app.close().await;
            })+
        }
        mod sqlite {
            use super::*;
            $($(#[$attribute])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let fixture = support::Fixture::sqlite().await;
                super::cases::$name(fixture.app.clone()).await;
                fixture.app.close().await;
            })+
        }
        mod rabbitmq {
            use super::*;
            $($(#[$attribute])* #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let Some(fixture) = support::Fixture::rabbitmq().await else { return };
                super::cases::$name(fixture.app.clone()).await;
                fixture.app.close().await;
            })+
        }
        mod cases {
            use super::*;
            $(pub(super) async fn $name($app: App) $body)+
        }
    };
}
