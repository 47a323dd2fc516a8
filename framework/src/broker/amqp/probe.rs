//! Finds out whether a channel has been forgotten. A quorum queue without a leader takes what is published,
//! and RabbitMQ 3.10 sometimes loses it before there is a new one: the channel then waits for confirms that
//! do not come until RabbitMQ looks again, after ten seconds. Another channel is not concerned.

use std::sync::Arc;
use std::time::Duration;

use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Confirmation};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::joins;
use super::live::{Live, rpc};
use super::publish::Request;

/// Pause between two questions.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a server that answers again may take to confirm what it has.
const SLOW: Duration = Duration::from_millis(500);
/// A queue that has no leader is described all the same, after the 250 ms that RabbitMQ waits for it.
const LEADERLESS: Duration = Duration::from_millis(200);

/// What became of a copy.
pub(super) enum Found {
    Stored,
    /// Something was confirmed meanwhile, or the connection has ended.
    Needless,
    /// There is no queue to look at.
    Unknown,
    /// It is not confirmed here either, or its queue had no leader in all that time.
    Silence,
}

/// Publishes a copy of `request` on `channel` when its queue has a leader and it is still `unconfirmed`. Resolves when
/// the copy is stored or needless, or at `until`.
pub(super) async fn look(
    channel: &Channel,
    live: &Arc<Live>,
    request: &Request,
    until: Instant,
    unconfirmed: impl Fn() -> bool,
) -> Found {
    let copy = async {
        loop {
            match has_leader(live, request).await {
                None => return Found::Unknown,
                Some(false) => sleep(PAUSE).await,
                Some(true) => break,
            }
        }
        // A server that was only slow confirms what it has now that it answers: a copy would be a second call.
        sleep(SLOW).await;
        if !unconfirmed() {
            return Found::Needless;
        }
        match publish(channel, request).await {
            Some(true) => Found::Stored,
            _ => Found::Unknown,
        }
    };
    let found = async {
        let found = timeout_at(until + SLOW, copy).await;
        if matches!(found, Ok(Found::Unknown)) {
            sleep_until(until).await;
        }
        found.unwrap_or(Found::Silence)
    };
    tokio::select! {
        found = found => found,
        () = live.ended() => Found::Needless,
    }
}

/// Whether the queue that the request goes to can be expected to confirm it; `None` if it goes to no queue of
/// that name, or the connection ended.
async fn has_leader(live: &Arc<Live>, request: &Request) -> Option<bool> {
    // Of its own: the server closes it if there is no such queue.
    let channel = live.channel().await.ok()?;
    let start = Instant::now();
    let name = request.routing_key.clone();
    let options = QueueDeclareOptions::durable().passive();
    let declare = channel.queue_declare(name, options, FieldTable::default());
    let found = live.guard(rpc(declare)).await;
    let took = start.elapsed();
    let _ = live.guard(rpc(channel.close(200, "bye".into()))).await;
    found.ok().map(|_| took < LEADERLESS)
}

/// Whether the server confirms the request here.
async fn publish(channel: &Channel, request: &Request) -> Option<bool> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let (exchange, key) = (request.exchange.clone(), request.routing_key.clone());
    let properties = joins::name_copy(request.properties.give());
    let sent = channel.basic_publish(exchange, key, options, &request.body, properties);
    let confirmed = sent.await.ok()?.await.ok()?;
    Some(matches!(confirmed, Confirmation::Ack(None)))
}
