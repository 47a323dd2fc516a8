//! What differs between the versions of RabbitMQ, in one place.
//!
//! - *Consumer timeout.* What a consumer holds for longer (30 minutes by default) is taken back. Up to 4.2
//!   the server closes the channel, and counts that as a failed delivery; from 4.3 on it cancels the
//!   consumer, counts nothing, and does so on quorum queues only. It tells nothing that heartbeats do not
//!   tell of a worker, and cuts long calls off, so we ask for a year: by an argument of quorum queues, which
//!   3.12 and later know and older ones ignore, and where a queue was made without it, by an argument of
//!   the consumer, which only 4.3 knows. Classic queues get none: 4.3 refuses it. An operator's policy can
//!   lower the queue's timeout, but not raise it.
//! - *Lost nodes.* What consumers hold through a node that is gone goes to others at once up to 4.2, from 4.3
//!   on after a minute, unless the queue says otherwise: quorum queues of ours, those of leases, joins and
//!   replies, too, say a second.
//! - *Delivery limit.* Up to 4.2 handing a message back counts like a worker's death.
//! - *Priorities.* Quorum queues have none before 4.0, two classes (up to 4, and above) before 4.3, and
//!   all of 0 to 31 since. Between 4.0 and 4.2 the time to live of the lower class waits for the upper one.

use std::time::Duration;

use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};

use super::live::{Trouble, rpc};
use super::topology::{Known, Topology};
use super::wire::{own, table, text};
use crate::broker::{HoldLimit, QueueType};
use crate::error::Result;

/// The argument of queues, and of consumers, for the time that a delivery may be held.
pub(super) const CONSUMER_TIMEOUT: &str = "x-consumer-timeout";
/// The argument of quorum queues for the time that deliveries to a node that is gone stay there.
const DISCONNECTED_TIMEOUT: &str = "x-consumer-disconnected-timeout";
const DISCONNECTED_MS: i32 = 1_000;
/// The time we ask for. Queues carry it, so another value would be in conflict with them.
const HELD_AT_MOST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The server's own consumer timeout, unless its operator says otherwise.
const USUAL_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// From this priority on a message is in the upper class, where there are two.
pub(super) const UPPER_CLASS: u8 = 5;

/// What the server does differently, by its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Server {
    /// RabbitMQ up to 4.2.
    Before43,
    /// RabbitMQ 4.3 and later.
    Since43,
}

impl Server {
    /// Whether it takes a message back into a quorum queue without counting a failed delivery.
    pub(super) fn takes_back_freely(self) -> bool {
        self == Self::Since43
    }

    /// Whether the consumer timeout holds for classic queues, and no consumer can ask for another.
    fn times_all_out(self) -> bool {
        self == Self::Before43
    }

    /// Whether quorum queues deliver strictly by priority.
    pub(super) fn ranks_quorum_queues(self) -> bool {
        self == Self::Since43
    }

    /// Whether a message's time to live in a quorum queue ends though others of a higher priority live on.
    pub(super) fn expires_each_priority(self) -> bool {
        self == Self::Since43
    }
}

impl Topology {
    /// The server's version, as far as it matters. What is found first is kept: an upgraded server still
    /// does what its older versions did on our side.
    ///
    /// lapin keeps the server's properties to itself. What tells is that 4.3 refuses the first version of
    /// classic queues, which all earlier servers either have or ignore.
    pub(super) async fn server(&self) -> Result<Server> {
        let probe = || async {
            let declared = self
                .on_channel(|channel| async move {
                    let options = QueueDeclareOptions::exclusive().auto_delete();
                    let old = table([
                        ("x-queue-type", text("classic")),
                        ("x-queue-version", AMQPValue::LongInt(1)),
                    ]);
                    let name = own(&format!("garenne.probe.{}", uuid::Uuid::new_v4().simple()));
                    let queue = rpc(channel.queue_declare(name, options, old)).await?;
                    let options = QueueDeleteOptions::default();
                    rpc(channel.queue_delete(queue.name().clone(), options)).await
                })
                .await?;
            match declared {
                Ok(_) => Ok(Server::Before43),
                Err(trouble) if trouble.code == Some(406) => Ok(Server::Since43),
                // Without the permission to look, what works everywhere is right.
                Err(trouble) if trouble.code == Some(403) => Ok(Server::Before43),
                Err(trouble) => Err(trouble.refused("to look for the server's version")),
            }
        };
        self.server.get_or_try_init(probe).await.copied()
    }

    /// How long deliveries of a declared queue may be unsettled. A server before 3.12 limits that on quorum
    /// queues, too, without our knowing.
    pub(super) async fn hold_limit(&self, queue: &str) -> Option<HoldLimit> {
        let known = self.known(queue)?;
        let limited = known.times_out && self.server().await.is_ok_and(Server::times_all_out);
        limited.then(|| HoldLimit {
            after: USUAL_TIMEOUT,
            advice: long_calls(queue),
        })
    }
}

/// What every quorum queue of ours is told of the nodes that its consumers are connected to.
pub(super) fn of_lost_nodes() -> (&'static str, AMQPValue) {
    (DISCONNECTED_TIMEOUT, AMQPValue::LongInt(DISCONNECTED_MS))
}

/// Whether this argument is one that queues of others, and older ones of ours, were made without.
pub(super) fn is_timeout(argument: &str) -> bool {
    argument == CONSUMER_TIMEOUT || argument == DISCONNECTED_TIMEOUT
}

/// The value of [`CONSUMER_TIMEOUT`].
pub(super) fn consumer_timeout() -> AMQPValue {
    let millis = i64::try_from(HELD_AT_MOST.as_millis());
    AMQPValue::LongLongInt(millis.unwrap_or(i64::MAX))
}

/// What a consumer asks for. The queue's own argument is better, because an operator's policy can lower it.
pub(super) fn consumer_arguments(known: &Known) -> FieldTable {
    match known.queue_type {
        Some(QueueType::Quorum) if known.times_out => {
            table([(CONSUMER_TIMEOUT, consumer_timeout())])
        }
        _ => FieldTable::default(),
    }
}

/// Why the server has closed a consumer's channel.
pub(super) fn why_closed(trouble: Trouble, queue: &str) -> String {
    match is_consumer_timeout(&trouble) {
        true => format!("{}: {}", trouble.text, long_calls(queue)),
        false => trouble.text,
    }
}

/// Why the server may have cancelled a consumer: it does not say.
pub(super) fn why_cancelled(queue: &str) -> String {
    format!(
        "the server cancelled the consumer: its queue was deleted, or a call takes longer than the \
         server's consumer timeout; if that is so: {}",
        long_calls(queue)
    )
}

fn long_calls(queue: &str) -> String {
    let millis = HELD_AT_MOST.as_millis();
    format!(
        "calls of `{queue}` that run on may run elsewhere, too; so that they may take longer, set \
         `consumer_timeout = {millis}` in rabbitmq.conf or, from RabbitMQ 3.12 on, `rabbitmqctl set_policy \
         garenne-long-calls '^{queue}$' '{{\"consumer-timeout\":{millis}}}' --apply-to queues`"
    )
}

fn is_consumer_timeout(trouble: &Trouble) -> bool {
    trouble.code == Some(406) && trouble.text.contains("delivery acknowledgement")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_consumer_timeout_is_told_from_other_conflicts() {
        let mut trouble = Trouble::new(
            "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: \
             1800000 ms. This timeout value can be configured, see consumers doc guide to learn more",
        );
        assert!(!why_closed(trouble.clone(), "q").contains("rabbitmqctl"));
        trouble.code = Some(406);
        let why = why_closed(trouble.clone(), "q");
        assert!(why.contains("Timeout value used: 1800000 ms"), "{why}");
        assert!(why.contains("consumer_timeout = 31536000000"), "{why}");
        assert!(
            why.contains("'^q$' '{\"consumer-timeout\":31536000000}'"),
            "{why}"
        );
        trouble.text = "PRECONDITION_FAILED - unknown delivery tag 7".into();
        assert_eq!(why_closed(trouble.clone(), "q"), trouble.text);
    }
}
