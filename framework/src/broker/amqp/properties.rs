//! A message's properties for the wire. lapin consumes them, and what a lost channel takes with it is published again:
//! they are kept as they are written, in one piece, since a copy would take an allocation for each text.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

use lapin::BasicProperties;
use lapin::protocol::basic::{gen_properties, parse_properties};

/// What a thread keeps to write in; a message with more is rare.
const SCRATCH: usize = 4096;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Properties that can be given away again and again.
#[derive(Debug)]
pub(super) struct Properties {
    /// As on the wire; `None` if they cannot be written, which lapin will say.
    written: Option<Box<[u8]>>,
    /// What was not given away yet.
    fresh: Mutex<Option<BasicProperties>>,
    priority: u8,
}

impl Properties {
    pub(super) fn new(properties: BasicProperties) -> Self {
        Self {
            written: write(&properties),
            priority: properties.priority().unwrap_or(0),
            fresh: Mutex::new(Some(properties)),
        }
    }

    pub(super) fn priority(&self) -> u8 {
        self.priority
    }

    /// The properties: the first time they are those that this was made of.
    pub(super) fn give(&self) -> BasicProperties {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        match &self.written {
            None => fresh.clone().unwrap_or_default(),
            Some(written) => fresh.take().unwrap_or_else(|| {
                let read = parse_properties(&**written);
                read.map_or_else(|_| BasicProperties::default(), |(_, properties)| properties)
            }),
        }
    }
}

/// The properties as on the wire. A buffer that has room for all of them, and is kept while the message is on its way,
/// would be larger than most need: each thread has one to write in.
fn write(properties: &BasicProperties) -> Option<Box<[u8]>> {
    let buffer = BUFFER.take();
    let (mut buffer, _) = gen_properties(properties)(buffer.into()).ok()?.into_inner();
    let written = Box::from(buffer.as_slice());
    if buffer.capacity() <= SCRATCH {
        buffer.clear();
        BUFFER.set(buffer);
    }
    Some(written)
}

impl Clone for Properties {
    fn clone(&self) -> Self {
        Self::new(self.give())
    }
}

#[cfg(test)]
mod tests {
    use lapin::types::{AMQPValue, FieldArray, FieldTable};

    use super::*;

    #[test]
    fn what_is_given_again_is_the_same() {
        let mut inner = FieldTable::default();
        inner.insert("n".into(), AMQPValue::Double(0.5));
        let mut headers = FieldTable::default();
        for (name, value) in [
            ("text", AMQPValue::LongString("ä".repeat(700).into())),
            ("int", AMQPValue::LongInt(-1)),
            ("long", AMQPValue::LongLongInt(i64::MIN)),
            ("flag", AMQPValue::Boolean(true)),
            ("none", AMQPValue::Void),
            (
                "list",
                AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::FieldTable(inner)])),
            ),
        ] {
            headers.insert(name.into(), value);
        }
        let original = BasicProperties::default()
            .with_delivery_mode(2)
            .with_priority(3)
            .with_message_id("id".into())
            .with_reply_to("queue".into())
            .with_headers(headers);
        let properties = Properties::new(original.clone());
        assert_eq!(properties.priority(), 3);
        for _ in 0..3 {
            assert_eq!(properties.give(), original);
        }
        let copy = properties.clone();
        assert_eq!(copy.give(), original);
        assert_eq!(properties.give(), original);
    }
}
