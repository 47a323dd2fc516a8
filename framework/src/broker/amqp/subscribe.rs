//! Subscribing: a channel with a consumer on it, for whoever reads a queue, and a worker's session.

use std::sync::Arc;

use futures_util::StreamExt;
use lapin::Channel;
use lapin::message::Delivery as Raw;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use tokio::sync::{Notify, mpsc, watch};

use super::acks::Acks;
use super::connection::{Slot, closed};
use super::live::{Live, Trouble, rpc};
use super::send::Core;
use super::server;
use super::settle::Session;
use super::wire::{own, short};
use crate::broker::{Delivery, Queue};
use crate::error::Result;

/// A channel with a consumer on it.
pub(super) struct Stream {
    pub(super) channel: Channel,
    pub(super) live: Arc<Live>,
    pub(super) deliveries: lapin::Consumer,
}

impl Stream {
    /// The next delivery; `None` or an error when the channel, the consumer or the connection has ended.
    pub(super) async fn next(&mut self) -> Option<lapin::Result<Raw>> {
        tokio::select! {
            biased;
            next = self.deliveries.next() => next,
            () = self.live.ended() => None,
        }
    }
}

/// Opens a channel and consumes from `queue`.
pub(super) async fn open(
    connection: &Slot,
    queue: &str,
    prefetch: u16,
    arguments: FieldTable,
) -> Result<Stream> {
    let refused = |trouble: Trouble| trouble.refused(format!("to consume from queue `{queue}`"));
    let live = connection.get().await?;
    let channel = live.channel().await.map_err(refused)?;
    let name = short("queue name", queue)?;
    let consume = async {
        // It holds for consumers that start later, so it comes first.
        rpc(channel.basic_qos(prefetch, BasicQosOptions { global: false })).await?;
        let options = BasicConsumeOptions::default();
        rpc(channel.basic_consume(name, own(""), options, arguments)).await
    };
    let deliveries = live.guard(consume).await.map_err(refused)?;
    Ok(Stream {
        channel,
        live,
        deliveries,
    })
}

/// A session, and what comes.
pub(super) type Opened = (Arc<Session>, lapin::Consumer);

/// A session that is to be opened.
pub(super) struct Opening {
    pub(super) core: Arc<Core>,
    pub(super) queue: Queue,
    pub(super) prefetch: u16,
    /// How many acknowledgements are to go out together.
    pub(super) group: usize,
    pub(super) settled: Arc<Notify>,
    pub(super) sender: mpsc::WeakSender<Result<Delivery>>,
}

impl Opening {
    pub(super) async fn open(self) -> Result<Opened> {
        if self.core.transport.is_closing() {
            return Err(closed());
        }
        let known = self.core.topology.declare(&self.queue).await?;
        let stream = open(
            &self.core.transport.consuming,
            self.queue.name(),
            self.prefetch,
            server::consumer_arguments(&known),
        );
        let stream = stream.await?;
        let generation = stream.live.generation;
        tracing::debug!(queue = self.queue.name(), generation, "subscribed");
        let session = Arc::new(Session {
            core: self.core,
            queue: self.queue,
            queue_type: known.queue_type,
            channel: Arc::new(stream.channel),
            live: stream.live,
            acks: Acks::new(self.group),
            settled: self.settled,
            deliveries: self.sender,
            stale: watch::channel(false).0,
        });
        session.core.remember(&session);
        Ok((session, stream.deliveries))
    }
}
