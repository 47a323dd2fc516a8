//! Which stamps were revoked: calls that carry one of them are dropped when they come. As in Celery, only the
//! worker that was told knows, as long as it lives.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};

use crate::message::{Message, stamp_values};

/// Values remembered, the newest.
const REMEMBERED: usize = 10_000;

/// The stamps that were revoked.
#[derive(Default)]
pub(super) struct RevokedStamps(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// Values by their stamp's name, each as JSON.
    stamps: BTreeMap<String, HashSet<String>>,
    oldest_first: VecDeque<(String, String)>,
}

impl RevokedStamps {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stamps, a value or several for each name, were revoked.
    pub(super) fn add(&self, stamps: &Map<String, Value>) {
        let mut inner = self.inner();
        for (name, value) in stamps {
            for value in stamp_values(Some(value)) {
                let value = value.to_string();
                let values = inner.stamps.entry(name.clone()).or_default();
                if values.insert(value.clone()) {
                    inner.oldest_first.push_back((name.clone(), value));
                }
            }
        }
        while inner.oldest_first.len() > REMEMBERED {
            let Some((name, value)) = inner.oldest_first.pop_front() else {
                break;
            };
            if let Some(values) = inner.stamps.get_mut(&name) {
                values.remove(&value);
                if values.is_empty() {
                    inner.stamps.remove(&name);
                }
            }
        }
    }

    /// Whether the call has a stamp that was revoked.
    pub(super) fn revoke(&self, message: &Message) -> bool {
        if !message.headers.contains_key("stamps") {
            return false;
        }
        let inner = self.inner();
        inner.stamps.iter().any(|(name, values)| {
            let mut stamps = message.stamps(name);
            stamps.any(|stamp| values.contains(&stamp.to_string()))
        })
    }
}

/// Those of `stamps` that the call has.
pub(super) fn common(message: &Message, stamps: &Map<String, Value>) -> Map<String, Value> {
    let mut common = Map::new();
    for (name, value) in stamps {
        let both: Vec<Value> = message
            .stamps(name)
            .filter(|stamp| stamp_values(Some(value)).any(|value| value == *stamp))
            .cloned()
            .collect();
        if !both.is_empty() {
            common.insert(name.clone(), both.into());
        }
    }
    common
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::message::Arguments;

    fn stamps(value: &Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap_or_default()
    }

    fn stamped(names: &Value, stamps: &Value) -> Message {
        let mut message = Message::new("id".into(), "t", &Arguments::default());
        message.set("stamped_headers", names.clone());
        message.set("stamps", stamps.clone());
        message
    }

    #[test]
    fn one_stamp_in_common_is_enough() {
        let revoked = RevokedStamps::default();
        let call = stamped(
            &json!(["batch", "who"]),
            &json!({"batch": ["x", "y"], "who": "me"}),
        );
        assert!(!revoked.revoke(&call));
        revoked.add(&stamps(&json!({"batch": "z", "who": ["you"]})));
        assert!(!revoked.revoke(&call));
        revoked.add(&stamps(&json!({"batch": ["y"]})));
        assert!(revoked.revoke(&call));
        assert!(!revoked.revoke(&stamped(&json!([]), &json!({"batch": ["y"]}))));
        let said = stamps(&json!({"batch": ["y", "w"], "who": "you"}));
        assert_eq!(common(&call, &said), stamps(&json!({"batch": ["y"]})));
    }

    #[test]
    fn memory_is_bounded() {
        let revoked = RevokedStamps::default();
        for number in 0..REMEMBERED + 1 {
            revoked.add(&stamps(&json!({ "batch": number })));
        }
        let call = |number: usize| stamped(&json!(["batch"]), &json!({ "batch": number }));
        assert!(!revoked.revoke(&call(0)) && revoked.revoke(&call(1)));
        assert_eq!(revoked.inner().oldest_first.len(), REMEMBERED);
    }
}
