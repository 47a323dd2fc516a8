//! A message as it comes from a queue, made a worker's delivery.

use std::sync::Arc;

use lapin::message::Delivery as Raw;

use super::delay;
use super::joins;
use super::settle::{Session, Settler};
use super::topology::EXCHANGE;
use super::wire;
use crate::broker::{Delivery, QueueType, Stale};
use crate::message::{Message, header};

/// A message as a worker gets it; `None` if it is put back with a count first.
pub(super) fn receive(session: &Arc<Session>, mut raw: Raw) -> Option<Delivery> {
    session.acks.delivered(raw.delivery_tag);
    let queue = session.queue.name().to_owned();
    // A sender may have written it, too: on a first delivery, or to a queue that counts nothing.
    let broker_counted = wire::count(&raw.properties, "x-delivery-count")
        .filter(|_| raw.redelivered && session.queue_type != Some(QueueType::Classic))
        .map(|count| count.saturating_sub(joins::count_of_move(&raw.properties)));
    let counts = match session.queue_type {
        Some(queue_type) => queue_type == QueueType::Quorum,
        None => {
            broker_counted.is_some() || wire::count(&raw.properties, "x-acquired-count").is_some()
        }
    };
    // No copy with a count can be stored of it: its worker refuses it at once.
    let counts = counts || !wire::fits(&raw.properties);
    let past = wire::count(&raw.properties, header::DELIVERIES)
        .unwrap_or(0)
        .saturating_add(broker_counted.unwrap_or(0));
    let body = Arc::new(std::mem::take(&mut raw.data));
    let mut message = wire::message(&raw.properties, body.clone());
    let (exchange, routing_key) = origin(&message, &queue, &raw);
    let is_returned = message.headers.remove(header::RETURNED).is_some();
    message.headers.retain(|name, _| {
        let is_ours = delay::is_ours(name) || joins::is_ours(name);
        !is_ours && name != header::EXCHANGE && name != header::ROUTING_KEY
    });
    let settler = Settler {
        session: session.clone(),
        tag: raw.delivery_tag,
        properties: raw.properties,
        body,
        past,
        origin: (!exchange.is_empty()).then(|| (exchange.clone(), routing_key.clone())),
        settled: false,
    };
    let stale = Stale::new(session.stale.subscribe());
    let redelivered = raw.redelivered;
    let delivered = move |settler| Delivery {
        message,
        queue,
        exchange,
        routing_key,
        redelivered: redelivered || past > 0 || is_returned,
        deliveries: past.saturating_add(1),
        stale,
        settle: Box::new(settler),
    };
    if counts || !redelivered {
        return Some(delivered(settler));
    }
    let this = session.clone();
    session.core.transport.spawn(async move {
        // Where no copy can be stored, for an alarm or a full queue, the loss is not counted; but the work
        // is not kept waiting for that, either.
        if let Err(settler) = settler.count().await
            && let Some(sender) = this.deliveries.upgrade()
        {
            // There is a place for each slot; an error means that nobody listens any more.
            let _ = sender.try_send(Ok(delivered(settler)));
        }
    });
    None
}

/// Where messages leave the ladder of delays that Celery builds; a prefix of its own may stand before it.
const CELERY_DUE: &str = "celery_delayed_delivery";
/// That ladder's levels. A delay's binary digits stand before the routing key, a word each.
const CELERY_LEVELS: usize = 28;

/// The routing key that a message had before Celery sent it through its ladder.
fn celery_key(key: &str) -> &str {
    let digits = key.as_bytes().chunks(2).take(CELERY_LEVELS);
    let is_way = digits.clone().count() == CELERY_LEVELS
        && digits.into_iter().all(|word| matches!(word, b"0." | b"1."));
    key.get(2 * CELERY_LEVELS..)
        .filter(|_| is_way)
        .unwrap_or(key)
}

/// The exchange and key that the message was published to: empty for a queue's own name.
fn origin(message: &Message, queue: &str, raw: &Raw) -> (String, String) {
    let key = raw.routing_key.as_str().to_owned();
    if let Some(exchange) = message.text(header::EXCHANGE) {
        let key = message.text(header::ROUTING_KEY).map_or(key, str::to_owned);
        return (exchange.to_owned(), key);
    }
    if raw.exchange.as_str().ends_with(CELERY_DUE) {
        return (String::new(), celery_key(&key).to_owned());
    }
    match delay::destination(&message.headers) {
        Some("") => (String::new(), queue.to_owned()),
        Some(exchange) => (exchange.to_owned(), key),
        None if raw.exchange.as_str() == EXCHANGE => (String::new(), key),
        None => (raw.exchange.as_str().to_owned(), key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn celerys_way_down_its_ladder_is_no_part_of_the_key() {
        let way = "0.".repeat(25) + "1.0.1.";
        assert_eq!(celery_key(&format!("{way}cap.topic")), "cap.topic");
        assert_eq!(celery_key(&way), "");
        for other in ["", "cap", "0.1.cap", &"0.".repeat(27), &format!("2.{way}")] {
            assert_eq!(celery_key(other), other);
        }
    }
}
