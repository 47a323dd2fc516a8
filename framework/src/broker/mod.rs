//! The contract of a broker: it carries messages to queues and replies to who awaits them, and knows
//! nothing of tasks. Its implementations are [`memory`], `sqlite` and `amqp`; `tests/conformance.rs` says
//! what each of them must do.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::error::{Error, Result};
use crate::message::Message;

#[cfg(feature = "amqp")]
pub mod amqp;
mod broadcast;
mod browse;
mod consumer;
mod depth;
mod incoming;
mod join;
mod lease;
pub mod memory;
mod queue;
pub mod routing;
mod shard;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod stale;
pub mod url;

pub use broadcast::{Announcement, BACKLOG, Channel, ChannelKind, Listener};
pub use browse::Browse;
pub use consumer::{Consumer, HoldLimit, MOST_AHEAD, Renew, Subscription};
pub use depth::Depth;
pub use incoming::Incoming;
pub use join::Join;
pub(crate) use join::{KEPT as JOIN_KEPT, check_parts, is_join};
pub use lease::Lease;
pub use queue::{Binding, Exchange, ExchangeKind, HeaderMatch, Queue, QueueType};
pub(crate) use queue::{dead_letter_name, is_reply_queue, validate_routing_key};
pub(crate) use shard::undivided;
pub use stale::Stale;
pub(crate) use stale::Standing;

/// A future that a broker returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Carries messages and replies.
///
/// Names of queues and exchanges reach a broker as they are on the wire. Every method may be called from
/// any thread, and gives up with an error rather than wait for ever.
pub trait Broker: Send + Sync + 'static {
    /// Makes sure that the queue, its dead-letter queue and its bindings (and their exchanges) exist.
    ///
    /// A queue that exists with other arguments is used as it is, with a warning that names the
    /// difference.
    fn declare<'a>(&'a self, queue: &'a Queue) -> BoxFuture<'a, Result<()>>;

    /// Makes sure that the exchange exists.
    fn declare_exchange<'a>(&'a self, exchange: &'a Exchange) -> BoxFuture<'a, Result<()>>;

    /// Stores a message durably; resolves when the broker has confirmed it.
    ///
    /// Polled together, many publishes share the cost of their confirms.
    fn publish(&self, publish: Publish) -> BoxFuture<'static, Result<()>>;

    /// The same for a message to `queue`, which was declared: where somebody has deleted it since, it is declared
    /// again.
    fn publish_to<'a>(&'a self, queue: &'a Queue, publish: Publish) -> BoxFuture<'a, Result<()>> {
        let (began, deadline) = (Instant::now(), publish.deadline);
        Box::pin(async move {
            match self.publish(publish.clone()).await {
                Err(Error::Unroutable { .. }) => {
                    let route = publish.route.clone();
                    let again = async move {
                        self.declare(queue).await?;
                        self.publish(publish).await
                    };
                    in_sum(deadline, began, &route, again).await
                }
                outcome => outcome,
            }
        })
    }

    /// Takes messages from a queue, at most `slots` of them unsettled at a time.
    ///
    /// The consumer lives through the loss of the broker's connection: deliveries go on when it is back.
    fn consume<'a>(&'a self, queue: &'a Queue, slots: usize) -> BoxFuture<'a, Result<Consumer>>;

    /// Looks at what is ready in a queue, without taking it.
    ///
    /// # Errors
    /// Where the queue does not exist.
    fn browse<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Box<dyn Browse>>>;

    /// Opens this app's own reply queue. Called at most once for each broker.
    fn replies(&self) -> BoxFuture<'_, Result<Replies>>;

    /// Tells every worker, those that start later too, that the call `id`, which is due or nearly so, is not to
    /// be run.
    fn cancel<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        self.cancel_delayed(id, Duration::ZERO)
    }

    /// As [`cancel`](Self::cancel), of a call that is due after `due_in`: it is remembered for a day from then on.
    fn cancel_delayed<'a>(&'a self, id: &'a str, due_in: Duration) -> BoxFuture<'a, Result<()>>;

    /// The ids of cancelled calls: those known now, and a channel of those to come.
    fn cancellations(&self) -> BoxFuture<'_, Result<Cancellations>>;

    /// Listens to a channel under a name, through losses of the connection.
    ///
    /// # Errors
    /// Where the broker refuses: a name on the control channel that somebody else has, for one.
    fn listen<'a>(&'a self, channel: &'a Channel, name: &'a str)
    -> BoxFuture<'a, Result<Listener>>;

    /// Tells all who listen, and waits for nobody; who is behind by [`BACKLOG`] messages misses some. That nobody
    /// listens is no error.
    fn announce(&self, announcement: Announcement) -> BoxFuture<'static, Result<()>>;

    /// Whether somebody may be listening, as far as that is known without asking: RabbitMQ does not tell.
    fn may_be_heard(&self, channel: &Channel) -> bool;

    /// Opens a join, with its body in it. Opening one that is open, or has fired, changes nothing.
    ///
    /// # Errors
    /// Where the name is no join's, or the body's queue does not exist.
    fn open_join(&self, join: Join) -> BoxFuture<'static, Result<()>>;

    /// Fires a join if it is complete, or with `fire` in any case: for parts whose publisher died before it
    /// looked. No error if the join has fired or is gone. `parts` is as in [`Route::Join`].
    fn check_join<'a>(&'a self, join: &'a str, parts: u32, fire: bool)
    -> BoxFuture<'a, Result<()>>;

    /// The parts that have come to a join, each once, in no order; `None` if there is no such join (any
    /// more). Those that follow are left out as soon as the bodies of those read have more than `most` bytes
    /// together, so that who gets more knows that there may be others.
    fn parts<'a>(
        &'a self,
        join: &'a str,
        most: usize,
    ) -> BoxFuture<'a, Result<Option<Vec<Message>>>>;

    /// Forgets a join with its parts, and its body, unless that has been delivered; one that is gone is no
    /// error.
    fn close_join<'a>(&'a self, join: &'a str) -> BoxFuture<'a, Result<()>>;

    /// How much waits in a queue.
    ///
    /// # Errors
    /// Where the queue does not exist.
    fn depth<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Depth>>;

    /// How many messages wait for their time, on their way to any queue.
    fn delayed(&self) -> BoxFuture<'_, Result<u64>>;

    /// Deletes a queue with all that is in it; a queue that does not exist is no error.
    fn delete<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Waits for its turn, then holds the lease of this name; it is made where there is none. Dropping the
    /// future leaves the queue of those who wait.
    ///
    /// The one call that waits for as long as it takes: another may hold the lease for ever.
    ///
    /// # Errors
    /// Where the broker refuses, or is closed.
    fn lease<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Box<dyn Lease>>>;

    /// The value of the lease of this name, `None` where none was ever written.
    ///
    /// The embedded brokers show it whoever holds the lease. On RabbitMQ it is held for a moment to be read.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where somebody holds it for longer than 10 s, on RabbitMQ.
    fn read_lease<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>>>;

    /// Resolves when the value of a lease may be another than `known`: at once where a broker notices by itself,
    /// otherwise after a second.
    fn lease_changes<'a>(&'a self, name: &'a str, known: Option<&'a [u8]>) -> BoxFuture<'a, ()> {
        let _ = (name, known);
        Box::pin(tokio::time::sleep(Duration::from_secs(1)))
    }

    /// Resolves when the broker has carried out all that was acknowledged, and has back what consumers that are gone did
    /// not start: that the process ends undoes nothing of it. At once where that is so when [`Settle::ack`] returns,
    /// whatever it is [asked](Until) to wait for.
    fn flush(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Settles what is under way and disconnects. Unsettled deliveries go back to their queues.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// Opens the broker that `url` names. `name` tells operators who is connected.
///
/// # Errors
/// [`Error::Connect`] where it cannot be reached, [`Error::InvalidUrl`] where its feature is not built in.
pub async fn connect(url: &url::BrokerUrl, name: &str) -> Result<Arc<dyn Broker>> {
    match url.scheme {
        url::Scheme::Memory => Ok(Arc::new(memory::MemoryBroker::new())),
        #[cfg(feature = "sqlite")]
        url::Scheme::Sqlite => Ok(Arc::new(sqlite::SqliteBroker::open(url).await?)),
        #[cfg(feature = "amqp")]
        url::Scheme::Amqp => Ok(Arc::new(amqp::AmqpBroker::connect(url, name).await?)),
        #[allow(
            unreachable_patterns,
            reason = "reached only in builds without one of the brokers"
        )]
        _ => {
            let _ = name;
            Err(Error::InvalidUrl {
                url: url.to_string(),
                reason: "this build of garenne has no such broker: enable its feature, `amqp` or `sqlite`".into(),
            })
        }
    }
}

/// A message and where it is to go.
#[derive(Debug, Clone)]
pub struct Publish {
    /// Where it goes.
    pub route: Route,
    /// What goes.
    pub message: Message,
    /// How long the broker keeps it before it can be delivered; zero means not at all.
    pub delay: Duration,
    /// How long to try before giving up.
    pub deadline: Duration,
}

/// Does what a message needs before it can be stored and stores it, but not for longer than it is tried for since `began`:
/// each step of that has a deadline of its own, and this one, a second later, is for their sum.
pub(crate) async fn in_sum<T>(
    deadline: Duration,
    began: Instant,
    route: &Route,
    steps: impl Future<Output = Result<T>>,
) -> Result<T> {
    let left = deadline.saturating_add(crate::SECOND);
    let left = left.saturating_sub(began.elapsed());
    timeout(left, steps).await.unwrap_or_else(|_| {
        Err(Error::Unconfirmed {
            route: route.to_string(),
            waited: deadline,
        })
    })
}

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// To a queue, by name. An error if there is none.
    Queue(String),
    /// To all queues that an exchange leads to by its bindings. An error if there is none.
    Exchange {
        /// The exchange's name.
        exchange: String,
        /// The key that its bindings look at.
        routing_key: String,
    },
    /// To a reply queue. No error if it is gone, since nobody waits any more, or if a hostile message has
    /// named a queue for it that is none.
    Reply(String),
    /// To a join, as a part of it: confirmed once the part is stored and, if it was the last, the join's
    /// body is in its queue. No error if the join has fired or is gone, or if a hostile message has named
    /// one that is none. A delay does not hold a part up.
    Join {
        /// The join's name.
        join: String,
        /// How many parts make the join complete: as many as it was opened with.
        parts: u32,
        /// Fires the join though parts are missing.
        fire: bool,
    },
}

impl Route {
    /// Through this exchange with its routing key, or else to the queue.
    pub(crate) fn through(exchange: Option<&(Exchange, String)>, queue: &Queue) -> Self {
        match exchange {
            Some((exchange, routing_key)) => Self::Exchange {
                exchange: exchange.name().to_owned(),
                routing_key: routing_key.clone(),
            },
            None => Self::Queue(queue.name().to_owned()),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(name) => write!(f, "queue `{name}`"),
            Self::Exchange {
                exchange,
                routing_key,
            } => {
                write!(f, "exchange `{exchange}` with routing key `{routing_key}`")
            }
            Self::Reply(name) => write!(f, "reply queue `{name}`"),
            Self::Join { join, .. } => write!(f, "join `{join}`"),
        }
    }
}

/// This app's reply queue.
#[derive(Debug)]
pub struct Replies {
    /// The name to put into `reply_to`.
    pub address: String,
    /// The replies as they come in.
    pub messages: Incoming<Message>,
}

/// What a worker knows of cancelled calls.
#[derive(Debug)]
pub struct Cancellations {
    /// Ids cancelled before, as long as the broker remembers them (a day at least).
    pub known: Vec<String>,
    /// Ids as they are cancelled.
    pub later: mpsc::Receiver<String>,
}

/// How a delivery is settled by the broker that made it. Dropped unused, the message goes back.
pub trait Settle: Send + 'static {
    /// Publishes all of `first` durably, in order, and only then takes the message off its queue.
    ///
    /// A crash at any point repeats work but never loses it. What cannot be published yet is tried again
    /// as long as the delivery is valid. May be called again after an error.
    fn ack(&mut self, first: Vec<Publish>, until: Until) -> BoxFuture<'_, Result<(), Unstored>>;

    /// Gives the message back to its queue, as if it had not been delivered.
    fn release(self: Box<Self>) -> BoxFuture<'static, Result<()>>;
}

/// How far an acknowledgement has come when [`Settle::ack`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// It is on its way, and arrives unless the process or its connection ends: see [`Broker::flush`]. What the broker
    /// may refuse is stored.
    Sent,
    /// The broker has carried it out.
    Arrived,
}

/// Why a delivery is not settled, and how many of the messages that were to go out first are stored.
#[derive(Debug)]
pub struct Unstored {
    /// Why.
    pub error: Error,
    /// How many are stored, counted from the first one.
    pub stored: usize,
}

impl From<Error> for Unstored {
    fn from(error: Error) -> Self {
        Self { error, stored: 0 }
    }
}

/// A message in a worker's hands: settled exactly once, since each way of settling consumes it.
/// Dropped unsettled, it goes back to its queue.
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// The queue it came from.
    pub queue: String,
    /// The exchange it was published to; empty for a queue's own name.
    pub exchange: String,
    /// The key it was published with.
    pub routing_key: String,
    /// Whether it may have been delivered before. A hint, no proof.
    pub redelivered: bool,
    /// How many times it has been delivered, this time included, without being settled or handed back:
    /// above 1, a worker died with it.
    pub deliveries: u32,
    stale: Stale,
    settle: Box<dyn Settle>,
}

impl Delivery {
    /// A delivery of `message` from `queue`, settled through `settle`.
    #[must_use]
    pub fn new(
        queue: impl Into<String>,
        message: Message,
        stale: Stale,
        settle: Box<dyn Settle>,
    ) -> Self {
        let queue = queue.into();
        Self {
            message,
            exchange: String::new(),
            routing_key: queue.clone(),
            queue,
            redelivered: false,
            deliveries: 1,
            stale,
            settle,
        }
    }

    /// Whether the message may have been delivered before. A hint, no proof.
    #[must_use]
    pub fn came_back(&self) -> bool {
        self.redelivered || self.deliveries > 1
    }

    /// Whether and when the delivery becomes void.
    #[must_use]
    pub fn stale(&self) -> &Stale {
        &self.stale
    }

    /// The work is done: what follows from it (a reply, a part of a join) goes out, then the message
    /// leaves its queue.
    ///
    /// # Errors
    /// [`Stale`](crate::Error::Stale) where the message will be delivered again, or may be, because the connection ended
    /// before the broker said that it has the acknowledgement.
    pub async fn ack(mut self, first: impl IntoIterator<Item = Publish>) -> Result<()> {
        let first = first.into_iter().collect();
        let settled = self.settle.ack(first, Until::Arrived).await;
        settled.map_err(|unstored| unstored.error)
    }

    /// As [`ack`](Self::ack), for who can do something else with the delivery where that fails, and does not wait until
    /// the broker has the acknowledgement: see [`Broker::flush`].
    pub(crate) async fn settle(
        mut self: Box<Self>,
        first: Vec<Publish>,
    ) -> Result<(), (Box<Self>, Unstored)> {
        if self.stale.is_stale() {
            let queue = self.queue.clone();
            return Err((self, Error::Stale { queue }.into()));
        }
        let settled = self.settle.ack(first, Until::Sent).await;
        settled.map_err(|unstored| (self, unstored))
    }

    /// The work is to be done again: `copy` is stored, to be delivered after its delay, then this one
    /// leaves its queue.
    ///
    /// # Errors
    /// As for [`ack`](Self::ack).
    pub async fn retry(self, copy: Publish) -> Result<()> {
        self.ack([copy]).await
    }

    /// The work cannot be done: the dead letter is stored, what follows (a reply, a part of a join) goes
    /// out, then the message leaves its queue.
    ///
    /// # Errors
    /// As for [`ack`](Self::ack).
    pub async fn reject(
        self,
        dead: Publish,
        then: impl IntoIterator<Item = Publish>,
    ) -> Result<()> {
        self.ack(std::iter::once(dead).chain(then)).await
    }

    /// Hands the message back, as if it had not been delivered.
    ///
    /// # Errors
    /// As for [`ack`](Self::ack).
    pub async fn release(self) -> Result<()> {
        self.settle.release().await
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("queue", &self.queue)
            .field("id", &self.message.id)
            .field("deliveries", &self.deliveries)
            .finish_non_exhaustive()
    }
}
