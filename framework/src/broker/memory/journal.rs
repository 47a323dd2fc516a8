//! What was sent to a memory broker, for tests that look back: calls as they were sent first, not their
//! retries, replies or dead letters.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::broker::{Publish, Route};
use crate::message::{Message, header};

/// Calls remembered, the newest.
pub(crate) const REMEMBERED: usize = 10_000;

/// A call as it was sent.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) message: Message,
    pub(crate) route: Route,
    pub(crate) delay: Duration,
}

/// The calls that were sent.
#[derive(Debug, Default)]
pub(super) struct Journal {
    entries: VecDeque<Entry>,
    ids: HashSet<String>,
    /// Something was sent, for who follows it.
    pub(super) sending: Arc<Notify>,
}

impl Journal {
    /// Notes a message that is stored.
    pub(super) fn note(&mut self, publish: &Publish) {
        let Publish {
            route,
            message,
            delay,
            ..
        } = publish;
        let is_first = message.attempt() == 1 && !message.headers.contains_key(header::REASON);
        let is_call = message.text("task").is_some() && !matches!(route, Route::Reply(_));
        // What comes again under its id was put off, or handed back.
        if !is_first || !is_call || !self.ids.insert(message.id.clone()) {
            return;
        }
        self.sending.notify_one();
        self.entries.push_back(Entry {
            message: message.clone(),
            route: route.clone(),
            delay: *delay,
        });
        if self.entries.len() > REMEMBERED
            && let Some(oldest) = self.entries.pop_front()
        {
            self.ids.remove(&oldest.message.id);
        }
    }

    /// What was sent, the oldest first.
    pub(super) fn entries(&self) -> Vec<Entry> {
        self.entries.iter().cloned().collect()
    }
}
