//! Whether the server takes messages. It says so of one connection: what is heard late of an older one must
//! neither close the way of the new one nor open it.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// Why the server takes no messages, while it does not.
pub(super) struct Gate {
    reason: watch::Sender<Option<String>>,
    /// Of the connection that counts.
    generation: AtomicU64,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            reason: watch::channel(None).0,
            generation: AtomicU64::new(0),
        }
    }

    /// A new connection: open until its server says otherwise.
    pub(super) fn renew(&self, generation: u64) {
        self.reason.send_if_modified(|reason| {
            self.generation.store(generation, Ordering::Relaxed);
            reason.take().is_some()
        });
    }

    /// What the server says of one connection: why it takes nothing, or that it takes messages again. One
    /// that has ended takes part in nothing, so it blocks nothing either.
    pub(super) fn set(&self, generation: u64, said: Option<String>) {
        self.reason.send_if_modified(|reason| {
            let counts = self.generation.load(Ordering::Relaxed) == generation;
            let changes = counts && *reason != said;
            if changes {
                *reason = said;
            }
            changes
        });
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Option<String>> {
        self.reason.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_speaks_for_itself() {
        let gate = Gate::new();
        let now = gate.subscribe();
        let alarm = || Some(String::from("low on memory"));
        gate.renew(1);
        gate.set(1, alarm());
        assert_eq!(*now.borrow(), alarm());
        gate.renew(2);
        assert_eq!(*now.borrow(), None, "the new one was told nothing yet");
        gate.set(1, alarm());
        assert_eq!(*now.borrow(), None, "the old one has no say any more");
        gate.set(2, alarm());
        gate.set(1, None);
        assert_eq!(*now.borrow(), alarm(), "and cannot open it either");
        gate.set(2, None);
        assert_eq!(*now.borrow(), None);
    }
}
