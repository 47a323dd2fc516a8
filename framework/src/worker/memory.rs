//! What a worker remembers of its attempts, so that work is not done twice when a delivery comes back:
//! which calls run now, and what came of those that ended lately.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::verdict::Verdict;
use crate::broker::{Delivery, Stale};

/// Outcomes remembered, the newest.
const REMEMBERED: usize = 4096;
/// How long they count: a message that comes back later is rather another one under the same id.
const KEPT: Duration = Duration::from_secs(600);
/// Results remembered up to this size in bytes; larger ones are rather computed again.
const LARGEST: usize = 4096;

/// One delivery's identity: the same message on the same queue, in the same attempt of the same life.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) queue: String,
    pub(super) id: String,
    /// A dead letter that was sent again has its first attempt again.
    pub(super) life: u32,
    pub(super) attempt: u32,
}

/// The attempts that run now.
#[derive(Default)]
pub(super) struct Running(Mutex<HashMap<Key, Attempt>>);

struct Attempt {
    /// Of the delivery that it stands on: its own, or the one adopted last.
    stale: watch::Sender<Stale>,
    since: Instant,
    /// The same message, delivered again after the attempt's own delivery became void.
    adopted: Option<Delivery>,
}

impl Running {
    fn table(&self) -> MutexGuard<'_, HashMap<Key, Attempt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the same call is running already on a void delivery, that attempt adopts this one and `None`
    /// is returned.
    pub(super) fn adopt(&self, key: &Key, task: &str, delivery: Delivery) -> Option<Delivery> {
        let mut table = self.table();
        match table.get_mut(key) {
            // The first delivery of a message is not the one that is running: its id was used again.
            Some(attempt) if delivery.came_back() && attempt.stale.borrow().is_stale() => {
                let (id, running) = (&key.id, attempt.since.elapsed());
                tracing::warn!(
                    id,
                    task,
                    ?running,
                    "delivered again while it runs: the running attempt adopts it"
                );
                attempt.stale.send_replace(delivery.stale().clone());
                attempt.adopted = Some(delivery);
                None
            }
            _ => Some(delivery),
        }
    }

    /// Registers an attempt. If the same id was sent twice and its other message runs now, both run, and
    /// only the first can adopt.
    pub(super) fn begin(&self, key: &Key, delivery: &Delivery) -> Registered<'_> {
        let (stale, current) = watch::channel(delivery.stale().clone());
        let can_adopt = match self.table().entry(key.clone()) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                entry.insert(Attempt {
                    stale,
                    since: Instant::now(),
                    adopted: None,
                });
                true
            }
        };
        Registered {
            stale: current,
            key: can_adopt.then(|| (self, key.clone())),
        }
    }
}

/// An attempt's place in the table, left when this is dropped, whatever ends the attempt: one that stayed
/// there would adopt deliveries for ever and settle none.
pub(super) struct Registered<'a> {
    /// Tells whether the delivery that the attempt stands on is void.
    pub(super) stale: watch::Receiver<Stale>,
    key: Option<(&'a Running, Key)>,
}

impl Registered<'_> {
    /// Takes the delivery that the attempt has adopted.
    pub(super) fn adopted(&self) -> Option<Delivery> {
        let (running, key) = self.key.as_ref()?;
        running.table().get_mut(key)?.adopted.take()
    }

    /// The attempt has ended and what it held is settled; returns what it adopted at the last moment.
    pub(super) fn end(mut self) -> Option<Delivery> {
        let (running, key) = self.key.take()?;
        running.table().remove(&key)?.adopted
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        if let Some((running, key)) = self.key.take() {
            // Outside of the lock: what it adopted goes back when it is dropped.
            let attempt = running.table().remove(&key);
            drop(attempt);
        }
    }
}

/// What came of the attempts that ended lately.
#[derive(Default)]
pub(super) struct Outcomes(Mutex<Recent>);

#[derive(Default)]
struct Recent {
    verdicts: HashMap<Key, (Instant, Verdict)>,
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
            .insert(key.clone(), (Instant::now(), verdict.clone()))
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
        let recent = self.recent();
        let (since, verdict) = recent.verdicts.get(key)?;
        (since.elapsed() < KEPT).then(|| verdict.clone())
    }
}
