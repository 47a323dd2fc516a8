//! One hostile message, and what must become of it.

use std::sync::Arc;

use garenne::message::{Arguments, Message};
use serde_json::Value;

use crate::raw::{self, Properties, place};

/// What must become of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expected {
    /// It ends in the dead letters with this reason, and a text that has these words.
    Dead(&'static str, &'static str),
    /// It is valid: the task runs and succeeds.
    Runs,
    /// It is not run, its caller is told, and nothing is kept.
    Dropped,
    /// It waits in the broker, for ever in a test's eyes.
    Waits,
    /// The broker refuses it.
    Refused,
}

/// One hostile message.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) message: Message,
    /// The properties as RabbitMQ gets them, where they differ from the message's.
    pub(crate) raw: Option<Box<dyn Fn(Properties) -> Properties + Send + Sync>>,
    pub(crate) expected: Expected,
    /// Whether somebody waits who can be told.
    pub(crate) awaited: bool,
}

/// A good call of `task` but for its body.
pub(crate) fn body(
    name: &'static str,
    task: &str,
    body: impl Into<Vec<u8>>,
    expected: Expected,
) -> Case {
    let mut message = Message::new(format!("id of {name}"), task, &Arguments::default());
    message.body = Arc::new(body.into());
    Case {
        name,
        message,
        raw: None,
        expected,
        awaited: true,
    }
}

/// The good call `add(2, 3)`, changed.
pub(crate) fn changed(
    name: &'static str,
    change: impl FnOnce(&mut Message),
    expected: Expected,
) -> Case {
    let mut case = body(name, "add", "[[2, 3], {}, {}]", expected);
    change(&mut case.message);
    case
}

/// The good call `add(2, 3)` with one header of this value.
pub(crate) fn header(
    name: &'static str,
    key: &str,
    value: impl Into<Value>,
    expected: Expected,
) -> Case {
    let value = value.into();
    changed(
        name,
        |message| {
            message.headers.insert(key.to_owned(), value);
        },
        expected,
    )
}

/// The good call `add(2, 3)` with other properties, which only RabbitMQ can carry.
pub(crate) fn frame(
    name: &'static str,
    change: impl Fn(Properties) -> Properties + Send + Sync + 'static,
    expected: Expected,
) -> Case {
    let mut case = changed(name, |_| {}, expected);
    case.raw = Some(Box::new(change));
    case
}

impl Case {
    /// Nobody can be told of it.
    pub(crate) fn unheard(mut self) -> Self {
        self.awaited = false;
        self
    }

    /// The properties as they go to RabbitMQ.
    pub(crate) fn properties(&self) -> Properties {
        let message = &self.message;
        let mut properties = Properties::default().bytes(place::DELIVERY_MODE, &[2]);
        for (place, text) in [
            (place::CONTENT_TYPE, Some(&message.content_type)),
            (place::CONTENT_ENCODING, Some(&message.content_encoding)),
            (place::CORRELATION_ID, message.correlation_id.as_ref()),
            (place::REPLY_TO, message.reply_to.as_ref()),
            (
                place::MESSAGE_ID,
                Some(&message.id).filter(|id| id.len() < 256),
            ),
        ] {
            if let Some(text) = text {
                properties = properties.short(place, text.as_bytes());
            }
        }
        if let Some(priority) = message.priority {
            properties = properties.bytes(place::PRIORITY, &[priority]);
        }
        for (name, value) in &message.headers {
            properties = properties.header(name.as_bytes(), &raw::json(value));
        }
        match &self.raw {
            Some(change) => change(properties),
            None => properties,
        }
    }
}

/// An argument list of one piece of JSON.
pub(crate) fn call_of(json: &str) -> Vec<u8> {
    format!("[[{json}], {{}}, {{}}]").into_bytes()
}
