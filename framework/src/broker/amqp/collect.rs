//! Collects what is in a join's queue on a channel of its own, and gives it back by closing the channel: the
//! server does that in one step, so that nobody else ever sees half of it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
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
use super::topology::Topology;
use super::wire::{self, own};
use crate::broker::Queue;
use crate::broker::join::part_key;
use crate::error::Result;
use crate::message::Message;

/// How long nothing may come before the queue is asked whether it still has something.
const IDLE: Duration = Duration::from_millis(50);
/// How long the server may take to deliver what it says is ready.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a join's queue is collected for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wish {
    /// To let its body go, if as many parts are there, or in any case.
    Fire { parts: u32, fire: bool },
    /// To read its parts.
    Read,
}

impl Wish {
    /// Whether that may be possible with so many messages, the body among them.
    pub(super) fn may_be_granted(self, ready: u64) -> bool {
        match self {
            Self::Fire { parts, fire: false } => ready > u64::from(parts),
            Self::Fire { fire: true, .. } | Self::Read => ready > 0,
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
}

impl Collection {
    /// Collects about `expected` messages, and does what is wished with them if that is possible.
    pub(super) async fn fetch(
        topology: &Topology,
        join: &str,
        wish: Wish,
        expected: u64,
    ) -> Result<Result<Self, Trouble>> {
        topology
            .on_channel(|channel| async move {
                let mut held = Held::default();
                held.fill(&channel, join, wish, expected).await?;
                if held.may_go(wish) {
                    held.let_go(topology, &channel).await?;
                }
                held.drop_doubles(&channel).await?;
                Ok(Self {
                    left: held.count,
                    parts: held.parts.into_values().collect(),
                })
            })
            .await
    }
}

/// What is held.
#[derive(Default)]
struct Held {
    count: u64,
    /// Several, if it was published again on another connection.
    bodies: Vec<u64>,
    /// How many parts the body waits for.
    wanted: u32,
    queue: Option<String>,
    parts: HashMap<String, Message>,
    /// Parts that came again.
    doubles: Vec<u64>,
}

impl Held {
    async fn fill(
        &mut self,
        channel: &Channel,
        join: &str,
        wish: Wish,
        expected: u64,
    ) -> Result<(), Trouble> {
        // Said aloud: for no limit quorum queues have one of their own.
        let options = BasicQosOptions { global: false };
        rpc(channel.basic_qos(u16::MAX, options)).await?;
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let consume = channel.basic_consume(own(join), own(""), options, none);
        let mut deliveries = rpc(consume).await?;
        let end = Instant::now() + PATIENCE;
        while self.count < expected && !self.may_go(wish) {
            match timeout(IDLE, deliveries.next()).await {
                Ok(Some(raw)) => self.take(raw?, wish),
                Ok(None) => return Err(Trouble::new("the server cancelled the consumer")),
                // Somebody else was faster.
                Err(_) if ready(channel, join).await? == 0 => break,
                Err(_) if Instant::now() >= end => {
                    return Err(Trouble::new(format!("nothing came within {PATIENCE:?}")));
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn take(&mut self, raw: Raw, wish: Wish) {
        self.count += 1;
        if let Some(wanted) = wire::count(&raw.properties, PARTS) {
            self.wanted = wanted;
            let headers = raw.properties.headers().as_ref();
            self.queue = match headers.and_then(|headers| headers.inner().get(QUEUE)) {
                Some(AMQPValue::LongString(queue)) => Some(queue.to_string()),
                _ => None,
            };
            self.bodies.push(raw.delivery_tag);
            return;
        }
        let (tag, properties) = (raw.delivery_tag, raw.properties);
        let data = match wish {
            Wish::Read => raw.data,
            Wish::Fire { .. } => Vec::new(),
        };
        let part = wire::message(&properties, data);
        match self.parts.entry(part_key(&part).to_owned()) {
            Entry::Vacant(first) => drop(first.insert(part)),
            Entry::Occupied(_) => self.doubles.push(tag),
        }
    }

    /// Whether the body is here and has all that it waits for.
    fn may_go(&self, wish: Wish) -> bool {
        let Wish::Fire { parts, fire } = wish else {
            return false;
        };
        let complete = self.parts.len() >= self.wanted.max(parts) as usize;
        !self.bodies.is_empty() && (fire || complete)
    }

    /// Has the server move the body to its queue.
    async fn let_go(&mut self, topology: &Topology, channel: &Channel) -> Result<(), Trouble> {
        if let Some(queue) = &self.queue {
            declare_anew(topology, queue).await?;
        }
        while let Some(body) = self.bodies.pop() {
            self.count -= 1;
            match self.bodies.is_empty() {
                true => {
                    let options = BasicRejectOptions { requeue: false };
                    rpc(channel.basic_reject(body, options)).await?;
                }
                false => rpc(channel.basic_ack(body, BasicAckOptions::default())).await?,
            }
        }
        Ok(())
    }

    /// Takes off what came again, so that the queue's count tells how many parts there are.
    async fn drop_doubles(&mut self, channel: &Channel) -> Result<(), Trouble> {
        for double in self.doubles.drain(..) {
            self.count -= 1;
            rpc(channel.basic_ack(double, BasicAckOptions::default())).await?;
        }
        Ok(())
    }
}

/// Makes sure that a body's queue exists: a classic queue would lose the body without it.
async fn declare_anew(topology: &Topology, queue: &str) -> Result<(), Trouble> {
    let trouble = |error: crate::error::Error| Trouble::new(error.to_string());
    let found = topology.find(queue).await.map_err(trouble)?;
    if found.is_err_and(|trouble| trouble.is_missing()) {
        let known = topology.known(queue);
        let queue = known.map_or_else(|| Queue::new(queue), |known| known.queue);
        topology.declare(&queue).await.map_err(trouble)?;
    }
    Ok(())
}

/// How many messages are ready.
async fn ready(channel: &Channel, join: &str) -> Result<u32, Trouble> {
    let options = QueueDeclareOptions::durable().passive();
    let declare = channel.queue_declare(own(join), options, FieldTable::default());
    rpc(declare).await.map(|queue| queue.message_count())
}
