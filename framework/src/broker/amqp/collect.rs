//! Collects what is in a join's queue on a channel of its own, and gives it back by closing the channel: the
//! server does that in one step, so that nobody else ever sees half of it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery as Raw;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};
use tokio::time::{Instant, timeout, timeout_at};

use super::joins::{COPY, GOES, PARTS, QUEUE};
use super::live::{Trouble, rpc};
use super::properties::Properties;
use super::publish::{Publisher, Request};
use super::topology::Topology;
use super::wire::{self, own, text};
use crate::broker::join::part_key;
use crate::broker::{Queue, Route};
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
                    parts: held.parts.into_values().map(|(part, _)| part).collect(),
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
    /// Each the name of the copy that goes or has gone, a space, and its own name.
    marks: HashSet<String>,
    /// With their tags, but for those that are marks.
    parts: HashMap<String, (Message, Option<u64>)>,
    /// The smallest part, where the body may go.
    small: Option<(BasicProperties, Arc<Vec<u8>>)>,
    /// What came again.
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
            marks: HashSet::new(),
            parts: HashMap::new(),
            small: None,
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

    /// Takes what has been stored and must come, until nothing of it is `missing`.
    async fn expect(&mut self, missing: impl Fn(&Self) -> bool) -> Result<(), Trouble> {
        let end = Instant::now() + PATIENCE;
        while missing(self) {
            match timeout_at(end, self.deliveries.next()).await {
                Ok(Some(raw)) => self.take(raw?),
                Ok(None) => return Err(Trouble::new("the server cancelled the consumer")),
                Err(_) => {
                    let text = format!("what was stored did not come within {PATIENCE:?}");
                    return Err(Trouble::new(text));
                }
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
        let mark = header(&raw.properties, GOES);
        let is_mark = mark.is_some();
        self.marks.extend(mark);
        let (tag, properties) = (raw.delivery_tag, raw.properties);
        let mut part = wire::message(&properties, raw.data);
        part.headers.remove(GOES);
        let key = part_key(&part).to_owned();
        if is_mark && key.is_empty() {
            return;
        }
        if let Wish::Fire { .. } = self.wish {
            let body = std::mem::take(&mut part.body);
            let can_be_mark = !key.is_empty() && wire::fits(&properties);
            let smaller = |(_, small): &(_, Arc<Vec<u8>>)| body.len() < small.len();
            if can_be_mark && self.small.as_ref().is_none_or(smaller) {
                self.small = Some((properties, body));
            }
        }
        match self.parts.entry(key) {
            Entry::Vacant(first) => {
                self.size = self.size.saturating_add(part.body.len());
                first.insert((part, (!is_mark).then_some(tag)));
            }
            Entry::Occupied(mut first) if is_mark => self.doubles.extend(first.get_mut().1.take()),
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

    /// Whether the body has gone: a mark is stored while its copy is there.
    fn has_gone(&self) -> bool {
        let is_here = |mark: &String| {
            let copy = mark.split(' ').next();
            self.bodies.iter().any(|body| Some(&*name(body)) == copy)
        };
        !self.marks.iter().all(is_here)
    }

    /// Has the server move a copy of the body to its queue, unless one has gone. The others stay until it is known
    /// that the server did.
    async fn let_go(&mut self, topology: &Topology, publisher: &Publisher) -> Result<(), Trouble> {
        if !self.has_gone() {
            let copy = self.prepare(topology, publisher).await?;
            // The mark came last: nothing that was stored before it is held back.
            if !self.has_gone() {
                let options = BasicRejectOptions { requeue: false };
                rpc(self.channel.basic_reject(copy, options)).await?;
                self.count -= 1;
                return Ok(());
            }
        }
        let left = self.bodies.drain(..).map(|body| body.delivery_tag);
        self.doubles.extend(left);
        Ok(())
    }

    /// Makes sure that there is a copy that can go, with a mark of its name. Its delivery tag.
    async fn prepare(
        &mut self,
        topology: &Topology,
        publisher: &Publisher,
    ) -> Result<u64, Trouble> {
        let body = self.bodies.first();
        if let Some(queue) = body.and_then(|body| header(&body.properties, QUEUE)) {
            declare_anew(topology, &queue).await?;
        }
        if let Some(body) = self.bodies.first()
            && self.bodies.iter().all(is_counted)
        {
            self.store_copy(body, publisher).await?;
            self.expect(|held| held.bodies.iter().all(is_counted))
                .await?;
        }
        let fresh = self.bodies.iter().find(|body| !is_counted(body));
        let fresh = fresh.ok_or_else(|| Trouble::new("there is no body"))?;
        let (copy, tag) = (name(fresh), fresh.delivery_tag);
        let mark = format!("{copy} {}", uuid::Uuid::new_v4());
        // It takes a part's place: the queue's count stays that of the parts.
        let (properties, body) = self.small.clone().unwrap_or_default();
        let mut headers = headers_of_copy(&properties);
        headers.insert(own(GOES), text(&mark));
        let properties = properties
            .with_delivery_mode(2)
            // A quorum queue that prioritises delivers it last.
            .with_priority(0)
            .with_headers(headers);
        self.store(properties, body, publisher).await?;
        self.expect(|held| !held.marks.contains(&mark)).await?;
        Ok(tag)
    }

    /// Puts a copy of a body into the queue whose deliveries have not been counted: RabbitMQ 4 moves the
    /// count with the message, and after a few looks its workers would take it for what has killed others.
    async fn store_copy(&self, body: &Raw, publisher: &Publisher) -> Result<(), Trouble> {
        let headers = headers_of_copy(&body.properties);
        let properties = body.properties.clone().with_headers(headers);
        self.store(properties, body.data.clone().into(), publisher)
            .await
    }

    /// Puts a message into the queue.
    async fn store(
        &self,
        properties: BasicProperties,
        body: Arc<Vec<u8>>,
        publisher: &Publisher,
    ) -> Result<(), Trouble> {
        let request = Arc::new(Request {
            route: Route::Queue(self.join.to_owned()),
            exchange: own(""),
            routing_key: own(self.join),
            properties: Properties::new(properties),
            body,
            limit: PATIENCE,
        });
        let trouble = |error: Error| Trouble::new(error.to_string());
        let deadline = Instant::now() + PATIENCE;
        let sent = publisher.submit(&request, deadline);
        let verdict = sent.await.map_err(trouble)?;
        request.conclude(verdict, deadline).map_err(trouble)
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

/// A message's headers without those that the server has added.
fn headers_of_copy(properties: &BasicProperties) -> FieldTable {
    let mut headers = FieldTable::default();
    for (name, value) in properties.headers().iter().flat_map(FieldTable::inner) {
        if !is_brokers_own(name.as_str()) {
            headers.insert(name.clone(), value.clone());
        }
    }
    headers
}

fn header(properties: &BasicProperties, name: &str) -> Option<String> {
    match properties.headers().as_ref()?.inner().get(name) {
        Some(AMQPValue::LongString(text)) => Some(text.to_string()),
        _ => None,
    }
}

/// What tells a copy of a body from the others.
fn name(body: &Raw) -> String {
    header(&body.properties, COPY).unwrap_or_default()
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
