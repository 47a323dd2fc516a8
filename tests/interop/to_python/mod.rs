//! Rust calls Python.

use std::time::Instant;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use garenne::{App, Call, Failure, Partial, SECOND};
use serde::de::DeserializeOwned;

use crate::case::{Mismatch, Outcome, Tally, mismatch};
use crate::place::Place;

mod calling;
mod failing;
mod queues;
mod timing;
mod values;
mod workflows;

/// How many cases run at once: many of them only wait.
const AT_ONCE: usize = 3;

/// One thing that is tried.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: for<'a> fn(&'a Side) -> BoxFuture<'a, Outcome>,
}

/// Lists cases: a name, and the function.
macro_rules! cases {
    ($($name:literal => $function:ident),* $(,)?) => {
        pub(crate) const CASES: &[crate::to_python::Case] = &[
            $(crate::to_python::Case { name: $name, run: |side| Box::pin($function(side)) }),*
        ];
    };
}
pub(crate) use cases;

/// Rust's side, and the names of the queues on both.
pub(crate) struct Side {
    pub(crate) app: App,
    /// Celery's version.
    pub(crate) version: String,
    pub(crate) python: String,
    pub(crate) rust: String,
}

impl Side {
    pub(crate) fn new(place: &Place, app: &App) -> Self {
        Self {
            app: app.clone(),
            version: place.version.clone(),
            python: place.queue.clone(),
            rust: place.queue_of("rust"),
        }
    }

    /// A call of a Python task.
    pub(crate) fn call<T>(&self, name: &str) -> Call<T> {
        Call::named(format!("python.{name}")).queue(self.python.as_str())
    }

    /// A Python task as a step of a workflow.
    pub(crate) fn next<In, Out>(&self, name: &str) -> Partial<In, Out> {
        Partial::named(format!("python.{name}")).queue(self.python.as_str())
    }

    /// Sends it and awaits what comes.
    pub(crate) async fn outcome<T>(&self, call: Call<T>) -> Result<Result<T, Failure>, Mismatch>
    where
        T: DeserializeOwned + 'static,
    {
        let handle = call.send(&self.app).await;
        let handle = handle.map_err(|error| mismatch("a call that is sent", &error))?;
        Ok(handle.result_within(20 * SECOND).await)
    }

    /// Sends it and awaits its result.
    pub(crate) async fn result<T>(&self, call: Call<T>) -> Result<T, Mismatch>
    where
        T: DeserializeOwned + 'static,
    {
        let outcome = self.outcome(call).await?;
        outcome.map_err(|failure| mismatch("a result", &failure))
    }

    /// Sends it and awaits its failure.
    pub(crate) async fn failure<T>(&self, call: Call<T>) -> Result<Failure, Mismatch>
    where
        T: DeserializeOwned + std::fmt::Debug + 'static,
    {
        match self.outcome(call).await? {
            Ok(value) => Err(mismatch("a failure", &value)),
            Err(failure) => Ok(failure),
        }
    }
}

/// An error where none was expected.
#[allow(clippy::needless_pass_by_value, reason = "as `map_err` gives it")]
fn bad(error: garenne::Error) -> Mismatch {
    mismatch("no error", &error)
}

/// Runs the cases whose name has `wanted`.
pub(crate) async fn run(side: &Side, wanted: &str, place: &Place, tally: &Tally) {
    let all = [
        calling::CASES,
        values::CASES,
        failing::CASES,
        timing::CASES,
        workflows::CASES,
        queues::CASES,
    ];
    let cases = all.into_iter().flatten();
    // A worker of Celery's takes from quorum queues from 5.5 on.
    let has_quorum = !side.version.starts_with("5.3");
    let cases = cases.filter(|case| {
        case.name.contains(wanted) && (has_quorum || !case.name.starts_with("quorum queue"))
    });
    futures_util::stream::iter(cases)
        .for_each_concurrent(AT_ONCE, |case| async move {
            let began = Instant::now();
            let outcome = tokio::time::timeout(60 * SECOND, (case.run)(side)).await;
            let outcome = outcome.unwrap_or_else(|_| Err(mismatch("an end", &"none within 60 s")));
            let direction = "Rust → Python";
            tally.tell(
                &place.version,
                direction,
                case.name,
                began.elapsed(),
                outcome,
            );
        })
        .await;
}
