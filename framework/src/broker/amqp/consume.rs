//! Consuming: a task for each consumer that keeps a channel open through every loss, and forwards what
//! comes.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery as Raw;
use lapin::options::BasicCancelOptions;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::backoff::Backoff;
use super::live::{Trouble, rpc};
use super::receive::receive;
use super::send::Core;
use super::server;
use super::settle::Session;
use super::subscribe::{Opened, Opening};
use super::wire::own;
use crate::broker::{Consumer, Delivery, MOST_AHEAD, Queue, Renew, Subscription};
use crate::error::{Error, Result};

/// How long the server may refuse what it allowed before that is taken for its last word: whoever took a
/// permission away by mistake has this long to give it back.
const REFUSED_LIMIT: Duration = Duration::from_secs(60);
/// How long a consumer is tried to be started in spite of troubles that pass.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How long to wait for the end of a cancelled stream, which a dying channel may not give.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// A session that ended sooner was none, so the next attempt waits.
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// How many groups what is taken ahead is acknowledged in.
const GROUPS: usize = 4;
const OUTLIVE_TICK: Duration = Duration::from_millis(100);

/// Starts a consumer; the queue is declared and consumed from when this returns.
pub(super) async fn start(core: Arc<Core>, queue: Queue, slots: usize) -> Result<Consumer> {
    let slots = slots.max(1);
    let (sender, deliveries) = mpsc::channel(slots.saturating_add(MOST_AHEAD));
    let (stop, stopped) = watch::channel(false);
    let (allow, allowed) = watch::channel(slots);
    let (outage, is_out) = watch::channel(None);
    // One wish of each kind is enough: what is made anew meets all.
    let (renew, renewals) = mpsc::channel(2);
    let forwarder = Forwarder {
        core: core.clone(),
        queue,
        slots,
        allowed,
        prefetch: prefetch(slots),
        former: Vec::new(),
        settled: Arc::default(),
        sender,
        stopped,
        outage,
        renewals,
    };
    let task = core.clone();
    let opening = async move {
        let first = forwarder.first().await?;
        let limit = task.topology.hold_limit(forwarder.queue.name()).await;
        Ok((limit, forwarder, first))
    };
    let (limit, forwarder, first) = core.transport.run(opening).await?;
    core.transport.spawn_at_callers(forwarder.run(first));
    let consumer = Consumer::new(deliveries, move || {
        stop.send_replace(true);
    });
    let renew = move |what| {
        // An error means that such wishes wait already, or that the consumer has ended.
        let _ = renew.try_send(what);
    };
    let subscription = Subscription::renewed_by(is_out, renew);
    let subscription = subscription.allowed_by(move |unsettled| {
        allow.send_replace(unsettled.max(1));
    });
    Ok(consumer.limited(limit).subscribed(subscription))
}

/// AMQP has 16 bits for it, and takes zero for no limit.
fn prefetch(unsettled: usize) -> u16 {
    u16::try_from(unsettled.max(1)).unwrap_or(u16::MAX)
}

/// Why a session ended.
enum End {
    Stopped,
    Lost(String),
    /// Asked for: deliveries of the old channel stay valid.
    Renewed,
    /// Another number of deliveries is to be unsettled.
    Resized,
}

/// What happens to a session.
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all are deliveries, and none is kept"
)]
enum Event {
    Next(Option<lapin::Result<Raw>>),
    Renew(Renew),
    Settled,
}

struct Forwarder {
    core: Arc<Core>,
    queue: Queue,
    /// Deliveries that it is meant to have at a time, and how many it may have now.
    slots: usize,
    allowed: watch::Receiver<usize>,
    /// How many the current session may have.
    prefetch: u16,
    /// Sessions that were given up, whose deliveries are valid.
    former: Vec<Weak<Session>>,
    /// Told of each settlement.
    settled: Arc<Notify>,
    sender: mpsc::Sender<Result<Delivery>>,
    stopped: watch::Receiver<bool>,
    /// Why nothing can be delivered, while that is so.
    outage: watch::Sender<Option<String>>,
    renewals: mpsc::Receiver<Renew>,
}

impl Forwarder {
    async fn run(mut self, first: Opened) {
        let mut opened = first;
        let mut backoff = Backoff::default();
        loop {
            let since = Instant::now();
            let (session, deliveries) = opened;
            let end = self.forward(&session, deliveries).await;
            let queue = self.queue.name();
            match &end {
                End::Stopped => break,
                End::Lost(reason) => {
                    tracing::warn!(
                        queue,
                        reason,
                        "the consumer's channel ended: opening another"
                    );
                    self.outage.send_replace(Some(reason.clone()));
                    session.stale.send_replace(true);
                    self.core.transport.detach(abandon(session));
                }
                End::Renewed => {
                    let reason = "the consumer is subscribed anew".to_owned();
                    self.outage.send_replace(Some(reason));
                    self.former.push(Arc::downgrade(&session));
                }
                End::Resized => self.former.push(Arc::downgrade(&session)),
            }
            if !self.make_room().await {
                break;
            }
            if since.elapsed() > SHORT_LIFE || matches!(end, End::Resized) {
                backoff.reset();
            }
            match self.reopen(&mut backoff).await {
                Some(again) => opened = again,
                None => break,
            }
            self.outage.send_replace(None);
        }
        if self.queue.exclusive {
            let (core, queue) = (self.core.clone(), self.queue);
            let delete = async move { core.topology.delete(queue.name()).await };
            let _ = self.core.transport.run(delete).await;
        }
    }

    /// Unsettled deliveries of former sessions.
    fn held(&mut self) -> usize {
        let mut held = 0;
        self.former.retain(|session| {
            let Some(session) = session.upgrade() else {
                return false;
            };
            let unsettled = match *session.stale.borrow() {
                true => 0,
                false => session.acks.count_unsettled(),
            };
            held += unsettled;
            unsettled > 0
        });
        held
    }

    /// Waits until the next session may have something, and notes how much; false if there is to be none.
    async fn make_room(&mut self) -> bool {
        loop {
            let allowed = *self.allowed.borrow_and_update();
            let room = allowed.saturating_sub(self.held());
            if room > 0 {
                self.prefetch = prefetch(room);
                return true;
            }
            tokio::select! {
                () = self.stop() => return false,
                () = self.settled.notified() => {}
                _ = self.allowed.changed() => {}
                // Some become void without a word.
                () = sleep(OUTLIVE_TICK) => {}
            }
        }
    }

    /// Whether former sessions hold so much that this one has far less than it should.
    fn is_short(&self) -> bool {
        let (prefetch, allowed) = (usize::from(self.prefetch), *self.allowed.borrow());
        !self.former.is_empty() && (prefetch < self.slots || 2 * prefetch < allowed)
    }

    /// Whether a session that is short could have much more.
    fn could_have_more(&mut self) -> bool {
        let held = self.held();
        let room = self.allowed.borrow().saturating_sub(held);
        held == 0 || room >= 2 * usize::from(self.prefetch)
    }

    /// The first session. The server may lose its connection over a quorum queue that somebody else has just
    /// declared and that is not up yet (RabbitMQ 3.10).
    async fn first(&self) -> Result<Opened> {
        let mut backoff = Backoff::default();
        let end = Instant::now() + START_LIMIT;
        loop {
            backoff.wait().await;
            match self.session().open().await {
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
                () = self.stop() => return None,
                () = backoff.wait() => {}
            }
            let opened = tokio::select! {
                () = self.stop() => return None,
                opened = self.core.transport.run(self.session().open()) => opened,
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

    /// Resolves when the consumer is dropped or the broker closed.
    fn stop(&self) -> impl Future<Output = ()> + use<> {
        let (mut stopped, mut closing) = (self.stopped.clone(), self.core.transport.closing());
        async move {
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => {}
                _ = closing.wait_for(|closing| *closing) => {}
            }
        }
    }

    /// What the next session is made of.
    fn session(&self) -> Opening {
        let prefetch = usize::from(self.prefetch);
        Opening {
            core: self.core.clone(),
            queue: self.queue.clone(),
            prefetch: self.prefetch,
            // Most of what is taken ahead is there while a group waits.
            group: (prefetch.saturating_sub(self.slots) / GROUPS).max(1),
            settled: self.settled.clone(),
            sender: self.sender.downgrade(),
        }
    }

    async fn forward(&mut self, session: &Arc<Session>, mut deliveries: lapin::Consumer) -> End {
        // Asked once, not for each delivery.
        let (stop, ended) = (self.stop(), session.live.ended());
        tokio::pin!(stop, ended);
        let end = loop {
            let is_short = self.is_short();
            let event = tokio::select! {
                biased;
                () = &mut stop => break End::Stopped,
                Ok(()) = self.allowed.changed() => break End::Resized,
                () = self.settled.notified(), if is_short => Event::Settled,
                next = deliveries.next() => Event::Next(next),
                () = &mut ended => return End::Lost("the connection ended".into()),
                Some(what) = self.renewals.recv() => Event::Renew(what),
            };
            let raw = match event {
                Event::Next(Some(Ok(raw))) => raw,
                Event::Next(Some(Err(error))) => {
                    let trouble = Trouble::from(error);
                    return End::Lost(server::why_closed(trouble, self.queue.name()));
                }
                Event::Next(None) => return End::Lost(server::why_cancelled(self.queue.name())),
                Event::Renew(Renew::Consumer) => break End::Renewed,
                Event::Renew(Renew::Connection) => {
                    self.core.transport.consuming.leave(&session.live);
                    return End::Lost("the connection is made anew".into());
                }
                Event::Settled if self.could_have_more() => break End::Resized,
                Event::Settled => continue,
            };
            let Some(delivery) = receive(session, raw) else {
                continue;
            };
            tokio::select! {
                // The delivery is dropped with the send, and so goes back.
                () = &mut stop => break End::Stopped,
                _ = self.sender.send(Ok(delivery)) => {}
            }
        };
        self.unsubscribe(session, deliveries, &end).await;
        end
    }

    /// Ends a subscription whose deliveries stay valid: those that were not started go back, unless more are to come.
    async fn unsubscribe(
        &self,
        session: &Arc<Session>,
        mut deliveries: lapin::Consumer,
        end: &End,
    ) {
        let options = BasicCancelOptions::default();
        let cancel = session.channel.basic_cancel(deliveries.tag(), options);
        let _ = session.live.guard(rpc(cancel)).await;
        let drain = async {
            while let Some(Ok(raw)) = deliveries.next().await {
                let delivery = receive(session, raw).filter(|_| matches!(end, End::Resized));
                if let Some(delivery) = delivery {
                    // Without a place for it, it goes back.
                    let _ = self.sender.try_send(Ok(delivery));
                }
            }
        };
        let _ = timeout(DRAIN_TIMEOUT, drain).await;
        session.acks.end();
        self.core.transport.detach(outlive(session.clone()));
    }
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
    while session.channel.status().connected()
        && (Arc::strong_count(&session) > 1 || !session.acks.are_handed_over())
    {
        sleep(OUTLIVE_TICK).await;
    }
    session
        .stale
        .send_replace(!session.channel.status().connected());
}
