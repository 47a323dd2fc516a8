//! Inputs for the tests of all that decodes: those kept in `tests/corpus`, and what chance makes of them.
//! `PROPTEST_CASES=1000000 cargo test --lib fuzz` runs longer than CI does.

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value};

/// Cases of each test where nothing else is said.
const FEW: u32 = 64;

/// What chance does to an input: where, how, and with which byte.
type Edit = (Index, u8, u8);

/// All inputs that are kept for one kind of decoder, by their files' names.
pub(crate) fn inputs(kind: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/corpus")
        .join(kind);
    let entries = std::fs::read_dir(folder).expect("the corpus");
    let read = |path: std::path::PathBuf| {
        let name = path.display().to_string();
        (name, std::fs::read(path).expect("a file"))
    };
    let inputs: Vec<_> = entries
        .map(|entry| read(entry.expect("an entry").path()))
        .collect();
    assert!(!inputs.is_empty(), "{kind}: no inputs");
    inputs
}

/// As many cases as `PROPTEST_CASES` says, or few; failures go to the corpus by hand, not to files of proptest's.
pub(crate) fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig {
        failure_persistence: None,
        cases: match std::env::var_os("PROPTEST_CASES") {
            Some(_) => default.cases,
            None => FEW,
        },
        ..default
    }
}

/// An input of this kind with a few bytes changed, added, left out or repeated.
pub(crate) fn mutated(kind: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let seeds: Vec<_> = inputs(kind).into_iter().map(|(_, bytes)| bytes).collect();
    let edits = prop::collection::vec(any::<Edit>(), 0..8);
    (select(seeds), edits).prop_map(|(mut bytes, edits)| {
        edits.iter().for_each(|edit| apply(edit, &mut bytes));
        bytes
    })
}

fn apply((place, kind, byte): &Edit, bytes: &mut Vec<u8>) {
    let at = place.index(bytes.len() + 1);
    let end = bytes.len().min(at + usize::from(*byte));
    match kind % 6 {
        0 if at < bytes.len() => bytes[at] = *byte,
        1 => bytes.insert(at, *byte),
        2 => drop(bytes.drain(at..end)),
        3 => bytes.truncate(at),
        4 => {
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy);
        }
        _ if at < bytes.len() => bytes[at] ^= 1 << (byte % 8),
        _ => {}
    }
}

/// Any JSON, with numbers and texts that are likely to hurt.
pub(crate) fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::num::f64::ANY.prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})?"
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Headers, often under names that are read.
pub(crate) fn headers() -> impl Strategy<Value = Map<String, Value>> {
    const READ: [&str; 18] = [
        "task",
        "id",
        "eta",
        "expires",
        "retries",
        "timelimit",
        "lang",
        "compression",
        "ignore_result",
        "garenne-retries",
        "garenne-backoff",
        "garenne-ack",
        "garenne-history",
        "garenne-deliveries",
        "garenne-malformed",
        "garenne-attempts",
        "x-death",
        "BCC",
    ];
    let name = prop_oneof![3 => select(&READ).prop_map(str::to_owned), 1 => any::<String>()];
    prop::collection::btree_map(name, json(), 0..8).prop_map(|map| map.into_iter().collect())
}
