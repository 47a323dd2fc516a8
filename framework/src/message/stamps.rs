//! Celery's stamps: labels that a call and all that it is part of carry, by which they can be revoked together.

use serde_json::{Map, Value};

use super::Message;

/// The header, and the option of signatures, that names the stamps.
const NAMES: &str = "stamped_headers";

impl Message {
    /// The values of the stamp named `name`; none where there is no such stamp.
    pub fn stamps(&self, name: &str) -> impl Iterator<Item = &Value> {
        let is_named = names(&self.headers).any(|known| known == name);
        let stamps = self.headers.get("stamps").and_then(Value::as_object);
        let value = stamps
            .filter(|_| is_named)
            .and_then(|stamps| stamps.get(name));
        values(value)
    }

    /// Puts on the stamps that the options of a signature have, as Python writes them.
    pub(super) fn stamp(&mut self, options: Map<String, Value>) {
        let Some(Value::Array(names)) = options.get(NAMES).cloned() else {
            return;
        };
        let mut stamps = options;
        stamps.remove(NAMES);
        self.set(NAMES, names);
        self.set("stamps", stamps);
    }
}

/// What of a signature's options are stamps: their names, and each by its name.
pub(super) fn of_options(options: &Map<String, Value>) -> Map<String, Value> {
    let mut stamps = Map::new();
    for name in names(options) {
        if let Some(value) = options.get(name) {
            stamps.insert(name.to_owned(), value.clone());
        }
    }
    if !stamps.is_empty() {
        let names = stamps.keys().cloned().collect();
        stamps.insert(NAMES.into(), names);
    }
    stamps
}

/// One value, or several.
pub(crate) fn values(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    let (many, one) = match value {
        Some(Value::Array(many)) => (many.as_slice(), None),
        Some(Value::Null) | None => (&[][..], None),
        one => (&[][..], one),
    };
    many.iter().chain(one)
}

fn names(table: &Map<String, Value>) -> impl Iterator<Item = &str> {
    values(table.get(NAMES)).filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::message::tests::{NOW, raw};
    use crate::message::{Arguments, Signature};

    #[test]
    fn stamps_are_read_whether_one_or_several() {
        let mut message = Message::new("a".into(), "t", &Arguments::default());
        assert_eq!(message.stamps("batch").count(), 0);
        message.set("stamped_headers", json!(["batch", "who", "gone"]));
        message.set(
            "stamps",
            json!({"batch": ["x", "y"], "who": "me", "more": 1}),
        );
        let values = |name| message.stamps(name).cloned().collect::<Vec<_>>();
        assert_eq!(values("batch"), [json!("x"), json!("y")]);
        assert_eq!(values("who"), [json!("me")]);
        assert!(values("gone").is_empty() && values("more").is_empty());
    }

    #[test]
    fn a_signature_keeps_its_stamps_on_the_way() {
        let text = r#"{"task": "t", "args": [{"a": 1e400}], "options":
            {"task_id": "i", "stamped_headers": ["batch"], "batch": ["x"], "add_to_parent": false}}"#;
        let text = text.replace("1e400", "1");
        let signature = Signature::decode(&raw(&text)).expect("a signature");
        let again = Signature::decode(&signature.encode()).expect("a signature");
        let message = again.message(None, Vec::new(), NOW).message;
        assert_eq!(message.stamps("batch").next(), Some(&json!("x")));
        assert_eq!(message.headers["stamps"], json!({"batch": ["x"]}));
        assert_eq!(message.headers["stamped_headers"], json!(["batch"]));
    }
}
