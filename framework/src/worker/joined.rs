//! The body of a join gets its members' results before it runs.

use std::collections::HashMap;

use serde_json::value::RawValue;

use super::Shared;
use super::check::Checked;
use super::settle::PAUSE;
use super::verdict::{Verdict, failure};
use crate::awaited::{list, wrap};
use crate::failure::{Failure, FailureKind};
use crate::message::{Joined, Message};
use crate::reply::Reply;

/// How often the results of a join that has fired are read until all are there.
const READS: u32 = 10;
/// Bytes that a reply may have beside the result in it.
const ENVELOPE: usize = 1024;

impl Shared {
    /// Puts the results of the join whose body the call is before its arguments. `may_be_over` says whether
    /// it may have been settled before.
    pub(super) async fn join(
        &self,
        mut task: Checked,
        may_be_over: bool,
        message: &Message,
    ) -> Result<Checked, Verdict> {
        let Some(joined) = task.joined.take() else {
            return Ok(task);
        };
        let rejected = |reason, text: String| Verdict::Dead {
            reason,
            failure: failure(message, FailureKind::Rejected, text),
        };
        let limit = self.app.max_message_size();
        let most = limit.saturating_add(joined.members.len().saturating_mul(ENVELOPE));
        let mut reads = 0;
        let results = loop {
            reads += 1;
            let parts = match self.app.broker().parts(&joined.join, most).await {
                Ok(Some(parts)) => parts,
                // It is closed when its body is settled.
                Ok(None) if may_be_over => return Err(Verdict::Over),
                Ok(None) => {
                    let join = &joined.join;
                    let text =
                        format!("the results that it is to get are gone, with the join `{join}`");
                    return Err(rejected("join", text));
                }
                Err(error) => {
                    tracing::warn!(id = message.id, "its results cannot be read yet: {error}");
                    tokio::time::sleep(PAUSE).await;
                    return Err(Verdict::HandBack);
                }
            };
            let size: usize = parts.iter().map(|part| part.body.len()).sum();
            match results(&joined, &parts) {
                Ok(results) => break results,
                Err(Missing::Failed(failure)) => return Err(Verdict::Dropped(failure)),
                Err(Missing::Absent(_)) if size > most => {
                    let text = format!(
                        "its members' results have more than the limit of {limit} bytes together"
                    );
                    return Err(rejected("too_large", text));
                }
                Err(Missing::Absent(text)) if reads == READS => {
                    return Err(rejected("join", text));
                }
                // A busy broker may not show all of them at once.
                Err(Missing::Absent(text)) => {
                    tracing::warn!(id = message.id, "looking again: {text}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        let size = results.get().len();
        if size > limit {
            let text = format!(
                "its members' results have {size} bytes, more than the limit of {limit} bytes"
            );
            return Err(rejected("too_large", text));
        }
        if !joined.immutable {
            task.arguments.args.insert(0, results);
        }
        Ok(task)
    }
}

/// Why there is no list of results.
#[derive(Debug)]
enum Missing {
    /// A member has failed, and with it the whole.
    Failed(Box<Failure>),
    /// A part is not there, though the join has fired.
    Absent(String),
}

/// The results of all members, in their order.
fn results(joined: &Joined, parts: &[Message]) -> Result<Box<RawValue>, Missing> {
    let mut outcomes: HashMap<String, _> = parts
        .iter()
        .filter_map(|part| {
            let reply = Reply::decode(part).unwrap_or_else(|unreadable| {
                tracing::warn!(join = joined.join, %unreadable, "a result cannot be read");
                None
            })?;
            let member = part.correlation_id.clone().unwrap_or(reply.id);
            Some((member, reply.outcome))
        })
        .collect();
    let (mut results, mut absent) = (Vec::with_capacity(joined.members.len()), 0);
    for member in &joined.members {
        match outcomes
            .remove(member)
            .map(|outcome| wrap(outcome, joined.collected))
        {
            Some(Ok(result)) => results.push(result),
            Some(Err(failure)) => return Err(Missing::Failed(Box::new(failure))),
            None => absent += 1,
        }
    }
    match absent {
        0 => Ok(list(results)),
        _ => Err(Missing::Absent(format!(
            "{absent} of its {} members' results are not there, though the join `{}` has fired",
            joined.members.len(),
            joined.join
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn part(member: &str, outcome: Result<&str, &str>) -> Message {
        let outcome = outcome
            .map(|json| RawValue::from_string(json.into()).expect("JSON"))
            .map_err(|text| Failure::new("task", "deep", FailureKind::Panicked, text));
        let id = member.to_owned();
        Reply { id, outcome }.encode_for(None, &Message::default(), SystemTime::UNIX_EPOCH)
    }

    fn joined(collected: u32) -> Joined {
        Joined {
            join: "garenne.join.1".into(),
            members: ["a", "b", "c"].map(str::to_owned).into(),
            collected,
            immutable: false,
        }
    }

    #[test]
    fn results_are_in_the_members_order() {
        let parts = [part("c", Ok("3")), part("b", Ok("[2]")), part("a", Ok("1"))];
        let list = results(&joined(0), &parts).expect("complete");
        assert_eq!(list.get(), "[1,[2],3]");
        let missing = results(&joined(0), &parts[1..]).expect_err("incomplete");
        assert!(
            matches!(missing, Missing::Failed(_))
                || matches!(missing, Missing::Absent(text) if text.starts_with("1 of its 3"))
        );
    }

    #[test]
    fn one_failure_is_the_wholes_with_its_reason() {
        let parts = [part("b", Err("oh")), part("a", Ok("1"))];
        let Err(Missing::Failed(failure)) = results(&joined(0), &parts) else {
            panic!("b has failed");
        };
        assert_eq!(failure.message, "oh");
        assert_eq!((&*failure.task, &*failure.id), ("task", "deep"));
        assert_eq!(failure.kind, FailureKind::Panicked);
    }

    #[test]
    fn failures_can_be_collected() {
        let parts = [
            part("b", Err("oh")),
            part("a", Ok("1")),
            part("c", Ok("null")),
        ];
        let list = results(&joined(1), &parts).expect("complete");
        let list: Vec<Result<Option<i64>, Failure>> =
            serde_json::from_str(list.get()).expect("JSON");
        assert_eq!(list[0], Ok(Some(1)));
        assert_eq!(list[1].as_ref().expect_err("b").message, "oh");
        assert_eq!(list[2], Ok(None));
    }
}
