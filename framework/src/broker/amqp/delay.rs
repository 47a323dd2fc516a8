//! Delays without a plugin: a ladder of queues, each of which holds messages for one power of two of
//! milliseconds. A message passes the levels that its delay's binary digits name, highest first, so that
//! every level is a queue of equal times to live, in which nothing waits behind something longer.
//!
//! The way is written into the message's headers, so its routing key stays as it was.
//!
//! Where a server lets what waits with a low priority wait for what waits with a high one, there is a
//! second ladder, for the high ones.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::try_join_all;
use lapin::options::{ExchangeBindOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};

use super::live::{Trouble, rpc};
use super::server::Server;
use super::topology::{Topology, declare_exchange};
use super::wire::{own, table, text};
use crate::error::{Error, Result};
use crate::message::Headers;

/// The direct exchange through which due messages reach queues by name.
pub(super) const DUE_QUEUES: &str = "garenne.due.queues";
/// Where due messages go whose queue has been deleted: what cannot leave the ladder would stay in it.
pub(super) const UNROUTED: &str = "garenne.unrouted";
/// The headers exchange at the ladder's foot.
const DUE: &str = "garenne.due";
/// Takes and drops a copy of each due message for a user's exchange, which may lead nowhere.
const VOID: &str = "garenne.void";
/// What the parts of the ladders are called, before the level's number. An exchange of that name is
/// declared last: where it is, the whole ladder is.
const NAMES: [&str; 2] = ["garenne.delay", "garenne.delay.urgent"];
const LEVELS: u32 = 36;
/// Names the exchange at which the message is aimed.
const TO: &str = "garenne-to";
const TO_VOID: &str = "garenne-void";
const DIGIT: &str = "garenne-d";

/// What of the ladder is known to exist.
#[derive(Default)]
pub(super) struct Ladder {
    state: Mutex<State>,
    building: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    built: [bool; 2],
    queues: HashSet<String>,
    exchanges: HashSet<String>,
}

/// One of the two ladders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Usual,
    Urgent,
}

impl Which {
    /// The ladder of messages with a high priority.
    pub(super) fn of_urgent(server: Server) -> Self {
        match server.expires_each_priority() {
            true => Self::Usual,
            false => Self::Urgent,
        }
    }

    fn level(self, level: u32) -> String {
        format!("{}.{level}", self.name())
    }

    fn name(self) -> &'static str {
        NAMES[self as usize]
    }
}

/// What a delayed message must carry, and where it goes.
#[derive(Debug)]
pub(super) struct Climb {
    /// The exchange of the highest level.
    pub(super) exchange: String,
    /// The way down.
    pub(super) headers: FieldTable,
}

impl Ladder {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn doubt(&self) {
        *self.state() = State::default();
    }

    pub(super) fn forget(&self, queue: &str) {
        self.state().queues.remove(queue);
    }

    pub(super) fn reaches_queue(&self, which: Which, queue: &str) -> bool {
        let state = self.state();
        state.built[which as usize] && state.queues.contains(queue)
    }

    pub(super) fn reaches_exchange(&self, which: Which, exchange: &str) -> bool {
        let state = self.state();
        state.built[which as usize] && state.exchanges.contains(exchange)
    }
}

/// The way of a message that waits for `delay`, rounded up to a millisecond, and then goes to `to`, or to
/// a queue by name.
pub(super) fn climb(which: Which, delay: Duration, to: Option<&str>) -> Result<Climb> {
    let millis = delay.as_nanos().div_ceil(1_000_000).max(1);
    if millis >= 1 << LEVELS {
        return Err(Error::invalid(
            "delay",
            format!("{delay:?}"),
            "it is longer than two years, the longest that RabbitMQ can keep a message for us",
        ));
    }
    let highest = 127 - millis.leading_zeros();
    let mut headers = FieldTable::default();
    for level in 0..=highest {
        let digit = AMQPValue::Boolean(millis >> level & 1 == 1);
        headers.insert(own(&format!("{DIGIT}{level}")), digit);
    }
    headers.insert(own(TO), text(to.unwrap_or(DUE_QUEUES)));
    if to.is_some() {
        headers.insert(own(TO_VOID), AMQPValue::Boolean(true));
    }
    Ok(Climb {
        exchange: which.level(highest),
        headers,
    })
}

/// Whether the header is ours, to be hidden from who takes the message.
pub(super) fn is_ours(name: &str) -> bool {
    let digit = name.strip_prefix(DIGIT);
    name == TO
        || name == TO_VOID
        || digit.is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
}

/// The exchange that a delayed message was for: empty for a queue's own name, `None` if it had no delay.
pub(super) fn destination(headers: &Headers) -> Option<&str> {
    let to = headers.get(TO)?.as_str()?;
    Some(if to == DUE_QUEUES { "" } else { to })
}

impl Topology {
    /// Makes sure that delayed messages reach `queue`; false if there is no such queue.
    pub(super) async fn lead_to_queue(&self, which: Which, queue: &str) -> Result<bool> {
        self.build_ladder(which).await?;
        if self.ladder.reaches_queue(which, queue) {
            return Ok(true);
        }
        let bound = self
            .bind(queue, DUE_QUEUES, queue, FieldTable::default())
            .await?;
        match bound {
            Err(trouble) if trouble.is_missing() => return Ok(false),
            // Its workers, who may, will have bound it.
            Err(trouble) if trouble.code == Some(403) => {
                tracing::debug!(queue, server_said = %trouble.text, "not bound to the ladder");
            }
            Err(trouble) => return Err(trouble.refused(format!("to bind queue `{queue}`"))),
            Ok(()) => {}
        }
        self.ladder.state().queues.insert(queue.to_owned());
        Ok(true)
    }

    /// Makes sure that delayed messages reach `exchange`.
    pub(super) async fn lead_to_exchange(&self, which: Which, exchange: &str) -> Result<()> {
        self.build_ladder(which).await?;
        if self.ladder.reaches_exchange(which, exchange) {
            return Ok(());
        }
        if let Some(known) = self.known_exchange(exchange) {
            self.declare_exchange(&known).await?;
        }
        self.on_channel(|channel| {
            bind_exchanges(
                channel,
                exchange.to_owned(),
                DUE.to_owned(),
                [(TO, text(exchange))],
            )
        })
        .await?
        .map_err(|trouble| {
            trouble.refused(format!("a delayed message to exchange `{exchange}`"))
        })?;
        self.ladder.state().exchanges.insert(exchange.to_owned());
        Ok(())
    }

    /// How many messages are in the ladders: delayed calls, and news of cancelled ones.
    pub(super) async fn delayed(&self) -> Result<u64> {
        let mut sum = 0;
        for which in [Which::Usual, Which::Urgent] {
            // Where the ladder was never built, the first level asked for is missing.
            for level in (0..LEVELS).rev() {
                match self.find(&which.level(level)).await? {
                    Ok(queue) => sum += u64::from(queue.message_count()),
                    Err(trouble) if trouble.is_missing() => break,
                    Err(trouble) => {
                        return Err(trouble.refused("to count the delayed messages"));
                    }
                }
            }
        }
        Ok(sum)
    }

    async fn build_ladder(&self, which: Which) -> Result<()> {
        // A crowd of first publishes builds it once.
        let _building = self.ladder.building.lock().await;
        if self.ladder.state().built[which as usize] {
            return Ok(());
        }
        let marked = self
            .on_channel(|channel| {
                let none = FieldTable::default();
                declare_exchange(
                    channel,
                    which.name().to_owned(),
                    ExchangeKind::Fanout,
                    true,
                    none,
                )
            })
            .await?;
        if marked.is_err() {
            self.mend("").await?;
            self.on_channel(foot)
                .await?
                .map_err(|trouble| trouble.refused("to declare the exchange of due messages"))?;
            // Quorum queues are slow to make; side by side on a few channels they take half as long.
            let parts =
                (0..4).map(|part| self.on_channel(move |channel| levels(channel, which, part)));
            for part in try_join_all(parts).await? {
                part.map_err(|trouble| {
                    trouble.refused("to declare the queues of delayed messages")
                })?;
            }
            self.on_channel(|channel| {
                let none = FieldTable::default();
                declare_exchange(
                    channel,
                    which.name().to_owned(),
                    ExchangeKind::Fanout,
                    false,
                    none,
                )
            })
            .await?
            .map_err(|trouble| trouble.refused("to declare the exchange of a ladder"))?;
        }
        self.ladder.state().built[which as usize] = true;
        Ok(())
    }
}

/// Where messages leave the ladder.
async fn foot(channel: Channel) -> Result<(), Trouble> {
    let none = FieldTable::default;
    let headers = ExchangeKind::Headers;
    declare_exchange(channel.clone(), DUE.into(), headers, false, none()).await?;
    let fanout = ExchangeKind::Fanout;
    declare_exchange(channel.clone(), UNROUTED.into(), fanout, false, none()).await?;
    let durable = QueueDeclareOptions::durable();
    let quorum = table([("x-queue-type", text("quorum"))]);
    rpc(channel.queue_declare(own(UNROUTED), durable, quorum)).await?;
    let bind = QueueBindOptions::default();
    rpc(channel.queue_bind(own(UNROUTED), own(UNROUTED), own(""), bind, none())).await?;
    let void = table([
        ("x-queue-type", text("classic")),
        ("x-max-length", AMQPValue::LongInt(0)),
    ]);
    rpc(channel.queue_declare(own(VOID), durable, void)).await?;
    let to_void = table([
        ("x-match", text("all")),
        (TO_VOID, AMQPValue::Boolean(true)),
    ]);
    rpc(channel.queue_bind(own(VOID), own(DUE), own(""), bind, to_void)).await?;
    let (queues, due) = (DUE_QUEUES.to_owned(), DUE.to_owned());
    bind_exchanges(channel, queues, due, [(TO, text(DUE_QUEUES))]).await
}

/// Every fourth level from `part` on. A level's exchange is needed by the one above, so each declares
/// the one below, too.
async fn levels(channel: Channel, which: Which, part: u32) -> Result<(), Trouble> {
    let levels = (part..LEVELS).step_by(4);
    try_join_all(levels.map(|n| level(channel.clone(), which, n))).await?;
    Ok(())
}

async fn level(channel: Channel, which: Which, n: u32) -> Result<(), Trouble> {
    let name = which.level(n);
    let below = match n {
        0 => DUE.to_owned(),
        n => which.level(n - 1),
    };
    for exchange in [&below, &name] {
        let headers = ExchangeKind::Headers;
        let none = FieldTable::default();
        declare_exchange(channel.clone(), exchange.clone(), headers, false, none).await?;
    }
    let durable = QueueDeclareOptions::durable();
    let arguments = table([
        ("x-queue-type", text("quorum")),
        ("x-message-ttl", AMQPValue::LongLongInt(1 << n)),
        ("x-dead-letter-exchange", text(&below)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ]);
    rpc(channel.queue_declare(own(&name), durable, arguments)).await?;
    let digit = format!("{DIGIT}{n}");
    let waits = table([("x-match", text("all")), (&digit, AMQPValue::Boolean(true))]);
    let bind = QueueBindOptions::default();
    rpc(channel.queue_bind(own(&name), own(&name), own(""), bind, waits)).await?;
    let passes = [(digit.as_str(), AMQPValue::Boolean(false))];
    bind_exchanges(channel, below, name, passes).await
}

/// Leads what carries `header` from one headers exchange to another exchange.
async fn bind_exchanges(
    channel: Channel,
    to: String,
    from: String,
    [header]: [(&str, AMQPValue); 1],
) -> Result<(), Trouble> {
    let arguments = table([("x-match", text("all")), header]);
    let options = ExchangeBindOptions::default();
    rpc(channel.exchange_bind(own(&to), own(&from), own(""), options, arguments)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits(delay: Duration) -> (String, u64) {
        let climb = climb(Which::Usual, delay, None).expect("short enough");
        let digit = |(name, value): (&lapin::types::ShortString, &AMQPValue)| {
            let level: u32 = name.as_str().strip_prefix(DIGIT)?.parse().ok()?;
            (*value == AMQPValue::Boolean(true)).then_some(1 << level)
        };
        let sum = climb.headers.inner().iter().filter_map(digit).sum();
        (climb.exchange, sum)
    }

    #[test]
    fn the_levels_passed_add_up_to_the_delay() {
        for millis in [1, 2, 3, 50, 300, 1500, 86_400_000, (1 << 36) - 1] {
            let (exchange, sum) = digits(Duration::from_millis(millis));
            assert_eq!(sum, millis);
            assert_eq!(exchange, format!("garenne.delay.{}", millis.ilog2()));
        }
    }

    #[test]
    fn delays_are_rounded_up_and_bounded() {
        assert_eq!(digits(Duration::from_nanos(1)).1, 1);
        assert_eq!(digits(Duration::from_micros(1001)).1, 2);
        assert!(climb(Which::Usual, Duration::from_millis(1 << 36), None).is_err());
        assert!(climb(Which::Usual, Duration::MAX, None).is_err());
    }

    #[test]
    fn the_way_is_read_back_and_hidden() {
        let climb = climb(Which::Urgent, Duration::from_millis(5), Some("logs")).expect("short");
        let names = climb.headers.inner().keys();
        assert!(names.clone().all(|name| is_ours(name.as_str())));
        assert!(!is_ours("garenne-deliveries") && !is_ours("garenne-d"));
        let mut headers = Headers::new();
        assert_eq!(destination(&headers), None);
        headers.insert(TO.into(), "logs".into());
        assert_eq!(destination(&headers), Some("logs"));
        headers.insert(TO.into(), DUE_QUEUES.into());
        assert_eq!(destination(&headers), Some(""));
    }
}
