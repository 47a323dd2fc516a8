//! What can be set of an app before it connects.

use std::time::Duration;

use crate::app::App;
use crate::broker;
use crate::broker::url::BrokerUrl;
use crate::error::Result;

/// What is the same for everything that an app sends.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) send_timeout: Duration,
    pub(crate) result_timeout: Duration,
    pub(crate) max_message_size: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: std::env::args()
                .next()
                .as_deref()
                .and_then(file_name)
                .unwrap_or("garenne")
                .to_owned(),
            send_timeout: Duration::from_secs(30),
            result_timeout: crate::DAY,
            max_message_size: 8 * 1024 * 1024,
        }
    }
}

fn file_name(path: &str) -> Option<&str> {
    std::path::Path::new(path).file_name()?.to_str()
}

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

    /// How long sending a call may take, the wait for a broker that is away included; 30 s unless set.
    pub fn send_timeout(mut self, timeout: Duration) -> Self {
        self.settings.send_timeout = timeout;
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

    /// Connects.
    ///
    /// # Errors
    /// [`InvalidUrl`](crate::Error::InvalidUrl), [`Connect`](crate::Error::Connect).
    pub async fn connect(self) -> Result<App> {
        let url: BrokerUrl = self.url.parse()?;
        let broker = broker::connect(&url, &self.settings.name).await?;
        Ok(App::over(broker, url.prefix, self.settings))
    }
}
