//! Settles deliveries: on the channel they came from, or not at all.

use std::sync::Arc;
use std::time::Duration;

use lapin::options::BasicNackOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};
use tokio::sync::{Notify, mpsc, watch};

use super::acks::Acks;
use super::backoff::Backoff;
use super::delay;
use super::joins;
use super::live::{Live, rpc};
use super::send::{Core, Outgoing};
use super::server::Server;
use super::wire::{own, text};
use crate::broker::{
    BoxFuture, Delivery, Publish, Queue, QueueType, Route, Settle, Stale, Unstored, Until,
};
use crate::error::{Error, Result};
use crate::message::{header, is_brokers_own};

/// How long to try to put a message back before the broker is left to do it.
const PUT_BACK_DEADLINE: Duration = Duration::from_secs(5);

/// One consumer's channel for as long as it lives. The last holder closes it.
pub(super) struct Session {
    pub(super) core: Arc<Core>,
    pub(super) queue: Queue,
    /// Where it is as we have declared it.
    pub(super) queue_type: Option<QueueType>,
    /// Shared: a channel is two dozen references, and each acknowledgement needs it.
    pub(super) channel: Arc<Channel>,
    pub(super) live: Arc<Live>,
    pub(super) acks: Acks,
    /// Told of each settlement.
    pub(super) settled: Arc<Notify>,
    /// Where deliveries go.
    pub(super) deliveries: mpsc::WeakSender<Result<Delivery>>,
    pub(super) stale: watch::Sender<bool>,
}

impl Session {
    fn error(&self) -> Error {
        Error::Stale {
            queue: self.queue.name().to_owned(),
        }
    }

    /// A channel that has ended, or whose consumer the server has cancelled, settles nothing any more.
    pub(super) fn check(&self) -> Result<()> {
        match *self.stale.borrow() || !self.channel.status().connected() {
            true => Err(self.error()),
            false => Ok(()),
        }
    }

    fn ack(self: &Arc<Self>, tag: u64) -> Result<()> {
        self.check()?;
        match Acks::ack(self, tag) {
            true => Ok(()),
            false => Err(self.error()),
        }
    }

    async fn nack(&self, tag: u64) -> Result<()> {
        self.check()?;
        let options = BasicNackOptions {
            requeue: true,
            ..BasicNackOptions::default()
        };
        let nack = self.channel.basic_nack(tag, options);
        let done = self.live.guard(rpc(nack)).await;
        done.map_err(|_| self.error())?;
        // Not before it is written: it would be acknowledged with those that come after it.
        self.acks.given_back(tag);
        self.settled.notify_one();
        Ok(())
    }

    /// Whether the broker takes a message back without counting that as a failed delivery.
    async fn takes_back_freely(&self) -> bool {
        if self.queue_type != Some(QueueType::Quorum) {
            return false;
        }
        let topology = self.core.topology.clone();
        let server = self
            .core
            .transport
            .run(async move { topology.server().await });
        server.await.is_ok_and(Server::takes_back_freely)
    }
}

/// What settles one delivery.
pub(super) struct Settler {
    pub(super) session: Arc<Session>,
    pub(super) tag: u64,
    /// The message as it came, for putting a copy back.
    pub(super) properties: BasicProperties,
    pub(super) body: Arc<Vec<u8>>,
    /// How often it came back before this delivery.
    pub(super) past: u32,
    /// The exchange that it came through, unless it was published to its queue, and its key.
    pub(super) origin: Option<(String, String)>,
    pub(super) settled: bool,
}

/// What is to be published before a delivery is acknowledged.
struct Translated {
    is_reply: bool,
    outgoing: Result<Outgoing>,
}

impl Translated {
    fn of(publish: Publish) -> Self {
        Self {
            is_reply: matches!(publish.route, Route::Reply(_)),
            outgoing: Outgoing::new(publish),
        }
    }
}

impl Settler {
    async fn finish(&mut self, first: Vec<Translated>) -> Result<(), Unstored> {
        for (stored, publish) in first.into_iter().enumerate() {
            let unstored = |error| Unstored { error, stored };
            self.session.check().map_err(unstored)?;
            let Translated { is_reply, outgoing } = publish;
            let sent = match outgoing {
                Ok(mut outgoing) => {
                    if !is_reply {
                        outgoing.wait_for_room();
                    }
                    self.publish(&mut outgoing).await
                }
                Err(error) => Err(error),
            };
            match sent {
                Ok(()) => {}
                Err(error @ Error::Stale { .. }) => return Err(unstored(error)),
                // Doing the work again would not get the reply through either.
                Err(error) if is_reply => {
                    let queue = self.session.queue.name();
                    tracing::error!(queue, %error, "a reply cannot be delivered; the work stands");
                }
                Err(error) => {
                    let queue = self.session.queue.name();
                    tracing::error!(queue, %error, "a delivery cannot be settled");
                    // Dropped unsettled, the message goes back.
                    return Err(unstored(error));
                }
            }
        }
        self.settled = true;
        Ok(self.session.ack(self.tag)?)
    }

    /// Publishes until it is confirmed, as long as the delivery is valid.
    async fn publish(&self, outgoing: &mut Outgoing) -> Result<()> {
        let stale = Stale::new(self.session.stale.subscribe());
        let core = &self.session.core;
        let mut backoff = Backoff::default();
        let mut mended = false;
        loop {
            backoff.wait().await;
            let sent = tokio::select! {
                sent = core.send(outgoing) => sent,
                () = stale.stale() => Err(self.session.error()),
            };
            match sent {
                Err(error) if error.is_transient() && !matches!(error, Error::Stale { .. }) => {
                    tracing::warn!(queue = self.session.queue.name(), %error, "trying again");
                    if matches!(error, Error::Unconfirmed { .. }) {
                        outgoing.be_patient();
                    }
                }
                Err(Error::Unroutable { .. }) if !mended && self.is_for_our_dead(outgoing) => {
                    mended = true;
                    let (topology, queue) = (core.topology.clone(), self.session.queue.clone());
                    let mend = async move { topology.mend_dead_letters(&queue).await };
                    Box::pin(core.transport.run(mend)).await?;
                }
                sent => return sent,
            }
        }
    }

    fn is_for_our_dead(&self, outgoing: &Outgoing) -> bool {
        *outgoing.route() == Route::Queue(self.session.queue.dead_letter_name())
    }

    /// Puts the message back as if it had not been delivered.
    async fn put_back(mut self) -> Result<()> {
        self.settled = true;
        self.session.check()?;
        if self.session.takes_back_freely().await {
            return self.session.nack(self.tag).await;
        }
        let past = self.past;
        self.replace(past).await
    }

    /// Counts a delivery that came back, on a queue that does not count: a copy that says so takes the
    /// message's place.
    ///
    /// # Errors
    /// Itself, unsettled, where no copy can be stored.
    pub(super) async fn count(mut self) -> Result<(), Self> {
        let past = self.past.saturating_add(1);
        if let Err(error) = self.store_copy(past).await {
            tracing::debug!(%error, "a redelivery could not be counted");
            return Err(self);
        }
        self.settled = true;
        // Without the acknowledgement it comes again, beside its copy.
        let _ = self.session.ack(self.tag);
        Ok(())
    }

    /// Stores a copy of the message that came back `past` times, then takes this one off the queue.
    async fn replace(&mut self, past: u32) -> Result<()> {
        match self.store_copy(past).await {
            Ok(()) => self.session.ack(self.tag),
            Err(error) => {
                let queue = self.session.queue.name();
                tracing::debug!(queue, %error, "no copy can be stored: the broker takes the message back");
                self.session.nack(self.tag).await
            }
        }
    }

    async fn store_copy(&self, past: u32) -> Result<()> {
        let headers = self.properties.headers().clone().unwrap_or_default();
        let headers = self.headers_of_copy(&headers, past);
        let properties = self.properties.clone().with_headers(headers);
        let body = self.body.clone();
        let route = Route::Queue(self.session.queue.name().to_owned());
        // It would only be waited for: by a worker that stops, with no time to lose.
        if let Some(reason) = &*self.session.core.transport.publishing.blocked().borrow() {
            return Err(Error::Blocked {
                route: route.to_string(),
                reason: reason.clone(),
                waited: Duration::ZERO,
            });
        }
        let zero = Duration::ZERO;
        let mut copy = Outgoing::raw(route, properties, body, zero, PUT_BACK_DEADLINE)?;
        self.session.core.send(&mut copy).await
    }

    fn headers_of_copy(&self, headers: &FieldTable, past: u32) -> FieldTable {
        let mut copy = FieldTable::default();
        for (name, value) in headers {
            let name_str = name.as_str();
            let dropped =
                is_brokers_own(name_str) || delay::is_ours(name_str) || joins::is_ours(name_str);
            if !dropped && ![header::DELIVERIES, header::RETURNED].contains(&name_str) {
                copy.insert(name.clone(), value.clone());
            }
        }
        copy.insert(own(header::RETURNED), AMQPValue::Boolean(true));
        if past > 0 {
            let past = i32::try_from(past).unwrap_or(i32::MAX);
            copy.insert(own(header::DELIVERIES), AMQPValue::LongInt(past));
        }
        if let Some((exchange, key)) = &self.origin {
            copy.insert(own(header::EXCHANGE), text(exchange));
            copy.insert(own(header::ROUTING_KEY), text(key));
        }
        copy
    }

    /// A stand-in that settles what `self` is dropped with.
    fn take(&mut self) -> Self {
        self.settled = true;
        Self {
            session: self.session.clone(),
            tag: self.tag,
            properties: std::mem::take(&mut self.properties),
            body: std::mem::take(&mut self.body),
            past: self.past,
            origin: self.origin.take(),
            settled: false,
        }
    }
}

impl Settle for Settler {
    fn ack(&mut self, first: Vec<Publish>, until: Until) -> BoxFuture<'_, Result<(), Unstored>> {
        let first = first.into_iter().map(Translated::of).collect();
        Box::pin(async move {
            self.finish(first).await?;
            match until {
                Until::Arrived if !Acks::arrived(&self.session).await => {
                    Err(self.session.error().into())
                }
                _ => Ok(()),
            }
        })
    }

    fn release(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(self.put_back())
    }
}

impl Drop for Settler {
    fn drop(&mut self) {
        if self.settled || self.session.check().is_err() {
            return;
        }
        let left = self.take();
        let transport = self.session.core.transport.clone();
        let returning = Acks::returning(&self.session);
        transport.spawn(async move {
            let _returning = returning;
            if let Err(error) = left.put_back().await {
                tracing::debug!(%error, "a delivery was dropped with its channel");
            }
        });
    }
}
