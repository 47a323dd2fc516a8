//! What a worker tells a test of each delivery.

use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::sync::mpsc;

use super::Shared;
use super::verdict::Verdict;
use crate::failure::Failure;
use crate::message::Message;

/// Who is told of each delivery that has ended.
pub(crate) type Observer = mpsc::UnboundedSender<Ran>;

/// One delivery of a call, and what came of it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Ran {
    /// The call's id.
    pub id: String,
    /// The task's name.
    pub task: String,
    /// The number of the attempt; the first is 1.
    pub attempt: u32,
    /// When it ended, by the app's clock.
    pub at: SystemTime,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a delivery.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// The task returned this.
    Done(Value),
    /// The call failed for good, and is a dead letter.
    Failed(Failure),
    /// It was not run, or not to its end: it had expired, or was cancelled.
    Dropped(Failure),
    /// The attempt failed; the next one is due after this time.
    Retried {
        /// What it failed of.
        error: String,
        /// How long until the next attempt.
        after: Duration,
    },
    /// It is to run after this time, with no attempt spent.
    Postponed(Duration),
    /// The task ran, and then its worker died, as the test had asked for.
    Crashed,
}

impl Shared {
    /// Tells the worker's observer, if it has one.
    pub(super) fn observe(&self, message: &Message, verdict: &Verdict) {
        if self.observer.is_some()
            && let Some(outcome) = outcome(verdict)
        {
            self.tell(message, outcome);
        }
    }

    /// Whether the worker dies now, for a test, after its attempt at `task`.
    pub(super) fn dies(&self, task: &str, came_back: bool, message: &Message) -> bool {
        let rehearsal = self.app.rehearsal();
        let dies = rehearsal.is_some_and(|rehearsal| rehearsal.strikes(task, came_back));
        if dies {
            tracing::warn!(id = message.id, task, "a worker dies for a test");
            self.tell(message, Outcome::Crashed);
        }
        dies
    }

    fn tell(&self, message: &Message, outcome: Outcome) {
        if let Some(observer) = &self.observer {
            let ran = Ran {
                id: message.id.clone(),
                task: message.text("task").unwrap_or_default().to_owned(),
                attempt: message.attempt(),
                at: self.app.now(),
                outcome,
            };
            // An error means that the test has seen enough.
            let _ = observer.send(ran);
        }
    }
}

fn outcome(verdict: &Verdict) -> Option<Outcome> {
    Some(match verdict {
        Verdict::Done(value) => {
            let value = serde_json::from_str(value.get());
            Outcome::Done(value.unwrap_or_default())
        }
        Verdict::Dead { failure, .. } => Outcome::Failed((**failure).clone()),
        Verdict::Dropped(failure) => Outcome::Dropped((**failure).clone()),
        Verdict::Retry { error, delay } => Outcome::Retried {
            error: error.clone(),
            after: *delay,
        },
        Verdict::Postponed { delay } | Verdict::PutOff { delay, .. } => Outcome::Postponed(*delay),
        _ => return None,
    })
}
