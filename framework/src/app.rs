//! The way to the broker: what calls are sent through and workers are made from. A cheap clone.

mod declared;
mod dispatch;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::OnceCell;

use self::declared::Declared;
pub(crate) use self::dispatch::Outgoing;
use crate::broker::url::BrokerUrl;
use crate::broker::{self, Broker, Queue, Replies};
use crate::clock::Clock;
use crate::dead_letters::DeadLetters;
use crate::error::Result;
use crate::message::Origin;
use crate::rehearsal::Rehearsal;
use crate::reply::{Progress, Reply};
use crate::retry::LONGEST_DELAY;
use crate::waiters::Waiters;

/// A connection to a broker. Calls are sent through it, workers are made from it.
///
/// Cloning is cheap, and the clones share the connection. It disconnects when it is
/// [closed](Self::close), or when the last clone and all handles and workers made from it are dropped.
///
/// Replies are read on the tokio runtime that sends the first awaited call: it has to live as long as the
/// app. An app for several short runtimes, such as those of tests, is best made anew in each.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
    /// Set inside a task: the call that what is sent is a child of.
    origin: Option<Arc<Origin>>,
}

struct Inner {
    broker: Arc<dyn Broker>,
    settings: Settings,
    prefix: String,
    waiters: Arc<Waiters>,
    reply_address: OnceCell<String>,
    #[cfg(feature = "redis")]
    results: OnceCell<crate::result_store::ResultStore>,
    /// Names of queues and exchanges that are known to be declared.
    declared: Declared,
}

/// What is the same for everything that an app sends.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) send_timeout: Duration,
    pub(crate) result_timeout: Duration,
    pub(crate) max_message_size: usize,
    pub(crate) accept_msgpack: bool,
    #[cfg(feature = "redis")]
    pub(crate) result_backend: Option<String>,
    #[cfg(feature = "redis")]
    pub(crate) result_expires: Duration,
    pub(crate) clock: Clock,
    /// For the testing kit, of an app in memory.
    pub(crate) rehearsal: Option<Arc<Rehearsal>>,
    /// Where the broker is.
    pub(crate) broker_url: BrokerUrl,
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
            accept_msgpack: false,
            #[cfg(feature = "redis")]
            result_backend: None,
            #[cfg(feature = "redis")]
            result_expires: crate::DAY,
            clock: Clock::default(),
            rehearsal: None,
            broker_url: BrokerUrl::memory(),
        }
    }
}

fn file_name(path: &str) -> Option<&str> {
    std::path::Path::new(path).file_name()?.to_str()
}

impl App {
    pub(crate) fn over(broker: Arc<dyn Broker>, prefix: String, settings: Settings) -> Self {
        let inner = Arc::new(Inner {
            broker,
            settings,
            prefix,
            waiters: Arc::default(),
            reply_address: OnceCell::new(),
            #[cfg(feature = "redis")]
            results: OnceCell::new(),
            declared: Declared::default(),
        });
        Self {
            inner,
            origin: None,
        }
    }

    /// The same app for use inside a task: what is sent through it is a child of `origin`.
    pub(crate) fn inside(&self, origin: Origin) -> Self {
        Self {
            inner: self.inner.clone(),
            origin: Some(Arc::new(origin)),
        }
    }

    /// The time of day by this app's clock. In memory it follows tokio's time, so that tests can pause it.
    pub(crate) fn now(&self) -> SystemTime {
        self.inner.settings.clock.now()
    }

    /// The broker itself, for what calls and workers do not cover. Names of queues and exchanges are
    /// the broker's there: with the URL's prefix, if it has one.
    #[must_use]
    pub fn broker(&self) -> &Arc<dyn Broker> {
        &self.inner.broker
    }

    /// What stands before the names of all queues and exchanges on the broker: the URL's `prefix`.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.inner.prefix
    }

    /// What the testing kit needs, of an app in memory.
    pub(crate) fn rehearsal(&self) -> Option<&Rehearsal> {
        self.inner.settings.rehearsal.as_deref()
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.inner.settings.clock
    }

    pub(crate) fn broker_url(&self) -> &BrokerUrl {
        &self.inner.settings.broker_url
    }

    pub(crate) fn send_timeout(&self) -> Duration {
        self.inner.settings.send_timeout
    }

    pub(crate) fn result_timeout(&self) -> Duration {
        self.inner.settings.result_timeout
    }

    pub(crate) fn max_message_size(&self) -> usize {
        self.inner.settings.max_message_size
    }

    pub(crate) fn accepts_msgpack(&self) -> bool {
        self.inner.settings.accept_msgpack
    }

    /// Where results are kept, once [`connect_results`](Self::connect_results) has connected to it.
    #[cfg(feature = "redis")]
    pub(crate) fn result_cell(&self) -> &OnceCell<crate::result_store::ResultStore> {
        &self.inner.results
    }

    #[cfg(feature = "redis")]
    pub(crate) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    #[cfg(feature = "redis")]
    pub(crate) fn waiters(&self) -> &Arc<Waiters> {
        &self.inner.waiters
    }

    /// How many replies are awaited at this moment.
    #[must_use]
    pub fn awaited(&self) -> usize {
        self.inner.waiters.len()
    }

    /// Makes sure that a queue exists, with its dead-letter queue and its bindings, before any worker or
    /// call needs it.
    ///
    /// # Errors
    /// Where the name is not allowed, or the broker refuses.
    pub async fn declare(&self, queue: impl Into<Queue>) -> Result<()> {
        let queue = queue.into();
        queue.validate()?;
        for shard in queue.each_shard() {
            self.declare_queue(&shard.prefixed(self.prefix())).await?;
        }
        Ok(())
    }

    /// How many messages wait in a queue, and how many consumers take from it.
    ///
    /// # Errors
    /// Where the queue does not exist.
    pub async fn depth(&self, queue: &str) -> Result<broker::Depth> {
        self.inner
            .broker
            .depth(&format!("{}{queue}", self.prefix()))
            .await
    }

    /// How many calls wait for their time: those with a countdown or an eta, and retries. It is the number of the
    /// whole broker, whatever the app's prefix; where the broker knows it for each queue, it is in
    /// [`depth`](Self::depth).
    ///
    /// On RabbitMQ, the news that a call was cancelled which is due in more than 23 hours waits beside the call,
    /// and counts, too.
    ///
    /// # Errors
    /// Where the broker cannot be asked.
    pub async fn delayed(&self) -> Result<u64> {
        self.inner.broker.delayed().await
    }

    /// Asks all workers not to run the call `id`, which is due now or within a day; see
    /// [`Handle::cancel`](crate::Handle::cancel), which knows when its call is due. Of a call that is due later,
    /// say when: [`cancel_delayed`](Self::cancel_delayed).
    ///
    /// # Errors
    /// Where the broker could not be told.
    pub async fn cancel(&self, id: &str) -> Result<()> {
        self.inner.broker.cancel(id).await
    }

    /// As [`cancel`](Self::cancel), of a call that is due at `eta`: brokers remember a cancelled call for a day
    /// from then on.
    ///
    /// # Errors
    /// As for [`cancel`](Self::cancel).
    pub async fn cancel_delayed(&self, id: &str, eta: SystemTime) -> Result<()> {
        let due_in = eta.duration_since(self.now()).unwrap_or_default();
        let due_in = due_in.min(LONGEST_DELAY);
        self.inner.broker.cancel_delayed(id, due_in).await
    }

    /// Deletes a queue with all that waits in it. Its dead letters stay.
    ///
    /// # Errors
    /// Where the broker refuses; a queue that does not exist is no error.
    pub async fn delete(&self, queue: &str) -> Result<()> {
        let name = format!("{}{queue}", self.prefix());
        self.inner.declared.forget(&name);
        self.inner.broker.delete(&name).await
    }

    /// The dead letters of the queue named `queue`: what failed for good there, to be looked at, sent again or
    /// discarded.
    #[must_use]
    pub fn dead_letters(&self, queue: &str) -> DeadLetters {
        DeadLetters::new(self.clone(), queue)
    }

    /// Disconnects. Handles that still wait get a failure, workers made from this app stop.
    pub async fn close(&self) {
        self.inner.waiters.close();
        self.inner.broker.close().await;
    }

    /// The name of this app's reply queue, which is opened when the first call wants a reply.
    pub(crate) async fn reply_address(&self) -> Result<&str> {
        let open = async || {
            let Replies {
                address,
                mut messages,
            } = self.inner.broker.replies().await?;
            let waiters = CloseOnDrop(self.inner.waiters.clone());
            tokio::spawn(async move {
                while let Some(message) = messages.recv().await {
                    match Reply::decode(&message) {
                        Ok(Some(reply)) => {
                            let id = message.correlation_id.as_deref().unwrap_or(&reply.id);
                            waiters.0.complete(id, reply.outcome);
                        }
                        Ok(None) => {
                            if let Some(Progress { id, value }) = Progress::decode(&message) {
                                let id = message.correlation_id.as_deref().unwrap_or(&id);
                                waiters.0.tell(id, value);
                            }
                        }
                        Err(unreadable) => {
                            tracing::warn!(id = message.id, %unreadable, "ignored a reply")
                        }
                    }
                }
            });
            Ok(address)
        };
        self.inner
            .reply_address
            .get_or_try_init(open)
            .await
            .map(String::as_str)
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("name", &self.inner.settings.name)
            .finish_non_exhaustive()
    }
}

/// Tells all who wait that no reply will come any more: the broker was closed, or the runtime that read the
/// replies has ended.
struct CloseOnDrop(Arc<Waiters>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}
