//! Times: when a call starts, until when it may, and how long it may take.

use std::time::{SystemTime, UNIX_EPOCH};

use garenne::{Call, FailureKind, MILLISECOND, SECOND};

use super::{Side, bad, cases};
use crate::case::{Outcome, holds, same};

cases! {
    "countdown" => countdown,
    "eta" => eta,
    "expires: it runs in time" => in_time,
    "expires while it waits: revoked" => expired,
    "a time limit: TimeLimitExceeded" => too_slow,
    "a time limit that is kept" => quick,
    "revoke before it runs" => cancelled,
}

/// It starts when it is due, and not much later.
async fn due(side: &Side, call: Call<f64>, at: SystemTime) -> Outcome {
    let began = side.result(call).await?;
    let due = at
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64();
    let late = began - due;
    // Clocks and the float have their rounding.
    let expected = "a start at most 5 s after it was due, and not before";
    holds((-0.002..5.0).contains(&late), expected, late)
}

async fn countdown(side: &Side) -> Outcome {
    let at = SystemTime::now() + 400 * MILLISECOND;
    let call = side.call::<f64>("began").countdown(400 * MILLISECOND);
    due(side, call, at).await
}

async fn eta(side: &Side) -> Outcome {
    let at = SystemTime::now() + 500 * MILLISECOND;
    due(side, side.call::<f64>("began").eta(at), at).await
}

async fn in_time(side: &Side) -> Outcome {
    let call = side.call::<i64>("add").arg(1).map_err(bad)?;
    same(
        side.result(call.arg(2).map_err(bad)?.expires(60 * SECOND))
            .await?,
        3,
    )
}

/// Due before it expires, and taken after: all of the worker's processes are busy.
async fn expired(side: &Side) -> Outcome {
    let busy = (0..4).map(|_| async move {
        let call = side.call::<String>("sleep").arg(1.5).map_err(bad)?;
        call.send(&side.app).await.map_err(bad)
    });
    let busy = futures_util::future::try_join_all(busy).await?;
    let call = side.call::<String>("sleep").arg(0).map_err(bad)?;
    let failure = side.failure(call.expires(300 * MILLISECOND)).await?;
    for handle in busy {
        let _ = handle.result_within(20 * SECOND).await;
    }
    let error_type = "celery.exceptions.TaskRevokedError";
    same(
        (failure.kind, &*failure.error_type, &*failure.message),
        (FailureKind::Expired, error_type, "expired"),
    )
}

async fn too_slow(side: &Side) -> Outcome {
    let call = side.call::<String>("sleep").arg(30).map_err(bad)?;
    let failure = side.failure(call.timeout(SECOND)).await?;
    let error_type = "billiard.exceptions.TimeLimitExceeded";
    same(
        (failure.kind, &*failure.error_type),
        (FailureKind::TimedOut, error_type),
    )
}

async fn quick(side: &Side) -> Outcome {
    let call = side.call::<String>("sleep").arg(0.01).map_err(bad)?;
    same(side.result(call.timeout(20 * SECOND)).await?, "slept")
}

async fn cancelled(side: &Side) -> Outcome {
    let call = side
        .call::<i64>("add")
        .arg(1)
        .map_err(bad)?
        .arg(1)
        .map_err(bad)?;
    let handle = call.countdown(SECOND).send(&side.app).await.map_err(bad)?;
    side.app.control().revoke(handle.id()).await.map_err(bad)?;
    let outcome = handle.result_within(20 * SECOND).await;
    let kind = outcome.as_ref().err().map(|failure| failure.kind);
    holds(kind == Some(FailureKind::Cancelled), "cancelled", outcome)
}
