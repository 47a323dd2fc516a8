//! Where a test runs: a broker's URL, a queue, a journal, and the turn that it waits for.

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use garenne::{App, Queue};

use super::tasks;
use crate::support::{TempFile, rabbitmq, unique};

/// No test may take longer.
const LIMIT: Duration = Duration::from_secs(240);

/// Nor a long run, which is asked for.
const LONG_LIMIT: Duration = Duration::from_secs(3_600);

/// A broker, and what one test needs at it.
pub(crate) struct Place {
    pub(crate) broker: &'static str,
    pub(crate) url: String,
    pub(crate) queue: String,
    journal: TempFile,
    _file: Option<TempFile>,
}

impl Place {
    pub(crate) fn at(broker: &'static str, url: String) -> Self {
        Self {
            broker,
            url,
            queue: unique("faults"),
            journal: TempFile::new("journal"),
            _file: None,
        }
    }

    pub(crate) fn memory() -> Option<Self> {
        Some(Self::at("memory", "memory://".into()))
    }

    pub(crate) fn sqlite() -> Option<Self> {
        let file = TempFile::new("db");
        let url = file.url();
        Some(Self {
            _file: Some(file),
            ..Self::at("SQLite", url)
        })
    }

    pub(crate) fn quorum() -> Option<Self> {
        Some(Self::at("RabbitMQ, quorum queue", rabbitmq()?))
    }

    pub(crate) fn classic() -> Option<Self> {
        let url = format!("{}&queue_type=classic", rabbitmq()?);
        Some(Self::at("RabbitMQ, classic queue", url))
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.journal.0.clone()
    }

    /// The lines that tasks have written.
    pub(crate) fn lines(&self) -> Vec<String> {
        tasks::lines(&self.journal.0)
    }

    /// Resolves when the journal has so many lines.
    pub(crate) async fn line(&self, count: usize) -> Vec<String> {
        let mut lines = self.lines();
        let poll = async {
            while lines.len() < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
                lines = self.lines();
            }
        };
        crate::support::within("a line in the journal", poll).await;
        lines
    }

    /// Its URL by another way: through `address` instead of the broker's own.
    pub(crate) fn through(&self, address: std::net::SocketAddr) -> String {
        let server = self.server();
        self.url.replacen(&server, &address.to_string(), 1)
    }

    /// `host:port` of the broker.
    pub(crate) fn server(&self) -> String {
        let (_, rest) = self.url.split_once('@').expect("user@host");
        rest.split(['/', '?']).next().expect("a host").to_owned()
    }

    /// The same place, its connections held for dead after twice so many silent seconds.
    pub(crate) fn heartbeat(mut self, seconds: u32) -> Self {
        let separator = if self.url.contains('?') { '&' } else { '?' };
        self.url
            .push_str(&format!("{separator}heartbeat={seconds}"));
        self
    }

    pub(crate) async fn app(&self) -> App {
        App::connect(&self.url).await.expect("the test's broker")
    }

    /// Deletes the queue and its dead letters, and disconnects.
    pub(crate) async fn leave(&self, app: App) {
        for name in [
            self.queue.clone(),
            Queue::new(&self.queue).dead_letter_name(),
        ] {
            app.delete(&name).await.expect("deleted");
        }
        app.close().await;
    }
}

/// Whether the long runs are wanted, which take many minutes: `GARENNE_TEST_LONG=1`.
pub(crate) fn long() -> bool {
    std::env::var("GARENNE_TEST_LONG").is_ok_and(|value| value == "1")
}

/// Of the tests that need the machine, and of those that mostly wait, one at a time.
static TURN: Mutex<()> = Mutex::new(());
static ASIDE: Mutex<()> = Mutex::new(());
/// All read it, but who must be by itself writes.
static PROCESS: RwLock<()> = RwLock::new(());

/// Runs one test, when no other one runs but of those that wait [aside].
pub(crate) fn alone<T, F: Future<Output = ()>>(
    name: &str,
    place: impl FnOnce() -> Option<T>,
    case: impl FnOnce(T) -> F,
) {
    in_turn(&TURN, name, place, case);
}

/// Runs one test that mostly waits for time to pass, when no other one of these runs.
pub(crate) fn aside<T, F: Future<Output = ()>>(
    name: &str,
    place: impl FnOnce() -> Option<T>,
    case: impl FnOnce(T) -> F,
) {
    in_turn(&ASIDE, name, place, case);
}

fn in_turn<T, F: Future<Output = ()>>(
    turn: &Mutex<()>,
    name: &str,
    place: impl FnOnce() -> Option<T>,
    case: impl FnOnce(T) -> F,
) {
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    let _shared = PROCESS.read().unwrap_or_else(PoisonError::into_inner);
    run(name, place, case);
}

/// Runs one test that looks at its own process, when no other one runs at all.
pub(crate) fn by_itself<T, F: Future<Output = ()>>(
    name: &str,
    place: impl FnOnce() -> Option<T>,
    case: impl FnOnce(T) -> F,
) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // Whoever comes now waits behind it.
    let _own = PROCESS.write().unwrap_or_else(PoisonError::into_inner);
    run(name, place, case);
}

fn run<T, F: Future<Output = ()>>(
    name: &str,
    place: impl FnOnce() -> Option<T>,
    case: impl FnOnce(T) -> F,
) {
    let Some(place) = place() else { return };
    let start = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let limit = if long() { LONG_LIMIT } else { LIMIT };
    runtime.block_on(async {
        tokio::time::timeout(limit, case(place))
            .await
            .expect("the test ends in time");
    });
    println!("{name}: took {:.1?}", start.elapsed());
}

/// Prints a figure of a test.
macro_rules! figure {
    ($place:expr, $($text:tt)+) => {
        println!("{}: {}: {}", module_path!().trim_start_matches("faults::"), $place.broker, format_args!($($text)+))
    };
}
pub(crate) use figure;

/// A test for each of these brokers: `on!(alone case: sqlite quorum)` runs `case(place)`.
macro_rules! on {
    ($turn:ident $case:ident: $($broker:ident)+) => {
        mod $case {
            $(#[test]
            fn $broker() {
                use crate::faults::place::{self, Place};
                place::$turn(concat!(stringify!($case), "::", stringify!($broker)), Place::$broker, super::$case);
            })+
        }
    };
}
pub(crate) use on;
