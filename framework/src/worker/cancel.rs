//! Which calls were cancelled, and the attempts that must be told.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Ids remembered, the newest; older calls have been seen by some worker long since.
const REMEMBERED: usize = 100_000;

/// Which calls were cancelled.
#[derive(Default)]
pub(super) struct CancelledCalls(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    ids: HashSet<String>,
    oldest_first: VecDeque<String>,
    running: HashMap<String, watch::Sender<bool>>,
}

impl CancelledCalls {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call was cancelled: attempts at it that run here are told.
    pub(super) fn add(&self, id: String) {
        let mut inner = self.inner();
        if let Some(attempt) = inner.running.get(&id) {
            attempt.send_replace(true);
        }
        if inner.ids.insert(id.clone()) {
            inner.oldest_first.push_back(id);
        }
        if inner.oldest_first.len() > REMEMBERED
            && let Some(oldest) = inner.oldest_first.pop_front()
        {
            inner.ids.remove(&oldest);
        }
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.inner().ids.contains(id)
    }

    /// What becomes true when the call is cancelled, for an attempt that begins.
    pub(super) fn watch(&self, id: &str) -> watch::Receiver<bool> {
        let mut inner = self.inner();
        let cancelled = inner.ids.contains(id);
        let attempt = inner
            .running
            .entry(id.to_owned())
            .or_insert_with(|| watch::channel(cancelled).0);
        attempt.subscribe()
    }

    /// An attempt has ended.
    pub(super) fn forget(&self, id: &str) {
        let mut inner = self.inner();
        // Two deliveries under one id may run at a time: the last one takes it off.
        if inner
            .running
            .get(id)
            .is_some_and(|attempt| attempt.receiver_count() == 0)
        {
            inner.running.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_attempts_are_told_and_later_ones_know() {
        let calls = CancelledCalls::default();
        let attempt = calls.watch("a");
        assert!(!*attempt.borrow());
        calls.add("a".into());
        assert!(*attempt.borrow());
        drop(attempt);
        calls.forget("a");
        assert!(*calls.watch("a").borrow());
        assert!(calls.contains("a") && !calls.contains("b"));
    }

    #[test]
    fn memory_is_bounded() {
        let calls = CancelledCalls::default();
        (0..REMEMBERED + 10).for_each(|n| calls.add(n.to_string()));
        assert!(!calls.contains("9") && calls.contains("10"));
    }
}
