//! Failures of Python's tasks.

use garenne::{Failure, FailureKind, SECOND};

use super::{Side, bad, cases};
use crate::case::{Mismatch, Outcome, holds, same};

cases! {
    "an exception: type, message, traceback" => exception,
    "an exception with several arguments" => several,
    "an exception of the app's own" => own,
    "an exception without arguments" => silent,
    "self.retry until it succeeds" => retried,
    "self.retry runs out: the exception that it was given" => exhausted,
    "a task that is not registered" => missing,
    "arguments that do not fit: TypeError" => arguments,
    "a worker process that dies: WorkerLostError" => lost,
    "Ignore: no answer" => ignored,
    "Reject: a failure, before 5.7 no answer" => rejected,
}

/// The failure of `python.fail` with these arguments.
async fn failing(side: &Side, arguments: &[&str]) -> Result<Failure, Mismatch> {
    let mut call = side.call::<()>("fail");
    for argument in arguments {
        call = call.arg(argument).map_err(bad)?;
    }
    side.failure(call).await
}

fn is(failure: &Failure, kind: FailureKind, error_type: &str, message: &str) -> Outcome {
    same(
        (failure.kind, &*failure.error_type, &*failure.message),
        (kind, error_type, message),
    )
}

async fn exception(side: &Side) -> Outcome {
    let failure = failing(side, &["ValueError", "no luck"]).await?;
    is(
        &failure,
        FailureKind::Failed,
        "builtins.ValueError",
        "no luck",
    )?;
    same(&*failure.task, "python.fail")?;
    let traceback = failure.traceback.unwrap_or_default();
    let told = traceback.starts_with("Traceback") && traceback.contains("in fail\n");
    holds(told, "Python's traceback", traceback)
}

async fn several(side: &Side) -> Outcome {
    let failure = failing(side, &["KeyError", "a", "b"]).await?;
    is(&failure, FailureKind::Failed, "builtins.KeyError", "a, b")
}

async fn own(side: &Side) -> Outcome {
    let failure = failing(side, &["Broken", "bits"]).await?;
    is(&failure, FailureKind::Failed, "both.Broken", "bits")
}

async fn silent(side: &Side) -> Outcome {
    let failure = failing(side, &["ValueError"]).await?;
    is(&failure, FailureKind::Failed, "builtins.ValueError", "")
}

async fn retried(side: &Side) -> Outcome {
    let call = side.call::<u32>("unsteady").arg(2).map_err(bad)?;
    same(side.result(call).await?, 2)
}

async fn exhausted(side: &Side) -> Outcome {
    let failure = side
        .failure(side.call::<u32>("unsteady").arg(9).map_err(bad)?)
        .await?;
    is(&failure, FailureKind::Failed, "both.Broken", "not yet")
}

async fn missing(side: &Side) -> Outcome {
    let failure = side.failure(side.call::<()>("missing")).await?;
    let error_type = "celery.exceptions.NotRegistered";
    is(
        &failure,
        FailureKind::Rejected,
        error_type,
        "python.missing",
    )
}

async fn arguments(side: &Side) -> Outcome {
    let failure = side
        .failure(side.call::<i64>("add").arg(1).map_err(bad)?)
        .await?;
    let message = "add() missing 1 required positional argument: 'y'";
    is(&failure, FailureKind::Failed, "builtins.TypeError", message)
}

async fn lost(side: &Side) -> Outcome {
    let failure = side.failure(side.call::<()>("dies")).await?;
    same(
        (failure.kind, &*failure.error_type),
        (FailureKind::Failed, "billiard.exceptions.WorkerLostError"),
    )?;
    let told = failure.message.contains("signal 9");
    holds(told, "a message with the signal", &failure.message)
}

/// Python sends no reply: nothing but the caller's own time limit ends the wait.
async fn unanswered(side: &Side, name: &str) -> Outcome {
    let handle = side.call::<()>(name).send(&side.app).await.map_err(bad)?;
    let outcome = handle.result_within(SECOND).await;
    let kind = outcome.as_ref().err().map(|failure| failure.kind);
    holds(kind == Some(FailureKind::Unknown), "no reply", outcome)
}

async fn ignored(side: &Side) -> Outcome {
    unanswered(side, "ignores").await
}

async fn rejected(side: &Side) -> Outcome {
    if side.version.starts_with("5.3") || side.version.starts_with("5.5") {
        return unanswered(side, "rejects").await;
    }
    let failure = side.failure(side.call::<()>("rejects")).await?;
    same(&*failure.error_type, "celery.exceptions.Reject")
}
