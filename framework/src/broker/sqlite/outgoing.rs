//! What is to be stored, made ready by who asks for it: the writer thread need not. Knows no SQL.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::broker::join::part_key;
use crate::broker::{Join, Publish, Route, validate_routing_key};
use crate::error::{Error, Result};
use crate::message::{Headers, Message};

/// A publish with all that the writer thread need not do itself already done.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) route: Route,
    /// What tells a part of a join from the others; empty on other routes.
    pub(super) part: String,
    /// The message without its body, in JSON.
    pub(super) envelope: String,
    pub(super) body: Arc<Vec<u8>>,
    /// For exchanges that route by them; empty on other routes.
    pub(super) headers: Headers,
    pub(super) priority: u8,
    /// In milliseconds since 1970.
    pub(super) due: Option<i64>,
}

impl Outgoing {
    pub(super) fn new(publish: Publish, now: SystemTime) -> Result<Self> {
        let due = due(publish.delay, now);
        let outgoing = Self::of(publish.route, publish.message)?;
        Ok(Self { due, ..outgoing })
    }

    /// One that is due at once.
    pub(super) fn of(route: Route, mut message: Message) -> Result<Self> {
        let envelope = serde_json::to_string(&message)
            .map_err(|e| Error::broker(format!("encoding the envelope for {route}"), e))?;
        let route = match route {
            // AMQP's default exchange, to which every queue is bound by its name.
            Route::Exchange {
                exchange,
                routing_key,
            } if exchange.is_empty() => Route::Queue(routing_key),
            route => route,
        };
        if let Route::Exchange { routing_key, .. } = &route {
            validate_routing_key(routing_key)?;
        }
        let headers = match route {
            Route::Exchange { .. } => std::mem::take(&mut message.headers),
            _ => Headers::new(),
        };
        let part = match route {
            Route::Join { .. } => part_key(&message).to_owned(),
            _ => String::new(),
        };
        Ok(Self {
            route,
            part,
            envelope,
            headers,
            priority: message.priority.unwrap_or(0),
            due: None,
            body: message.body,
        })
    }
}

/// A join to be opened, with its body.
#[derive(Debug)]
pub(super) struct Parking {
    pub(super) join: String,
    pub(super) parts: u32,
    /// Where the body goes.
    pub(super) queue: String,
    /// How long the body waits when the join has fired, in milliseconds.
    pub(super) delay: i64,
    pub(super) body: Outgoing,
}

impl Parking {
    pub(super) fn new(join: Join) -> Result<Self> {
        let delay = join.body.delay.as_nanos().div_ceil(1_000_000);
        Ok(Self {
            queue: join.queue()?.to_owned(),
            join: join.name,
            parts: join.parts,
            delay: i64::try_from(delay).unwrap_or(i64::MAX),
            body: Outgoing::of(join.body.route, join.body.message)?,
        })
    }
}

/// When what is delayed from `now` on is due. Rounded up, so that it is never early.
pub(super) fn due(delay: Duration, now: SystemTime) -> Option<i64> {
    if delay.is_zero() {
        return None;
    }
    let due = now.checked_add(delay).map(|at| {
        at.duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos()
            .div_ceil(1_000_000)
    });
    Some(
        due.and_then(|ms| i64::try_from(ms).ok())
            .unwrap_or(i64::MAX),
    )
}

/// Milliseconds since 1970.
pub(super) fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A message to `queue` with a body of so many bytes.
    pub(in super::super) fn outgoing(queue: &str, size: usize) -> Outgoing {
        let message = Message {
            body: vec![b'x'; size].into(),
            ..Message::default()
        };
        Outgoing::of(Route::Queue(queue.into()), message).expect("it can be encoded")
    }

    #[test]
    fn delays_are_rounded_up_and_never_overflow() {
        let now = UNIX_EPOCH + Duration::from_micros(1_000_500);
        assert_eq!(due(Duration::ZERO, now), None);
        assert_eq!(due(Duration::from_micros(1), now), Some(1001));
        assert_eq!(due(Duration::from_micros(500), now), Some(1001));
        assert_eq!(due(Duration::from_millis(1), now), Some(1002));
        assert_eq!(due(Duration::MAX, now), Some(i64::MAX));
    }
}
