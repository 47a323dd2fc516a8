//! How an app comes to be: connected to a broker, with what can be set before.

use std::time::Duration;

use std::sync::Arc;

use crate::app::{App, Settings};
use crate::broker;
use crate::broker::memory::MemoryBroker;
use crate::broker::url::{BrokerUrl, Scheme};
use crate::clock::Clock;
use crate::error::Result;
use crate::rehearsal::Rehearsal;

/// Where [`App::from_env`] looks for the broker's URL.
const BROKER_VARIABLE: &str = "GARENNE_BROKER";
/// What [`App::from_env`] takes where the environment names no broker.
const DEFAULT_BROKER: &str = "sqlite://garenne.db";
/// Sets what [`App::connect`] leaves at its default.
///
/// ```no_run
/// # async fn f() -> Result<(), garenne::Error> {
/// use garenne::{App, SECOND};
///
/// let app = App::builder("amqp://guest:guest@localhost:5672/%2f")
///     .name("billing")
///     .send_timeout(5 * SECOND)
///     .connect()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `.connect().await`"]
pub struct AppBuilder {
    url: String,
    settings: Settings,
}

impl AppBuilder {
    pub(crate) fn new(url: String) -> Self {
        Self {
            url,
            settings: Settings::default(),
        }
    }

    /// Tells the broker's operators who is connected; the program's name unless set.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = name.into();
        self
    }

    /// How long sending a call may take, the wait for a broker that is away included; 30 s unless
    /// set, a day at most.
    pub fn send_timeout(mut self, timeout: Duration) -> Self {
        self.settings.send_timeout = timeout.min(crate::DAY);
        self
    }

    /// How long [`Handle::result`](crate::Handle::result) waits for a reply; a day unless set.
    pub fn result_timeout(mut self, timeout: Duration) -> Self {
        self.settings.result_timeout = timeout;
        self
    }

    /// The largest message body that may be sent, in bytes; 8 MiB unless set. RabbitMQ 4 refuses more
    /// than 16 MiB.
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.settings.max_message_size = bytes;
        self
    }

    /// Accepts calls in MessagePack (`application/x-msgpack`), too; otherwise they are refused, with their
    /// caller told, as by Celery unless its `accept_content` names it.
    #[cfg(feature = "msgpack")]
    pub fn accept_msgpack(mut self) -> Self {
        self.settings.accept_msgpack = true;
        self
    }

    /// Keeps results in the Redis at `url`, as Celery's Redis backend does: they can be read any number of
    /// times, by any process, with [`Handle::from_id`](crate::Handle::from_id) or Python's
    /// `AsyncResult(id)`. Workers and readers need it alike. Redis 6 or newer.
    #[cfg(feature = "redis")]
    pub fn result_backend(mut self, url: impl Into<String>) -> Self {
        self.settings.result_backend = Some(url.into());
        self
    }

    /// How long a [result backend](Self::result_backend) keeps a result; a day unless set.
    #[cfg(feature = "redis")]
    pub fn result_expires(mut self, after: Duration) -> Self {
        self.settings.result_expires = after;
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// [`InvalidUrl`](crate::Error::InvalidUrl), [`Connect`](crate::Error::Connect).
    pub async fn connect(self) -> Result<App> {
        let url: BrokerUrl = self.url.parse()?;
        let app = match url.scheme {
            Scheme::Memory => in_memory(url.prefix, self.settings),
            _ => {
                let broker = broker::connect(&url, &self.settings.name).await?;
                App::over(broker, url.prefix, self.settings)
            }
        };
        #[cfg(feature = "redis")]
        app.connect_results().await?;
        Ok(app)
    }
}

impl App {
    /// Connects to the broker at `url`; see
    /// [`BrokerUrl`] for what it may say.
    ///
    /// ```no_run
    /// # async fn f() -> Result<(), garenne::Error> {
    /// use garenne::App;
    ///
    /// let rabbit = App::connect("amqp://guest:guest@localhost:5672/%2f").await?;
    /// let failover = App::connect("amqp://node1;amqp://node2").await?;
    /// let file = App::connect("sqlite://garenne.db").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`InvalidUrl`](crate::Error::InvalidUrl), [`Connect`](crate::Error::Connect).
    pub async fn connect(url: impl Into<String>) -> Result<Self> {
        Self::builder(url).connect().await
    }

    /// As [`connect`](Self::connect), with more to set.
    pub fn builder(url: impl Into<String>) -> AppBuilder {
        AppBuilder::new(url.into())
    }

    /// Connects to the broker that the environment variable `GARENNE_BROKER` names, or to the file
    /// `garenne.db` in the working directory where it names none.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub async fn from_env() -> Result<Self> {
        let url = std::env::var(BROKER_VARIABLE).unwrap_or_default();
        Self::connect(if url.is_empty() {
            DEFAULT_BROKER.to_owned()
        } else {
            url
        })
        .await
    }

    /// A broker in this process's memory, for tests. Each call makes another one.
    #[must_use]
    pub fn in_memory() -> Self {
        in_memory(String::new(), Settings::default())
    }
}

fn in_memory(prefix: String, mut settings: Settings) -> App {
    let broker = Arc::new(MemoryBroker::new());
    settings.clock = Clock::tokio();
    settings.rehearsal = Some(Arc::new(Rehearsal::new(broker.clone())));
    App::over(broker, prefix, settings)
}
