//! What a queue and an exchange are, with AMQP's meaning on every broker.

use serde_json::Value;

use super::shard::{MOST_SHARDS, undivided};
use crate::error::{Error, Result};
use crate::message::Headers;

/// Longest name of a queue or exchange in bytes: AMQP's 255, less what we append.
const NAME_LIMIT: usize = 200;

/// How RabbitMQ keeps a queue. The embedded brokers know no difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueueType {
    /// Replicated, and on disk before a message is confirmed.
    Quorum,
    /// Not replicated; the only type with priorities before RabbitMQ 4.3.
    Classic,
}

/// A durable queue, as it is to be declared.
///
/// ```
/// use garenne::{Exchange, Queue};
///
/// let plain = Queue::new("images");
/// let urgent_first = Queue::new("mail").max_priority(9);
/// let subscriber = Queue::exclusive().bind(&Exchange::topic("logs"), "#.news");
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Queue {
    pub(crate) name: String,
    pub(crate) queue_type: Option<QueueType>,
    pub(crate) max_priority: Option<u8>,
    pub(crate) exclusive: bool,
    pub(crate) dead_letters: bool,
    pub(crate) bindings: Vec<Binding>,
    /// How many queues of the broker it is divided into.
    pub(crate) shards: u32,
    /// Whether it is not made where it is missing on a broker that others use, too. See [`Queue::of_others`].
    pub(crate) must_exist: bool,
}

impl Queue {
    /// The queue named `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            queue_type: None,
            max_priority: None,
            exclusive: false,
            dead_letters: true,
            bindings: Vec::new(),
            shards: 1,
            must_exist: false,
        }
    }

    /// A worker's own queue under a name of its own: it is deleted when the worker stops, or soon after
    /// the worker died. Bound to an exchange, each worker gets its own copy of every message.
    pub fn exclusive() -> Self {
        Self {
            exclusive: true,
            dead_letters: false,
            ..Self::new(format!("garenne.own.{}", uuid::Uuid::new_v4().simple()))
        }
    }

    /// Also takes what `exchange` routes with `routing_key` (for a topic exchange: a pattern).
    pub fn bind(mut self, exchange: &Exchange, routing_key: impl Into<String>) -> Self {
        self.bindings.push(Binding {
            exchange: exchange.clone(),
            routing_key: routing_key.into(),
            headers: Headers::new(),
            header_match: HeaderMatch::All,
        });
        self
    }

    /// Also takes messages of a headers exchange that carry all (or any) of `headers`.
    pub fn bind_headers<K: Into<String>, V: Into<Value>>(
        mut self,
        exchange: &Exchange,
        header_match: HeaderMatch,
        headers: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.bindings.push(Binding {
            exchange: exchange.clone(),
            routing_key: String::new(),
            headers: headers
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            header_match,
        });
        self
    }

    /// Gives the queue priorities from 0 to `highest`: the higher is delivered first.
    ///
    /// On RabbitMQ before 4.3 only classic queues have priorities, so there it becomes one. The embedded
    /// brokers honour priorities on every queue.
    pub fn max_priority(mut self, highest: u8) -> Self {
        self.max_priority = Some(highest);
        self
    }

    /// Makes it a queue of this type on RabbitMQ, whatever the app's default.
    pub fn queue_type(mut self, queue_type: QueueType) -> Self {
        self.queue_type = Some(queue_type);
        self
    }

    /// The queue's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of the queue that keeps this one's dead letters.
    #[must_use]
    pub fn dead_letter_name(&self) -> String {
        dead_letter_name(&self.name)
    }

    /// The queue that keeps this one's dead letters.
    pub fn dead_letters(&self) -> Self {
        Self {
            dead_letters: false,
            ..Self::new(self.dead_letter_name())
        }
    }

    /// The same as a queue of other workers, that do not know ours: unless its type is said, it is theirs to make.
    /// A Python worker ends when it finds its queue made in another way than its own.
    pub(crate) fn of_others(mut self) -> Self {
        let is_plain = self.queue_type.is_none() && self.max_priority.is_none();
        self.must_exist = is_plain && self.bindings.is_empty() && !self.exclusive;
        self
    }

    pub(crate) fn validate(&self) -> Result<()> {
        validate_name("queue name", &self.name)?;
        self.validate_shards()?;
        self.bindings
            .iter()
            .try_for_each(|binding| binding.exchange.validate())
    }

    fn validate_shards(&self) -> Result<()> {
        let refused = |reason| Err(Error::invalid("shards", self.shards.to_string(), reason));
        match self.shards {
            1 => Ok(()),
            0 => refused("a queue has one at least".into()),
            more if more > MOST_SHARDS => refused(format!("it is more than {MOST_SHARDS}")),
            _ if self.exclusive || !self.bindings.is_empty() => refused(
                "a queue that is exclusive, or bound to an exchange, cannot be divided".into(),
            ),
            _ => Ok(()),
        }
    }

    /// The same queue in an app whose names all begin with `prefix`.
    pub(crate) fn prefixed(mut self, prefix: &str) -> Self {
        self.put_prefix(prefix);
        self
    }

    /// Makes it the queue of an app whose names all begin with `prefix`.
    pub(crate) fn put_prefix(&mut self, prefix: &str) {
        self.name.insert_str(0, prefix);
        for binding in &mut self.bindings {
            binding.exchange.put_prefix(prefix);
        }
    }
}

impl<S: Into<String>> From<S> for Queue {
    fn from(name: S) -> Self {
        Self::new(name)
    }
}

/// The name of the queue that keeps the dead letters of `queue`; shards share theirs.
#[must_use]
pub(crate) fn dead_letter_name(queue: &str) -> String {
    format!("{}.dead", undivided(queue))
}

/// Whether a queue of this name is one of our own for replies.
#[must_use]
pub(crate) fn is_reply_queue(queue: &str) -> bool {
    queue.starts_with("garenne.reply.")
}

/// How an exchange reads its bindings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExchangeKind {
    /// The routing key is the binding's.
    Direct,
    /// Every binding.
    Fanout,
    /// The routing key's words match the binding's pattern: `*` is one word, `#` any number.
    Topic,
    /// The message's headers match the binding's.
    Headers,
}

impl ExchangeKind {
    /// AMQP's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
        }
    }
}

/// A durable exchange: passes each message to the queues that are bound to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[must_use]
pub struct Exchange {
    pub(crate) name: String,
    pub(crate) kind: ExchangeKind,
}

impl Exchange {
    /// Routes by equality of the routing key.
    pub fn direct(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind: ExchangeKind::Direct,
        }
    }

    /// Routes to every bound queue.
    pub fn fanout(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind: ExchangeKind::Fanout,
        }
    }

    /// Routes by patterns over the routing key's dotted words.
    pub fn topic(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind: ExchangeKind::Topic,
        }
    }

    /// Routes by the message's headers.
    pub fn headers(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind: ExchangeKind::Headers,
        }
    }

    /// The exchange's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it routes.
    #[must_use]
    pub fn kind(&self) -> ExchangeKind {
        self.kind
    }

    pub(crate) fn validate(&self) -> Result<()> {
        validate_name("exchange name", &self.name)
    }

    /// Makes it the exchange of an app whose names all begin with `prefix`.
    pub(crate) fn put_prefix(&mut self, prefix: &str) {
        self.name.insert_str(0, prefix);
    }
}

/// Whether a headers binding wants all of its headers or any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HeaderMatch {
    /// Every header of the binding is in the message with the same value.
    All,
    /// At least one is.
    Any,
}

/// Ties a queue to an exchange.
#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    /// The exchange.
    pub exchange: Exchange,
    /// What a direct exchange compares and a topic exchange matches.
    pub routing_key: String,
    /// What a headers exchange compares.
    pub headers: Headers,
    /// How many of `headers` are wanted.
    pub header_match: HeaderMatch,
}

/// Refuses names that AMQP or one of our brokers cannot carry.
pub(super) fn validate_name(what: &'static str, name: &str) -> Result<()> {
    let refused = |reason: String| Err(Error::invalid(what, name, reason));
    if name.is_empty() {
        return refused("it is empty".into());
    }
    if name.len() > NAME_LIMIT {
        return refused(format!(
            "it has {} bytes, more than {NAME_LIMIT}",
            name.len()
        ));
    }
    if name.starts_with("amq.") {
        return refused("names that begin with `amq.` are the broker's own".into());
    }
    if let Some(c) = name.chars().find(|c| c.is_control()) {
        return refused(format!("it contains the control character {c:?}"));
    }
    Ok(())
}

/// Refuses a routing key that AMQP cannot carry.
pub(crate) fn validate_routing_key(key: &str) -> Result<()> {
    if key.len() > 255 {
        return Err(Error::invalid(
            "routing key",
            key,
            format!("it has {} bytes, more than 255", key.len()),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_amqp_refuses_are_refused() {
        for name in ["", "amq.gen", "a\nb", "a\0b", &"x".repeat(NAME_LIMIT + 1)] {
            assert!(Queue::new(name).validate().is_err(), "{name:?}");
        }
        for name in ["default", "a.b-c_d:e", "größe", &"x".repeat(NAME_LIMIT)] {
            assert!(Queue::new(name).validate().is_ok(), "{name:?}");
        }
        assert!(
            Queue::new("q")
                .bind(&Exchange::direct(""), "k")
                .validate()
                .is_err()
        );
    }

    #[test]
    fn a_prefix_reaches_the_bound_exchanges() {
        let queue = Queue::new("q")
            .bind(&Exchange::fanout("logs"), "")
            .prefixed("test.");
        assert_eq!(queue.name(), "test.q");
        assert_eq!(queue.bindings[0].exchange.name(), "test.logs");
    }
}
