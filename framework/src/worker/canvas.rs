//! Signatures of Celery's that stand for several calls: a group at the end of a chain, a chain as a member or as a
//! callback. Pure.

use serde_json::value::RawValue;

use crate::message::{Signature, SignatureOptions, Signatures};

/// A call, and what follows it: the next one last.
pub(super) type Unfolded = (Signature, Vec<Box<RawValue>>);

/// The calls that are to be sent for a signature which `rest` is to follow.
///
/// # Errors
/// Why it cannot be sent from here, in words.
pub(super) fn unfold(
    signature: Signature,
    rest: &[Box<RawValue>],
) -> Result<Vec<Unfolded>, String> {
    match signature.subtask_type.as_deref() {
        Some("group") if rest.is_empty() => {
            let mut calls = Vec::new();
            for (index, raw) in (0..).zip(members(&signature, "tasks").0) {
                for (mut member, rest) in unfold(decode(&raw)?, &[])? {
                    let options = &mut member.options;
                    if options.group_id.is_none() {
                        options.group_id.clone_from(&signature.options.task_id);
                        options.group_index = Some(index);
                    }
                    calls.push((member, rest));
                }
            }
            Ok(calls)
        }
        Some("chain") if signature.options.link.is_empty() => {
            let mut tasks = members(&signature, "tasks").0.into_iter();
            let first = tasks.next().ok_or("it is an empty chain")?;
            let after: Vec<_> = rest.iter().cloned().chain(tasks.rev()).collect();
            unfold(decode(&first)?, &after)
        }
        Some(kind @ ("group" | "chord" | "chain")) => Err(format!(
            "it is to be followed by a {kind} of Celery's, which only Python's workers can send"
        )),
        _ => Ok(vec![(signature, rest.to_vec())]),
    }
}

/// Everybody who hears of a signature that will never be sent: its call or, of several, all of them.
pub(super) fn everyone(signature: Signature) -> Vec<SignatureOptions> {
    let within = match signature.subtask_type.as_deref() {
        Some("group" | "chain") => members(&signature, "tasks"),
        Some("chord") => members(&signature, "body"),
        _ => return vec![signature.options],
    };
    let within = within.0.iter().filter_map(|raw| decode(raw).ok());
    within
        .flat_map(everyone)
        .chain([signature.options])
        .collect()
}

/// What a signature has in this argument, which Celery gives by name.
fn members(signature: &Signature, argument: &str) -> Signatures {
    let raw = signature.kwargs.get(argument);
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok())
        .unwrap_or_default()
}

fn decode(raw: &RawValue) -> Result<Signature, String> {
    Signature::decode(raw).map_err(|error| format!("what is to follow it cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serde_json::value::to_raw_value;

    use super::*;

    fn signature(value: &serde_json::Value) -> Signature {
        serde_json::from_value(value.clone()).expect("a signature")
    }

    fn call(name: &str) -> serde_json::Value {
        json!({"task": name, "args": [], "options": {"task_id": name}})
    }

    fn several(kind: &str, tasks: &[serde_json::Value]) -> serde_json::Value {
        let task = format!("celery.{kind}");
        json!({"task": task, "args": [], "kwargs": {"tasks": tasks}, "subtask_type": kind, "options": {"task_id": "whole"}})
    }

    /// The calls' names, each with those that follow it.
    fn names(unfolded: &[Unfolded]) -> Vec<(String, Vec<String>)> {
        let name = |raw: &Box<RawValue>| decode(raw).expect("a signature").task;
        let names = unfolded.iter();
        names
            .map(|(signature, rest)| (signature.task.clone(), rest.iter().map(name).collect()))
            .collect()
    }

    #[test]
    fn a_group_is_its_members() {
        let group = several(
            "group",
            &[call("a"), several("chain", &[call("b"), call("c")])],
        );
        let calls = unfold(signature(&group), &[]).expect("it can be sent");
        assert_eq!(
            names(&calls),
            [("a".into(), vec![]), ("b".into(), vec!["c".to_owned()])]
        );
        let places: Vec<_> = calls.iter().map(|(call, _)| &call.options).collect();
        assert_eq!(places[1].group_id.as_deref(), Some("whole"));
        assert_eq!(places[1].group_index, Some(1));
    }

    #[test]
    fn a_chain_is_its_first_task_which_the_others_follow() {
        let last = to_raw_value(&call("last")).expect("JSON");
        let chain = several("chain", &[call("a"), call("b"), call("c")]);
        let calls = unfold(signature(&chain), &[last]).expect("it can be sent");
        let after = ["last", "c", "b"].map(str::to_owned).to_vec();
        assert_eq!(names(&calls), [("a".into(), after)]);
    }

    #[test]
    fn what_needs_a_result_backend_is_refused() {
        let rest = [to_raw_value(&call("last")).expect("JSON")];
        let group = several("group", &[call("a")]);
        assert!(unfold(signature(&group), &rest).is_err());
        assert!(unfold(signature(&several("chord", &[])), &[]).is_err());
        assert!(unfold(signature(&several("chain", &[])), &[]).is_err());
        let nested = several("group", &[several("chord", &[])]);
        assert!(unfold(signature(&nested), &[]).is_err());
    }

    #[test]
    fn everybody_hears_of_it() {
        let group = several(
            "group",
            &[call("a"), several("chain", &[call("b"), call("c")])],
        );
        let told = everyone(signature(&group)).into_iter();
        let told: Vec<_> = told.filter_map(|options| options.task_id).collect();
        assert_eq!(told, ["a", "b", "c", "whole", "whole"]);
        let chord = json!({"task": "celery.chord", "subtask_type": "chord", "kwargs": {"body": call("body")}});
        let told: Vec<_> = everyone(signature(&chord))
            .into_iter()
            .filter_map(|options| options.task_id)
            .collect();
        assert_eq!(told, ["body"]);
    }
}
