//! Broadcasts: everybody who listens hears what anybody announces, and nothing is kept for later. Requests to
//! workers, their answers, and what workers tell of themselves go this way.

use std::task::{Context, Poll};

use tokio::sync::mpsc;

use crate::message::Message;

/// What a listener has not read yet is kept up to so many messages; more are lost to it.
pub const BACKLOG: usize = 1024;

/// What a [`Channel`] carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChannelKind {
    /// Requests to workers. A listener is named after its node; no two listeners have one name.
    Control,
    /// Answers. A listener hears only those that are addressed to its name.
    Reply,
    /// What workers and calls go through.
    Event,
}

/// A channel to listen to and to announce on. On RabbitMQ it is an exchange of Celery's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Channel {
    /// What it carries.
    pub kind: ChannelKind,
    /// Put before Celery's names, as before those of queues.
    pub prefix: String,
}

impl Channel {
    /// The channel of this kind among names with this prefix.
    #[must_use]
    pub fn new(kind: ChannelKind, prefix: &str) -> Self {
        Self {
            kind,
            prefix: prefix.to_owned(),
        }
    }

    /// Its name: that of Celery's exchange.
    #[must_use]
    pub fn name(&self) -> String {
        let prefix = &self.prefix;
        match self.kind {
            ChannelKind::Control => format!("{prefix}celery.pidbox"),
            ChannelKind::Reply => format!("reply.{prefix}celery.pidbox"),
            ChannelKind::Event => format!("{prefix}celeryev"),
        }
    }
}

/// What somebody announces.
#[derive(Debug, Clone)]
pub struct Announcement {
    /// Where.
    pub channel: Channel,
    /// Of a reply: the name of the listener that it is for. Of an event: its type, with dots.
    pub key: String,
    /// What.
    pub message: Message,
}

/// One who listens to a channel, until it is dropped.
#[derive(Debug)]
pub struct Listener {
    messages: mpsc::Receiver<Message>,
}

impl Listener {
    /// A listener that is fed through `messages`.
    #[must_use]
    pub fn new(messages: mpsc::Receiver<Message>) -> Self {
        Self { messages }
    }

    /// The next announcement; `None` when the broker was closed. Those that come while the connection is away
    /// are missed.
    pub async fn next(&mut self) -> Option<Message> {
        self.messages.recv().await
    }

    /// As [`next`](Self::next), for streams.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        self.messages.poll_recv(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_celerys() {
        let name = |kind, prefix| Channel::new(kind, prefix).name();
        assert_eq!(name(ChannelKind::Control, ""), "celery.pidbox");
        assert_eq!(name(ChannelKind::Reply, ""), "reply.celery.pidbox");
        assert_eq!(name(ChannelKind::Event, ""), "celeryev");
        // As with Celery's `control_exchange = "x.celery"` and `event_exchange = "x.celeryev"`.
        assert_eq!(name(ChannelKind::Reply, "x."), "reply.x.celery.pidbox");
    }
}
