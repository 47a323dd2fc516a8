//! Consuming: a task for each consumer that keeps a channel open through every loss, and forwards what
//! comes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::Channel;
use lapin::message::Delivery as Raw;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::backoff::Backoff;
use super::connection::closed;
use super::delay;
use super::joins;
use super::live::{Live, Trouble, rpc};
use super::send::Core;
use super::server;
use super::settle::{Session, Settler};
use super::topology::EXCHANGE;
use super::transport::Transport;
use super::wire::{self, own, short};
use crate::broker::{Consumer, Delivery, Queue, QueueType, Renew, Stale, Subscription};
use crate::error::{Error, Result};
use crate::message::{Message, header};

/// How long the server may refuse what it allowed before that is taken for its last word: whoever took a
/// permission away by mistake has this long to give it back.
const REFUSED_LIMIT: Duration = Duration::from_secs(60);
/// How long a consumer is tried to be started in spite of troubles that pass.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How long to wait for the end of a cancelled stream, which a dying channel may not give.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// A session that ended sooner was none, so the next attempt waits.
const SHORT_LIFE: Duration = Duration::from_secs(1);
const OUTLIVE_TICK: Duration = Duration::from_millis(100);

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
    transport: &Transport,
    queue: &str,
    prefetch: u16,
    arguments: FieldTable,
) -> Result<Stream> {
    let refused = |trouble: Trouble| trouble.refused(format!("to consume from queue `{queue}`"));
    let live = transport.consuming.get().await?;
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

/// Starts a consumer; the queue is declared and consumed from when this returns.
pub(super) async fn start(core: Arc<Core>, queue: Queue, slots: usize) -> Result<Consumer> {
    let slots = slots.max(1);
    let (sender, deliveries) = mpsc::channel(slots);
    let (stop, stopped) = watch::channel(false);
    let (outage, is_out) = watch::channel(None);
    // One wish of each kind is enough: what is made anew meets all.
    let (renew, renewals) = mpsc::channel(2);
    let forwarder = Forwarder {
        core: core.clone(),
        queue,
        prefetch: u16::try_from(slots).unwrap_or(u16::MAX),
        sender,
        stopped,
        outage,
        renewals,
    };
    let task = core.clone();
    let limit = core
        .transport
        .run(async move {
            let first = forwarder.first().await?;
            let limit = task.topology.hold_limit(forwarder.queue.name()).await;
            task.transport.spawn(forwarder.run(first));
            Ok(limit)
        })
        .await?;
    let consumer = Consumer::new(deliveries, move || {
        stop.send_replace(true);
    });
    let consumer = consumer.limited(limit);
    Ok(consumer.subscribed(Subscription::new(is_out, move |what| {
        // An error means that such wishes wait already, or that the consumer has ended.
        let _ = renew.try_send(what);
    })))
}

/// Why a session ended.
enum End {
    Stopped,
    Lost(String),
    /// Asked for: deliveries of the old channel stay valid.
    Renewed,
}

struct Forwarder {
    core: Arc<Core>,
    queue: Queue,
    prefetch: u16,
    sender: mpsc::Sender<Result<Delivery>>,
    stopped: watch::Receiver<bool>,
    /// Why nothing can be delivered, while that is so.
    outage: watch::Sender<Option<String>>,
    renewals: mpsc::Receiver<Renew>,
}

type Opened = (Arc<Session>, lapin::Consumer);

impl Forwarder {
    async fn run(mut self, first: Opened) {
        let mut opened = first;
        let mut backoff = Backoff::default();
        loop {
            let since = Instant::now();
            let (session, deliveries) = opened;
            let end = self.forward(&session, deliveries).await;
            let queue = self.queue.name();
            match end {
                End::Stopped => break,
                End::Lost(reason) => {
                    tracing::warn!(
                        queue,
                        reason,
                        "the consumer's channel ended: opening another"
                    );
                    self.outage.send_replace(Some(reason));
                    session.stale.send_replace(true);
                    tokio::spawn(abandon(session));
                }
                End::Renewed => {
                    let reason = "the consumer is subscribed anew".to_owned();
                    self.outage.send_replace(Some(reason));
                }
            }
            if since.elapsed() > SHORT_LIFE {
                backoff.reset();
            }
            match self.reopen(&mut backoff).await {
                Some(again) => opened = again,
                None => break,
            }
            self.outage.send_replace(None);
        }
        if self.queue.exclusive {
            let _ = self.core.topology.delete(self.queue.name()).await;
        }
    }

    /// The first session. The server may lose its connection over a quorum queue that somebody else has just
    /// declared and that is not up yet (RabbitMQ 3.10).
    async fn first(&self) -> Result<Opened> {
        let mut backoff = Backoff::default();
        let end = Instant::now() + START_LIMIT;
        loop {
            backoff.wait().await;
            match self.session().await {
                Err(error) if error.is_transient() && Instant::now() < end => {
                    tracing::warn!(queue = self.queue.name(), %error, "cannot consume yet");
                }
                opened => return opened,
            }
        }
    }

    /// The next session; `None` if there is to be none.
    async fn reopen(&self, backoff: &mut Backoff) -> Option<Opened> {
        let mut refused = None;
        let mut told = String::new();
        loop {
            tokio::select! {
                () = stop(&self.stopped, &self.core) => return None,
                () = backoff.wait() => {}
            }
            let opened = tokio::select! {
                () = stop(&self.stopped, &self.core) => return None,
                opened = self.session() => opened,
            };
            match opened {
                Ok(opened) => return Some(opened),
                Err(Error::Closed { .. }) => return None,
                Err(error) => {
                    let reason = error.to_string();
                    if reason != told {
                        tracing::warn!(queue = self.queue.name(), %error, "cannot consume yet");
                        told.clone_from(&reason);
                    }
                    self.outage.send_replace(Some(reason));
                    if error.is_transient() {
                        refused = None;
                    } else if refused.get_or_insert_with(Instant::now).elapsed() > REFUSED_LIMIT {
                        let _ = self.sender.send(Err(error)).await;
                        return None;
                    }
                }
            }
        }
    }

    async fn session(&self) -> Result<Opened> {
        if self.core.transport.is_closing() {
            return Err(closed());
        }
        let known = self.core.topology.declare(&self.queue).await?;
        let transport = &self.core.transport;
        let stream = open(
            transport,
            self.queue.name(),
            self.prefetch,
            server::consumer_arguments(&known),
        );
        let stream = stream.await?;
        let generation = stream.live.generation;
        tracing::debug!(queue = self.queue.name(), generation, "subscribed");
        let session = Arc::new(Session {
            core: self.core.clone(),
            queue: self.queue.clone(),
            queue_type: known.queue_type,
            channel: stream.channel,
            live: stream.live,
            deliveries: self.sender.downgrade(),
            stale: watch::channel(false).0,
        });
        self.core.remember(&session);
        Ok((session, stream.deliveries))
    }

    async fn forward(&mut self, session: &Arc<Session>, mut deliveries: lapin::Consumer) -> End {
        let end = loop {
            let renewal = async {
                match self.renewals.recv().await {
                    Some(what) => what,
                    None => std::future::pending().await,
                }
            };
            let next = tokio::select! {
                biased;
                () = stop(&self.stopped, &self.core) => break End::Stopped,
                next = deliveries.next() => next,
                () = session.live.ended() => return End::Lost("the connection ended".into()),
                what = renewal => match what {
                    Renew::Consumer => break End::Renewed,
                    Renew::Connection => {
                        self.core.transport.consuming.leave(&session.live);
                        return End::Lost("the connection is made anew".into());
                    }
                },
            };
            let raw = match next {
                Some(Ok(raw)) => raw,
                Some(Err(error)) => {
                    let trouble = Trouble::from(error);
                    return End::Lost(server::why_closed(trouble, self.queue.name()));
                }
                None => return End::Lost(server::why_cancelled(self.queue.name())),
            };
            let Some(delivery) = receive(session, raw) else {
                continue;
            };
            tokio::select! {
                // The delivery is dropped with the send, and so goes back.
                () = stop(&self.stopped, &self.core) => break End::Stopped,
                _ = self.sender.send(Ok(delivery)) => {}
            }
        };
        unsubscribe(session, deliveries).await;
        end
    }
}

/// Resolves when the consumer is dropped or the broker closed.
async fn stop(stopped: &watch::Receiver<bool>, core: &Core) {
    let (mut stopped, mut closing) = (stopped.clone(), core.transport.closing());
    tokio::select! {
        _ = stopped.wait_for(|stopped| *stopped) => {}
        _ = closing.wait_for(|closing| *closing) => {}
    }
}

/// Ends a subscription whose deliveries stay valid: those that were not started go back.
async fn unsubscribe(session: &Arc<Session>, mut deliveries: lapin::Consumer) {
    let options = BasicCancelOptions::default();
    let cancel = session.channel.basic_cancel(deliveries.tag(), options);
    let _ = session.live.guard(rpc(cancel)).await;
    let drain = async {
        while let Some(Ok(raw)) = deliveries.next().await {
            drop(receive(session, raw));
        }
    };
    let _ = timeout(DRAIN_TIMEOUT, drain).await;
    tokio::spawn(outlive(session.clone()));
}

/// Ends a session whose deliveries are void.
async fn abandon(session: Arc<Session>) {
    let (channel, live) = (session.channel.clone(), session.live.clone());
    drop(session);
    if channel.status().connected() {
        let _ = live.guard(rpc(channel.close(200, own("bye")))).await;
    }
}

/// Tells those who still work on deliveries of a stopped consumer when their channel ends.
async fn outlive(session: Arc<Session>) {
    while Arc::strong_count(&session) > 1 && session.channel.status().connected() {
        sleep(OUTLIVE_TICK).await;
    }
    session
        .stale
        .send_replace(!session.channel.status().connected());
}

/// A message as a worker gets it; `None` if it is put back with a count first.
fn receive(session: &Arc<Session>, raw: Raw) -> Option<Delivery> {
    let queue = session.queue.name().to_owned();
    // A sender may have written it, too: on a first delivery, or to a queue that counts nothing.
    let broker_counted = wire::count(&raw.properties, "x-delivery-count")
        .filter(|_| raw.redelivered && session.queue_type != Some(QueueType::Classic))
        .map(|count| count.saturating_sub(joins::count_of_move(&raw.properties)));
    let counts = match session.queue_type {
        Some(queue_type) => queue_type == QueueType::Quorum,
        None => {
            broker_counted.is_some() || wire::count(&raw.properties, "x-acquired-count").is_some()
        }
    };
    // No copy with a count can be stored of it: its worker refuses it at once.
    let counts = counts || !wire::fits(&raw.properties);
    let past = wire::count(&raw.properties, header::DELIVERIES)
        .unwrap_or(0)
        .saturating_add(broker_counted.unwrap_or(0));
    let mut message = wire::message(&raw.properties, raw.data.clone());
    let (exchange, routing_key) = origin(&message, &queue, &raw);
    let is_returned = message.headers.remove(header::RETURNED).is_some();
    message.headers.retain(|name, _| {
        let is_ours = delay::is_ours(name) || joins::is_ours(name);
        !is_ours && name != header::EXCHANGE && name != header::ROUTING_KEY
    });
    let settler = Settler {
        session: session.clone(),
        tag: raw.delivery_tag,
        properties: raw.properties,
        body: raw.data,
        past,
        exchange: exchange.clone(),
        routing_key: routing_key.clone(),
        settled: false,
    };
    let stale = Stale::new(session.stale.subscribe());
    let redelivered = raw.redelivered;
    let delivered = move |settler| {
        let mut delivery = Delivery::new(queue, message, stale, Box::new(settler));
        delivery.exchange = exchange;
        delivery.routing_key = routing_key;
        delivery.redelivered = redelivered || past > 0 || is_returned;
        delivery.deliveries = past.saturating_add(1);
        delivery
    };
    if counts || !redelivered {
        return Some(delivered(settler));
    }
    let this = session.clone();
    session.core.transport.spawn(async move {
        // Where no copy can be stored, for an alarm or a full queue, the loss is not counted; but the work
        // is not kept waiting for that, either.
        if let Err(settler) = settler.count().await
            && let Some(sender) = this.deliveries.upgrade()
        {
            // There is a place for each slot; an error means that nobody listens any more.
            let _ = sender.try_send(Ok(delivered(settler)));
        }
    });
    None
}

/// Where messages leave the ladder of delays that Celery builds; a prefix of its own may stand before it.
const CELERY_DUE: &str = "celery_delayed_delivery";
/// That ladder's levels. A delay's binary digits stand before the routing key, a word each.
const CELERY_LEVELS: usize = 28;

/// The routing key that a message had before Celery sent it through its ladder.
fn celery_key(key: &str) -> &str {
    let digits = key.as_bytes().chunks(2).take(CELERY_LEVELS);
    let is_way = digits.clone().count() == CELERY_LEVELS
        && digits.into_iter().all(|word| matches!(word, b"0." | b"1."));
    key.get(2 * CELERY_LEVELS..)
        .filter(|_| is_way)
        .unwrap_or(key)
}

/// The exchange and key that the message was published to: empty for a queue's own name.
fn origin(message: &Message, queue: &str, raw: &Raw) -> (String, String) {
    let key = raw.routing_key.as_str().to_owned();
    if let Some(exchange) = message.text(header::EXCHANGE) {
        let key = message.text(header::ROUTING_KEY).map_or(key, str::to_owned);
        return (exchange.to_owned(), key);
    }
    if raw.exchange.as_str().ends_with(CELERY_DUE) {
        return (String::new(), celery_key(&key).to_owned());
    }
    match delay::destination(&message.headers) {
        Some("") => (String::new(), queue.to_owned()),
        Some(exchange) => (exchange.to_owned(), key),
        None if raw.exchange.as_str() == EXCHANGE => (String::new(), key),
        None => (raw.exchange.as_str().to_owned(), key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn celerys_way_down_its_ladder_is_no_part_of_the_key() {
        let way = "0.".repeat(25) + "1.0.1.";
        assert_eq!(celery_key(&format!("{way}cap.topic")), "cap.topic");
        assert_eq!(celery_key(&way), "");
        for other in ["", "cap", "0.1.cap", &"0.".repeat(27), &format!("2.{way}")] {
            assert_eq!(celery_key(other), other);
        }
    }
}
