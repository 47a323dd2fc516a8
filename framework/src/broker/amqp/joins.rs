//! Joins: each is a queue that its body waits in, and its parts come to. The body is the first message, and
//! leads out of the queue by being rejected: the server moves it, once, whoever dies meanwhile.
//!
//! Whoever has brought a part looks how many are there, and where that may be all of them, collects them
//! (`collect.rs`). What a collector cannot know (whether another one held something back, whether its own
//! rejection arrived) shows in the queue's count when nobody holds anything any more.
//!
//! A body may be published more than once, and one of its copies arrive after another one has gone. So each
//! copy has a name of its own, and before one goes, a part is stored again as a mark with its name. A mark whose
//! copy is not there says that the join has fired.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel};
use tokio::time::{Instant, sleep, timeout_at};

use super::REQUEST_LIMIT;
use super::arguments;
use super::collect::{Collection, Wish};
use super::connection::closed;
use super::delay::{self, Which};
use super::live::{Live, Trouble, rpc};
use super::publish::Publisher;
use super::send::{Core, Outgoing};
use super::server::UPPER_CLASS;
use super::topology::{EXCHANGE, Topology};
use super::transport::Transport;
use super::wire::{self, own, text};
use crate::broker::join::{note_missing, warn_of_hostile};
use crate::broker::{Depth, Join, QueueType, Route, is_join};
use crate::error::{Error, Result};
use crate::message::Message;

/// How many parts a body waits for. Tells it from them, too.
pub(super) const PARTS: &str = "garenne-join-parts";
/// The queue that a body goes to.
pub(super) const QUEUE: &str = "garenne-join-queue";
/// The name of a body's copy.
pub(super) const COPY: &str = "garenne-join-copy";
/// Makes a part, or a message that is none, a mark: the name of the copy that goes, a space, its own name.
pub(super) const GOES: &str = "garenne-join-goes";
/// How often to look whether another collector is done.
const TICK: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// How often a queue must be found empty to be held for that: the server says so of a quorum queue, too,
/// whose leader does not answer within 250 ms.
const EMPTY: u32 = 3;
/// Channels that are kept to look on.
const SPARE_CHANNELS: usize = 16;

/// Whether the header is ours, to be hidden from who takes the message.
pub(super) fn is_ours(name: &str) -> bool {
    [PARTS, QUEUE, COPY, GOES].contains(&name)
}

/// What a message is written with. A join's body gets another name each time, so that what is published again
/// is another copy.
pub(super) fn name_copy(properties: BasicProperties) -> BasicProperties {
    let headers = properties.headers().as_ref();
    match headers.filter(|headers| headers.inner().contains_key(PARTS)) {
        Some(headers) => {
            let mut headers = headers.clone();
            headers.insert(own(COPY), text(&uuid::Uuid::new_v4().to_string()));
            properties.with_headers(headers)
        }
        None => properties,
    }
}

/// How many of a body's deliveries its own queue has not made: RabbitMQ 4 (which can be told by what it writes
/// of deaths) counts the rejection, and the count goes with the message.
pub(super) fn count_of_move(properties: &BasicProperties) -> u32 {
    let headers = properties.headers().as_ref().map(FieldTable::inner);
    let has = |name| headers.is_some_and(|headers| headers.contains_key(name));
    u32::from(has(PARTS) && has("x-last-death-queue"))
}

type Spare = (Weak<Live>, Channel);

/// What it takes to look at joins.
pub(super) struct Joins {
    transport: Arc<Transport>,
    topology: Arc<Topology>,
    publisher: Arc<Publisher>,
    queue_type: QueueType,
    /// One collector of each join in this process; the others find out that there is nothing left to do.
    collecting: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    spare: Mutex<Vec<Spare>>,
}

impl Joins {
    pub(super) fn new(
        transport: Arc<Transport>,
        topology: Arc<Topology>,
        publisher: Arc<Publisher>,
        queue_type: QueueType,
    ) -> Arc<Self> {
        Arc::new(Self {
            transport,
            topology,
            publisher,
            queue_type,
            collecting: Mutex::default(),
            spare: Mutex::default(),
        })
    }

    fn turn(&self, join: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut collecting = self
            .collecting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = collecting.get(join).and_then(Weak::upgrade) {
            return turn;
        }
        collecting.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        collecting.insert(join.to_owned(), Arc::downgrade(&turn));
        turn
    }

    /// How much is in a join's queue, and how many collect it; `None` if there is none.
    async fn look(&self, join: &str) -> Result<Option<Depth>> {
        let found = match self.look_on_spare(join).await {
            Some(found) => found,
            None => self.topology.find(join).await?,
        };
        match found {
            Ok(queue) => Ok(Some(Depth::new(
                u64::from(queue.message_count()),
                u64::from(queue.consumer_count()),
            ))),
            Err(trouble) if trouble.is_missing() => Ok(None),
            Err(trouble) => Err(trouble.refused(format!("to look at join `{join}`"))),
        }
    }

    /// Asks on a channel that is kept for that: every part asks. `None` if its connection has ended.
    async fn look_on_spare(&self, join: &str) -> Option<Result<lapin::Queue, Trouble>> {
        let spare = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = spare().pop();
        let is_up = |(live, channel): &Spare| {
            let live = live.upgrade().filter(|live| live.is_up());
            live.filter(|_| channel.status().connected())
        };
        let (live, channel) = match kept.and_then(|kept| Some((is_up(&kept)?, kept.1))) {
            Some(up) => up,
            None => {
                let live = self.transport.consuming.get().await.ok()?;
                let channel = live.channel().await.ok()?;
                (live, channel)
            }
        };
        let options = QueueDeclareOptions::durable().passive();
        let declare = channel.queue_declare(own(join), options, FieldTable::default());
        let found = live.guard(rpc(declare)).await;
        if !live.is_up() {
            return None;
        }
        if found.is_ok() {
            let mut spare = spare();
            if spare.len() < SPARE_CHANNELS {
                spare.push((Arc::downgrade(&live), channel));
            }
        }
        Some(found)
    }

    /// Grants `wish`; the parts, `None` if there is no such join.
    async fn collect(&self, join: &str, wish: Wish) -> Result<Option<Vec<Message>>> {
        let may_be_granted = |depth: Depth| depth.ready == 0 || wish.may_be_granted(depth.ready);
        if let Some(depth) = self.look(join).await?
            && depth.consumers == 0
            && !may_be_granted(depth)
        {
            return Ok(Some(Vec::new()));
        }
        let turn = self.turn(join);
        let _turn = turn.lock().await;
        let mut last = Collection::default();
        let mut empty = 0;
        let mut tick = TICK.0;
        loop {
            let Some(depth) = self.look(join).await? else {
                return Ok(None);
            };
            // What is held by somebody is not counted, so only now does the number mean something.
            if depth.consumers > 0 {
                sleep(tick).await;
                tick = TICK.1.min(tick * 2);
                continue;
            }
            let is_known = depth.ready > 0 || empty == EMPTY;
            if is_known && (depth.ready <= last.left || !may_be_granted(depth)) {
                return Ok(Some(last.parts));
            }
            empty = if depth.ready == 0 { empty + 1 } else { 0 };
            let fetched = Collection::fetch(
                &self.topology,
                &self.publisher,
                join,
                wish,
                depth.ready.max(1),
            )
            .await?;
            last = match fetched {
                Ok(collection) if collection.is_cut => return Ok(Some(collection.parts)),
                Ok(collection) => collection,
                Err(trouble) if trouble.is_lasting() && !trouble.is_missing() => {
                    return Err(trouble.refused(format!("to collect join `{join}`")));
                }
                Err(trouble) => {
                    tracing::debug!(join, reason = %trouble.text, "collecting again");
                    sleep(tick).await;
                    Collection::default()
                }
            };
        }
    }

    /// Runs [`collect`](Self::collect) on the transport, but not beyond the deadline.
    async fn collect_by(
        self: &Arc<Self>,
        deadline: Instant,
        join: &str,
        wish: Wish,
    ) -> Result<Option<Vec<Message>>> {
        if self.transport.is_closing() {
            return Err(closed());
        }
        let (start, this, name) = (Instant::now(), self.clone(), join.to_owned());
        let work = async move { this.collect(&name, wish).await };
        match timeout_at(deadline, self.transport.run(work)).await {
            Ok(done) => done,
            Err(_) => Err(Error::Unavailable {
                what: format!("join `{join}`"),
                waited: start.elapsed(),
                reason: self.transport.consuming.last_error(),
            }),
        }
    }
}

/// Opens a join: its queue first, then its body in it.
pub(super) async fn open(core: Arc<Core>, join: Join) -> Result<()> {
    let queue = join.queue()?.to_owned();
    let Join { name, parts, body } = join;
    if core.transport.is_closing() {
        return Err(closed());
    }
    let deadline = Instant::now() + body.deadline;
    let priority = body.message.priority.unwrap_or(0);
    let (properties, bytes) = wire::properties_and_body(body.message)?;
    let (joins, at) = (core.joins.clone(), (name.clone(), queue.clone()));
    let work = async move { joins.park(&at.0, &at.1, priority, body.delay).await };
    let way = match timeout_at(deadline, core.transport.run(work)).await {
        Ok(parked) => parked?,
        Err(_) => {
            return Err(Error::Unavailable {
                what: format!("join `{name}`"),
                waited: body.deadline,
                reason: core.transport.consuming.last_error(),
            });
        }
    };
    let Some(way) = way else {
        return Ok(());
    };
    let mut headers = properties.headers().clone().unwrap_or_default();
    for (name, value) in &way {
        headers.insert(name.clone(), value.clone());
    }
    headers.insert(own(PARTS), AMQPValue::LongLongInt(parts.into()));
    headers.insert(own(QUEUE), text(&queue));
    let properties = properties.with_headers(headers);
    let mut outgoing = Outgoing::raw(
        Route::Queue(name),
        properties,
        bytes,
        Duration::ZERO,
        body.deadline,
    )?;
    core.store(&mut outgoing).await
}

impl Joins {
    /// Declares a join's queue. The headers that lead its body further, `None` if it has one already.
    async fn park(
        &self,
        join: &str,
        queue: &str,
        priority: u8,
        delay: Duration,
    ) -> Result<Option<FieldTable>> {
        let (exchange, headers) = self.lead(queue, priority, delay).await?;
        let arguments = arguments::of_join(self.queue_type, &exchange, queue);
        let declared = match self.declare(join, &arguments).await? {
            // Opened with another body, or its opener was killed before it stored that.
            Err(trouble) if trouble.code == Some(406) => {
                if !self.is_abandoned(join).await? {
                    return Ok(None);
                }
                self.topology.delete(join).await?;
                self.declare(join, &arguments).await?
            }
            declared => declared,
        };
        let is_new = match declared {
            Ok(queue) => queue.message_count() == 0 && queue.consumer_count() == 0,
            // Somebody else was faster.
            Err(trouble) if trouble.code == Some(406) => false,
            Err(trouble) => return Err(trouble.refused(format!("to open join `{join}`"))),
        };
        Ok(is_new.then_some(headers))
    }

    async fn declare(
        &self,
        join: &str,
        arguments: &FieldTable,
    ) -> Result<Result<lapin::Queue, Trouble>> {
        self.topology
            .on_channel(|channel| {
                let (name, arguments) = (own(join), arguments.clone());
                async move {
                    let options = QueueDeclareOptions::durable();
                    rpc(channel.queue_declare(name, options, arguments)).await
                }
            })
            .await
    }

    /// Whether there is nothing in a join's queue, and nobody has it to himself.
    async fn is_abandoned(&self, join: &str) -> Result<bool> {
        let wish = Wish::Read { most: 0 };
        for _ in 0..EMPTY {
            match self.look(join).await? {
                None => return Ok(true),
                Some(depth) if depth.ready > 0 || depth.consumers > 0 => return Ok(false),
                Some(_) => {}
            }
            let fetched = Collection::fetch(&self.topology, &self.publisher, join, wish, 1).await?;
            match fetched {
                Ok(collection) if collection.left == 0 => {}
                Ok(_) => return Ok(false),
                Err(trouble) => return Err(trouble.refused(format!("to look at join `{join}`"))),
            }
        }
        Ok(true)
    }

    /// The exchange that leads to a body's queue, and the headers that it needs to find it.
    async fn lead(
        &self,
        queue: &str,
        priority: u8,
        delay: Duration,
    ) -> Result<(String, FieldTable)> {
        let topology = &self.topology;
        let unroutable = || Error::Unroutable {
            route: Route::Queue(queue.to_owned()).to_string(),
        };
        if !delay.is_zero() {
            let which = match priority >= UPPER_CLASS {
                true => Which::of_urgent(topology.server().await?),
                false => Which::Usual,
            };
            let climb = delay::climb(which, delay, None)?;
            return match topology.lead_to_queue(which, queue).await? {
                true => Ok((climb.exchange, climb.headers)),
                false => Err(unroutable()),
            };
        }
        let mut exchange = topology.exchange_of(queue);
        if topology.known(queue).is_none() {
            topology.base().await?;
            let none = FieldTable::default();
            match topology.bind(queue, EXCHANGE, queue, none).await? {
                Ok(()) => {}
                Err(trouble) if trouble.is_missing() => return Err(unroutable()),
                Err(trouble) if trouble.code == Some(403) => exchange = "",
                Err(trouble) => return Err(trouble.refused(format!("to bind queue `{queue}`"))),
            }
        }
        Ok((exchange.to_owned(), FieldTable::default()))
    }
}

/// Brings a part, and fires its join if it was the last.
pub(super) async fn put(core: &Core, outgoing: &mut Outgoing) -> Result<()> {
    let Route::Join { join, parts, fire } = outgoing.route().clone() else {
        return Ok(());
    };
    if !is_join(&join) {
        warn_of_hostile(&join);
        return Ok(());
    }
    let deadline = Instant::now() + outgoing.deadline();
    let stored = core.store(outgoing).await;
    let unroutable = matches!(stored, Err(Error::Unroutable { .. }));
    if !unroutable {
        stored?;
    }
    let wish = Wish::Fire { parts, fire };
    let there = core.joins.collect_by(deadline, &join, wish).await?;
    match there {
        Some(_) if unroutable => Err(Error::Unavailable {
            what: format!("join `{join}`"),
            waited: Duration::ZERO,
            reason: "its queue took no part".into(),
        }),
        Some(_) => Ok(()),
        None => {
            note_missing(&join);
            Ok(())
        }
    }
}

/// Fires a join that is complete.
pub(super) async fn check(core: &Core, join: &str, parts: u32, fire: bool) -> Result<()> {
    if !is_join(join) {
        warn_of_hostile(join);
        return Ok(());
    }
    let deadline = Instant::now() + REQUEST_LIMIT;
    let wish = Wish::Fire { parts, fire };
    let fired = core.joins.collect_by(deadline, join, wish).await;
    fired.map(drop)
}

/// The parts that are there, until their bodies have more than `most` bytes.
pub(super) async fn parts(core: &Core, join: &str, most: usize) -> Result<Option<Vec<Message>>> {
    if !is_join(join) {
        return Ok(None);
    }
    let deadline = Instant::now() + REQUEST_LIMIT;
    let wish = Wish::Read { most };
    core.joins.collect_by(deadline, join, wish).await
}
