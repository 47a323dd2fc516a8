//! A producer: sends calls at a steady pace, notes what became of each, and awaits all answers.

use std::sync::Arc;
use std::time::Duration;

use garenne::{App, Error, Handle};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::history::{Answer, Event, History, Outcome};
use super::process::Orders;
use super::tasks::Kind;

/// The time from one call to the next.
const PACE: Duration = Duration::from_millis(25);
/// Calls that are sent or awaited at a time.
const IN_FLIGHT: usize = 4_000;
/// How often a call is sent again, under the same id, whose sending was not confirmed.
const REPEATS: usize = 20;
/// How long answers are awaited once no more calls are sent.
pub(crate) const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// Sends calls until it is told to stop, then awaits what it is owed.
pub(crate) async fn produce(app: &App, orders: &Orders) {
    let history = Arc::new(History::open(&orders.history));
    let room = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut calls = JoinSet::new();
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    history.note(Event::Ready);
    let sending = async {
        for n in 0_u64.. {
            pace.tick().await;
            let room = room.clone().acquire_owned().await.expect("open");
            let (app, queue) = (app.clone(), orders.queue.clone());
            // Numbers of different producers differ, so that an answer to another's call is seen as wrong.
            let n = n + 1_000_000 * orders.number as u64;
            let id = format!("{}-{n}", orders.run);
            let history = history.clone();
            calls.spawn(async move {
                call(&app, &queue, &history, id, n).await;
                drop(room);
            });
            while calls.try_join_next().is_some() {}
        }
    };
    tokio::select! {
        () = sending => {}
        () = garenne::shutdown_signal() => {}
    }
    let answers = async { while calls.join_next().await.is_some() {} };
    // What is still open then is in the history as a call without an answer.
    let _ = tokio::time::timeout(ANSWER_PATIENCE, answers).await;
    history.note(Event::Finished);
}

/// Sends one call and notes its answer.
async fn call(app: &App, queue: &str, history: &History, id: String, n: u64) {
    let kind = Kind::of(n);
    let mut handle = send(app, queue, history, &id, n).await;
    // Half of the callers leave an unconfirmed call at that, the others make sure of it.
    for _ in 0..REPEATS {
        match handle {
            Err(Outcome::Unconfirmed) if n.is_multiple_of(2) => {}
            _ => break,
        }
        handle = send(app, queue, history, &id, n).await;
    }
    let Ok(handle) = handle else { return };
    let answer = match handle.result().await {
        Ok(value) => Answer::Value(value),
        Err(failure) => Answer::Failure(format!("{:?}", failure.kind)),
    };
    tracing::debug!(id, ?kind, ?answer, "answered");
    history.note(Event::Reply { id, answer });
}

async fn send(
    app: &App,
    queue: &str,
    history: &History,
    id: &str,
    n: u64,
) -> Result<Handle<u64>, Outcome> {
    let kind = Kind::of(n);
    history.note(Event::Send {
        id: id.into(),
        kind,
        n,
    });
    let sent = kind.call(n).id(id).queue(queue).send(app).await;
    let outcome = match &sent {
        Ok(_) => Outcome::Confirmed,
        Err(Error::Unconfirmed { .. }) => Outcome::Unconfirmed,
        Err(Error::Refused { .. }) => Outcome::Refused,
        Err(Error::Unroutable { .. }) => Outcome::Unroutable,
        Err(Error::Blocked { .. }) => Outcome::Blocked,
        Err(Error::Unavailable { .. }) => Outcome::Unavailable,
        Err(_) => Outcome::Other,
    };
    history.note(Event::Sent {
        id: id.into(),
        outcome,
        error: sent.as_ref().err().map(ToString::to_string),
    });
    sent.map_err(|_| outcome)
}
