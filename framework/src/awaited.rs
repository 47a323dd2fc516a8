//! What a handle waits for: one reply, or those of a group's members.

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt, select_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::value::RawValue;

use crate::failure::Failure;
use crate::waiters::Waiting;

/// An encoded result, or why there is none.
pub(crate) type Outcome = Result<Box<RawValue>, Failure>;

/// What makes up a result.
#[derive(Clone)]
pub(crate) enum Awaited {
    /// Nothing comes: it was sent to have no reply.
    Nothing,
    /// One reply.
    One(Arc<Waiting>),
    /// A list of what each member comes to.
    Many {
        members: Vec<Self>,
        /// 0 where the first failure is the whole's; how often each outcome is wrapped otherwise.
        collected: u32,
    },
    /// `then`, unless one of `gates` fails before.
    Gated {
        gates: Vec<Arc<Waiting>>,
        then: Box<Self>,
    },
}

impl Awaited {
    /// The reply, if it is one.
    pub(crate) fn one(&self) -> Option<&Arc<Waiting>> {
        match self {
            Self::One(waiting) => Some(waiting),
            Self::Gated { then, .. } => then.one(),
            Self::Nothing | Self::Many { .. } => None,
        }
    }

    /// Looks at each reply that is waited for.
    #[cfg(feature = "redis")]
    pub(crate) fn for_each(&self, look: &impl Fn(&Waiting)) {
        match self {
            Self::Nothing => {}
            Self::One(waiting) => look(waiting),
            Self::Many { members, .. } => members.iter().for_each(|member| member.for_each(look)),
            Self::Gated { gates, then } => {
                gates.iter().for_each(|gate| look(gate));
                then.for_each(look);
            }
        }
    }

    /// The result, or the first failure. `nothing` says what to make of a reply that will not come.
    pub(crate) fn outcome(self, nothing: fn() -> Failure) -> BoxFuture<'static, Outcome> {
        match self {
            Self::Nothing => async move { Err(nothing()) }.boxed(),
            Self::One(waiting) => async move { waiting.outcome().await }.boxed(),
            Self::Many { members, collected } => async move {
                let mut results = vec![None; members.len()];
                let mut outcomes = indexed(members, nothing);
                while let Some((index, outcome)) = outcomes.next().await {
                    results[index] = Some(wrap(outcome, collected)?);
                }
                Ok(list(results.into_iter().flatten()))
            }
            .boxed(),
            Self::Gated { gates, then } => async move {
                tokio::select! {
                    biased;
                    outcome = then.outcome(nothing) => outcome,
                    failure = first_failure(gates) => Err(failure),
                }
            }
            .boxed(),
        }
    }
}

/// The outcomes of a group's members, with their indices, as they come.
pub(crate) fn indexed(
    members: Vec<Awaited>,
    nothing: fn() -> Failure,
) -> FuturesUnordered<BoxFuture<'static, (usize, Outcome)>> {
    let members = members.into_iter().enumerate();
    members
        .map(|(index, member)| {
            let outcome = member.outcome(nothing);
            async move { (index, outcome.await) }.boxed()
        })
        .collect()
}

/// Resolves when one of the calls fails; pends for ever if none does.
pub(crate) async fn first_failure(calls: Vec<Arc<Waiting>>) -> Failure {
    let failure = |call: Arc<Waiting>| {
        async move {
            match call.outcome().await {
                Err(failure) => failure,
                Ok(_) => std::future::pending().await,
            }
        }
        .boxed()
    };
    match calls.is_empty() {
        true => std::future::pending().await,
        false => select_all(calls.into_iter().map(failure)).await.0,
    }
}

/// A member's outcome as an element of the group's result: itself, or the whole's failure; where outcomes are
/// collected, as serde writes a `Result`.
pub(crate) fn wrap(outcome: Outcome, collected: u32) -> Outcome {
    if collected == 0 {
        return outcome;
    }
    let mut text = match outcome {
        Ok(value) => format!(r#"{{"Ok":{value}}}"#),
        Err(failure) => {
            let failure = serde_json::to_string(&failure).expect("a failure always serialises");
            format!(r#"{{"Err":{failure}}}"#)
        }
    };
    for _ in 1..collected {
        text = format!(r#"{{"Ok":{text}}}"#);
    }
    Ok(raw(text))
}

/// The JSON list of these values.
pub(crate) fn list(values: impl IntoIterator<Item = Box<RawValue>>) -> Box<RawValue> {
    let mut text = String::from("[");
    for value in values {
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(value.get());
    }
    text.push(']');
    raw(text)
}

fn raw(json: String) -> Box<RawValue> {
    RawValue::from_string(json).expect("made of JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureKind;
    use crate::waiters::Waiters;

    fn value(json: &str) -> Outcome {
        Ok(raw(json.to_owned()))
    }

    fn failure(text: &str) -> Failure {
        Failure::new("t", "id", FailureKind::Failed, text)
    }

    fn nothing() -> Failure {
        failure("nothing")
    }

    #[test]
    fn collected_outcomes_are_results() {
        type Collected = Result<i64, Failure>;
        let read = |outcome| {
            let raw = wrap(outcome, 1).expect("collected");
            serde_json::from_str::<Collected>(raw.get()).expect("a result")
        };
        assert_eq!(read(value("7")), Ok(7));
        assert_eq!(read(Err(failure("no"))), Err(failure("no")));
        assert!(wrap(Err(failure("no")), 0).is_err());
        let twice = wrap(Err(failure("no")), 2).expect("collected");
        let twice: Result<Collected, Failure> = serde_json::from_str(twice.get()).expect("JSON");
        assert_eq!(twice, Ok(Err(failure("no"))));
    }

    #[tokio::test]
    async fn a_group_is_done_when_its_members_are() {
        let waiters = Arc::new(Waiters::default());
        let one = |id: &str| Awaited::One(waiters.add(id).expect("open"));
        let group = || Awaited::Many {
            members: vec![
                one("a"),
                Awaited::Many {
                    members: vec![one("b"), one("c")],
                    collected: 0,
                },
            ],
            collected: 0,
        };
        let (first, second) = (group(), group());
        let gated = Awaited::Gated {
            gates: vec![waiters.add("gate").expect("open")],
            then: Box::new(group()),
        };
        for (id, json) in [("c", "3"), ("a", "1")] {
            waiters.complete(id, value(json));
        }
        waiters.complete("gate", Err(failure("upstream")));
        let ended = gated.outcome(nothing).await;
        assert_eq!(ended.expect_err("the gate").message, "upstream");
        waiters.complete("b", value("2"));
        assert_eq!(
            first.outcome(nothing).await.expect("all").get(),
            "[1,[2,3]]"
        );
        drop(second);
        let empty = Awaited::Many {
            members: Vec::new(),
            collected: 0,
        };
        assert_eq!(empty.outcome(nothing).await.expect("none").get(), "[]");
    }

    #[tokio::test]
    async fn the_first_failure_is_the_groups() {
        let waiters = Arc::new(Waiters::default());
        let members = ["a", "b"].map(|id| Awaited::One(waiters.add(id).expect("open")));
        let group = Awaited::Many {
            members: members.into(),
            collected: 0,
        };
        waiters.complete("b", Err(failure("no")));
        let failed = group.outcome(nothing).await.expect_err("b failed");
        assert_eq!(failed.message, "no");
    }
}
