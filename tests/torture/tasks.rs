//! What the workers run. Each task notes when it starts and ends.

use std::time::Duration;

use garenne::{Call, Context, SECOND, TaskError, task};
use serde::{Deserialize, Serialize};

use super::chance::scramble;
use super::history::{Answer, Event, History};

/// The tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Takes some milliseconds.
    Quick,
    /// Takes a second, so that faults meet it while it runs.
    Long,
    /// Fails the first time, and is retried.
    Flaky,
    /// Fails for good, and becomes a dead letter.
    Doomed,
}

impl Kind {
    /// What the `n`th call of a producer is.
    pub(crate) fn of(n: u64) -> Self {
        match n % 50 {
            7 => Self::Long,
            13 | 38 => Self::Flaky,
            25 => Self::Doomed,
            _ => Self::Quick,
        }
    }

    pub(crate) fn call(self, n: u64) -> Call<u64> {
        match self {
            Self::Quick => quick::call(n),
            Self::Long => long::call(n),
            Self::Flaky => flaky::call(n),
            Self::Doomed => doomed::call(n),
        }
    }

    /// The only right answer.
    pub(crate) fn answer(self, n: u64) -> Answer {
        match self {
            Self::Doomed => Answer::Failure("Failed".into()),
            _ => Answer::Value(scramble(n)),
        }
    }
}

fn start(history: &History, ctx: &Context) {
    history.note(Event::Start {
        id: ctx.id().into(),
        attempt: ctx.attempt(),
    });
}

fn end(history: &History, ctx: &Context) {
    history.note(Event::End {
        id: ctx.id().into(),
        attempt: ctx.attempt(),
        stale: ctx.is_stale(),
    });
}

async fn run(history: &History, ctx: &Context, n: u64, time: Duration) -> u64 {
    start(history, ctx);
    tokio::time::sleep(time).await;
    end(history, ctx);
    scramble(n)
}

#[task]
async fn quick(history: &History, ctx: &Context, n: u64) -> u64 {
    run(history, ctx, n, Duration::from_millis(n % 20)).await
}

#[task]
async fn long(history: &History, ctx: &Context, n: u64) -> u64 {
    run(history, ctx, n, SECOND).await
}

#[task(retries = 5, backoff = "100ms..400ms")]
async fn flaky(history: &History, ctx: &Context, n: u64) -> Result<u64, TaskError> {
    let answer = run(history, ctx, n, Duration::from_millis(1)).await;
    match ctx.attempt() {
        1 => Err("the first attempt always fails".into()),
        _ => Ok(answer),
    }
}

#[task]
async fn doomed(history: &History, ctx: &Context, n: u64) -> Result<u64, TaskError> {
    run(history, ctx, n, Duration::from_millis(1)).await;
    Err(TaskError::permanent("as planned"))
}
