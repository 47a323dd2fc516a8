//! One delivery through a slot: check it, run its task, settle it.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::Instrument;

use super::Shared;
use super::activity::Taken;
use super::ahead::{Admission, Place, Slot};
use super::check::Checked;
use super::memory::{Key, Registered};
use super::run::chance;
use super::serve::Lane;
use super::settle::{Custody, PAUSE};
use super::suspect::{Turn, is_suspect, put_off};
use super::verdict::{Verdict, failure};
use crate::broker::Delivery;
use crate::error::Error;
use crate::failure::FailureKind;
use crate::message::{Message, header};

/// Takes one delivery to its end.
pub(super) async fn process(
    worker: Arc<Shared>,
    lane: Arc<Lane>,
    place: Place,
    mut delivery: Box<Delivery>,
) {
    let mut message = std::mem::take(&mut delivery.message);
    let key = Key::of(&delivery.queue, &message);
    if !delivery.exchange.is_empty() {
        // A retry and a dead letter go to a queue: without a note nobody would know how the call came.
        message.set(header::EXCHANGE, delivery.exchange.as_str());
        message.set(header::ROUTING_KEY, delivery.routing_key.as_str());
    }
    let task = message.text("task").unwrap_or_default();
    let Some(delivery) = worker.running.adopt(&key, task, delivery) else {
        return;
    };
    let unpacked = worker.unpack(&mut message);
    let message = Arc::new(message);
    let taken = worker.activity.take(&message, &lane, delivery.came_back());
    let admission = place.comes(&worker.stopping, &lane.ahead, delivery.stale());
    let permit = match admission.await {
        Admission::Slot(permit) => Some(permit),
        // It goes back below.
        Admission::Stops => None,
        // It is delivered again, here or elsewhere.
        Admission::Void => return,
        Admission::WaitedTooLong => {
            let custody = Custody::Held(delivery);
            let hand_back = async {
                // What cannot be handed back is dropped with its delivery, and so goes back, too.
                let _ = worker
                    .settle(custody, &message, &mut Verdict::HandBack, &lane)
                    .await;
            };
            // What few deliveries come to is boxed, here and below: the future of each would have room for it.
            return Box::pin(hand_back).await;
        }
    };
    let mut slot = Slot::new(&lane, permit);
    worker.tell_taken(&message);
    let known = worker.outcomes.of(&key, delivery.came_back());
    let is_known = known.is_some();
    let checked = match known {
        Some(verdict) => {
            tracing::info!(
                id = message.id,
                "delivered again after it was done: answered from memory"
            );
            Err(verdict)
        }
        None => unpacked.and_then(|()| worker.check(&delivery, &message, &key)),
    };
    let turn = match &checked {
        Ok(_)
            if is_suspect(delivery.deliveries, worker.max_deliveries)
                && !*worker.stopping.borrow() =>
        {
            Some(Box::pin(worker.suspects.turn()).await)
        }
        _ => None,
    };
    if delivery.stale().is_stale() {
        // It became void while it waited here, and is delivered again.
        return;
    }
    let checked = match &turn {
        _ if *worker.stopping.borrow() => Err(Verdict::HandBack),
        Some(Turn::Later { .. }) => Err(Verdict::PutOff {
            deaths: delivery.deliveries - 1,
            delay: put_off(chance()),
        }),
        _ => checked,
    };
    let checked = match checked {
        Ok(task) if task.joined.is_some() => {
            let may_be_over = delivery.came_back() || message.is_copy();
            Box::pin(worker.join(task, may_be_over, &message)).await
        }
        checked => checked,
    };
    if delivery.stale().is_stale() {
        // Or while the parts of its join were read.
        return;
    }
    match checked {
        Ok(task) => {
            let span = tracing::info_span!(
                "task",
                name = task.name,
                id = message.id,
                attempt = key.attempt
            );
            worker
                .attempt(task, &mut slot, delivery, &message, key, &taken)
                .instrument(span)
                .await;
        }
        Err(mut verdict) => {
            let not_run = async {
                let settled = worker
                    .settle(Custody::Held(delivery), &message, &mut verdict, &lane)
                    .await;
                if is_known {
                    worker.outcomes.note(&key, &verdict, went_back(&settled));
                }
                worker
                    .conclude(&mut slot, &message, &verdict, settled.err(), &taken)
                    .await;
            };
            Box::pin(not_run).await;
        }
    }
}

/// Whether the delivery was given back since it could not be settled.
fn went_back(settled: &Result<(), Error>) -> bool {
    !matches!(settled, Ok(()) | Err(Error::Stale { .. }))
}

impl Shared {
    /// Runs the task once and settles what came of it.
    async fn attempt(
        &self,
        task: Checked,
        slot: &mut Slot<'_>,
        delivery: Box<Delivery>,
        message: &Arc<Message>,
        key: Key,
        taken: &Taken<'_>,
    ) {
        taken.begin(task.name);
        let registered = self.running.begin(&key, &delivery);
        let ended = match self
            .take_custody(delivery, message, &task.definition.options)
            .await
        {
            Ok(custody) => {
                self.tell_begun(message);
                self.run_and_settle(task, slot, custody, message, &key, &registered)
                    .await
            }
            Err(error) => (Verdict::HandBack, Some(error)),
        };
        let (mut verdict, mut error) = ended;
        let (others, was_void) = registered.end();
        for other in others {
            let settled = match error {
                // What follows the call is out already.
                None if !was_void && !matches!(verdict, Verdict::HandBack) => {
                    Box::pin(other.ack(None)).await
                }
                _ => {
                    let custody = Custody::Held(Box::new(other));
                    Box::pin(self.settle(custody, message, &mut verdict, slot.lane)).await
                }
            };
            self.outcomes.note(&key, &verdict, went_back(&settled));
            error = error.and(settled.err());
        }
        self.conclude(slot, message, &verdict, error, taken).await;
    }

    async fn run_and_settle(
        &self,
        task: Checked,
        slot: &mut Slot<'_>,
        custody: Custody,
        message: &Arc<Message>,
        key: &Key,
        registered: &Registered<'_>,
    ) -> (Verdict, Option<Error>) {
        let name = task.name;
        let stale = registered.stale.clone();
        let (lane, began) = (slot.lane, Instant::now());
        let mut verdict = self.run(task, message, key, stale).await;
        slot.ran(began.elapsed());
        if self.dies(name, custody.came_back(), message) {
            // What is dropped unsettled is delivered again.
            return (Verdict::HandBack, None);
        }
        if matches!(
            (&custody, &verdict),
            (Custody::Released { .. }, Verdict::HandBack)
        ) {
            let text =
                "the worker stopped before it was done; acknowledged early, it is not run again";
            let failure = failure(message, FailureKind::Failed, text);
            verdict = Verdict::Dead {
                reason: "stopped",
                failure,
            };
        }
        self.outcomes.remember(key.clone(), &verdict);
        let is_held = matches!(custody, Custody::Held(_));
        let mut settled = self.settle(custody, message, &mut verdict, lane).await;
        // Where no other delivery has come, this attempt has no say any more: who gets the call next
        // answers for it, from memory if that is this worker.
        while matches!(settled, Err(Error::Stale { .. }))
            && let Some(again) = registered.adopted()
        {
            let custody = Custody::Held(again);
            settled = Box::pin(self.settle(custody, message, &mut verdict, lane)).await;
        }
        if is_held {
            self.outcomes.note(key, &verdict, went_back(&settled));
        }
        (verdict, settled.err())
    }

    /// Says what became of a delivery. One that could not be settled comes again at once: the slot pauses,
    /// so that it does not come in a hot loop, and what may have been deleted is declared again.
    async fn conclude(
        &self,
        slot: &mut Slot<'_>,
        message: &Message,
        verdict: &Verdict,
        error: Option<Error>,
        taken: &Taken<'_>,
    ) {
        if error.is_none() {
            self.tell_end(message, verdict, taken);
        }
        let failed = error
            .as_ref()
            .is_some_and(|error| !matches!(error, Error::Stale { .. }));
        self.observe(message, verdict);
        let unroutable = matches!(error, Some(Error::Unroutable { .. }));
        report(message, verdict, error);
        if failed {
            Box::pin(self.recover(slot, unroutable)).await;
        }
    }

    /// After a settlement that failed.
    async fn recover(&self, slot: &mut Slot<'_>, unroutable: bool) {
        let queue = &slot.lane.queue;
        if unroutable && let Err(error) = self.app.broker().declare(queue).await {
            tracing::warn!(queue = queue.name(), "cannot be declared again: {error}");
        }
        let mut hand_back = self.hand_back.subscribe();
        let pause = async {
            slot.retake().await;
            tokio::time::sleep(PAUSE).await;
        };
        tokio::select! {
            () = pause => {}
            _ = hand_back.wait_for(|hand_back| *hand_back) => {}
        }
    }
}

/// Says what became of a delivery, once.
fn report(message: &Message, verdict: &Verdict, error: Option<Error>) {
    let (id, task) = (&message.id, message.text("task").unwrap_or_default());
    match verdict {
        Verdict::Done(_) => tracing::debug!(id, task, "done"),
        Verdict::Dead { reason, failure } => {
            tracing::error!(id, task, reason, "{}", failure.message)
        }
        Verdict::Dropped(failure) => tracing::info!(id, task, "not run: {}", failure.message),
        Verdict::Retry { error, delay } => {
            tracing::warn!(id, task, ?delay, "to be retried: {error}")
        }
        Verdict::Postponed { delay } => tracing::debug!(id, task, ?delay, "postponed"),
        Verdict::PutOff { deaths, delay } => {
            tracing::warn!(
                id,
                task,
                deaths,
                ?delay,
                "workers died with it: it waits for its turn to run alone"
            )
        }
        Verdict::HandBack => tracing::info!(id, task, "handed back"),
        Verdict::Over => tracing::info!(id, task, "delivered again after it was settled"),
    }
    if let Some(error) = error {
        tracing::warn!(
            id,
            task,
            "not settled, so it may be delivered again: {error}"
        );
    }
}
