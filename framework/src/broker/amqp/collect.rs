//! Collects what is in a join's queue on a channel of its own, and gives it back by closing the channel: the
//! server does that in one step, so that nobody else ever sees half of it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::Channel;
use lapin::message::Delivery as Raw;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::{Instant, timeout};

use super::joins::{PARTS, QUEUE};
use super::live::{Trouble, rpc};
use super::publish::{Publisher, Request};
use super::topology::Topology;
use super::wire::{self, own};
use crate::broker::Queue;
use crate::broker::join::part_key;
use crate::error::{Error, Result};
use crate::message::{Message, is_brokers_own};

/// How long nothing may come before the queue is asked whether it still has something.
const IDLE: Duration = Duration::from_millis(50);
/// How long the server may take to deliver what it says is ready.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a join's queue is collected for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wish {
    /// To let its body go, if as many parts are there, or in any case.
    Fire { parts: u32, fire: bool },
    /// To read its parts, until their bodies have more than so many bytes.
    Read { most: usize },
}

impl Wish {
    /// Whether that may be possible with so many messages, the body among them.
    pub(super) fn may_be_granted(self, ready: u64) -> bool {
        match self {
            Self::Fire { parts, fire: false } => ready > u64::from(parts),
            Self::Fire { fire: true, .. } | Self::Read { .. } => ready > 0,
        }
    }
}

/// What was collected.
#[derive(Default)]
pub(super) struct Collection {
    /// How many messages went back.
    pub(super) left: u64,
    /// The parts, each once. Without their bodies unless they were to be read.
    pub(super) parts: Vec<Message>,
    /// Whether there may be more parts than were to be read.
    pub(super) is_cut: bool,
}

impl Collection {
    /// Collects about `expected` messages, and does what is wished with them if that is possible.
    pub(super) async fn fetch(
        topology: &Topology,
        publisher: &Publisher,
        join: &str,
        wish: Wish,
        expected: u64,
    ) -> Result<Result<Self, Trouble>> {
        topology
            .on_channel(|channel| async move {
                let mut held = Held::start(channel, join, wish).await?;
                held.fill(|held| held.count < expected && !held.may_go() && !held.is_full())
                    .await?;
                if held.may_go() {
                    held.let_go(topology, publisher).await?;
                }
                held.drop_doubles().await?;
                Ok(Self {
                    left: held.count,
                    is_cut: held.is_full(),
                    parts: held.parts.into_values().collect(),
                })
            })
            .await
    }
}

/// What is held on a channel.
struct Held<'a> {
    channel: Channel,
    deliveries: lapin::Consumer,
    join: &'a str,
    wish: Wish,
    count: u64,
    /// Of the parts' bodies, in bytes.
    size: usize,
    /// Several, if it was published again.
    bodies: Vec<Raw>,
    parts: HashMap<String, Message>,
    /// Parts that came again.
    doubles: Vec<u64>,
}

impl<'a> Held<'a> {
    async fn start(channel: Channel, join: &'a str, wish: Wish) -> Result<Self, Trouble> {
        // Said aloud: for no limit quorum queues have one of their own.
        let options = BasicQosOptions { global: false };
        rpc(channel.basic_qos(u16::MAX, options)).await?;
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let consume = channel.basic_consume(own(join), own(""), options, none);
        Ok(Self {
            deliveries: rpc(consume).await?,
            channel,
            join,
            wish,
            count: 0,
            size: 0,
            bodies: Vec::new(),
            parts: HashMap::new(),
            doubles: Vec::new(),
        })
    }

    /// Takes what comes, as long as `more` is wanted and there is something.
    async fn fill(&mut self, more: impl Fn(&Self) -> bool) -> Result<(), Trouble> {
        let end = Instant::now() + PATIENCE;
        while more(self) {
            match timeout(IDLE, self.deliveries.next()).await {
                Ok(Some(raw)) => self.take(raw?),
                Ok(None) => return Err(Trouble::new("the server cancelled the consumer")),
                // Somebody else was faster.
                Err(_) if self.ready().await? == 0 => break,
                Err(_) if Instant::now() >= end => {
                    return Err(Trouble::new(format!("nothing came within {PATIENCE:?}")));
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn take(&mut self, raw: Raw) {
        self.count += 1;
        if wire::count(&raw.properties, PARTS).is_some() {
            self.bodies.push(raw);
            return;
        }
        let (tag, properties) = (raw.delivery_tag, raw.properties);
        let data = match self.wish {
            Wish::Read { .. } => raw.data,
            Wish::Fire { .. } => Vec::new(),
        };
        let part = wire::message(&properties, data);
        match self.parts.entry(part_key(&part).to_owned()) {
            Entry::Vacant(first) => {
                self.size = self.size.saturating_add(part.body.len());
                first.insert(part);
            }
            Entry::Occupied(_) => self.doubles.push(tag),
        }
    }

    /// Whether more has been read than is wanted.
    fn is_full(&self) -> bool {
        matches!(self.wish, Wish::Read { most } if self.size > most)
    }

    /// How many messages are ready.
    async fn ready(&self) -> Result<u32, Trouble> {
        let options = QueueDeclareOptions::durable().passive();
        let name = own(self.join);
        let declare = self
            .channel
            .queue_declare(name, options, FieldTable::default());
        rpc(declare).await.map(|queue| queue.message_count())
    }

    /// Whether the body is here and has all that it waits for.
    fn may_go(&self) -> bool {
        let (Wish::Fire { parts, fire }, Some(body)) = (self.wish, self.bodies.first()) else {
            return false;
        };
        let wanted = wire::count(&body.properties, PARTS).unwrap_or(0);
        fire || self.parts.len() >= wanted.max(parts) as usize
    }

    /// Has the server move the body to its queue.
    async fn let_go(&mut self, topology: &Topology, publisher: &Publisher) -> Result<(), Trouble> {
        if let Some(body) = self.bodies.first()
            && let Some(headers) = body.properties.headers()
            && let Some(AMQPValue::LongString(queue)) = headers.inner().get(QUEUE)
        {
            declare_anew(topology, &queue.to_string()).await?;
        }
        if let Some(body) = self.bodies.first()
            && self.bodies.iter().all(is_counted)
        {
            self.store_copy(body, publisher).await?;
            self.fill(|held| held.bodies.iter().all(is_counted)).await?;
        }
        let fresh = self.bodies.iter().position(|body| !is_counted(body));
        let fresh = fresh.ok_or_else(|| Trouble::new("the body's copy did not come"))?;
        let fresh = self.bodies.swap_remove(fresh).delivery_tag;
        // First, or one of them would go by the next collector.
        for old in self.bodies.drain(..) {
            let ack = self
                .channel
                .basic_ack(old.delivery_tag, BasicAckOptions::default());
            rpc(ack).await?;
            self.count -= 1;
        }
        let options = BasicRejectOptions { requeue: false };
        rpc(self.channel.basic_reject(fresh, options)).await?;
        self.count -= 1;
        Ok(())
    }

    /// Puts a copy of a body into the queue whose deliveries have not been counted: RabbitMQ 4 moves the
    /// count with the message, and after a few looks its workers would take it for what has killed others.
    async fn store_copy(&self, body: &Raw, publisher: &Publisher) -> Result<(), Trouble> {
        let mut headers = FieldTable::default();
        for (name, value) in body.properties.headers().iter().flat_map(FieldTable::inner) {
            if !is_brokers_own(name.as_str()) {
                headers.insert(name.clone(), value.clone());
            }
        }
        let request = Arc::new(Request {
            route: format!("join `{}`", self.join),
            exchange: own(""),
            routing_key: own(self.join),
            properties: body.properties.clone().with_headers(headers),
            body: body.data.clone(),
            limit: PATIENCE,
        });
        let trouble = |error: Error| Trouble::new(error.to_string());
        let sent = publisher.submit(&request, Instant::now() + PATIENCE);
        let verdict = sent.await.map_err(trouble)?;
        request.conclude(verdict).map_err(trouble)
    }

    /// Takes off what came again, so that the queue's count tells how many parts there are.
    async fn drop_doubles(&mut self) -> Result<(), Trouble> {
        for double in self.doubles.drain(..) {
            let options = BasicAckOptions::default();
            rpc(self.channel.basic_ack(double, options)).await?;
            self.count -= 1;
        }
        Ok(())
    }
}

/// Whether the queue has counted deliveries of a message.
fn is_counted(raw: &Raw) -> bool {
    let counted = |name| wire::count(&raw.properties, name).is_some_and(|count| count > 0);
    counted("x-delivery-count") || counted("x-acquired-count")
}

/// Makes sure that a body's queue exists: a classic queue would lose the body without it.
async fn declare_anew(topology: &Topology, queue: &str) -> Result<(), Trouble> {
    let trouble = |error: Error| Trouble::new(error.to_string());
    let found = topology.find(queue).await.map_err(trouble)?;
    if found.is_err_and(|trouble| trouble.is_missing()) {
        let known = topology.known(queue);
        let queue = known.map_or_else(|| Queue::new(queue), |known| known.queue);
        topology.declare(&queue).await.map_err(trouble)?;
    }
    Ok(())
}
