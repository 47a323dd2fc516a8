//! Which calls were cancelled, and the attempts that must be told.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Ids remembered, the newest; older calls have been seen by some worker long since.
const REMEMBERED: usize = 100_000;
/// What stands before an id where the broker remembers a cancelled call whose attempts go on.
const SPARED: &str = "garenne-spared:";

/// What the broker is to remember of a call that was cancelled, and whose attempts that run go on.
pub(super) fn spared(id: &str) -> String {
    format!("{SPARED}{id}")
}

/// Which calls were cancelled.
#[derive(Default)]
pub(super) struct CancelledCalls(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    ids: HashSet<String>,
    oldest_first: VecDeque<String>,
    running: HashMap<String, watch::Sender<bool>>,
}

impl Inner {
    fn insert(&mut self, id: String) {
        if self.ids.insert(id.clone()) {
            self.oldest_first.push_back(id);
        }
        if self.oldest_first.len() > REMEMBERED
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}

impl CancelledCalls {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the broker remembers: a call was cancelled, and perhaps its attempts go on.
    pub(super) fn hear(&self, remembered: &str) {
        match remembered.strip_prefix(SPARED) {
            Some(id) => self.spare(id),
            None => self.end(remembered),
        }
    }

    /// A call was cancelled, and attempts at it that run go on.
    pub(super) fn spare(&self, id: &str) {
        self.inner().insert(id.to_owned());
    }

    /// A call was cancelled, and attempts at it that run here are told.
    pub(super) fn end(&self, id: &str) {
        let mut inner = self.inner();
        if let Some(attempt) = inner.running.get(id) {
            attempt.send_replace(true);
        }
        inner.insert(id.to_owned());
    }

    /// The latest ids of cancelled calls, the newest first.
    pub(super) fn latest(&self, limit: usize) -> Vec<String> {
        let inner = self.inner();
        inner
            .oldest_first
            .iter()
            .rev()
            .take(limit)
            .cloned()
            .collect()
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
        calls.end("a");
        assert!(*attempt.borrow());
        drop(attempt);
        calls.forget("a");
        assert!(*calls.watch("a").borrow());
        assert!(calls.contains("a") && !calls.contains("b"));
    }

    #[test]
    fn a_spared_attempt_goes_on_until_it_is_ended() {
        let calls = CancelledCalls::default();
        let attempt = calls.watch("a");
        calls.spare("a");
        // The broker's news of the same, however late.
        calls.hear(&spared("a"));
        assert!(!*attempt.borrow() && calls.contains("a"));
        assert_eq!(calls.latest(9), ["a"]);
        calls.hear("a");
        assert!(*attempt.borrow());
    }

    #[test]
    fn memory_is_bounded() {
        let calls = CancelledCalls::default();
        (0..REMEMBERED + 10).for_each(|n| calls.end(&n.to_string()));
        assert!(!calls.contains("9") && calls.contains("10"));
    }
}
