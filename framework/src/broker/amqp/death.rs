//! How the server notes the death of a message that it dead-lettered itself.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::topology::EXCHANGE;
use crate::message::{Message, header};

/// Says in our headers what the server noted of a message that it dead-lettered itself.
pub(super) fn note(message: &mut Message) {
    if message.headers.contains_key(header::REASON) {
        return;
    }
    let Some(death) = message
        .headers
        .get("x-death")
        .and_then(|all| all.get(0))
        .cloned()
    else {
        return;
    };
    let text = |name: &str| death.get(name).and_then(Value::as_str);
    let seconds = death.get("time").and_then(Value::as_u64);
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds.unwrap_or_default()));
    let reason = text("reason").unwrap_or_default();
    *message = message.dead(
        text("queue").unwrap_or_default(),
        reason,
        explain(reason),
        at.unwrap_or(SystemTime::UNIX_EPOCH),
    );
    let known = message.headers.contains_key(header::EXCHANGE);
    if let Some(exchange) = text("exchange").filter(|name| !known && !["", EXCHANGE].contains(name))
    {
        message.set(header::EXCHANGE, exchange);
        let key = death.get("routing-keys").and_then(|keys| keys.get(0));
        message.set(
            header::ROUTING_KEY,
            key.and_then(Value::as_str).unwrap_or_default(),
        );
    }
}

/// RabbitMQ's reasons, in a sentence.
fn explain(reason: &str) -> &'static str {
    match reason {
        "delivery_limit" => {
            "RabbitMQ: delivered more often than the queue's x-delivery-limit allows, without being settled"
        }
        "rejected" => "RabbitMQ: a consumer rejected it",
        "expired" => "RabbitMQ: its time to live was over before a worker took it",
        "maxlen" => "RabbitMQ: the queue was full",
        _ => "RabbitMQ: dead-lettered",
    }
}
