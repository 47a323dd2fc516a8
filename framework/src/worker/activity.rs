//! The calls that a worker has at the moment, and how many it has had: what it answers when it is asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::serve::Lane;
use crate::hashed::HashedMap;
use crate::message::Message;

/// The calls that a worker has.
#[derive(Default)]
pub(super) struct Activity(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    numbers: u64,
    calls: HashedMap<u64, Had>,
    /// Attempts begun, by task.
    begun: BTreeMap<&'static str, u64>,
}

/// A call that the worker has.
#[derive(Clone)]
pub(super) struct Had {
    pub(super) message: Arc<Message>,
    pub(super) lane: Arc<Lane>,
    pub(super) redelivered: bool,
    /// When its attempt began.
    pub(super) began: Option<(SystemTime, Instant)>,
}

/// Takes the call off the list when it is dropped.
pub(super) struct Taken<'a> {
    activity: &'a Activity,
    number: u64,
}

impl Activity {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call was taken.
    pub(super) fn take(
        &self,
        message: &Arc<Message>,
        lane: &Arc<Lane>,
        redelivered: bool,
    ) -> Taken<'_> {
        let mut inner = self.inner();
        inner.numbers += 1;
        let number = inner.numbers;
        let had = Had {
            message: message.clone(),
            lane: lane.clone(),
            redelivered,
            began: None,
        };
        inner.calls.insert(number, had);
        Taken {
            activity: self,
            number,
        }
    }

    /// All calls, those that came first before the others.
    pub(super) fn calls(&self) -> Vec<Had> {
        let inner = self.inner();
        let mut calls: Vec<_> = inner.calls.iter().collect();
        calls.sort_by_key(|(number, _)| **number);
        calls.into_iter().map(|(_, had)| had.clone()).collect()
    }

    /// How many attempts run.
    pub(super) fn running(&self) -> u64 {
        let inner = self.inner();
        inner
            .calls
            .values()
            .filter(|had| had.began.is_some())
            .count() as u64
    }

    /// Attempts begun, by task.
    pub(super) fn begun(&self) -> BTreeMap<&'static str, u64> {
        self.inner().begun.clone()
    }
}

impl Taken<'_> {
    /// Its attempt begins.
    pub(super) fn begin(&self, task: &'static str) {
        let mut inner = self.activity.inner();
        *inner.begun.entry(task).or_default() += 1;
        if let Some(had) = inner.calls.get_mut(&self.number) {
            had.began = Some((SystemTime::now(), Instant::now()));
        }
    }

    /// How long its attempt has run; `None` if it has not begun.
    pub(super) fn runtime(&self) -> Option<Duration> {
        let inner = self.activity.inner();
        let (_, began) = inner.calls.get(&self.number)?.began?;
        Some(began.elapsed())
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.activity.inner().calls.remove(&self.number);
    }
}
