//! Finds a message's way to its queue, and mends the way once where part of it is missing.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use lapin::BasicProperties;
use lapin::types::FieldTable;
use tokio::time::{Instant, timeout_at};

use super::acks::Acks;
use super::backoff::Backoff;
use super::delay;
use super::joins::{self, Joins};
use super::properties::Properties;
use super::publish::{Late, Publisher, Request, Verdict};
use super::server::UPPER_CLASS;
use super::settle::Session;
use super::topology::{EXCHANGE, Known, Topology};
use super::transport::Transport;
use super::wire::{self, own, short};
use crate::broker::{Publish, QueueType, Route, is_join, is_reply_queue};
use crate::error::{Error, Result};

/// How long a confirm is awaited at most that nothing can go on without.
const PATIENCE: Duration = Duration::from_secs(600);

/// What all parts of the broker share.
pub(super) struct Core {
    pub(super) transport: Arc<Transport>,
    pub(super) topology: Arc<Topology>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) joins: Arc<Joins>,
    /// What the reply queue becomes.
    pub(super) reply_type: QueueType,
    /// Those whose deliveries become void when the broker is closed.
    sessions: Mutex<Vec<Weak<Session>>>,
    /// The queues of leases that were declared.
    leases: Mutex<HashSet<String>>,
}

/// A message whose way can be found again.
pub(super) struct Outgoing {
    delay: Duration,
    deadline: Duration,
    request: Arc<Request>,
    /// The message's own headers, to which a delay adds others.
    headers: FieldTable,
    /// Whether a queue that refuses it is waited for: it may be full, or have no leader.
    waits_for_room: bool,
}

impl Outgoing {
    pub(super) fn new(mut publish: Publish) -> Result<Self> {
        if let Route::Join { .. } = publish.route {
            // A part that looks like a body would leave its join.
            publish
                .message
                .headers
                .retain(|name, _| !joins::is_ours(name));
        }
        let (properties, body) = wire::properties_and_body(publish.message)?;
        let delay = match publish.route {
            Route::Reply(_) | Route::Join { .. } => Duration::ZERO,
            _ => publish.delay,
        };
        Self::raw(publish.route, properties, body, delay, publish.deadline)
    }

    pub(super) fn raw(
        route: Route,
        properties: BasicProperties,
        body: Arc<Vec<u8>>,
        delay: Duration,
        deadline: Duration,
    ) -> Result<Self> {
        let key = match &route {
            Route::Queue(name) | Route::Reply(name) => short("queue name", name)?,
            // What is too long is no join, and so not sent.
            Route::Join { join, .. } => own(join),
            Route::Exchange {
                routing_key,
                exchange,
            } => {
                short("exchange name", exchange)?;
                short("routing key", routing_key)?
            }
        };
        Ok(Self {
            headers: match delay.is_zero() {
                true => FieldTable::default(),
                false => properties.headers().clone().unwrap_or_default(),
            },
            request: Arc::new(Request {
                route,
                exchange: own(""),
                routing_key: key,
                properties: Properties::new(properties),
                body,
                limit: deadline,
            }),
            delay,
            deadline,
            waits_for_room: false,
        })
    }

    /// Waits for a queue that refuses it, whoever has made that: what follows from work that is done cannot be
    /// given up for a queue that is full, or without a leader, at the moment.
    pub(super) fn wait_for_room(&mut self) {
        self.waits_for_room = true;
    }

    /// Gives the broker twice as long to confirm it, before it is published another time: where a queue has
    /// lost its majority, each of them may be stored when that is back.
    pub(super) fn be_patient(&mut self) {
        self.deadline = (2 * self.deadline).min(PATIENCE.max(self.deadline));
        Arc::make_mut(&mut self.request).limit = self.deadline;
    }

    /// Where it goes.
    pub(super) fn route(&self) -> &Route {
        &self.request.route
    }

    /// How long to try.
    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    fn aim(&mut self, exchange: &str, extra: Option<FieldTable>) -> Result<()> {
        if self.request.exchange.as_str() == exchange && extra.is_none() {
            return Ok(());
        }
        let exchange = short("exchange name", exchange)?;
        let request = Arc::make_mut(&mut self.request);
        request.exchange = exchange;
        if let Some(extra) = extra {
            let mut headers = self.headers.clone();
            for (name, value) in &extra {
                headers.insert(name.clone(), value.clone());
            }
            let properties = request.properties.give().with_headers(headers);
            request.properties = Properties::new(properties);
        }
        Ok(())
    }
}

impl Core {
    pub(super) fn new(
        transport: Arc<Transport>,
        topology: Arc<Topology>,
        publisher: Arc<Publisher>,
        joins: Arc<Joins>,
        reply_type: QueueType,
    ) -> Self {
        Self {
            joins,
            transport,
            topology,
            publisher,
            reply_type,
            sessions: Mutex::default(),
            leases: Mutex::default(),
        }
    }

    pub(super) fn remember(&self, session: &Arc<Session>) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|session| session.strong_count() > 0);
        sessions.push(Arc::downgrade(session));
    }

    fn leases(&self) -> MutexGuard<'_, HashSet<String>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is a lease's queue that was declared.
    pub(super) fn is_lease(&self, queue: &str) -> bool {
        self.leases().contains(queue)
    }

    pub(super) fn remember_lease(&self, queue: &str) {
        self.leases().insert(queue.to_owned());
    }

    pub(super) fn forget_lease(&self, queue: &str) {
        self.leases().remove(queue);
    }

    /// The sessions that live.
    fn sessions(&self) -> Vec<Arc<Session>> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.iter().filter_map(Weak::upgrade).collect()
    }

    /// Resolves when the server has carried out all acknowledgements: see [`Acks::flush`].
    pub(super) async fn flush(&self) {
        join_all(self.sessions().iter().map(Acks::flush)).await;
    }

    /// Makes all deliveries void.
    pub(super) fn void(&self) {
        for session in self.sessions() {
            session.stale.send_replace(true);
        }
    }

    /// Publishes a message; resolves when it is confirmed.
    pub(super) async fn send(&self, outgoing: &mut Outgoing) -> Result<()> {
        match outgoing.route() {
            Route::Join { .. } => Box::pin(joins::put(self, outgoing)).await,
            _ => self.store(outgoing).await,
        }
    }

    /// Brings a message to its queue, and no further.
    pub(super) async fn store(&self, outgoing: &mut Outgoing) -> Result<()> {
        if let Route::Reply(name) = outgoing.route()
            && !self.takes_replies(name)
        {
            tracing::warn!(
                queue = name,
                "no reply is sent to a queue that is no reply queue"
            );
            return Ok(());
        }
        let deadline = Instant::now() + outgoing.deadline;
        let (mut mended, mut nacked) = (false, false);
        let mut backoff = Backoff::default();
        loop {
            // What few messages need is boxed: it would make the future of every message larger.
            if outgoing.delay.is_zero() {
                self.aim_straight(outgoing)?;
            } else if !Box::pin(self.find_way(outgoing, deadline)).await? {
                return outgoing.request.conclude(Verdict::Unroutable, deadline);
            }
            let verdict = self.publisher.submit(&outgoing.request, deadline).await?;
            match verdict {
                Verdict::Unroutable | Verdict::NoExchange(_) => {}
                Verdict::Nacked if outgoing.waits_for_room || self.may_pass(outgoing) => {
                    nacked = true;
                    let pause = timeout_at(deadline, Box::pin(backoff.wait()));
                    if pause.await.is_err() {
                        return Err(Error::Blocked {
                            route: outgoing.route().to_string(),
                            reason: "the queue is full, or has no leader at the moment".into(),
                            waited: outgoing.deadline,
                        });
                    }
                    continue;
                }
                // A queue whose node goes down refuses what it has in its log, and may store it on its return.
                Verdict::Late(_) if nacked => {
                    let late = Verdict::Late(Late::Unconfirmed);
                    return outgoing.request.conclude(late, deadline);
                }
                // Who may not use our exchange may be allowed the default one.
                Verdict::Refused(_) => {
                    return Box::pin(self.last_resort(outgoing, verdict, deadline)).await;
                }
                _ => return outgoing.request.conclude(verdict, deadline),
            }
            if let Route::Reply(_) = outgoing.route() {
                // Nobody waits any more.
                return Ok(());
            }
            if mended {
                return Box::pin(self.last_resort(outgoing, verdict, deadline)).await;
            }
            mended = true;
            match outgoing.route() {
                Route::Queue(name) => {
                    let (topology, name) = (self.topology.clone(), name.clone());
                    let work = async move { topology.mend(&name).await };
                    let known = Box::pin(self.within(deadline, outgoing, work)).await?;
                    if !known && outgoing.delay.is_zero() {
                        return Box::pin(self.last_resort(outgoing, verdict, deadline)).await;
                    }
                }
                Route::Exchange { exchange, .. } => {
                    let known = self.topology.known_exchange(exchange);
                    if matches!(verdict, Verdict::Unroutable) && outgoing.delay.is_zero() {
                        return outgoing.request.conclude(verdict, deadline);
                    }
                    let topology = self.topology.clone();
                    let work = async move {
                        topology.doubt();
                        match known {
                            Some(known) => topology.declare_exchange(&known).await,
                            None => Ok(()),
                        }
                    };
                    Box::pin(self.within(deadline, outgoing, work)).await?;
                }
                Route::Join { .. } => return outgoing.request.conclude(verdict, deadline),
                Route::Reply(_) => {}
            }
        }
    }

    /// Whether a message may name this queue for its reply. Callers of other kinds call theirs what they
    /// like, but none of ours is meant: hostile, it would fill a queue with what is no call.
    fn takes_replies(&self, queue: &str) -> bool {
        let is_ours = queue.starts_with("garenne.")
            || queue.contains("garenne.lease.")
            || queue.ends_with(".dead");
        // A name like that which the server cannot decode ends the connection, with all that others
        // are publishing on it.
        let is_direct = queue.starts_with("amq.rabbitmq.reply-to");
        is_reply_queue(queue) || !is_ours && !is_direct && self.topology.known(queue).is_none()
    }

    /// Whether a message that the broker did not store may be stored soon: while a quorum queue elects its
    /// leader, it refuses all. A queue that others have made may as well be full, but what is delayed goes to one of ours.
    fn may_pass(&self, outgoing: &Outgoing) -> bool {
        match outgoing.route() {
            _ if !outgoing.delay.is_zero() => true,
            Route::Queue(name) => {
                let known = self.topology.known(name);
                let is_quorum = |known: Known| known.queue_type == Some(QueueType::Quorum);
                is_join(name) || self.is_lease(name) || known.is_some_and(is_quorum)
            }
            Route::Exchange { .. } => true,
            Route::Reply(name) => is_reply_queue(name),
            Route::Join { .. } => true,
        }
    }

    /// Tries the default exchange for a queue that others have made, and never bound to ours.
    async fn last_resort(
        &self,
        outgoing: &mut Outgoing,
        verdict: Verdict,
        deadline: Instant,
    ) -> Result<()> {
        let Route::Queue(name) = outgoing.route() else {
            return outgoing.request.conclude(verdict, deadline);
        };
        let name = name.clone();
        if !outgoing.delay.is_zero() || outgoing.request.exchange.as_str() != EXCHANGE {
            return outgoing.request.conclude(verdict, deadline);
        }
        outgoing.aim("", None)?;
        let direct = self.publisher.submit(&outgoing.request, deadline).await?;
        if matches!(direct, Verdict::Stored) {
            self.topology.reach_directly(&name);
        }
        // Without permission for that way, the answer of the usual one counts.
        let told = match direct {
            Verdict::Refused(_) => verdict,
            direct => direct,
        };
        outgoing.request.conclude(told, deadline)
    }

    /// Decides where a message without a delay is published.
    fn aim_straight(&self, outgoing: &mut Outgoing) -> Result<()> {
        let exchange = match outgoing.route() {
            // Its own queue is bound nowhere.
            Route::Queue(name) if is_join(name) => "",
            Route::Queue(name) => self.topology.exchange_of(name),
            Route::Exchange { exchange, .. } => &exchange.clone(),
            Route::Reply(_) | Route::Join { .. } => "",
        };
        outgoing.aim(exchange, None)
    }

    /// Decides where a message with a delay is published; false if there is no such place.
    async fn find_way(&self, outgoing: &mut Outgoing, deadline: Instant) -> Result<bool> {
        let to = match outgoing.route() {
            Route::Exchange { exchange, .. } => Some(exchange.as_str()),
            _ => None,
        };
        let which = self.ladder(outgoing, deadline).await?;
        let climb = delay::climb(which, outgoing.delay, to)?;
        let topology = self.topology.clone();
        let found = match outgoing.route().clone() {
            Route::Queue(name) if !topology.ladder.reaches_queue(which, &name) => {
                let work = async move {
                    if topology.lead_to_queue(which, &name).await? {
                        return Ok(true);
                    }
                    topology.mend(&name).await?;
                    topology.lead_to_queue(which, &name).await
                };
                self.within(deadline, outgoing, work).await?
            }
            Route::Exchange { exchange, .. }
                if !topology.ladder.reaches_exchange(which, &exchange) =>
            {
                let work = async move { topology.lead_to_exchange(which, &exchange).await };
                self.within(deadline, outgoing, work).await?;
                true
            }
            _ => true,
        };
        outgoing.aim(&climb.exchange, Some(climb.headers))?;
        Ok(found)
    }

    /// The ladder that a delayed message takes.
    async fn ladder(&self, outgoing: &Outgoing, deadline: Instant) -> Result<delay::Which> {
        let priority = outgoing.request.properties.priority();
        if priority < UPPER_CLASS {
            return Ok(delay::Which::Usual);
        }
        let topology = self.topology.clone();
        let server = match topology.server.get() {
            Some(server) => *server,
            None => {
                let ask = async move { topology.server().await };
                self.within(deadline, outgoing, ask).await?
            }
        };
        Ok(delay::Which::of_urgent(server))
    }

    /// Runs `work` on the transport, but not beyond the message's deadline.
    async fn within<T: Send + 'static>(
        &self,
        deadline: Instant,
        outgoing: &Outgoing,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match timeout_at(deadline, self.transport.run(work)).await {
            Ok(done) => done,
            Err(_) => Err(Error::Unavailable {
                what: format!("the message to {}", outgoing.route()),
                waited: outgoing.deadline,
                reason: self.transport.consuming.last_error(),
            }),
        }
    }
}
