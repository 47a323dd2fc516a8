//! What a worker remembers of its attempts, so that work is not done twice when a delivery comes back:
//! which calls run now, and what came of those that ended lately.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::verdict::Verdict;
use crate::broker::{Delivery, Standing};
use crate::hashed::{CallId, HashedMap};
use crate::message::Message;

/// Outcomes remembered, the newest.
const REMEMBERED: usize = 4096;
/// How long they count: a message that comes back later is rather another one under the same id.
const KEPT: Duration = Duration::from_secs(600);
/// Results remembered up to this size in bytes; larger ones are rather computed again, unless they could not be
/// settled.
const LARGEST: usize = 4096;
/// Bytes of results remembered.
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// One delivery's identity: the same message on the same queue, in the same attempt of the same life. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key(Arc<Identity>);

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) id: CallId,
    pub(super) queue: String,
    /// A dead letter that was sent again has its first attempt again.
    pub(super) life: u32,
    pub(super) attempt: u32,
}

impl Key {
    /// The identity of a message that has come from `queue`.
    pub(super) fn of(queue: &str, message: &Message) -> Self {
        Self(Arc::new(Identity {
            id: CallId::from(&*message.id),
            queue: queue.to_owned(),
            life: message.revivals(),
            attempt: message.attempt(),
        }))
    }
}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
        // One id is on few queues at a time.
        state.write_u64(self.life.into());
        state.write_u64(self.attempt.into());
    }
}

impl Deref for Key {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.0
    }
}

/// The attempts that run now.
#[derive(Default)]
pub(super) struct Running(Mutex<HashedMap<Key, Attempt>>);

struct Attempt {
    /// Of the delivery that it stands on: its own, or the one adopted last.
    stale: Standing,
    since: Instant,
    /// The same message, delivered again. More than one only where the broker takes a consumer for dead that is not.
    adopted: Vec<Delivery>,
    /// Whether one that it stood on was void when another came.
    was_void: bool,
}

impl Running {
    fn table(&self) -> MutexGuard<'_, HashedMap<Key, Attempt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the same call is running already, that attempt adopts this delivery and `None` is returned. The
    /// attempt's own need not be void: RabbitMQ gives a message again to a consumer that it took for dead, on the
    /// same channel, when their nodes have lost each other for a moment.
    pub(super) fn adopt(
        &self,
        key: &Key,
        task: &str,
        delivery: Box<Delivery>,
    ) -> Option<Box<Delivery>> {
        let mut table = self.table();
        match table.get_mut(key) {
            // The first delivery of a message is not the one that is running: its id was used again.
            Some(attempt) if delivery.came_back() => {
                let (id, running) = (&*key.id, attempt.since.elapsed());
                tracing::warn!(
                    id,
                    task,
                    ?running,
                    "delivered again while it runs: the running attempt adopts it"
                );
                attempt.was_void |= attempt.stale.replace(delivery.stale());
                attempt.adopted.retain(|held| !held.stale().is_stale());
                attempt.adopted.push(*delivery);
                None
            }
            _ => Some(delivery),
        }
    }

    /// Registers an attempt. If the same id was sent twice and its other message runs now, both run, and
    /// only the first can adopt.
    pub(super) fn begin(&self, key: &Key, delivery: &Delivery) -> Registered<'_> {
        let stale = Standing::on(delivery.stale());
        let can_adopt = match self.table().entry(key.clone()) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                entry.insert(Attempt {
                    stale: stale.clone(),
                    since: Instant::now(),
                    adopted: Vec::new(),
                    was_void: false,
                });
                true
            }
        };
        Registered {
            stale,
            key: can_adopt.then(|| (self, key.clone())),
        }
    }
}

/// An attempt's place in the table, left when this is dropped, whatever ends the attempt: one that stayed
/// there would adopt deliveries for ever and settle none.
pub(super) struct Registered<'a> {
    /// Tells whether the delivery that the attempt stands on is void.
    pub(super) stale: Standing,
    key: Option<(&'a Running, Key)>,
}

impl Registered<'_> {
    /// Takes the newest delivery that the attempt has adopted.
    pub(super) fn adopted(&self) -> Option<Box<Delivery>> {
        let (running, key) = self.key.as_ref()?;
        running.table().get_mut(key)?.adopted.pop().map(Box::new)
    }

    /// The attempt has ended and what it stands on is settled; returns what else it has adopted, and whether what it
    /// stood on may have been void when that was settled.
    pub(super) fn end(mut self) -> (Vec<Delivery>, bool) {
        let attempt = self
            .key
            .take()
            .and_then(|(running, key)| running.table().remove(&key));
        attempt.map_or_else(Default::default, |attempt| {
            (attempt.adopted, attempt.was_void)
        })
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

/// What came of one attempt.
struct Known {
    since: Instant,
    verdict: Verdict,
    /// Whether it could not be settled: its delivery went back, perhaps as a copy that looks like a new message.
    went_back: bool,
}

/// What came of the attempts that ended lately.
#[derive(Default)]
pub(super) struct Outcomes(Mutex<Recent>);

#[derive(Default)]
struct Recent {
    verdicts: HashedMap<Key, Known>,
    oldest_first: VecDeque<Key>,
    bytes: usize,
}

impl Recent {
    fn insert(&mut self, key: Key, known: Known) {
        self.bytes += known.verdict.size();
        match self.verdicts.insert(key.clone(), known) {
            Some(before) => self.bytes -= before.verdict.size(),
            None => self.oldest_first.push_back(key),
        }
        while (self.oldest_first.len() > REMEMBERED || self.bytes > MOST_BYTES)
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(known) = self.verdicts.remove(key) {
            self.bytes -= known.verdict.size();
        }
    }
}

impl Outcomes {
    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers an outcome before it is settled.
    pub(super) fn remember(&self, key: Key, verdict: &Verdict) {
        if verdict.size() <= LARGEST {
            self.insert(key, verdict, false);
        }
    }

    /// Notes whether an outcome's delivery `went_back` unsettled: the next one under its key, which need not say
    /// that it came back, is that message again.
    pub(super) fn note(&self, key: &Key, verdict: &Verdict, went_back: bool) {
        if went_back {
            return self.insert(key.clone(), verdict, true);
        }
        let mut recent = self.recent();
        match recent.verdicts.get_mut(key) {
            Some(known) if known.verdict.size() <= LARGEST => known.went_back = false,
            Some(_) => {
                recent.remove(key);
                recent.oldest_first.retain(|other| other != key);
            }
            None => {}
        }
    }

    fn insert(&self, key: Key, verdict: &Verdict, went_back: bool) {
        // What was put off keeps its attempt's number: it must not be answered, but run.
        let open = matches!(
            verdict,
            Verdict::HandBack | Verdict::Postponed { .. } | Verdict::PutOff { .. }
        );
        if !open {
            let known = Known {
                since: Instant::now(),
                verdict: verdict.clone(),
                went_back,
            };
            self.recent().insert(key, known);
        }
    }

    /// What came of the message, if this is the same one again and not another one under its id.
    pub(super) fn of(&self, key: &Key, came_back: bool) -> Option<Verdict> {
        let recent = self.recent();
        let known = recent.verdicts.get(key)?;
        let is_same = came_back || known.went_back;
        (is_same && known.since.elapsed() < KEPT).then(|| known.verdict.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::watch;

    use crate::broker::{BoxFuture, Publish, Settle, Stale, Unstored, Until};

    struct Nothing;

    impl Settle for Nothing {
        fn ack(&mut self, _: Vec<Publish>, _: Until) -> BoxFuture<'_, Result<(), Unstored>> {
            Box::pin(std::future::ready(Ok(())))
        }

        fn release(self: Box<Self>) -> BoxFuture<'static, crate::error::Result<()>> {
            Box::pin(std::future::ready(Ok(())))
        }
    }

    #[test]
    fn what_was_void_when_another_came_is_remembered() {
        let running = Running::default();
        let key = key("id");
        let (end, ended) = watch::channel(false);
        let delivery = |stale: Stale| {
            let mut delivery = Delivery::new("queue", Message::default(), stale, Box::new(Nothing));
            delivery.redelivered = true;
            Box::new(delivery)
        };
        let again = || running.adopt(&key, "task", delivery(Stale::never()));
        let beside = running.begin(&key, &delivery(Stale::never()));
        assert!(again().is_none());
        let (adopted, was_void) = beside.end();
        assert_eq!((adopted.len(), was_void), (1, false));

        let instead = running.begin(&key, &delivery(Stale::new(ended)));
        end.send_replace(true);
        assert!(again().is_none());
        let (adopted, was_void) = instead.end();
        assert_eq!((adopted.len(), was_void), (1, true));
    }

    fn key(id: &str) -> Key {
        Key::of(
            "queue",
            &Message {
                id: id.into(),
                ..Message::default()
            },
        )
    }

    #[tokio::test(start_paused = true)]
    async fn what_went_back_is_known_without_saying_that_it_came_back() {
        let outcomes = Outcomes::default();
        let key = key("id");
        outcomes.remember(key.clone(), &Verdict::Over);
        assert!(outcomes.of(&key, true).is_some());
        assert!(
            outcomes.of(&key, false).is_none(),
            "another one under its id"
        );
        outcomes.note(&key, &Verdict::Over, true);
        assert!(outcomes.of(&key, false).is_some());
        // As long as settling fails, it stays known.
        tokio::time::advance(KEPT - crate::SECOND).await;
        outcomes.note(&key, &Verdict::Over, true);
        tokio::time::advance(KEPT - crate::SECOND).await;
        assert!(outcomes.of(&key, false).is_some());
        outcomes.note(&key, &Verdict::Over, false);
        assert!(outcomes.of(&key, false).is_none());
        tokio::time::advance(crate::SECOND).await;
        assert!(outcomes.of(&key, true).is_none(), "too long ago");
    }

    #[test]
    fn large_results_are_known_while_they_cannot_be_settled() {
        let outcomes = Outcomes::default();
        let large = format!("\"{}\"", "x".repeat(MOST_BYTES / 3));
        let large = Verdict::Done(serde_json::value::RawValue::from_string(large).expect("JSON"));
        let keys: Vec<_> = (0..3).map(|n| key(&n.to_string())).collect();
        outcomes.remember(keys[0].clone(), &large);
        assert!(outcomes.of(&keys[0], true).is_none());
        for key in &keys {
            outcomes.note(key, &large, true);
        }
        let known = |key| outcomes.of(key, false).is_some();
        assert_eq!(
            keys.iter().map(known).collect::<Vec<_>>(),
            [false, true, true]
        );
        outcomes.note(&keys[1], &large, false);
        assert!(!known(&keys[1]) && known(&keys[2]));
        assert_eq!(outcomes.recent().bytes, large.size());
    }
}
