//! What a worker remembers of its attempts, so that work is not done twice when a delivery comes back:
//! which calls run now, and what came of those that ended lately.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::settle::Verdict;
use crate::broker::{Delivery, Stale};

/// Outcomes remembered, the newest.
const REMEMBERED: usize = 4096;
/// Results remembered up to this size in bytes; larger ones are rather computed again.
const LARGEST: usize = 4096;

/// One delivery's identity: the same message on the same queue, in the same attempt.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) queue: String,
    pub(super) id: String,
    pub(super) attempt: u32,
}

/// The attempts that run now.
#[derive(Default)]
pub(super) struct Running(Mutex<HashMap<Key, Attempt>>);

struct Attempt {
    stale: Stale,
    /// The same message, delivered again after the attempt's own delivery became void.
    adopted: Option<Delivery>,
}

impl Running {
    fn table(&self) -> MutexGuard<'_, HashMap<Key, Attempt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the same call is running already on a void delivery, that attempt adopts this one and `None`
    /// is returned.
    pub(super) fn adopt(&self, key: &Key, delivery: Delivery) -> Option<Delivery> {
        let mut table = self.table();
        match table.get_mut(key) {
            Some(attempt) if attempt.stale.is_stale() => {
                attempt.stale = delivery.stale().clone();
                attempt.adopted = Some(delivery);
                None
            }
            _ => Some(delivery),
        }
    }

    /// Registers an attempt; `false` if the same id was sent twice and its other message runs now. Both
    /// run then, and only the first can adopt.
    pub(super) fn begin(&self, key: &Key, delivery: &Delivery) -> bool {
        match self.table().entry(key.clone()) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                let stale = delivery.stale().clone();
                entry.insert(Attempt {
                    stale,
                    adopted: None,
                });
                true
            }
        }
    }

    /// Takes the delivery that an attempt has adopted.
    pub(super) fn adopted(&self, key: &Key) -> Option<Delivery> {
        self.table().get_mut(key)?.adopted.take()
    }

    /// An attempt has ended and what it held is settled; returns what it adopted at the last moment.
    pub(super) fn end(&self, key: &Key) -> Option<Delivery> {
        self.table().remove(key)?.adopted
    }
}

/// What came of the attempts that ended lately.
#[derive(Default)]
pub(super) struct Outcomes(Mutex<Recent>);

#[derive(Default)]
struct Recent {
    verdicts: HashMap<Key, Verdict>,
    oldest_first: VecDeque<Key>,
}

impl Outcomes {
    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn remember(&self, key: Key, verdict: &Verdict) {
        // What was put off keeps its attempt's number: it must not be answered, but run.
        let open = matches!(
            verdict,
            Verdict::HandBack | Verdict::Postponed { .. } | Verdict::PutOff { .. }
        );
        if verdict.size() > LARGEST || open {
            return;
        }
        let mut recent = self.recent();
        if recent
            .verdicts
            .insert(key.clone(), verdict.clone())
            .is_none()
        {
            recent.oldest_first.push_back(key);
        }
        if recent.oldest_first.len() > REMEMBERED
            && let Some(oldest) = recent.oldest_first.pop_front()
        {
            recent.verdicts.remove(&oldest);
        }
    }

    pub(super) fn of(&self, key: &Key) -> Option<Verdict> {
        self.recent().verdicts.get(key).cloned()
    }
}
