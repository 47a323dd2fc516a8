//! The way to the broker: what calls are sent through and workers are made from. A cheap clone.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::OnceCell;

use crate::broker::url::BrokerUrl;
use crate::broker::{self, Broker, Exchange, Publish, Queue, Replies, Route};
use crate::clock::Clock;
use crate::dead_letters::DeadLetters;
use crate::error::{Error, Result};
use crate::message::{BODY_DEPTH_LIMIT, Message, Origin, format_time, is_deeper};
use crate::rehearsal::Rehearsal;
use crate::reply::{Progress, Reply};
use crate::retry::LONGEST_DELAY;
use crate::waiters::{Waiters, Waiting};

/// Declared names remembered; more are forgotten, which costs no more than declaring again.
const DECLARED_LIMIT: usize = 10_000;

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
    declared: Mutex<HashSet<String>>,
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

/// What an app is given to send: a message, and what must be there before it.
pub(crate) struct Outgoing {
    pub(crate) message: Message,
    pub(crate) route: Route,
    pub(crate) queue: Queue,
    pub(crate) exchange: Option<Exchange>,
    pub(crate) delay: Duration,
    pub(crate) wants_reply: bool,
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
            declared: Mutex::default(),
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
        self.declare_queue(&queue.prefixed(self.prefix())).await
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
        self.forget(&name);
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

    /// Sends a message; returns the wait for its reply, if it wants one.
    pub(crate) async fn send(&self, outgoing: Outgoing) -> Result<Option<Arc<Waiting>>> {
        let deadline = self.send_timeout();
        let route = outgoing.route.to_string();
        // Everything on the way has a deadline of its own; this one is for their sum.
        tokio::time::timeout(deadline + crate::SECOND, self.publish(outgoing))
            .await
            .unwrap_or(Err(Error::Unconfirmed {
                route,
                waited: deadline,
            }))
    }

    async fn publish(&self, outgoing: Outgoing) -> Result<Option<Arc<Waiting>>> {
        let Outgoing {
            mut message,
            route,
            queue,
            exchange,
            delay,
            wants_reply,
        } = outgoing;
        self.check(&mut message)?;
        let mut waiting = None;
        if wants_reply {
            message.reply_to = Some(self.reply_address().await?.to_owned());
            waiting = Some(self.await_reply(&message.id)?);
        }
        let route = self.physical(route);
        let publish = Publish {
            route,
            message,
            delay,
            deadline: self.send_timeout(),
        };
        match exchange {
            Some(exchange) => {
                self.declare_exchange(&exchange.prefixed(self.prefix()))
                    .await?;
                self.inner.broker.publish(publish).await?;
            }
            None => {
                self.publish_to_queue(&queue.prefixed(self.prefix()), publish)
                    .await?
            }
        }
        #[cfg(feature = "redis")]
        self.follow(waiting.as_deref());
        Ok(waiting)
    }

    /// Makes the message what its origin wants it to be, and refuses it where it is out of bounds.
    pub(crate) fn check(&self, message: &mut Message) -> Result<()> {
        if let Some(origin) = &self.origin {
            message.descend_from(origin);
        }
        message.hide_far_expiry(self.now());
        check_deadline(message)?;
        let (size, limit) = (message.body.len(), self.max_message_size());
        if size > limit {
            let task = message.text("task").unwrap_or_default().to_owned();
            return Err(Error::TooLarge { task, size, limit });
        }
        if is_deeper(&message.body, BODY_DEPTH_LIMIT) {
            let reason = format!(
                "its arguments are nested more than {BODY_DEPTH_LIMIT} deep: no worker could read them"
            );
            return Err(Error::invalid("call", &message.id, reason));
        }
        message
            .check_headers()
            .map_err(|unreadable| Error::invalid("call", &message.id, unreadable.0))
    }

    /// Awaits the reply to the call `id` from now on.
    pub(crate) fn await_reply(&self, id: &str) -> Result<Arc<Waiting>> {
        self.inner.waiters.add(id)
    }

    /// Makes sure that a queue which is known by its name on the broker exists.
    pub(crate) async fn declare_route(&self, route: &Route) -> Result<()> {
        match route {
            Route::Queue(name) => self.declare_queue(&Queue::new(name)).await,
            _ => Ok(()),
        }
    }

    /// The same for a queue that is not there though it was declared.
    pub(crate) async fn declare_anew(&self, route: &Route) -> Result<()> {
        if let Route::Queue(name) = route {
            self.forget(name);
        }
        self.declare_route(route).await
    }

    async fn publish_to_queue(&self, queue: &Queue, publish: Publish) -> Result<()> {
        self.declare_queue(queue).await?;
        match self.inner.broker.publish(publish.clone()).await {
            // Somebody deleted the queue since it was declared.
            Err(Error::Unroutable { .. }) => {
                self.forget(queue.name());
                self.declare_queue(queue).await?;
                self.inner.broker.publish(publish).await
            }
            outcome => outcome,
        }
    }

    fn physical(&self, route: Route) -> Route {
        match route {
            Route::Queue(name) => Route::Queue(format!("{}{name}", self.prefix())),
            Route::Exchange {
                exchange,
                routing_key,
            } => Route::Exchange {
                exchange: format!("{}{exchange}", self.prefix()),
                routing_key,
            },
            // Their names are the wire's already.
            route @ (Route::Reply(_) | Route::Join { .. }) => route,
        }
    }

    async fn declare_queue(&self, queue: &Queue) -> Result<()> {
        if queue.bindings.is_empty() && self.is_declared(queue.name()) {
            return Ok(());
        }
        self.inner.broker.declare(queue).await?;
        self.remember(queue.name());
        Ok(())
    }

    async fn declare_exchange(&self, exchange: &Exchange) -> Result<()> {
        // The kind is part of the key, so that a second kind under one name gets its warning.
        let key = format!("{}:{}", exchange.kind().as_str(), exchange.name());
        if !self.is_declared(&key) {
            self.inner.broker.declare_exchange(exchange).await?;
            self.remember(&key);
        }
        Ok(())
    }

    fn is_declared(&self, name: &str) -> bool {
        self.declared().contains(name)
    }

    fn remember(&self, name: &str) {
        let mut declared = self.declared();
        if declared.len() >= DECLARED_LIMIT {
            declared.clear();
        }
        declared.insert(name.to_owned());
    }

    fn forget(&self, name: &str) {
        self.declared().remove(name);
    }

    fn declared(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.inner
            .declared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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

/// Refuses a call that could never run, since it is due only after its deadline.
fn check_deadline(message: &Message) -> Result<()> {
    match (message.eta(), message.deadline()) {
        (Some(eta), Some(deadline)) if eta >= deadline => {
            let reason = format!(
                "the call is not due before {}, so it could never run (inside a task it inherits the deadline of the task's own call)",
                format_time(eta)
            );
            Err(Error::invalid("deadline", format_time(deadline), reason))
        }
        _ => Ok(()),
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
