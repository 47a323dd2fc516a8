use serde_json::{Value, json};

use super::*;
use crate::message::tests::raw;

fn sig(name: &str) -> Value {
    json!({"task": name, "args": [], "options": {"task_id": name}})
}

fn several(kind: &str, kwargs: Value, id: &str) -> Value {
    json!({"task": format!("celery.{kind}"), "subtask_type": kind, "args": [], "kwargs": kwargs,
        "options": {"task_id": id}})
}

fn begin(signature: &Value, rest: &[Value]) -> Beginning {
    let signature = read(&raw(&signature.to_string())).expect("a signature");
    let rest = rest.iter().map(|step| raw(&step.to_string())).collect();
    Beginning::of(signature, Some(&raw("7")), rest).expect("readable")
}

fn names(beginning: &Beginning) -> Vec<&str> {
    let calls = beginning.calls.iter();
    calls.map(|call| &*call.signature.task).collect()
}

fn task_of(raw: &RawValue) -> String {
    read(raw).expect("a signature").task
}

#[test]
fn a_chain_begins_with_its_first_step() {
    let chain = several(
        "chain",
        json!({"tasks": [sig("a"), sig("b"), sig("c")]}),
        "c",
    );
    let begun = begin(&chain, &[sig("z"), sig("d")]);
    assert_eq!(names(&begun), ["a"]);
    let rest: Vec<_> = begun.calls[0].rest.iter().map(|raw| task_of(raw)).collect();
    assert_eq!(rest, ["z", "d", "c", "b"]);
    assert_eq!(begun.calls[0].input.as_ref().expect("input").get(), "7");
    assert!(begun.chords.is_empty());
}

#[test]
fn a_group_begins_with_all_its_members() {
    let inner = several("group", json!({"tasks": [sig("b"), sig("c")]}), "inner");
    let begun = begin(
        &several("group", json!({"tasks": [sig("a"), inner]}), "g"),
        &[],
    );
    assert_eq!(names(&begun), ["a", "b", "c"]);
    for (index, call) in (0..).zip(&begun.calls) {
        let options = &call.signature.options;
        assert_eq!(options.group_id.as_deref(), Some("g"));
        assert_eq!(options.group_index, Some(index));
        assert!(options.chord.is_none());
    }
    assert!(begun.chords.is_empty());
}

#[test]
fn the_members_of_a_chord_carry_its_body_and_what_follows() {
    let header = several("group", json!({"tasks": [sig("a"), sig("b")]}), "g");
    let chord = several("chord", json!({"header": header, "body": sig("body")}), "g");
    let begun = begin(&chord, &[sig("last"), sig("next")]);
    assert_eq!(names(&begun), ["a", "b"]);
    let group = "g".to_owned();
    assert_eq!(begun.chords, [Chord { group, size: 2 }]);
    for call in &begun.calls {
        assert!(call.rest.is_empty());
        let body = call.signature.options.chord.as_deref().expect("a body");
        let body = read(body).expect("a signature");
        let rest: Vec<_> = body
            .options
            .chain
            .0
            .iter()
            .map(|raw| task_of(raw))
            .collect();
        assert_eq!(
            (&*body.task, rest),
            ("body", vec!["last".into(), "next".into()])
        );
    }
}

#[test]
fn who_is_in_a_chord_is_the_last_of_a_chain_and_the_body_of_a_chord() {
    let chain = several("chain", json!({"tasks": [sig("a"), sig("b")]}), "b");
    let inner = several(
        "chord",
        json!({"header": [sig("c"), sig("d")], "body": sig("e")}),
        "in",
    );
    let outer = several(
        "chord",
        json!({"header": [chain, inner], "body": sig("f")}),
        "out",
    );
    let begun = begin(&outer, &[]);
    assert_eq!(names(&begun), ["a", "c", "d"]);
    let chord = |group: &str| Chord {
        group: group.into(),
        size: 2,
    };
    assert_eq!(begun.chords, [chord("in"), chord("out")]);
    let after_a = read(&begun.calls[0].rest[0]).expect("a signature");
    assert_eq!(after_a.options.group_id.as_deref(), Some("out"));
    assert_eq!(after_a.options.group_index, Some(0));
    let inner = &begun.calls[1].signature.options;
    assert_eq!(inner.group_id.as_deref(), Some("in"));
    let body = read(inner.chord.as_deref().expect("a body")).expect("a signature");
    assert_eq!(body.options.group_id.as_deref(), Some("out"));
    assert_eq!(body.options.group_index, Some(1));
    assert_eq!(task_of(&body.options.chord.expect("the outer body")), "f");
}

#[test]
fn a_group_in_the_middle_of_a_chain_is_the_header_of_a_chord() {
    let group = several("group", json!({"tasks": [sig("a"), sig("b")]}), "g");
    let chain = several("chain", json!({"tasks": [group, sig("c"), sig("d")]}), "d");
    let begun = begin(&chain, &[]);
    assert_eq!(names(&begun), ["a", "b"]);
    assert_eq!(begun.chords[0].size, 2);
    let followed = several("group", json!({"tasks": [sig("a")]}), "g");
    assert_eq!(begin(&followed, &[sig("c")]).chords[0].size, 1);
}

#[test]
fn a_chord_of_nobody_begins_with_its_body() {
    let chord = several("chord", json!({"header": [], "body": sig("body")}), "g");
    let begun = begin(&chord, &[]);
    assert_eq!(names(&begun), ["body"]);
    assert_eq!(begun.calls[0].input.as_ref().expect("input").get(), "[]");
    assert!(begun.chords.is_empty());
}

#[test]
fn what_cannot_be_sent_is_said() {
    let begin = |value: Value| {
        let signature = read(&raw(&value.to_string())).expect("a signature");
        Beginning::of(signature, None, Vec::new()).map(drop)
    };
    assert!(begin(several("chord", json!({"header": []}), "g")).is_err());
    assert!(begin(several("group", json!({}), "g")).is_err());
    assert!(begin(several("chain", json!({"tasks": 7}), "g")).is_err());
    let long = "x".repeat(1 << 20);
    let body = json!({"task": "t", "args": [long]});
    let members: Vec<_> = (0..100).map(|_| sig("a")).collect();
    let chord = several("chord", json!({"header": members, "body": body}), "g");
    assert!(begin(chord).expect_err("too large").contains("copies"));
}
