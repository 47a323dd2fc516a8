//! Queues that Python has made and Rust calls, and one of Rust's that Python works.

use std::time::{SystemTime, UNIX_EPOCH};

use garenne::{Call, MILLISECOND, SECOND};

use super::{Side, bad, cases};
use crate::case::{Outcome, holds, mismatch, same};

cases! {
    "queue of Python's with priorities: Rust's calls have them" => priorities,
    "quorum queue of Python's: Rust calls it" => quorum,
    "quorum queue of Python's: a delay" => delay,
    "quorum queue of Python's: Python retries" => retried,
    "queue of Rust's: Python works it" => ours,
    "queue of Rust's: a delay" => delay_in_ours,
    "queue of Rust's: Python retries" => retried_in_ours,
}

/// A call of a Python task in one of these queues.
fn call<T>(side: &Side, queue: &str, name: &str) -> Call<T> {
    let queue = format!("{}-{queue}", side.python);
    Call::named(format!("python.{name}")).queue(queue)
}

async fn priorities(side: &Side) -> Outcome {
    let busy = call::<String>(side, "priority", "sleep")
        .arg(0.5)
        .map_err(bad)?;
    let busy = busy.send(&side.app).await.map_err(bad)?;
    let mut began = Vec::new();
    for priority in [1, 9] {
        let call = call::<f64>(side, "priority", "began").priority(priority);
        began.push(call.send(&side.app).await.map_err(bad)?);
    }
    let _ = busy.result_within(20 * SECOND).await;
    let mut times = Vec::new();
    for handle in began {
        let began = handle.result_within(20 * SECOND).await;
        times.push(began.map_err(|failure| mismatch("a result", &failure))?);
    }
    holds(times[1] < times[0], "priority 9 before priority 1", times)
}

async fn add(side: &Side, queue: &str) -> Outcome {
    let call = call::<i64>(side, queue, "add").arg(2).map_err(bad)?;
    same(side.result(call.arg(3).map_err(bad)?).await?, 5)
}

async fn delayed(side: &Side, queue: &str) -> Outcome {
    let at = SystemTime::now() + 500 * MILLISECOND;
    let began = side
        .result(call::<f64>(side, queue, "began").eta(at))
        .await?;
    let due = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let late = began - due.as_secs_f64();
    let expected = "a start at most 5 s after it was due, and not before";
    holds((-0.002..5.0).contains(&late), expected, late)
}

async fn unsteady(side: &Side, queue: &str) -> Outcome {
    let call = call::<u32>(side, queue, "unsteady").arg(2).map_err(bad)?;
    same(side.result(call).await?, 2)
}

async fn quorum(side: &Side) -> Outcome {
    add(side, "quorum").await
}

async fn delay(side: &Side) -> Outcome {
    delayed(side, "quorum").await
}

async fn retried(side: &Side) -> Outcome {
    unsteady(side, "quorum").await
}

async fn ours(side: &Side) -> Outcome {
    add(side, "ours").await
}

async fn delay_in_ours(side: &Side) -> Outcome {
    delayed(side, "ours").await
}

async fn retried_in_ours(side: &Side) -> Outcome {
    unsteady(side, "ours").await
}
