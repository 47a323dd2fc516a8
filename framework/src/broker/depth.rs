//! How full a queue is.

/// How much waits in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Depth {
    /// Messages that could be delivered now.
    pub ready: u64,
    /// Consumers, of all processes.
    pub consumers: u64,
    /// Messages that wait for their time, where the broker knows for which queue: RabbitMQ does not, and tells
    /// only [how many there are in all](super::Broker::delayed).
    pub delayed: Option<u64>,
}

impl Depth {
    /// A depth of `ready` messages and `consumers` consumers.
    #[must_use]
    pub fn new(ready: u64, consumers: u64) -> Self {
        Self {
            ready,
            consumers,
            delayed: None,
        }
    }

    /// With so many delayed messages.
    #[must_use]
    pub fn with_delayed(self, delayed: u64) -> Self {
        Self {
            delayed: Some(delayed),
            ..self
        }
    }
}
