//! The way to the broker: what calls are sent through and workers are made from. A cheap clone.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::OnceCell;

use crate::app_builder::{AppBuilder, Settings};
use crate::broker::memory::MemoryBroker;
use crate::broker::{self, Broker, Exchange, Publish, Queue, Replies, Route};
use crate::call::{Call, Prepared};
use crate::error::{Error, Result};
use crate::handle::{Handle, Waiters};
use crate::reply::Reply;
use crate::send_all::SendAll;

/// Where [`App::from_env`] looks for the broker's URL.
const BROKER_VARIABLE: &str = "GARENNE_BROKER";
/// What [`App::from_env`] takes where the environment names no broker.
const DEFAULT_BROKER: &str = "sqlite://garenne.db";
/// Declared names remembered; more are forgotten, which costs no more than declaring again.
const DECLARED_LIMIT: usize = 10_000;

/// A connection to a broker. Calls are sent through it, workers are made from it.
///
/// Cloning is cheap, and the clones share the connection. It disconnects when it is
/// [closed](Self::close), or when the last clone and all handles and workers made from it are dropped.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    broker: Arc<dyn Broker>,
    settings: Settings,
    prefix: String,
    waiters: Arc<Waiters>,
    reply_address: OnceCell<String>,
    /// Names of queues and exchanges that are known to be declared.
    declared: Mutex<HashSet<String>>,
}

impl App {
    /// Connects to the broker at `url`; see
    /// [`BrokerUrl`](crate::broker::url::BrokerUrl) for what it may say.
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
    /// [`Error::InvalidUrl`], [`Error::Connect`].
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
        Self::over(
            Arc::new(MemoryBroker::new()),
            String::new(),
            Settings::default(),
        )
    }

    pub(crate) fn over(broker: Arc<dyn Broker>, prefix: String, settings: Settings) -> Self {
        Self(Arc::new(Inner {
            broker,
            settings,
            prefix,
            waiters: Arc::default(),
            reply_address: OnceCell::new(),
            declared: Mutex::default(),
        }))
    }

    /// The broker itself, for what calls and workers do not cover. Names of queues and exchanges are
    /// the broker's there: with the URL's prefix, if it has one.
    #[must_use]
    pub fn broker(&self) -> &Arc<dyn Broker> {
        &self.0.broker
    }

    /// What stands before the names of all queues and exchanges on the broker: the URL's `prefix`.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.0.prefix
    }

    pub(crate) fn send_timeout(&self) -> Duration {
        self.0.settings.send_timeout
    }

    pub(crate) fn result_timeout(&self) -> Duration {
        self.0.settings.result_timeout
    }

    pub(crate) fn max_message_size(&self) -> usize {
        self.0.settings.max_message_size
    }

    /// How many replies are awaited at this moment.
    #[must_use]
    pub fn awaited(&self) -> usize {
        self.0.waiters.len()
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
        self.0
            .broker
            .depth(&format!("{}{queue}", self.prefix()))
            .await
    }

    /// Deletes a queue with all that waits in it. Its dead letters stay.
    ///
    /// # Errors
    /// Where the broker refuses; a queue that does not exist is no error.
    pub async fn delete(&self, queue: &str) -> Result<()> {
        let name = format!("{}{queue}", self.prefix());
        self.forget(&name);
        self.0.broker.delete(&name).await
    }

    /// Disconnects. Handles that still wait get a failure, workers made from this app stop.
    pub async fn close(&self) {
        self.0.waiters.close();
        self.0.broker.close().await;
    }

    pub(crate) async fn send<T>(&self, call: Call<T>) -> Result<Handle<T>> {
        let prepared = call.prepare(SystemTime::now())?;
        let deadline = self.send_timeout();
        // Everything on the way has a deadline of its own; this one is for their sum.
        let route = prepared.route.clone();
        tokio::time::timeout(deadline + crate::SECOND, self.dispatch(prepared))
            .await
            .unwrap_or_else(|_| {
                Err(Error::Unconfirmed {
                    route: route.to_string(),
                    waited: deadline,
                })
            })
    }

    async fn dispatch<T>(&self, prepared: Prepared) -> Result<Handle<T>> {
        let Prepared {
            mut message,
            route,
            queue,
            exchange,
            delay,
            wants_reply,
        } = prepared;
        let task = message.text("task").unwrap_or_default().to_owned();
        let (size, limit) = (message.body.len(), self.0.settings.max_message_size);
        if size > limit {
            return Err(Error::TooLarge { task, size, limit });
        }
        let mut waiting = None;
        if wants_reply {
            message.reply_to = Some(self.reply_address().await?.to_owned());
            waiting = Some(self.0.waiters.add(&message.id)?);
        }
        let handle = Handle::new(message.id.clone(), task, self.clone(), waiting);
        let route = self.physical(route);
        let deadline = self.send_timeout();
        let publish = Publish {
            route,
            message,
            delay,
            deadline,
        };
        match exchange {
            Some(exchange) => {
                self.declare_exchange(&exchange.prefixed(self.prefix()))
                    .await?;
                self.0.broker.publish(publish).await?;
            }
            None => {
                self.publish_to_queue(&queue.prefixed(self.prefix()), publish)
                    .await?
            }
        }
        Ok(handle)
    }

    async fn publish_to_queue(&self, queue: &Queue, publish: Publish) -> Result<()> {
        self.declare_queue(queue).await?;
        match self.0.broker.publish(publish.clone()).await {
            // Somebody deleted the queue since it was declared.
            Err(Error::Unroutable { .. }) => {
                self.forget(queue.name());
                self.declare_queue(queue).await?;
                self.0.broker.publish(publish).await
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
            reply @ Route::Reply(_) => reply,
        }
    }

    async fn declare_queue(&self, queue: &Queue) -> Result<()> {
        if queue.bindings.is_empty() && self.is_declared(queue.name()) {
            return Ok(());
        }
        self.0.broker.declare(queue).await?;
        self.remember(queue.name());
        Ok(())
    }

    async fn declare_exchange(&self, exchange: &Exchange) -> Result<()> {
        // The kind is part of the key, so that a second kind under one name gets its warning.
        let key = format!("{}:{}", exchange.kind().as_str(), exchange.name());
        if !self.is_declared(&key) {
            self.0.broker.declare_exchange(exchange).await?;
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
        self.0
            .declared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of this app's reply queue, which is opened when the first call wants a reply.
    async fn reply_address(&self) -> Result<&str> {
        let open = async || {
            let Replies {
                address,
                mut messages,
            } = self.0.broker.replies().await?;
            let waiters = self.0.waiters.clone();
            tokio::spawn(async move {
                while let Some(message) = messages.recv().await {
                    match Reply::decode(&message) {
                        Ok(Some(reply)) => waiters.complete(reply),
                        Ok(None) => {}
                        Err(unreadable) => {
                            tracing::warn!(id = message.id, %unreadable, "ignored a reply")
                        }
                    }
                }
                waiters.close();
            });
            Ok(address)
        };
        self.0
            .reply_address
            .get_or_try_init(open)
            .await
            .map(String::as_str)
    }

    /// Sends many calls at once: their confirms are awaited together.
    ///
    /// The outcomes are one for each call, in the calls' order. Awaited, they come as a vector; as a
    /// stream, they come one by one, and an iterator of a million calls takes the memory of a few
    /// hundred.
    ///
    /// ```standalone_crate
    /// # use garenne::{App, Worker, task};
    /// # #[task]
    /// # async fn add(a: i64, b: i64) -> i64 { a + b }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let app = App::in_memory();
    /// # let worker = Worker::new(&app).queue("default", 4).spawn();
    /// for sent in app.send_all((0..10).map(|n| add::call(n, n))).await {
    ///     println!("{}", sent?.await?);
    /// }
    ///
    /// let mut sending = app.send_all((0..1_000).map(|n| add::call(n, 1).ignore_result()));
    /// while let Some(sent) = sending.next().await {
    ///     sent?;
    /// }
    /// # worker.stop().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn send_all<T, I>(&self, calls: I) -> SendAll<T, I::IntoIter>
    where
        I: IntoIterator<Item = Call<T>>,
        T: 'static,
    {
        SendAll::new(self.clone(), calls.into_iter())
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("name", &self.0.settings.name)
            .finish_non_exhaustive()
    }
}
