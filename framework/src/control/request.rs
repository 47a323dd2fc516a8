//! A request to workers and the answer to it, as Celery's remote control has them on the wire. Pure.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::message::{Message, usual};

mod glob;

/// A request larger than this is no request.
const LARGEST: usize = 1 << 20;

/// What workers are asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) method: String,
    #[serde(default)]
    arguments: Option<Map<String, Value>>,
    /// The nodes that it is for; all where there are none.
    #[serde(default)]
    destination: Option<Value>,
    /// A pattern of the names of the nodes that it is for, and its kind.
    #[serde(default)]
    pattern: Option<String>,
    #[serde(default)]
    matcher: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ticket: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reply_to: Option<ReplyTo>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct ReplyTo {
    exchange: String,
    routing_key: String,
}

/// Where answers are awaited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) exchange: String,
    pub(crate) name: String,
    pub(crate) ticket: String,
}

impl Request {
    /// A request to `nodes`, to all where there are none; answered to `asker`, if somebody asks.
    pub(crate) fn new(
        method: &str,
        arguments: Map<String, Value>,
        nodes: &[String],
        asker: Option<&Asker>,
    ) -> Self {
        Self {
            method: method.to_owned(),
            arguments: Some(arguments),
            destination: (!nodes.is_empty()).then(|| json!(nodes)),
            pattern: None,
            matcher: None,
            ticket: asker.map(|asker| asker.ticket.clone()),
            reply_to: asker.map(|asker| ReplyTo {
                exchange: asker.exchange.clone(),
                routing_key: asker.name.clone(),
            }),
        }
    }

    /// The message that asks; who gets it later than `expires` is not to heed it.
    pub(crate) fn encode(&self, expires: SystemTime) -> Message {
        let mut message = json_message(&json!(self));
        let expires = expires.duration_since(UNIX_EPOCH).unwrap_or_default();
        message.set("expires", expires.as_secs_f64());
        message
    }

    /// Reads a request; the error is why it is none.
    pub(crate) fn decode(message: &Message) -> Result<Self, String> {
        if message.body.len() > LARGEST {
            return Err(format!("it has {} bytes", message.body.len()));
        }
        serde_json::from_slice(&message.body).map_err(|error| error.to_string())
    }

    /// Whether `message` has come too late to be heeded.
    pub(crate) fn is_late(message: &Message, now: SystemTime) -> bool {
        let expires = message.headers.get("expires").and_then(Value::as_f64);
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        expires.is_some_and(|expires| expires > 0.0 && expires < now.as_secs_f64())
    }

    /// Whether it is for the node named `node`.
    pub(crate) fn is_for(&self, node: &str) -> bool {
        match &self.destination {
            Some(Value::Array(nodes)) if !nodes.is_empty() => nodes.iter().any(|name| name == node),
            Some(Value::String(name)) if !name.is_empty() => name == node,
            _ => match (&self.pattern, self.matcher.as_deref()) {
                (Some(pattern), None | Some("glob")) => glob::matches(pattern, node),
                (Some(pattern), Some(matcher)) => {
                    tracing::warn!(
                        pattern,
                        "ignored a request: its matcher is `{matcher}`, and only `glob` is known"
                    );
                    false
                }
                (None, _) => true,
            },
        }
    }

    /// Who asks, if somebody awaits an answer.
    pub(crate) fn asker(&self) -> Option<Asker> {
        let reply_to = self.reply_to.as_ref()?;
        Some(Asker {
            exchange: reply_to.exchange.clone(),
            name: reply_to.routing_key.clone(),
            ticket: self.ticket.clone()?,
        })
    }

    /// An argument; `None` also where it is null.
    pub(crate) fn argument(&self, name: &str) -> Option<&Value> {
        let argument = self.arguments.as_ref()?.get(name)?;
        (!argument.is_null()).then_some(argument)
    }

    /// An argument that is a text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.argument(name)?.as_str()
    }

    /// An argument that is one text or several.
    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        match self.argument(name) {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(many)) => many
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Whether an argument is true, as Python sees it: Flower says 1.
    pub(crate) fn is_true(&self, name: &str) -> bool {
        match self.argument(name) {
            Some(Value::Bool(yes)) => *yes,
            Some(Value::Number(number)) => number.as_f64() != Some(0.0),
            _ => false,
        }
    }

    /// An argument that is a number, in whatever form.
    pub(crate) fn number(&self, name: &str) -> Option<f64> {
        let argument = self.argument(name)?;
        argument
            .as_f64()
            .or_else(|| argument.as_str()?.parse().ok())
    }
}

/// The answer of `node`.
pub(crate) fn answer(node: &str, value: &Value, asker: &Asker) -> Message {
    let mut message = json_message(&json!({ node: value }));
    message.set("ticket", asker.ticket.as_str());
    message
}

fn json_message(body: &Value) -> Message {
    Message {
        content_type: usual::media_type(),
        content_encoding: usual::encoding(),
        body: body.to_string().into_bytes().into(),
        ..Message::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: &Value) -> Request {
        Request::decode(&json_message(body)).expect("a request")
    }

    #[test]
    fn pythons_requests_are_read() {
        let ping = request(&json!({"method": "ping"}));
        assert!(ping.is_for("a@h") && ping.asker().is_none() && ping.argument("x").is_none());
        let full = request(
            &json!({"method": "revoke", "arguments": {"task_id": ["a", "b"], "terminate": null, "n": "2"},
            "destination": ["a@h"], "pattern": null, "matcher": null, "ticket": "t",
            "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "o"}, "more": 1}),
        );
        assert!(full.is_for("a@h") && !full.is_for("b@h"));
        assert_eq!(full.texts("task_id"), ["a", "b"]);
        assert_eq!(
            (full.argument("terminate"), full.number("n")),
            (None, Some(2.0))
        );
        assert_eq!(full.asker().map(|asker| asker.name).as_deref(), Some("o"));
        let pattern = request(
            &json!({"method": "ping", "destination": [], "pattern": "w?@*", "matcher": "glob"}),
        );
        assert!(pattern.is_for("w1@h") && !pattern.is_for("x1@h"));
    }

    #[test]
    fn what_is_no_request_is_an_error() {
        for body in [
            &b"{"[..],
            b"[]",
            b"{}",
            br#"{"method": 5}"#,
            br#"{"method": "ping", "arguments": 5}"#,
        ] {
            let message = Message {
                body: body.to_vec().into(),
                ..Message::default()
            };
            assert!(Request::decode(&message).is_err());
        }
    }

    #[test]
    fn late_ones_are_known() {
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(100);
        let mut message = Message::default();
        assert!(!Request::is_late(&message, now));
        for (expires, late) in [(0.0, false), (99.5, true), (100.5, false)] {
            message.set("expires", expires);
            assert_eq!(Request::is_late(&message, now), late, "{expires}");
        }
    }
}
