//! Runs a task once, under its time limit, until it ends or nobody wants it to go on.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use super::body::Ended;
use super::check::Checked;
use super::memory::Key;
use super::verdict::{Problem, Verdict, failure, judge};
use crate::broker::Standing;
use crate::context::{Attempt, Context};
use crate::error::{TaskError, Then};
use crate::failure::FailureKind;
use crate::message::Message;
use crate::task::{Definition, Invocation, Run, RunError, TaskOptions};

/// How long a slot keeps a plain task that found all threads taken by runaways, before it hands it back.
const RUNAWAY_PAUSE: Duration = Duration::from_secs(1);

/// How long an attempt may run.
struct TimeLimit {
    timeout: Option<Duration>,
    /// When that is over.
    deadline: Option<Instant>,
    /// Whether the deadline is the call's own, which ends all its attempts.
    is_calls_own: bool,
}

impl TimeLimit {
    /// `left` until the call's deadline; `timeout` for each attempt.
    fn new(left: Option<Duration>, timeout: Option<Duration>) -> Self {
        let is_calls_own = left.is_some_and(|left| timeout.is_none_or(|timeout| left <= timeout));
        let timeout = if is_calls_own { left } else { timeout };
        Self {
            timeout,
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
            is_calls_own,
        }
    }

    /// Resolves when it is over.
    async fn over(&self) {
        match self.timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    }

    fn is_over(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// What is wrong with an attempt that went beyond it.
    fn exceeded(&self, message: &Message) -> Problem {
        let text = match self.is_calls_own {
            true => "the call's deadline passed while it ran".into(),
            false => format!(
                "it took longer than its time limit of {:?}",
                self.timeout.unwrap_or_default()
            ),
        };
        let mut error = TaskError::from(text);
        if !self.is_calls_own && message.soft_timeout() == self.timeout {
            error.type_name = "billiard.exceptions.SoftTimeLimitExceeded";
        }
        Problem {
            kind: FailureKind::TimedOut,
            error,
        }
    }
}

impl Shared {
    /// Runs the task once; says what is to become of the delivery.
    pub(super) async fn run(
        &self,
        task: Checked,
        message: &Arc<Message>,
        key: &Key,
        stale: Standing,
    ) -> Verdict {
        let options = &task.definition.options;
        let limit = self.time_limit(&task, message);
        let cancelled = self.cancelled.watch(&key.id);
        let (progress, mut reporter) = self.reporter(message, stale.clone());
        let context = Context::new(Attempt {
            app: self.app.clone(),
            inside: OnceLock::new(),
            message: message.clone(),
            task: task.name,
            queue: key
                .queue
                .strip_prefix(self.app.prefix())
                .unwrap_or(&key.queue)
                .to_owned(),
            number: key.attempt,
            deadline: limit.deadline,
            progress,
            cancelled: AtomicBool::new(false),
            stale,
        });
        let invocation = Invocation::new(task.arguments, self.state.clone(), context.clone());
        let mut hand_back = self.hand_back.subscribe();
        let on_thread = matches!(task.definition.run, Run::Blocking(_));
        let timed_out = || self.judge_problem(message, options, limit.exceeded(message));
        let verdict = tokio::select! {
            biased;
            ended = self.body_or_pause(task.definition, invocation) => match ended {
                // A plain task that asks `is_cancelled` returns when its time is up: without a result.
                Some(_) if on_thread && limit.is_over() => timed_out(),
                Some(ended) => self.judge(message, options, ended),
                None => Verdict::HandBack,
            },
            () = limit.over() => timed_out(),
            () = cancelled.cancelled() => {
                Verdict::Dropped(failure(message, FailureKind::Cancelled, "cancelled while it ran"))
            }
            _ = hand_back.wait_for(|hand_back| *hand_back) => Verdict::HandBack,
            never = reporter.follow() => match never {},
        };
        context.cancel();
        drop(cancelled);
        reporter.finish().await;
        verdict
    }

    fn time_limit(&self, task: &Checked, message: &Message) -> TimeLimit {
        let now = self.app.now();
        let left = message.deadline();
        let left = left.map(|deadline| deadline.duration_since(now).unwrap_or_default());
        let said = self.limits.timeout(task.name);
        let said = said.or(task.definition.options.timeout);
        TimeLimit::new(left, message.timeout().or(said))
    }

    /// The body of the task; where there is no thread for it, a pause.
    async fn body_or_pause(
        &self,
        definition: &'static Definition,
        invocation: Invocation,
    ) -> Option<Ended> {
        let ended = self.body(definition, invocation).await;
        if ended.is_none() {
            Box::pin(tokio::time::sleep(RUNAWAY_PAUSE)).await;
        }
        ended
    }

    fn judge(&self, message: &Message, options: &TaskOptions, ended: Ended) -> Verdict {
        let dead = |reason, kind, text: String| Verdict::Dead {
            reason,
            failure: failure(message, kind, text),
        };
        match ended {
            Ok(Ok(value)) => {
                let (size, limit) = (value.get().len(), self.app.max_message_size());
                if size <= limit {
                    return Verdict::Done(value);
                }
                let text =
                    format!("the result has {size} bytes, more than the limit of {limit} bytes");
                dead("result", FailureKind::Failed, text)
            }
            Ok(Err(RunError::Arguments(text))) => {
                let mut failure = failure(message, FailureKind::Rejected, text);
                // What it is in Python, whose callers get it raised.
                failure.error_type = "builtins.TypeError".into();
                Verdict::Dead {
                    reason: "arguments",
                    failure,
                }
            }
            Ok(Err(RunError::Result(error))) => dead(
                "result",
                FailureKind::Failed,
                format!("the result cannot be encoded: {error}"),
            ),
            Ok(Err(RunError::Task(error))) => {
                let kind = FailureKind::Failed;
                self.judge_problem(message, options, Problem { kind, error })
            }
            Err(panic) => {
                let error = TaskError {
                    then: Then::RetryWithBackoff,
                    message: panic,
                    type_name: "",
                };
                let kind = FailureKind::Panicked;
                self.judge_problem(message, options, Problem { kind, error })
            }
        }
    }

    fn judge_problem(&self, message: &Message, options: &TaskOptions, problem: Problem) -> Verdict {
        judge(message, options, problem, self.app.now(), chance())
    }
}

/// Evenly distributed over all of `u64`.
pub(super) fn chance() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1 << 2
}
