//! The table of who awaits which reply. Replies that nobody awaits are ignored, the first one for an id wins.

use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use serde_json::value::RawValue;
use tokio::sync::Notify;

use crate::error::{Error, Result};
use crate::failure::{Failure, FailureKind};
use crate::hashed::{CallId, HashedMap};

/// One call whose reply may come; taken off the table when nobody holds it any more.
pub(crate) struct Waiting {
    id: CallId,
    outcome: OnceLock<Result<Box<RawValue>, Failure>>,
    /// What the task told last of its progress, and how often it has told.
    progress: Mutex<(u64, Option<Box<RawValue>>)>,
    /// An outcome has come, or progress.
    arrived: Notify,
    table: Weak<Waiters>,
}

impl Waiting {
    #[cfg(feature = "redis")]
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) async fn outcome(&self) -> Result<Box<RawValue>, Failure> {
        loop {
            // Registered before looking, so that a reply between the two is not missed.
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            if let Some(outcome) = self.outcome.get() {
                return outcome.clone();
            }
            arrived.await;
        }
    }

    /// What the task told last of its progress, once that is not the telling numbered `seen`; `None` once the
    /// call is done.
    pub(crate) async fn progress(&self, seen: u64) -> Option<(u64, Box<RawValue>)> {
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            // Looked at first: what was told before the end was told before the outcome is seen.
            let is_done = self.outcome.get().is_some();
            let (number, newest) = self.told().clone();
            if let Some(newest) = newest.filter(|_| number != seen) {
                return Some((number, newest));
            }
            if is_done {
                return None;
            }
            arrived.await;
        }
    }

    fn told(&self) -> MutexGuard<'_, (u64, Option<Box<RawValue>>)> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, value: Box<RawValue>) {
        // What comes after the outcome is of a repeated attempt.
        if self.outcome.get().is_none() {
            let mut told = self.told();
            *told = (told.0 + 1, Some(value));
            drop(told);
            self.arrived.notify_waiters();
        }
    }

    fn complete(&self, outcome: Result<Box<RawValue>, Failure>) {
        // The first reply wins: a repeated attempt may send another.
        if self.outcome.set(outcome).is_ok() {
            self.arrived.notify_waiters();
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(table) = self.table.upgrade() {
            table.remove(&self.id);
        }
    }
}

/// Who awaits which reply.
#[derive(Default)]
pub(crate) struct Waiters {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    waiting: HashedMap<CallId, Weak<Waiting>>,
    closed: bool,
}

impl Waiters {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Awaits the reply to `id` from now on. Two calls under one id await the same reply.
    pub(crate) fn add(self: &Arc<Self>, id: &str) -> Result<Arc<Waiting>> {
        let id = CallId::from(id);
        let mut table = self.table();
        if table.closed {
            return Err(Error::Closed {
                what: "the app, or the runtime on which it reads replies,",
            });
        }
        let fresh = || {
            Arc::new(Waiting {
                id: id.clone(),
                outcome: OnceLock::new(),
                progress: Mutex::default(),
                arrived: Notify::new(),
                table: Arc::downgrade(self),
            })
        };
        match table.waiting.entry(id.clone()) {
            Entry::Occupied(mut entry) => Ok(entry.get().upgrade().unwrap_or_else(|| {
                let waiting = fresh();
                entry.insert(Arc::downgrade(&waiting));
                waiting
            })),
            Entry::Vacant(entry) => {
                let waiting = fresh();
                entry.insert(Arc::downgrade(&waiting));
                Ok(waiting)
            }
        }
    }

    fn remove(&self, id: &CallId) {
        // Another wait under the same id may have begun since the last one was dropped.
        if let Entry::Occupied(waiting) = self.table().waiting.entry(id.clone())
            && waiting.get().strong_count() == 0
        {
            waiting.remove();
        }
    }

    /// Who awaits the reply to `id`.
    fn find(&self, id: &str) -> Option<Arc<Waiting>> {
        let id = CallId::from(id);
        self.table().waiting.get(&id).and_then(Weak::upgrade)
    }

    /// Hands a reply to who awaits it; one that nobody awaits is dropped.
    pub(crate) fn complete(&self, id: &str, outcome: Result<Box<RawValue>, Failure>) {
        match self.find(id) {
            Some(waiting) => waiting.complete(outcome),
            None => tracing::debug!(id, "a reply came that nobody awaits"),
        }
    }

    /// Hands news of a running call to who awaits it.
    pub(crate) fn tell(&self, id: &str, value: Box<RawValue>) {
        if let Some(waiting) = self.find(id) {
            waiting.tell(value);
        }
    }

    /// No reply will come any more: tells everybody who waits.
    pub(crate) fn close(&self) {
        let waiting: Vec<_> = {
            let mut table = self.table();
            table.closed = true;
            table.waiting.values().filter_map(Weak::upgrade).collect()
        };
        for waiting in waiting {
            let message = "the app was closed before the reply came";
            waiting.complete(Err(Failure::new(
                "",
                &*waiting.id,
                FailureKind::Unknown,
                message,
            )));
        }
    }

    /// Whether somebody awaits the reply to `id`, and it has not come yet.
    #[cfg(feature = "redis")]
    pub(crate) fn is_awaited(&self, id: &str) -> bool {
        self.find(id)
            .is_some_and(|waiting| waiting.outcome.get().is_none())
    }

    /// How many replies are awaited.
    pub(crate) fn len(&self) -> usize {
        self.table().waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(json: &str) -> Result<Box<RawValue>, Failure> {
        Ok(RawValue::from_string(json.into()).expect("JSON"))
    }

    #[tokio::test]
    async fn the_first_reply_wins_and_unknown_ones_are_ignored() {
        let waiters = Arc::new(Waiters::default());
        let waiting = waiters.add("a").expect("open");
        waiters.complete("b", result("0"));
        waiters.complete("a", result("1"));
        waiters.complete("a", result("2"));
        assert_eq!(waiting.outcome().await.expect("a result").get(), "1");
    }

    #[tokio::test]
    async fn the_newest_progress_counts_and_it_ends_with_the_reply() {
        let waiters = Arc::new(Waiters::default());
        let waiting = waiters.add("a").expect("open");
        for json in ["1", "2", "3"] {
            waiters.tell("a", RawValue::from_string(json.into()).expect("JSON"));
        }
        let (seen, newest) = waiting.progress(0).await.expect("news");
        assert_eq!((seen, newest.get()), (3, "3"));
        let next = tokio::spawn(async move { waiting.progress(seen).await });
        tokio::task::yield_now().await;
        waiters.complete("a", result("5"));
        waiters.tell("a", RawValue::from_string("4".into()).expect("JSON"));
        assert!(next.await.expect("no panic").is_none());
    }

    #[tokio::test]
    async fn dropped_waits_leave_no_trace() {
        let waiters = Arc::new(Waiters::default());
        let first = waiters.add("a").expect("open");
        let second = waiters.add("a").expect("open");
        assert!(Arc::ptr_eq(&first, &second));
        drop(first);
        assert_eq!(waiters.len(), 1);
        drop(second);
        assert_eq!(waiters.len(), 0);
    }

    #[tokio::test]
    async fn closing_tells_who_waits() {
        let waiters = Arc::new(Waiters::default());
        let waiting = waiters.add("a").expect("open");
        let told = tokio::spawn(async move { waiting.outcome().await });
        tokio::task::yield_now().await;
        waiters.close();
        let failure = told.await.expect("no panic").expect_err("closed");
        assert_eq!(failure.kind, FailureKind::Unknown);
        assert!(waiters.add("b").is_err());
    }
}
