//! The command that revokes calls by their stamps.

use serde_json::{Map, Value};

use super::{Answer, Ear};
use crate::control::request::Request;
use crate::worker::stamps::common;

/// Stamps that a command may revoke at a time.
const MOST_STAMPS: usize = 1000;

impl Ear {
    /// Has calls dropped that have one of the stamps, and with `terminate` ends those that run.
    pub(super) fn revoke_by_stamps(&self, request: &Request) -> Answer {
        let Some(stamps) = stamps(request.argument("headers")) else {
            return Answer::error("no `headers`: stamps by their names, or `name=value`");
        };
        let shared = &self.shared;
        shared.stamps.add(&stamps);
        tracing::info!(?stamps, "calls with these stamps were cancelled");
        if !request.is_true("terminate") {
            let stamps = python(&stamps);
            return Answer::ok(format!(
                "headers {stamps} flagged as revoked, but not terminated"
            ));
        }
        let mut ended = Map::new();
        for had in shared.activity.calls() {
            let common = common(&had.message, &stamps);
            if !common.is_empty() {
                shared.cancelled.end(&had.message.id);
                ended.extend(common);
            }
        }
        Answer::ok(match ended.is_empty() {
            true => format!("headers {} were not terminated", python(&stamps)),
            false => format!("headers {} revoked", python(&ended)),
        })
    }
}

/// Stamps as the API sends them, or as the command line does.
fn stamps(argument: Option<&Value>) -> Option<Map<String, Value>> {
    let stamps = match argument? {
        Value::Object(stamps) => stamps.clone(),
        Value::Array(pairs) => {
            let pairs = pairs.iter().map(|pair| {
                let (name, value) = pair.as_str()?.split_once('=')?;
                Some((name.to_owned(), value.into()))
            });
            pairs.collect::<Option<_>>()?
        }
        _ => return None,
    };
    (1..=MOST_STAMPS).contains(&stamps.len()).then_some(stamps)
}

/// As Python writes it.
fn python(stamps: &Map<String, Value>) -> String {
    let written = |value: &Value| match value {
        Value::String(text) => format!("'{text}'"),
        other => other.to_string(),
    };
    let stamps = stamps.iter().map(|(name, value)| match value {
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(written).collect();
            format!("'{name}': [{}]", values.join(", "))
        }
        one => format!("'{name}': {}", written(one)),
    });
    format!("{{{}}}", stamps.collect::<Vec<_>>().join(", "))
}
