//! Which calls were cancelled, and the attempts that must be told.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::hashed::{CallId, HashedMap, HashedSet};

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
    ids: HashedSet<CallId>,
    oldest_first: VecDeque<CallId>,
    running: HashedMap<CallId, Watched>,
}

/// A call that runs here: more than once at a time, if two deliveries have its id.
struct Watched {
    alarm: Arc<Alarm>,
    attempts: usize,
}

/// Tells attempts at one call whether it is cancelled.
struct Alarm {
    is_cancelled: AtomicBool,
    told: Notify,
}

/// An attempt's watch for its call to be cancelled; dropped, it watches no longer.
pub(super) struct Watch<'a> {
    calls: &'a CancelledCalls,
    id: CallId,
    alarm: Arc<Alarm>,
}

impl Watch<'_> {
    fn is_cancelled(&self) -> bool {
        self.alarm.is_cancelled.load(Ordering::Acquire)
    }

    /// Resolves when the call is cancelled.
    pub(super) async fn cancelled(&self) {
        loop {
            // Before looking: what is told in between is not missed.
            let told = self.alarm.told.notified();
            if self.is_cancelled() {
                return;
            }
            told.await;
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if let Entry::Occupied(mut watched) = self.calls.inner().running.entry(self.id.clone()) {
            watched.get_mut().attempts -= 1;
            if watched.get().attempts == 0 {
                watched.remove();
            }
        }
    }
}

impl Inner {
    fn insert(&mut self, id: CallId) {
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
        self.inner().insert(id.into());
    }

    /// A call was cancelled, and attempts at it that run here are told.
    pub(super) fn end(&self, id: &str) {
        let id = CallId::from(id);
        let mut inner = self.inner();
        if let Some(Watched { alarm, .. }) = inner.running.get(&id) {
            alarm.is_cancelled.store(true, Ordering::Release);
            alarm.told.notify_waiters();
        }
        inner.insert(id);
    }

    /// The latest ids of cancelled calls, the newest first.
    pub(super) fn latest(&self, limit: usize) -> Vec<String> {
        let inner = self.inner();
        inner
            .oldest_first
            .iter()
            .rev()
            .take(limit)
            .map(|id| (**id).to_owned())
            .collect()
    }

    pub(super) fn contains(&self, id: &CallId) -> bool {
        self.inner().ids.contains(id)
    }

    /// Watches for an attempt that begins whether its call is cancelled.
    pub(super) fn watch(&self, id: &CallId) -> Watch<'_> {
        let mut inner = self.inner();
        let is_cancelled = inner.ids.contains(id).into();
        let fresh = || Watched {
            alarm: Arc::new(Alarm {
                is_cancelled,
                told: Notify::new(),
            }),
            attempts: 0,
        };
        let watched = inner.running.entry(id.clone()).or_insert_with(fresh);
        watched.attempts += 1;
        Watch {
            calls: self,
            id: id.clone(),
            alarm: watched.alarm.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_attempts_are_told_and_later_ones_know() {
        let calls = CancelledCalls::default();
        let attempt = calls.watch(&"a".into());
        assert!(!attempt.is_cancelled());
        calls.end("a");
        assert!(attempt.is_cancelled());
        let beside = calls.watch(&"a".into());
        drop(attempt);
        assert!(beside.is_cancelled() && calls.inner().running.len() == 1);
        drop(beside);
        assert!(calls.inner().running.is_empty());
        assert!(calls.watch(&"a".into()).is_cancelled());
        assert!(calls.contains(&"a".into()) && !calls.contains(&"b".into()));
    }

    #[test]
    fn a_spared_attempt_goes_on_until_it_is_ended() {
        let calls = CancelledCalls::default();
        let attempt = calls.watch(&"a".into());
        calls.spare("a");
        // The broker's news of the same, however late.
        calls.hear(&spared("a"));
        assert!(!attempt.is_cancelled() && calls.contains(&"a".into()));
        assert_eq!(calls.latest(9), ["a"]);
        calls.hear("a");
        assert!(attempt.is_cancelled());
    }

    #[test]
    fn memory_is_bounded() {
        let calls = CancelledCalls::default();
        (0..REMEMBERED + 10).for_each(|n| calls.end(&n.to_string()));
        assert!(!calls.contains(&"9".into()) && calls.contains(&"10".into()));
    }
}
