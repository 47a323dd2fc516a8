//! The end of a delivery: what came of it ([`Verdict`]) is carried out in an order in which a crash at any point
//! repeats work but never loses it. The only place that settles.
//!
//! What is to follow a call may be something that can never be sent: to an exchange that does not exist, say. Then
//! the call has failed: given back, it would run again for ever.

use std::time::Duration;

use super::Shared;
use super::continuation::Continuation;
use super::serve::Lane;
use super::verdict::{Verdict, failure};
use crate::broker::{Delivery, Publish, Route, dead_letter_name};
use crate::error::Error;
use crate::failure::FailureKind;
use crate::message::{Message, header};
use crate::task::{Ack, TaskOptions};

/// How often what follows an early acknowledged call is tried to be published, each within the send timeout.
pub(super) const PATIENCE: u32 = 20;
/// The pause between these tries, and after a settlement that failed.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// Whether settling fails in a moment, so that the attempt has no say.
#[cfg(feature = "redis")]
fn is_void(custody: &Custody) -> bool {
    matches!(custody, Custody::Held(delivery) if delivery.stale().is_stale())
}

/// Who has the message while its task runs.
pub(super) enum Custody {
    /// We do, until it is settled. Boxed: it passes through many futures, each of which would have room for it twice.
    Held(Box<Delivery>),
    /// Nobody: it was acknowledged before the work, as the task wishes.
    Released { queue: String },
}

impl Custody {
    /// The queue that the message came from.
    fn queue(&self) -> &str {
        match self {
            Self::Held(delivery) => &delivery.queue,
            Self::Released { queue } => queue,
        }
    }

    /// Where a copy goes that takes the message's place.
    fn route_back(&self) -> Route {
        Route::Queue(self.queue().to_owned())
    }

    /// Whether the message may have been delivered before.
    pub(super) fn came_back(&self) -> bool {
        matches!(self, Self::Held(delivery) if delivery.came_back())
    }
}

impl Shared {
    /// Acknowledges the delivery before the work, if the call or its task wishes so.
    ///
    /// # Errors
    /// [`Error::Stale`] where the delivery is void: it is not to be run then.
    pub(super) async fn take_custody(
        &self,
        delivery: Box<Delivery>,
        message: &Message,
        options: &TaskOptions,
    ) -> Result<Custody, Error> {
        let ack = match message.text(header::ACK) {
            Some("early") => Ack::Early,
            Some("late") => Ack::Late,
            _ => options.ack,
        };
        match ack {
            Ack::Late => Ok(Custody::Held(delivery)),
            Ack::Early => {
                let queue = delivery.queue.clone();
                Box::pin(delivery.ack(None)).await?;
                Ok(Custody::Released { queue })
            }
        }
    }

    /// Carries out a verdict on `message`. It becomes [`Verdict::Dead`] where the call has succeeded, but what is
    /// to follow it can never be sent.
    ///
    /// # Errors
    /// [`Error::Stale`] where the delivery is void; others where the broker cannot store what must follow.
    pub(super) async fn settle(
        &self,
        mut custody: Custody,
        message: &Message,
        verdict: &mut Verdict,
        lane: &Lane,
    ) -> Result<(), Error> {
        let continuation = Continuation::of(message);
        #[cfg(feature = "redis")]
        let mut claims = Vec::new();
        let settled = loop {
            let then: Vec<_> = match verdict.outcome() {
                Some(outcome) => {
                    let home = self.home(custody.queue());
                    #[allow(unused_mut, reason = "not where the feature is on")]
                    let mut next = continuation.next(outcome, self.app.now(), &home);
                    #[cfg(feature = "redis")]
                    if !is_void(&custody) {
                        let is_ours_alone = matches!(custody, Custody::Released { .. });
                        let claimed = self
                            .keep(&continuation, outcome, &mut next, &home, is_ours_alone)
                            .await?;
                        claims.extend(claimed);
                    }
                    let next = next.publish.into_iter();
                    next.map(|next| self.publish(next.route, next.message, next.delay))
                        .collect()
                }
                None => Vec::new(),
            };
            match self.carry_out(custody, message, verdict, then, lane).await {
                Err(Unsent {
                    error,
                    left: Some((back, _)),
                }) if matches!(verdict, Verdict::Done(_)) => {
                    let text =
                        format!("it succeeded, but what is to follow it cannot be sent: {error}");
                    *verdict = Verdict::Dead {
                        reason: "follower",
                        failure: failure(message, FailureKind::Failed, text),
                    };
                    custody = back;
                }
                sent => break sent.map_err(|unsent| unsent.error),
            }
        };
        if settled.is_ok() {
            self.close_join(&continuation, verdict).await;
        }
        #[cfg(feature = "redis")]
        self.end_chords(claims, settled.is_ok()).await;
        settled
    }

    async fn carry_out(
        &self,
        custody: Custody,
        message: &Message,
        verdict: &Verdict,
        then: Vec<Publish>,
        lane: &Lane,
    ) -> Result<(), Unsent> {
        let copy = match verdict {
            Verdict::Done(_) | Verdict::Over => return self.send(custody, then, 0).await,
            Verdict::Dropped(_) => {
                return Box::pin(self.send_what_can_be(custody, None, then)).await;
            }
            Verdict::Dead { reason, failure } => {
                let queue = custody.queue();
                let dead = lane.queue.dead_letters.then(|| {
                    let name = queue.strip_prefix(self.app.prefix()).unwrap_or(queue);
                    let mut dead = message.dead(name, reason, &failure.message, self.app.now());
                    dead.set(header::ATTEMPTS, failure.attempts);
                    let route = Route::Queue(dead_letter_name(queue));
                    self.publish(route, dead, Duration::ZERO)
                });
                return Box::pin(self.send_what_can_be(custody, dead, then)).await;
            }
            Verdict::Retry { error, delay } => {
                let copy = message.next_attempt(error, self.app.now());
                Some(self.publish(custody.route_back(), copy, *delay))
            }
            Verdict::Postponed { delay } => {
                Some(self.publish(custody.route_back(), message.postponed(), *delay))
            }
            Verdict::PutOff { deaths, delay } => {
                let mut again = message.again();
                again.set(header::DELIVERIES, *deaths);
                Some(self.publish(custody.route_back(), again, *delay))
            }
            Verdict::HandBack => None,
        };
        // What few calls come to is boxed, here and below: it would make the future of every call larger.
        let settled = async {
            match (custody, copy) {
                (Custody::Held(delivery), Some(copy)) => delivery.retry(copy).await,
                (Custody::Held(delivery), None) => delivery.release().await,
                (Custody::Released { .. }, Some(copy)) => self.publish_surely(copy).await,
                (Custody::Released { .. }, None) => Ok(()),
            }
        };
        Box::pin(settled).await.map_err(Unsent::from)
    }

    /// Sends the dead letter, and all of `then` that can be sent.
    async fn send_what_can_be(
        &self,
        custody: Custody,
        dead: Option<Publish>,
        then: Vec<Publish>,
    ) -> Result<(), Unsent> {
        let dead_route = dead.as_ref().map(|dead| dead.route.clone());
        let own = usize::from(dead.is_some());
        let all = dead.into_iter().chain(then).collect();
        let (custody, left) = match self.send(custody, all, own).await {
            Err(Unsent {
                left: Some(left), ..
            }) => left,
            sent => return sent,
        };
        for publish in left {
            let is_dead_letter = Some(&publish.route) == dead_route.as_ref();
            let route = publish.route.clone();
            let declared = match is_dead_letter {
                true => Ok(()),
                false => self.declare(&publish).await,
            };
            let sent = match declared {
                Ok(()) => self.publish_surely(publish).await,
                refused => refused,
            };
            match sent {
                Err(error) if error.is_lasting() && !is_dead_letter => {
                    tracing::error!(%route, "what was to tell of a failed call is given up: {error}");
                }
                sent => sent?,
            }
        }
        self.try_to_send(custody, Vec::new()).await
    }

    /// Whether a message's queue is ours to make: only workers with a task know how they want its queue.
    fn is_ours(&self, publish: &Publish) -> bool {
        let task = publish.message.text("task");
        task.is_some_and(|task| self.tasks.get(task).is_some())
    }

    /// Makes sure that a message has the queue that it is to go to.
    async fn declare(&self, publish: &Publish) -> Result<(), Error> {
        match self.is_ours(publish) {
            true => self.app.declare_route(&publish.route).await,
            false => self.app.find_route(&publish.route).await,
        }
    }

    /// The same where it was there before.
    async fn declare_anew(&self, publish: &Publish) -> Result<(), Error> {
        match self.is_ours(publish) {
            true => self.app.declare_anew(&publish.route).await,
            false => self.app.find_anew(&publish.route).await,
        }
    }

    /// Sends all of `publishes`, the first `own` of which are dead letters, and takes the message off its queue.
    async fn send(
        &self,
        custody: Custody,
        publishes: Vec<Publish>,
        own: usize,
    ) -> Result<(), Unsent> {
        if publishes.iter().all(is_reply) {
            return self.try_to_send(custody, publishes).await;
        }
        let is_released = matches!(custody, Custody::Released { .. });
        let declared = Box::pin(self.declare_all(&publishes[own..], is_released)).await;
        if let Some(error) = declared? {
            return Err(Unsent::refused(error, custody, publishes));
        }
        Box::pin(self.send_declared(custody, publishes, own)).await
    }

    /// Makes sure that all of them have the queues that they are to go to; the error of one that will never have it.
    async fn declare_all(
        &self,
        publishes: &[Publish],
        is_released: bool,
    ) -> Result<Option<Error>, Error> {
        let mut refused = None;
        for publish in publishes.iter().filter(|publish| !is_reply(publish)) {
            match self.declare(publish).await {
                Err(error) if error.is_lasting() => refused = Some(error),
                // Nothing else stands for it: the broker may be back when it is published.
                Err(error) if is_released => {
                    tracing::warn!(route = %publish.route, "not declared: {error}");
                }
                declared => declared?,
            }
        }
        Ok(refused)
    }

    async fn send_declared(
        &self,
        custody: Custody,
        publishes: Vec<Publish>,
        own: usize,
    ) -> Result<(), Unsent> {
        let count = publishes.len();
        match self.try_to_send(custody, publishes).await {
            // Somebody may have deleted a queue.
            Err(Unsent {
                error: Error::Unroutable { .. },
                left: Some((custody, left)),
            }) => {
                let stored = count - left.len();
                for publish in left.iter().skip(own.saturating_sub(stored)) {
                    match self.declare_anew(publish).await {
                        Err(error) if error.is_lasting() => {
                            return Err(Unsent::refused(error, custody, left));
                        }
                        declared => declared?,
                    }
                }
                self.try_to_send(custody, left).await
            }
            sent => sent,
        }
    }

    async fn try_to_send(&self, custody: Custody, publishes: Vec<Publish>) -> Result<(), Unsent> {
        let delivery = match custody {
            Custody::Held(delivery) => delivery,
            Custody::Released { .. } => {
                return Box::pin(self.send_unguarded(custody, publishes)).await;
            }
        };
        // Replies are never refused, and most calls have nothing else to send.
        let copies = match publishes.iter().all(is_reply) {
            true => None,
            false => Some(publishes.clone()),
        };
        let Err((delivery, unstored)) = delivery.settle(publishes).await else {
            return Ok(());
        };
        match copies {
            Some(mut copies) if unstored.error.is_lasting() => {
                let left = copies.split_off(unstored.stored.min(copies.len()));
                let custody = Custody::Held(delivery);
                Err(Unsent::refused(unstored.error, custody, left))
            }
            _ => Err(unstored.error.into()),
        }
    }

    /// Sends what no delivery stands for any more.
    async fn send_unguarded(
        &self,
        custody: Custody,
        publishes: Vec<Publish>,
    ) -> Result<(), Unsent> {
        let mut publishes = publishes.into_iter();
        while let Some(publish) = publishes.next() {
            match self.publish_surely(publish.clone()).await {
                Err(error) if error.is_lasting() && is_reply(&publish) => {
                    tracing::error!(%error, "a reply cannot be delivered; the work stands");
                }
                Err(error) if error.is_lasting() => {
                    let left = std::iter::once(publish).chain(publishes).collect();
                    return Err(Unsent::refused(error, custody, left));
                }
                sent => sent?,
            }
        }
        Ok(())
    }

    /// Where a call goes whose signature does not say it: a Python caller may leave the queue to the worker's
    /// own configuration.
    fn home<'a>(&'a self, queue: &'a str) -> impl Fn(&str) -> Route + Sync + 'a {
        move |task: &str| Route::Queue(self.home_of(task).unwrap_or_else(|| queue.to_owned()))
    }

    /// The queue that a task of ours is at home in. The default one is that only where this worker takes from it:
    /// nobody may be there, and nobody has said that it is to go there.
    fn home_of(&self, task: &str) -> Option<String> {
        let name = self.tasks.get(task)?.options.queue;
        let queue = format!("{}{name}", self.app.prefix());
        let taken = || {
            let queues = self.queues.borrow();
            queues.iter().any(|(taken, _)| taken.name() == queue)
        };
        (name != TaskOptions::DEFAULT.queue || taken()).then_some(queue)
    }

    /// Forgets the join of a body that is settled for good. A dead letter may be run again, and needs it then.
    async fn close_join(&self, continuation: &Continuation<'_>, verdict: &Verdict) {
        if let (Some(join), Verdict::Done(_) | Verdict::Dropped(_)) = (continuation.join(), verdict)
            && let Err(error) = self.app.broker().close_join(join).await
        {
            tracing::warn!(join, "not closed, so it is kept until it expires: {error}");
        }
    }

    /// Publishes what no delivery stands for any more, so that nothing but this attempt can repeat it.
    async fn publish_surely(&self, publish: Publish) -> Result<(), Error> {
        for _ in 0..PATIENCE {
            match self.app.broker().publish(publish.clone()).await {
                Err(error) if error.is_transient() => {
                    tracing::warn!("an early acknowledged call waits to be reported: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
                done => return done,
            }
        }
        self.app.broker().publish(publish).await
    }

    fn publish(&self, route: Route, message: Message, delay: Duration) -> Publish {
        Publish {
            route,
            message,
            delay,
            deadline: self.app.send_timeout(),
        }
    }
}

/// Why a message is not settled, or not all that follows it is sent.
struct Unsent {
    error: Error,
    /// Where something was refused for good: who has the message still, and what has not been sent.
    left: Option<(Custody, Vec<Publish>)>,
}

impl Unsent {
    fn refused(error: Error, custody: Custody, left: Vec<Publish>) -> Self {
        let left = Some((custody, left));
        Self { error, left }
    }
}

impl From<Error> for Unsent {
    fn from(error: Error) -> Self {
        Self { error, left: None }
    }
}

fn is_reply(publish: &Publish) -> bool {
    matches!(publish.route, Route::Reply(_))
}
