//! The end of a delivery: what came of it is decided purely ([`Verdict`]), then carried out in an order in
//! which a crash at any point repeats work but never loses it. The only place that settles.

use std::time::{Duration, SystemTime};

use serde_json::value::RawValue;

use super::Shared;
use super::continuation::Continuation;
use super::serve::Lane;
use crate::broker::{Delivery, Publish, Route, dead_letter_name};
use crate::error::{Error, TaskError, Then};
use crate::failure::{Failure, FailureKind};
use crate::message::{Message, header};
use crate::retry::{Backoff, LONGEST_DELAY};
use crate::task::{Ack, TaskOptions};

/// Retries allowed to a task that asks for one itself, where nothing else is said; as in Celery.
const RETRIES_ON_REQUEST: u32 = 3;

/// How often what follows an early acknowledged call is tried to be published, each within the send timeout.
pub(super) const PATIENCE: u32 = 20;
/// The pause between these tries, and after a settlement that failed.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// What came of an attempt.
#[derive(Debug, Clone)]
pub(super) enum Verdict {
    /// It succeeded.
    Done(Box<RawValue>),
    /// It failed for good: the caller is told and the message becomes a dead letter, with `reason`.
    Dead {
        reason: &'static str,
        failure: Box<Failure>,
    },
    /// It is not to run any more: the caller is told, and nothing is kept.
    Dropped(Box<Failure>),
    /// It failed and is to be tried again after `delay`.
    Retry { error: String, delay: Duration },
    /// It is to run later, with no attempt spent.
    Postponed { delay: Duration },
    /// It is to run later, and what it is suspected of is remembered: so many workers died with it.
    PutOff { deaths: u32, delay: Duration },
    /// It goes back to its queue as if it had not been taken.
    HandBack,
    /// It was settled before, all that follows it was sent, and only its acknowledgement was lost.
    Over,
}

impl Verdict {
    /// What the call came to, if it is over.
    fn outcome(&self) -> Option<Result<Box<RawValue>, Failure>> {
        match self {
            Self::Done(value) => Some(Ok(value.clone())),
            Self::Dead { failure, .. } | Self::Dropped(failure) => Some(Err((**failure).clone())),
            _ => None,
        }
    }

    /// Bytes of the result it carries.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Done(value) => value.get().len(),
            Self::Dead { failure, .. } | Self::Dropped(failure) => failure.message.len(),
            _ => 0,
        }
    }
}

/// How an attempt went wrong.
pub(super) struct Problem {
    pub(super) kind: FailureKind,
    pub(super) error: TaskError,
}

/// What is to become of a failed attempt.
pub(super) fn judge(
    message: &Message,
    options: &TaskOptions,
    problem: Problem,
    now: SystemTime,
    chance: u64,
) -> Verdict {
    let Problem { kind, error } = problem;
    let attempt = message.attempt();
    let said = message.retries().or(options.retries);
    let backoff = message
        .backoff()
        .map_or(options.backoff, |(base, max)| Backoff::new(base, max));
    let (allowed, delay) = match error.then {
        Then::Snooze(delay) if is_in_time(message, now, delay) => {
            return Verdict::Postponed {
                delay: delay.min(LONGEST_DELAY),
            };
        }
        Then::Snooze(delay) => (attempt, delay),
        Then::GiveUp => (0, Duration::ZERO),
        Then::RetryWithBackoff => (said.unwrap_or(0), backoff.delay(attempt, chance)),
        Then::RetryIn(delay) => (said.unwrap_or(RETRIES_ON_REQUEST), delay),
    };
    let mut text = error.message;
    if attempt <= allowed {
        if is_in_time(message, now, delay) {
            return Verdict::Retry {
                error: text,
                delay: delay.min(LONGEST_DELAY),
            };
        }
        text.push_str(" (not run again: it would be due after the call's deadline)");
    }
    let mut failure = failure(message, kind, text);
    failure.error_type = error.type_name.into();
    Verdict::Dead {
        reason: kind.as_str(),
        failure,
    }
}

/// Whether the call's deadline leaves time for an attempt after `delay`.
fn is_in_time(message: &Message, now: SystemTime, delay: Duration) -> bool {
    let due = now.checked_add(delay);
    message
        .deadline()
        .is_none_or(|deadline| due.is_some_and(|due| due < deadline))
}

/// A failure of this message's call, after as many attempts as it has had.
pub(super) fn failure(
    message: &Message,
    kind: FailureKind,
    text: impl Into<String>,
) -> Box<Failure> {
    let attempts = match kind {
        FailureKind::Rejected | FailureKind::Expired => message.attempt() - 1,
        _ => message.attempt(),
    };
    let task = message.text("task").unwrap_or_default();
    Box::new(Failure {
        attempts,
        ..Failure::new(task, &*message.id, kind, text)
    })
}

/// Whether settling fails in a moment, so that the attempt has no say.
#[cfg(feature = "redis")]
fn is_void(custody: &Custody) -> bool {
    matches!(custody, Custody::Held(delivery) if delivery.stale().is_stale())
}

/// Who has the message while its task runs.
#[allow(
    clippy::large_enum_variant,
    reason = "there is one for each slot, and nearly all are `Held`"
)]
pub(super) enum Custody {
    /// We do, until it is settled.
    Held(Delivery),
    /// Nobody: it was acknowledged before the work, as the task wishes.
    Released { queue: String },
}

impl Custody {
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
        delivery: Delivery,
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
                delivery.ack(None).await?;
                Ok(Custody::Released { queue })
            }
        }
    }

    /// Carries out a verdict on `message`.
    ///
    /// # Errors
    /// [`Error::Stale`] where the delivery is void; others where the broker cannot store what must follow.
    pub(super) async fn settle(
        &self,
        custody: Custody,
        message: &Message,
        verdict: &Verdict,
        lane: &Lane,
    ) -> Result<(), Error> {
        let queue = match &custody {
            Custody::Held(delivery) => &delivery.queue,
            Custody::Released { queue } => queue,
        };
        let continuation = Continuation::of(message);
        #[cfg(feature = "redis")]
        let mut claims = Vec::new();
        let then: Vec<_> = match verdict.outcome() {
            Some(outcome) => {
                let home = self.home(queue);
                #[allow(unused_mut, reason = "not where the feature is on")]
                let mut next = continuation.next(&outcome, self.app.now(), &home);
                #[cfg(feature = "redis")]
                if !is_void(&custody) {
                    let is_ours_alone = matches!(custody, Custody::Released { .. });
                    claims = self
                        .keep(&continuation, &outcome, &mut next, &home, is_ours_alone)
                        .await?;
                }
                let next = next.publish.into_iter();
                next.map(|next| self.publish(next.route, next.message, next.delay))
                    .collect()
            }
            None => Vec::new(),
        };
        // Only workers with a task know how they want its queue.
        let is_ours = |publish: &Publish| {
            let task = publish.message.text("task");
            task.is_some_and(|task| self.tasks.get(task).is_some())
        };
        let routes = then.iter().map(|next| (next.route.clone(), is_ours(next)));
        let routes: Vec<_> = routes.collect();
        for (route, is_ours) in &routes {
            match is_ours {
                true => self.app.declare_route(route).await?,
                false => self.app.find_route(route).await?,
            }
        }
        let follow = match verdict {
            Verdict::Dead { reason, failure } if lane.queue.dead_letters => {
                let name = queue.strip_prefix(self.app.prefix()).unwrap_or(queue);
                let mut dead = message.dead(name, reason, &failure.message, self.app.now());
                dead.set(header::ATTEMPTS, failure.attempts);
                Some(self.publish(Route::Queue(dead_letter_name(queue)), dead, Duration::ZERO))
            }
            Verdict::Retry { error, delay } => Some(self.publish(
                Route::Queue(queue.clone()),
                message.next_attempt(error, self.app.now()),
                *delay,
            )),
            Verdict::Postponed { delay } => {
                Some(self.publish(Route::Queue(queue.clone()), message.postponed(), *delay))
            }
            Verdict::PutOff { deaths, delay } => {
                let mut again = message.again();
                again.set(header::DELIVERIES, *deaths);
                Some(self.publish(Route::Queue(queue.clone()), again, *delay))
            }
            _ => None,
        };
        let settled = match (custody, verdict) {
            (Custody::Held(delivery), Verdict::HandBack) => delivery.release().await,
            (
                Custody::Held(delivery),
                Verdict::Retry { .. } | Verdict::Postponed { .. } | Verdict::PutOff { .. },
            ) => match follow {
                Some(copy) => delivery.retry(copy).await,
                None => delivery.release().await,
            },
            (Custody::Held(delivery), Verdict::Dead { .. }) => match follow {
                Some(dead) => delivery.reject(dead, then).await,
                None => delivery.ack(then).await,
            },
            (Custody::Held(delivery), Verdict::Done(_) | Verdict::Dropped(_) | Verdict::Over) => {
                delivery.ack(then).await
            }
            (Custody::Released { .. }, _) => self.publish_all(follow.into_iter().chain(then)).await,
        };
        match &settled {
            Ok(()) => self.close_join(&continuation, verdict).await,
            Err(Error::Unroutable { .. }) => {
                // Somebody deleted the queue of a call that follows.
                for (route, is_ours) in &routes {
                    match is_ours {
                        true => self.app.declare_anew(route).await?,
                        false => self.app.find_anew(route).await?,
                    }
                }
            }
            Err(_) => {}
        }
        #[cfg(feature = "redis")]
        self.end_chords(claims, settled.is_ok()).await;
        settled
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

    async fn publish_all(&self, publishes: impl Iterator<Item = Publish>) -> Result<(), Error> {
        for publish in publishes {
            self.publish_surely(publish).await?;
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Arguments;

    fn message(attempt: u32) -> Message {
        let mut message = Message::new("id".into(), "task", &Arguments::default());
        message.set("retries", attempt - 1);
        message
    }

    fn judged(attempt: u32, retries: Option<u32>, error: TaskError) -> Verdict {
        let options = TaskOptions {
            retries,
            ..TaskOptions::DEFAULT
        };
        judge(
            &message(attempt),
            &options,
            Problem {
                kind: FailureKind::Failed,
                error,
            },
            SystemTime::UNIX_EPOCH,
            u64::MAX / 2,
        )
    }

    #[test]
    fn an_error_is_retried_as_often_as_allowed() {
        for (attempt, retries, retried) in [
            (1, None, false),
            (1, Some(2), true),
            (2, Some(2), true),
            (3, Some(2), false),
        ] {
            let verdict = judged(attempt, retries, TaskError::from("no"));
            assert_eq!(
                matches!(verdict, Verdict::Retry { .. }),
                retried,
                "{attempt} {retries:?}"
            );
        }
    }

    #[test]
    fn the_error_may_say_otherwise() {
        let minute = Duration::from_secs(60);
        assert!(matches!(
            judged(1, Some(9), TaskError::permanent("no")),
            Verdict::Dead { .. }
        ));
        assert!(
            matches!(judged(9, None, TaskError::snooze(minute)), Verdict::Postponed { delay } if delay == minute)
        );
        assert!(
            matches!(judged(3, None, TaskError::retry_in(minute)), Verdict::Retry { delay, .. } if delay == minute)
        );
        assert!(matches!(
            judged(4, None, TaskError::retry_in(minute)),
            Verdict::Dead { .. }
        ));
        assert!(matches!(
            judged(1, Some(0), TaskError::retry_in(minute)),
            Verdict::Dead { .. }
        ));
    }

    #[test]
    fn the_call_goes_before_the_task() {
        let mut message = message(3);
        message.set(crate::message::header::RETRIES, 5);
        let problem = Problem {
            kind: FailureKind::Panicked,
            error: "no".into(),
        };
        assert!(matches!(
            judge(
                &message,
                &TaskOptions::DEFAULT,
                problem,
                SystemTime::UNIX_EPOCH,
                0
            ),
            Verdict::Retry { .. }
        ));
    }

    #[test]
    fn no_retry_is_made_that_would_be_due_after_the_deadline() {
        let second = Duration::from_secs(1);
        let now = SystemTime::UNIX_EPOCH;
        let mut message = message(1);
        message.set_deadline(now + 10 * second);
        let judged = |error| {
            let kind = FailureKind::Failed;
            let problem = Problem { kind, error };
            judge(&message, &TaskOptions::DEFAULT, problem, now, 0)
        };
        let in_time = [TaskError::retry_in(9 * second), TaskError::snooze(second)];
        for error in in_time {
            let verdict = judged(error);
            assert!(
                matches!(verdict, Verdict::Retry { .. } | Verdict::Postponed { .. }),
                "{verdict:?}"
            );
        }
        let late = TaskError::retry_in(10 * second).because("not yet");
        for error in [late, TaskError::snooze(Duration::MAX)] {
            let Verdict::Dead { failure, reason } = judged(error) else {
                panic!("too late");
            };
            assert!(failure.message.ends_with("deadline)"), "{failure}");
            assert_eq!(reason, "failed");
        }
    }
}
