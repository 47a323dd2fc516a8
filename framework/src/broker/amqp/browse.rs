//! Looks at a queue: its messages are fetched on a channel of the look's own, left unsettled there, and
//! given back in their order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery as Raw;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use tokio::time::{Instant, sleep, timeout};

use super::connection::closed;
use super::death;
use super::live::Trouble;
use super::send::{Core, Outgoing};
use super::shown::{Shared, Shown};
use super::topology::EXCHANGE;
use super::wire::{self, own};
use crate::broker::{BoxFuture, Browse, Delivery, Publish, QueueType, Route, Stale};
use crate::error::Result;

/// How long nothing may come before the queue is asked whether it still has something.
const IDLE: Duration = Duration::from_millis(50);
/// How long to wait for the end of a cancelled stream, which a dying channel may not give.
const DRAIN: Duration = Duration::from_secs(2);
/// How long the server may take to deliver what it says is ready.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait until what was given back is counted as ready.
const TAKEN_BACK: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(5);
const COPY_DEADLINE: Duration = Duration::from_secs(10);
/// Acknowledgements that a server's channel takes without keeping them to itself: half of them.
const ACKS_AT_ONCE: usize = 16;
/// Messages and bytes that are fetched for nothing but their order, and how many at a time.
const REST_COUNT: usize = 10_000;
const REST_SIZE: usize = 32 << 20;
const REST_PAGE: u32 = 500;
/// Looks that a message bears on a queue with a limit on deliveries, which is 20 unless set otherwise.
const LOOKS: u32 = 10;

/// Opens a channel at the queue's head.
pub(super) async fn start(core: Arc<Core>, queue: String) -> Result<Box<dyn Browse>> {
    if core.transport.is_closing() {
        return Err(closed());
    }
    let (this, name) = (core.clone(), queue.clone());
    let opened = core.transport.run(async move {
        let live = this.transport.consuming.get().await?;
        let refused = |trouble: Trouble| trouble.refused(what(&name));
        let channel = live.channel().await.map_err(refused)?;
        let look = Look {
            kind: None,
            page_ends: Vec::new(),
            ahead: VecDeque::new(),
            shared: Arc::new(Shared {
                queue: name.clone(),
                channel,
                live,
                core: this.clone(),
                tags: Mutex::default(),
            }),
            closed: false,
        };
        look.ready().await.map_err(refused)?;
        Ok(look)
    });
    let mut look = opened.await?;
    let topology = core.topology.clone();
    look.kind = core
        .transport
        .run(async move { topology.type_of_dead(&queue).await })
        .await?;
    Ok(Box::new(look))
}

fn what(queue: &str) -> String {
    format!("a look at queue `{queue}`")
}

struct Look {
    shared: Arc<Shared>,
    /// The queue's type, where it is as we declare it. A queue of others' may delete what was given back
    /// too often.
    kind: Option<QueueType>,
    /// The last tag of each page: given back page by page, messages keep their order.
    page_ends: Vec<u64>,
    /// Fetched, but not shown yet.
    ahead: VecDeque<Raw>,
    closed: bool,
}

impl Look {
    /// How many messages are ready.
    async fn ready(&self) -> Result<u32, Trouble> {
        let name = own(&self.shared.queue);
        let options = QueueDeclareOptions::durable().passive();
        let declare = self
            .shared
            .channel
            .queue_declare(name, options, FieldTable::default());
        self.shared
            .rpc(declare)
            .await
            .map(|queue| queue.message_count())
    }

    /// Acknowledges what is settled: with one frame up to the first message that is held, and from there
    /// one by one.
    ///
    /// A server's channel keeps more than 32 acknowledgements for a quorum queue to itself until the first
    /// are on disk, and forgets them when it is closed meanwhile. (A consumer is answered by the queue
    /// itself, after all that came before.)
    async fn flush(&mut self) -> Result<(), Trouble> {
        let (mut settled, held) = {
            let mut tags = self.shared.tags();
            (
                std::mem::take(&mut tags.settled),
                tags.held.first().copied(),
            )
        };
        let channel = self.shared.channel.clone();
        let alone = settled.split_off(&held.unwrap_or(u64::MAX));
        if let Some(last) = settled.last() {
            let options = BasicAckOptions { multiple: true };
            self.shared.rpc(channel.basic_ack(*last, options)).await?;
        }
        for (number, tag) in (1..).zip(alone) {
            self.shared
                .rpc(channel.basic_ack(tag, BasicAckOptions::default()))
                .await?;
            if number % ACKS_AT_ONCE == 0 {
                let ahead = self.fetch(1).await?;
                self.ahead.extend(ahead);
            }
        }
        Ok(())
    }

    async fn page(&mut self, limit: usize) -> Result<Vec<Delivery>> {
        let flushed = self.flush().await;
        flushed.map_err(|_| self.shared.stale())?;
        let queue = self.shared.queue.clone();
        let refused = |trouble: Trouble| trouble.refused(what(&queue));
        let mut shown = Vec::new();
        while shown.len() < limit {
            let ready = self.ready().await.map_err(refused)? as usize;
            let wanted = (limit - shown.len()).min(ready).min(usize::from(u16::MAX));
            if self.ahead.is_empty() && wanted > 0 {
                let fetched = self.fetch(wanted as u16).await.map_err(refused)?;
                self.ahead.extend(fetched);
            }
            if self.ahead.is_empty() {
                break;
            }
            while shown.len() < limit
                && let Some(raw) = self.ahead.pop_front()
            {
                let looks = wire::count(&raw.properties, "x-delivery-count");
                if self.kind.is_none() && looks.is_some_and(|looks| looks >= LOOKS) {
                    self.renew(raw).await?;
                } else {
                    shown.push(self.show(raw)?);
                }
            }
        }
        Ok(shown)
    }

    /// Takes the next `wanted` messages, or as many as there are.
    async fn fetch(&mut self, wanted: u16) -> Result<Vec<Raw>, Trouble> {
        let channel = &self.shared.channel;
        // It holds for consumers that start later: so each page has a consumer of its own.
        self.shared
            .rpc(channel.basic_qos(wanted, BasicQosOptions { global: false }))
            .await?;
        let options = BasicConsumeOptions::default();
        let name = own(&self.shared.queue);
        let consume = channel.basic_consume(name, own(""), options, FieldTable::default());
        let mut deliveries = self.shared.rpc(consume).await?;
        let mut raws = Vec::with_capacity(wanted.into());
        let end = Instant::now() + PATIENCE;
        while raws.len() < usize::from(wanted) {
            match timeout(IDLE, deliveries.next()).await {
                Ok(Some(raw)) => raws.push(raw?),
                Ok(None) => return Err(Trouble::new("the server cancelled the consumer")),
                // Somebody else was given the rest.
                Err(_) if self.ready().await? == 0 => break,
                Err(_) if Instant::now() >= end => {
                    return Err(Trouble::new(format!("nothing came within {PATIENCE:?}")));
                }
                Err(_) => {}
            }
        }
        self.shared
            .rpc(channel.basic_cancel(deliveries.tag(), BasicCancelOptions::default()))
            .await?;
        let drain = async {
            while let Some(Ok(raw)) = deliveries.next().await {
                raws.push(raw);
            }
        };
        let _ = timeout(DRAIN, drain).await;
        let tags = raws.iter().map(|raw| raw.delivery_tag);
        self.shared.tags().held.extend(tags);
        self.page_ends
            .extend(raws.last().map(|raw| raw.delivery_tag));
        Ok(raws)
    }

    fn show(&self, raw: Raw) -> Result<Delivery> {
        let queue = &self.shared.queue;
        let mut message = wire::message(&raw.properties, raw.data);
        death::note(&mut message);
        let settle = Shown {
            shared: self.shared.clone(),
            tag: raw.delivery_tag,
        };
        let mut delivery = Delivery::new(queue, message, Stale::never(), Box::new(settle));
        delivery.redelivered = raw.redelivered;
        if raw.exchange.as_str() != EXCHANGE {
            delivery.exchange = raw.exchange.to_string();
        }
        delivery.routing_key = raw.routing_key.to_string();
        Ok(delivery)
    }

    /// Puts a copy to the queue's end, whose deliveries count from the beginning, in the message's place.
    async fn renew(&self, raw: Raw) -> Result<()> {
        let mut message = wire::message(&raw.properties, raw.data);
        death::note(&mut message);
        let copy = Publish {
            route: Route::Queue(self.shared.queue.clone()),
            message,
            delay: Duration::ZERO,
            deadline: COPY_DEADLINE,
        };
        self.shared.core.send(&mut Outgoing::new(copy)?).await?;
        self.shared.settle(raw.delivery_tag)
    }

    /// Fetches what was not looked at. A quorum queue puts what comes back behind all that came back
    /// before: so the order stays only if everything comes back together.
    async fn fetch_rest(&mut self) -> Result<(), Trouble> {
        let (mut count, mut size) = (0, 0);
        while !self.shared.tags().held.is_empty() && count < REST_COUNT && size < REST_SIZE {
            let ready = self.ready().await?;
            if ready == 0 || ready as usize > REST_COUNT {
                break;
            }
            let raws = self.fetch(ready.min(REST_PAGE) as u16).await?;
            if raws.is_empty() {
                break;
            }
            count += raws.len();
            size += raws.iter().map(|raw| raw.data.len()).sum::<usize>();
        }
        Ok(())
    }

    /// Gives back what is not settled, and waits until the server counts it as ready.
    async fn give_back(&mut self) -> Result<()> {
        self.closed = true;
        let flushed = self.flush().await;
        flushed.map_err(|_| self.shared.stale())?;
        if self.kind != Some(QueueType::Classic)
            && let Err(trouble) = self.fetch_rest().await
        {
            tracing::debug!(queue = self.shared.queue, reason = %trouble.text, "the order may change");
        }
        let held = std::mem::take(&mut self.shared.tags().held);
        let (shared, channel) = (&self.shared, &self.shared.channel);
        let stale = |_| shared.stale();
        // The answer also says that all settlements before it have arrived.
        let others = match self.ready().await {
            Err(trouble) if trouble.is_missing() => return Ok(()),
            ready => ready.map_err(stale)? as usize,
        };
        let mut from = 0;
        for end in &self.page_ends {
            if let Some(last) = held.range(from..=*end).next_back() {
                let options = BasicNackOptions {
                    multiple: true,
                    requeue: true,
                };
                self.shared
                    .rpc(channel.basic_nack(*last, options))
                    .await
                    .map_err(stale)?;
            }
            from = end + 1;
        }
        // Others may take it at once, so that it is never counted: hence the limit.
        let end = Instant::now() + TAKEN_BACK;
        while !held.is_empty() && Instant::now() < end {
            match self.ready().await {
                Ok(ready) if ready as usize >= others + held.len() => break,
                Err(trouble) if trouble.is_missing() => return Ok(()),
                ready => ready.map_err(stale)?,
            };
            sleep(TICK).await;
        }
        let _ = self.shared.rpc(channel.close(200, own("done"))).await;
        Ok(())
    }
}

impl Browse for Look {
    fn next(&mut self, limit: usize) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        Box::pin(self.page(limit))
    }

    fn close(mut self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move { self.give_back().await })
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        let mut left = Self {
            shared: self.shared.clone(),
            kind: self.kind,
            page_ends: std::mem::take(&mut self.page_ends),
            ahead: VecDeque::new(),
            closed: true,
        };
        self.shared.core.transport.spawn(async move {
            // If it fails, the channel's end gives everything back.
            let _ = left.give_back().await;
        });
    }
}
