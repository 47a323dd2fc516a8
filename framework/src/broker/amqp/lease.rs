//! Leases: a queue with a single active consumer, and in it one message, the *token*, whose body is the value.
//! Who is the active consumer and has the token unsettled, holds the lease; when it dies, the server gives the
//! token to the next. A write publishes the next version, waits until it is delivered here, which proves that
//! the lease is held, and acknowledges the old one.
//!
//! There may be several tokens after a crash between the two, or where two made the queue at the same time: the
//! highest version counts.

use std::sync::Arc;
use std::time::Duration;

use lapin::message::Delivery as Raw;
use lapin::options::BasicAckOptions;
use lapin::types::FieldTable;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::backoff::Backoff;
use super::connection::closed;
use super::live::rpc;
use super::send::{Core, Outgoing};
use super::subscribe::{self, Stream};
use super::topology::EXCHANGE;
use super::wire::{self, own};
use super::{REQUEST_LIMIT, arguments};
use crate::broker::{BoxFuture, Lease, Publish, QueueType, Route, Stale};
use crate::error::{Error, Result};
use crate::message::Message;

/// The header that counts a token's writes.
const VERSION: &str = "garenne-version";
/// More tokens than there can be but after many crashes.
const PREFETCH: u16 = 64;
/// How long who waits may get nothing before it adds a first token, in case there is none: who holds the lease
/// drops it.
const NUDGE: Duration = Duration::from_secs(5);
/// How long to wait for more tokens after the last one; longer where it has no value.
const MORE: Duration = Duration::from_millis(20);
const MORE_THAN_NOTHING: Duration = Duration::from_millis(300);
/// How often the token is renewed: the server takes back what is held for longer than its consumer timeout.
const RENEW: Duration = Duration::from_secs(60);
/// How long a write may take to be confirmed, and again to be delivered here.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// How long a reader waits for its turn.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// A delivery of a version of the value.
struct Token {
    tag: u64,
    id: String,
    version: u64,
    /// `None` if it was made with the queue.
    value: Option<Vec<u8>>,
}

impl Token {
    fn read(raw: Raw) -> Self {
        let message = wire::message(&raw.properties, raw.data);
        let version = message.headers.get(VERSION).and_then(Value::as_u64);
        let version = version.unwrap_or(0);
        Self {
            tag: raw.delivery_tag,
            id: message.id,
            version,
            value: (version > 0).then(|| Arc::unwrap_or_clone(message.body)),
        }
    }
}

/// A consumer of the lease's queue, active or not.
struct Seat {
    core: Arc<Core>,
    queue: String,
    stream: Stream,
}

impl Seat {
    /// Takes a place in the queue of those who wait.
    async fn take(core: &Arc<Core>, queue: &str) -> Result<Self> {
        if core.transport.is_closing() {
            return Err(closed());
        }
        core.transport.consuming.get().await?;
        // To its end, even if nobody waits any more: a consumer that is opened half would take the token.
        let (core, queue) = (core.clone(), queue.to_owned());
        let taken = tokio::spawn(async move { Self::open(&core, &queue).await });
        taken.await.unwrap_or_else(|_| Err(closed()))
    }

    async fn open(core: &Arc<Core>, queue: &str) -> Result<Self> {
        let is_new = declare(core, queue).await?;
        let prefetch = PREFETCH;
        let stream = subscribe::open(
            &core.transport.consuming,
            queue,
            prefetch,
            FieldTable::default(),
        )
        .await?;
        let seat = Self {
            core: core.clone(),
            queue: queue.to_owned(),
            stream,
        };
        if is_new {
            seat.publish(String::new(), 0, Vec::new()).await?;
        }
        Ok(seat)
    }

    /// Stores a token.
    async fn publish(&self, id: String, version: u64, value: Vec<u8>) -> Result<()> {
        let mut message = Message {
            id,
            body: value.into(),
            ..Message::default()
        };
        message.set(VERSION, version);
        let publish = Publish {
            route: Route::Queue(self.queue.clone()),
            message,
            delay: Duration::ZERO,
            deadline: WRITE_LIMIT,
        };
        self.core.send(&mut Outgoing::new(publish)?).await
    }

    /// The next token that the server gives us; `None` when it will give none any more.
    async fn next(&mut self) -> Option<Token> {
        let mut closing = self.core.transport.closing();
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => None,
            raw = self.stream.next() => raw?.ok().map(Token::read),
        }
    }

    /// Waits until the lease is ours; `None` if the connection ends first.
    async fn wait(&mut self) -> Option<Token> {
        let mut best = loop {
            match timeout(NUDGE, self.next()).await {
                Ok(token) => break token?,
                Err(_) => {
                    if let Err(error) = self.publish(String::new(), 0, Vec::new()).await {
                        tracing::debug!(lease = self.queue, %error, "no first token yet");
                    }
                }
            }
        };
        loop {
            let more = match best.value {
                Some(_) => MORE,
                None => MORE_THAN_NOTHING,
            };
            match timeout(more, self.next()).await {
                Ok(token) => {
                    let token = token?;
                    let worse = match token.version > best.version {
                        true => std::mem::replace(&mut best, token),
                        false => token,
                    };
                    self.drop_token(&worse).await;
                }
                Err(_) => return Some(best),
            }
        }
    }

    async fn drop_token(&self, token: &Token) {
        let ack = self
            .stream
            .channel
            .basic_ack(token.tag, BasicAckOptions::default());
        // If it fails, the connection has ended, and the next holder drops it.
        let _ = self.stream.live.guard(rpc(ack)).await;
    }

    /// Writes the next version; `Ok(false)` if the lease is lost meanwhile.
    async fn write(&mut self, held: &mut Token, value: Vec<u8>) -> Result<bool> {
        let (id, version) = (uuid::Uuid::new_v4().to_string(), held.version + 1);
        let live = self.stream.live.clone();
        tokio::select! {
            biased;
            stored = self.publish(id.clone(), version, value) => stored?,
            () = live.ended() => return Ok(false),
        }
        let end = Instant::now() + WRITE_LIMIT;
        loop {
            let Ok(Some(token)) = timeout_at(end, self.next()).await else {
                return Ok(false);
            };
            if token.id == id {
                let old = std::mem::replace(held, token);
                self.drop_token(&old).await;
                return Ok(true);
            }
            if !self.is_ours(held, &token).await {
                return Ok(false);
            }
        }
    }

    /// Whether the lease is still held though another token came: one of an earlier time, which is dropped. A
    /// higher version was written by somebody who held the lease until we did, so we hold an old value.
    async fn is_ours(&self, held: &Token, other: &Token) -> bool {
        if other.version > held.version {
            return false;
        }
        self.drop_token(other).await;
        true
    }

    async fn close(&self) {
        if self.stream.channel.status().connected() {
            let close = self.stream.channel.close(200, own("released"));
            let _ = self.stream.live.guard(rpc(close)).await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let (channel, live) = (self.stream.channel.clone(), self.stream.live.clone());
        if channel.status().connected() {
            self.core.transport.spawn(async move {
                let _ = live.guard(rpc(channel.close(200, own("released")))).await;
            });
        }
    }
}

/// Makes sure that the queue exists; whether it is likely to be new.
async fn declare(core: &Core, queue: &str) -> Result<bool> {
    if core.is_lease(queue) {
        return Ok(false);
    }
    let what = || format!("to declare the queue of the lease `{queue}`");
    let topology = &core.topology;
    let is_new = match topology.find(queue).await? {
        Ok(_) => false,
        Err(trouble) if trouble.is_missing() => true,
        Err(trouble) => return Err(trouble.refused(what())),
    };
    topology.base().await?;
    let default = topology.default_type;
    let other = match default {
        QueueType::Quorum => QueueType::Classic,
        QueueType::Classic => QueueType::Quorum,
    };
    let mut declared = topology
        .try_queue(queue, arguments::of_lease(default))
        .await?;
    // Another app may have made it with another default: that is as good.
    if matches!(&declared, Err(trouble) if trouble.code == Some(406)) {
        declared = topology
            .try_queue(queue, arguments::of_lease(other))
            .await?;
    }
    match declared {
        // Who may not declare it may use it.
        Err(trouble) if trouble.code == Some(403) && !is_new => {}
        Err(trouble) if trouble.code == Some(406) => {
            return Err(Error::Refused {
                what: what(),
                reason: format!(
                    "it exists with other arguments: delete it, or set another prefix ({})",
                    trouble.text
                ),
            });
        }
        Err(trouble) => return Err(trouble.refused(what())),
        Ok(()) => {
            let bound = topology.bind(queue, EXCHANGE, queue, FieldTable::default());
            if let Err(trouble) = bound.await? {
                // If nobody else has bound it, the first publish finds another way.
                tracing::debug!(queue, server_said = %trouble.text, "not bound");
            }
        }
    }
    core.remember_lease(queue);
    Ok(is_new)
}

/// Waits for a turn, over as many connections as it takes.
async fn wait(core: Arc<Core>, queue: String) -> Result<(Seat, Token)> {
    let mut backoff = Backoff::default();
    let mut told = false;
    loop {
        backoff.wait().await;
        let declared = core.is_lease(&queue);
        let mut seat = match Seat::take(&core, &queue).await {
            Ok(seat) => seat,
            Err(error) if error.is_transient() => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(lease = queue, %error, "cannot wait for a lease yet");
                }
                continue;
            }
            Err(_) if declared => {
                // Perhaps it was deleted since.
                core.forget_lease(&queue);
                continue;
            }
            Err(error) => return Err(error),
        };
        if let Some(token) = seat.wait().await {
            return Ok((seat, token));
        }
    }
}

/// Waits for a turn, and holds the lease.
pub(super) async fn acquire(core: Arc<Core>, queue: String) -> Result<Box<dyn Lease>> {
    if core.transport.is_closing() {
        return Err(closed());
    }
    let (orders, inbox) = mpsc::channel(1);
    let (lose, lost) = watch::channel(false);
    let this = core.clone();
    let name = queue.clone();
    let value = core
        .transport
        .run(async move {
            let (seat, token) = wait(this.clone(), queue).await?;
            let value = token.value.clone();
            let keeper = Keeper {
                seat,
                token,
                orders: inbox,
                lose,
            };
            this.transport.spawn(keeper.run());
            Ok(value)
        })
        .await?;
    Ok(Box::new(Held {
        name,
        value,
        orders,
        lost: Stale::new(lost),
    }))
}

/// The value, read by holding the lease for a moment.
pub(super) async fn read(core: &Arc<Core>, queue: &str) -> Result<Option<Vec<u8>>> {
    if !core.is_lease(queue) {
        let (topology, name) = (core.topology.clone(), queue.to_owned());
        let found = core
            .transport
            .run(async move { topology.find(&name).await });
        if matches!(timeout(REQUEST_LIMIT, found).await, Ok(Ok(Err(trouble))) if trouble.is_missing())
        {
            return Ok(None);
        }
    }
    let turn = timeout(READ_LIMIT, acquire(core.clone(), queue.to_owned())).await;
    let lease = turn.map_err(|_| Error::Unavailable {
        what: format!("a look at the lease `{queue}`"),
        waited: READ_LIMIT,
        reason: "somebody holds it".into(),
    })??;
    let value = lease.value().map(<[u8]>::to_vec);
    lease.release().await;
    Ok(value)
}

/// What a holder asks of its keeper.
enum Order {
    Write(Vec<u8>, oneshot::Sender<Result<()>>),
    Release(oneshot::Sender<()>),
}

/// Keeps the token as long as the lease is held.
struct Keeper {
    seat: Seat,
    token: Token,
    orders: mpsc::Receiver<Order>,
    lose: watch::Sender<bool>,
}

impl Keeper {
    async fn run(mut self) {
        let mut renew = Instant::now() + RENEW;
        let released = loop {
            tokio::select! {
                biased;
                token = self.seat.next() => match token {
                    Some(token) if self.seat.is_ours(&self.token, &token).await => {}
                    _ => break None,
                },
                order = self.orders.recv() => match order {
                    None => break None,
                    Some(Order::Release(done)) => break Some(done),
                    Some(Order::Write(value, done)) => {
                        let written = self.seat.write(&mut self.token, value).await;
                        let lost = matches!(written, Ok(false));
                        let stale = || Error::Stale { queue: self.seat.queue.clone() };
                        let told = written.and_then(|held| held.then_some(()).ok_or_else(stale));
                        if lost {
                            self.lose.send_replace(true);
                        }
                        // Who gave up waiting learns from the next holder what was written.
                        let _ = done.send(told);
                        if lost {
                            break None;
                        }
                        renew = Instant::now() + RENEW;
                    }
                },
                () = sleep_until(renew) => {
                    renew = Instant::now() + RENEW;
                    if let Some(value) = self.token.value.clone() {
                        match self.seat.write(&mut self.token, value).await {
                            Ok(true) => {}
                            Ok(false) => break None,
                            Err(error) => {
                                tracing::warn!(lease = self.seat.queue, %error, "not renewed");
                            }
                        }
                    }
                }
            }
        };
        self.lose.send_replace(true);
        self.seat.close().await;
        if let Some(done) = released {
            let _ = done.send(());
        }
    }
}

struct Held {
    name: String,
    value: Option<Vec<u8>>,
    /// Closed, it releases the lease.
    orders: mpsc::Sender<Order>,
    lost: Stale,
}

impl Lease for Held {
    fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    fn write(&mut self, value: Vec<u8>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let stale = || Error::Stale {
                queue: self.name.clone(),
            };
            let (done, written) = oneshot::channel();
            let order = Order::Write(value.clone(), done);
            self.orders.send(order).await.map_err(|_| stale())?;
            written.await.map_err(|_| stale())??;
            self.value = Some(value);
            Ok(())
        })
    }

    fn lost(&self) -> &Stale {
        &self.lost
    }

    fn release(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let (done, released) = oneshot::channel();
            if self.orders.send(Order::Release(done)).await.is_ok() {
                let _ = released.await;
            }
        })
    }
}
