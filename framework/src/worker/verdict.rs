//! What came of an attempt, and what is to become of it. Pure: time and chance are arguments.

use std::time::{Duration, SystemTime};

use serde_json::value::RawValue;

use crate::error::{TaskError, Then};
use crate::failure::{Failure, FailureKind};
use crate::message::Message;
use crate::retry::{Backoff, LONGEST_DELAY};
use crate::task::TaskOptions;

/// Retries allowed to a task that asks for one itself, where nothing else is said; as in Celery.
const RETRIES_ON_REQUEST: u32 = 3;

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
    pub(super) fn outcome(&self) -> Option<Result<&RawValue, &Failure>> {
        match self {
            Self::Done(value) => Some(Ok(value)),
            Self::Dead { failure, .. } | Self::Dropped(failure) => Some(Err(failure)),
            _ => None,
        }
    }

    /// Bytes of the result or the error that it carries.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Done(value) => value.get().len(),
            Self::Dead { failure, .. } | Self::Dropped(failure) => failure.message.len(),
            Self::Retry { error, .. } => error.len(),
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
