//! RabbitMQ: messages confirmed, consumers that live through the loss of their connection, and delays,
//! replies and cancellations kept in queues of the broker, without plugins.
//!
//! lapin is named here only.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::url::BrokerUrl;
use super::{
    Announcement, BoxFuture, Broker, Browse, Cancellations, Channel, Consumer, Depth, Exchange,
    Join, Lease, Listener, Publish, Queue, QueueType, Replies, in_sum, is_join,
};
use crate::error::{Error, Result};
use crate::message::Message;

mod acks;
mod arguments;
mod backoff;
mod broadcast;
mod browse;
mod cancel;
mod collect;
mod confirms;
mod connection;
mod consume;
mod death;
mod delay;
mod dial;
mod flight;
mod gate;
mod handled;
mod ids;
mod joins;
mod lease;
mod live;
mod outbox;
mod probe;
mod properties;
mod publish;
mod pulse;
mod receive;
mod replies;
mod sanitize;
mod send;
mod server;
mod settle;
mod shown;
mod stream;
mod subscribe;
mod topology;
mod transport;
mod unsettled;
mod window;
mod wire;

#[cfg(test)]
mod fuzz_tests;

use connection::closed;
use joins::Joins;
use publish::Publisher;
use send::{Core, Outgoing};
use topology::Topology;
use transport::Transport;

/// How long `close` lets consumers stop, and again the publisher finish.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// How long a request other than a publish may take, reconnecting included.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// A RabbitMQ server, or a cluster of them.
///
/// A thread of its own drives the connections, so that work which keeps other threads busy cannot starve
/// their heartbeats. Dropping the broker ends it without waiting; [`close`](Broker::close) waits.
pub struct AmqpBroker {
    core: Arc<Core>,
    announcer: Arc<broadcast::Announcer>,
}

impl AmqpBroker {
    /// Connects to one of the addresses of `url`, under `name`.
    ///
    /// # Errors
    /// [`Error::Connect`] where none lets us in.
    pub async fn connect(url: &BrokerUrl, name: &str) -> Result<Self> {
        let transport = Transport::start(url, name).await?;
        if url.addresses.len() > 1 && url.queue_type == QueueType::Quorum {
            transport.spawn(pulse::watch(transport.clone()));
        }
        let topology = Arc::new(Topology::new(transport.clone(), url.queue_type));
        let publisher = Arc::new(Publisher::start(&transport).await?);
        // Who names several nodes has a cluster, in which a node may be lost. On a single one replication
        // costs a sync for each reply, and RabbitMQ 3.10 forgets young quorum queues when it is killed.
        let reply_type = match url.addresses.len() {
            1 => QueueType::Classic,
            _ => url.queue_type,
        };
        let joins = Joins::new(
            transport.clone(),
            topology.clone(),
            publisher.clone(),
            url.queue_type,
        );
        let core = Arc::new(Core::new(transport, topology, publisher, joins, reply_type));
        Ok(Self {
            core,
            announcer: Arc::default(),
        })
    }

    /// Runs `work` with the topology on the transport's thread.
    async fn on_topology<T: Send + 'static, F: Future<Output = Result<T>> + Send + 'static>(
        &self,
        work: impl FnOnce(Arc<Topology>) -> F,
    ) -> Result<T> {
        if self.core.transport.is_closing() {
            return Err(closed());
        }
        let done = self.core.transport.run(work(self.core.topology.clone()));
        match timeout(REQUEST_LIMIT, done).await {
            Ok(done) => done,
            Err(_) => Err(Error::Unavailable {
                what: "a request about a queue or an exchange".into(),
                waited: REQUEST_LIMIT,
                reason: self.core.transport.consuming.last_error(),
            }),
        }
    }
}

impl Broker for AmqpBroker {
    fn declare<'a>(&'a self, queue: &'a Queue) -> BoxFuture<'a, Result<()>> {
        let queue = queue.clone();
        Box::pin(
            self.on_topology(|topology| async move { topology.declare(&queue).await.map(|_| ()) }),
        )
    }

    fn declare_exchange<'a>(&'a self, exchange: &'a Exchange) -> BoxFuture<'a, Result<()>> {
        let exchange = exchange.clone();
        Box::pin(
            self.on_topology(|topology| async move { topology.declare_exchange(&exchange).await }),
        )
    }

    fn publish(&self, publish: Publish) -> BoxFuture<'static, Result<()>> {
        let core = self.core.clone();
        // Translated before: the future would have room for the message as it was, too.
        let outgoing = Outgoing::new(publish);
        Box::pin(async move { core.send(&mut outgoing?).await })
    }

    fn publish_to<'a>(&'a self, queue: &'a Queue, publish: Publish) -> BoxFuture<'a, Result<()>> {
        let mut outgoing = match Outgoing::new(publish) {
            Ok(outgoing) => outgoing,
            Err(error) => return Box::pin(ready(Err(error))),
        };
        let began = Instant::now();
        Box::pin(async move {
            match self.core.send(&mut outgoing).await {
                Err(Error::Unroutable { .. }) => {
                    let (deadline, route) = (outgoing.deadline(), outgoing.route().clone());
                    let again = async {
                        self.declare(queue).await?;
                        self.core.send(&mut outgoing).await
                    };
                    Box::pin(in_sum(deadline, began, &route, again)).await
                }
                sent => sent,
            }
        })
    }

    fn consume<'a>(&'a self, queue: &'a Queue, slots: usize) -> BoxFuture<'a, Result<Consumer>> {
        Box::pin(consume::start(self.core.clone(), queue.clone(), slots))
    }

    fn browse<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Box<dyn Browse>>> {
        Box::pin(browse::start(self.core.clone(), queue.to_owned()))
    }

    fn replies(&self) -> BoxFuture<'_, Result<Replies>> {
        Box::pin(replies::start(&self.core))
    }

    fn cancel_delayed<'a>(&'a self, id: &'a str, due_in: Duration) -> BoxFuture<'a, Result<()>> {
        Box::pin(cancel::cancel(&self.core, id, due_in))
    }

    fn cancellations(&self) -> BoxFuture<'_, Result<Cancellations>> {
        Box::pin(cancel::start(&self.core))
    }

    fn listen<'a>(
        &'a self,
        channel: &'a Channel,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Listener>> {
        Box::pin(broadcast::listen(&self.core, channel, name))
    }

    fn announce(&self, announcement: Announcement) -> BoxFuture<'static, Result<()>> {
        let (core, announcer) = (self.core.clone(), self.announcer.clone());
        Box::pin(broadcast::announce(core, announcer, announcement))
    }

    fn may_be_heard(&self, _channel: &Channel) -> bool {
        true
    }

    fn open_join(&self, join: Join) -> BoxFuture<'static, Result<()>> {
        Box::pin(joins::open(self.core.clone(), join))
    }

    fn check_join<'a>(
        &'a self,
        join: &'a str,
        parts: u32,
        fire: bool,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(joins::check(&self.core, join, parts, fire))
    }

    fn parts<'a>(
        &'a self,
        join: &'a str,
        most: usize,
    ) -> BoxFuture<'a, Result<Option<Vec<Message>>>> {
        Box::pin(joins::parts(&self.core, join, most))
    }

    fn close_join<'a>(&'a self, join: &'a str) -> BoxFuture<'a, Result<()>> {
        match is_join(join) {
            true => self.delete(join),
            false => Box::pin(async { Ok(()) }),
        }
    }

    fn depth<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Depth>> {
        let queue = queue.to_owned();
        Box::pin(self.on_topology(|topology| async move { topology.depth(&queue).await }))
    }

    fn delayed(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(self.on_topology(|topology| async move { topology.delayed().await }))
    }

    fn delete<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<()>> {
        let queue = queue.to_owned();
        Box::pin(self.on_topology(|topology| async move { topology.delete(&queue).await }))
    }

    fn lease<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Box<dyn Lease>>> {
        Box::pin(lease::acquire(self.core.clone(), name.to_owned()))
    }

    fn read_lease<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>>> {
        Box::pin(lease::read(&self.core, name))
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.core.flush())
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            // What consumers hold is put back through the publisher, so it goes last.
            let finish = async {
                self.core.transport.stop(CLOSE_LIMIT).await;
                self.core.flush().await;
                self.core.publisher.flush(CLOSE_LIMIT).await;
            };
            // A broker that takes nothing any more must not hold up the end of a process for long.
            let _ = tokio::time::timeout(CLOSE_LIMIT, finish).await;
            self.core.void();
            self.core.transport.disconnect().await;
        })
    }
}

impl Drop for AmqpBroker {
    fn drop(&mut self) {
        self.core.void();
        self.core.transport.abandon();
    }
}
