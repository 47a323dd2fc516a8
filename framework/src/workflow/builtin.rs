//! Tasks of our own that do what is between the calls of a workflow. Every worker knows them.

use std::time::Duration;

use serde_json::value::RawValue;

use super::plan::Plan;
use crate::broker::{Publish, Route};
use crate::context::Context;
use crate::error::{Error, TaskError};
use crate::failure::{Failure, FailureKind};
use crate::message::{Message, Part};
use crate::reply::Reply;
use crate::retry::Backoff;
use crate::task::{Definition, Invocation, Outcome, Parameter, Run, RunError, TaskOptions, encode};

/// Returns its argument: what a join has collected.
pub(crate) const COLLECT: &str = "garenne.collect";
/// Sends the part of a workflow that its second argument describes, with its first one for input.
pub(crate) const EXPAND: &str = "garenne.expand";
/// Tells a join that a call of a foreign worker's has failed.
pub(crate) const MEMBER_FAILED: &str = "garenne.member_failed";

/// How long the reply of a foreign worker may take that has announced it.
const REPLY_DELAY: Duration = Duration::from_millis(200);

/// The built-in task of this name.
pub(crate) fn get(name: &str) -> Option<&'static Definition> {
    [&COLLECTS, &EXPANDS, &TELLS]
        .into_iter()
        .find(|task| task.name == name)
}

const OPTIONS: TaskOptions = TaskOptions {
    // What can go wrong is mostly the broker, which comes back.
    retries: Some(30),
    backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(60)),
    ..TaskOptions::DEFAULT
};

static COLLECTS: Definition = Definition {
    name: COLLECT,
    file: file!(),
    line: line!(),
    options: OPTIONS,
    borrows: Vec::new,
    run: Run::Async(|invocation| Box::pin(collect(invocation))),
};

static EXPANDS: Definition = Definition {
    name: EXPAND,
    file: file!(),
    line: line!(),
    options: OPTIONS,
    borrows: Vec::new,
    run: Run::Async(|invocation| Box::pin(expand(invocation))),
};

static TELLS: Definition = Definition {
    name: MEMBER_FAILED,
    file: file!(),
    line: line!(),
    options: OPTIONS,
    borrows: Vec::new,
    run: Run::Async(|invocation| Box::pin(member_failed(invocation))),
};

async fn collect(mut invocation: Invocation) -> Outcome {
    invocation.argument(&Parameter::<Box<RawValue>>::new(0, "results", false))
}

async fn expand(mut invocation: Invocation) -> Outcome {
    let input = invocation.argument(&Parameter::<Box<RawValue>>::new(0, "input", false))?;
    let plan = invocation.argument(&Parameter::<Box<RawValue>>::new(1, "plan", false))?;
    let plan: Plan = serde_json::from_str(plan.get())
        .map_err(|e| RunError::Arguments(format!("argument `plan`: {e}")))?;
    let context = invocation.lend::<Context>()?;
    let launched = context.app().launch(plan, Some(&input), None).await;
    launched.map_err(retried)?;
    encode(&())
}

/// A foreign worker sends it as an error callback, with the failed call's id. It has sent the failure itself
/// to the join as a reply, if it replies at all, but does not know how to make the join fire.
async fn member_failed(mut invocation: Invocation) -> Outcome {
    let failed = invocation.argument(&Parameter::<String>::new(0, "failed", false))?;
    let part = invocation.argument(&Parameter::<Part>::new(1, "part", false))?;
    let member = invocation.argument(&Parameter::<String>::new(2, "member", false))?;
    let context = invocation.lend::<Context>()?;
    let app = context.app();
    // One that is not read counts as absent: the failure that is told then comes second, and is ignored.
    let parts = app.broker().parts(&part.join, app.max_message_size()).await;
    let Some(parts) = parts.map_err(retried)? else {
        return encode(&());
    };
    let is_there = parts
        .iter()
        .any(|part| part.correlation_id.as_deref() == Some(&member));
    if is_there {
        let checked = app
            .broker()
            .check_join(&part.join, part.parts, part.fail_fast);
        checked.await.map_err(retried)?;
    } else if context.attempt() == 1 {
        Err(TaskError::retry_in(REPLY_DELAY).because("its reply may be on the way"))?;
    } else {
        let text = "a foreign worker says no more than that it failed";
        let failure = Failure::new("", failed, FailureKind::Failed, text);
        let outcome = Err(failure);
        let reply = Reply {
            id: member,
            outcome,
        }
        .encode_for(None, &Message::default(), app.now());
        let publish = Publish {
            route: Route::Join {
                join: part.join,
                parts: part.parts,
                fire: part.fail_fast,
            },
            message: reply,
            delay: Duration::ZERO,
            deadline: app.send_timeout(),
        };
        app.broker().publish(publish).await.map_err(retried)?;
    }
    encode(&())
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "the shape that `map_err` wants"
)]
fn retried(error: Error) -> RunError {
    RunError::Task(match error.is_transient() {
        true => TaskError::from(error),
        false => TaskError::permanent(error),
    })
}
