//! The way of a message out of a memory queue: one pump for each consumer hands messages out while it has
//! free slots, and what is handed out is settled, or put back.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

use super::Shared;
use super::queue::{Place, Stored};
use super::state::Subscriber;
use crate::broker::{
    BoxFuture, Consumer, MOST_AHEAD, Publish, Queue, Settle, Stale, Subscription, Unstored, Until,
};
use crate::error::{Error, Result};

/// The most that one consumer holds unsettled: AMQP's own limit.
const MAX_SLOTS: usize = u16::MAX as usize;

/// What a pump does next.
enum Step {
    Again,
    Wait { until: Option<Instant> },
    End,
}

/// Starts a consumer of a queue, which is declared if need be.
pub(super) fn start(shared: &Arc<Shared>, queue: &Queue, slots: usize) -> Result<Consumer> {
    let slots = slots.clamp(1, MAX_SLOTS);
    // Of this size it is never full, since unsettled deliveries are counted from here on.
    let (sender, receiver) = mpsc::channel(slots + MOST_AHEAD);
    let wake = Arc::new(Notify::new());
    let mut state = shared.lock();
    state.open()?.declare(queue)?;
    let number = state.number();
    state.subscribers.insert(
        number,
        Subscriber {
            queue: queue.name.clone(),
            exclusive: queue.exclusive,
            slots,
            unsettled: 0,
            deliveries: sender,
            wake: wake.clone(),
        },
    );
    drop(state);
    tokio::spawn(pump(shared.clone(), number, wake));
    let (shared, resized) = (shared.clone(), shared.clone());
    let consumer = Consumer::new(receiver, move || {
        // In two statements: the sender must not be dropped under the lock, since a delivery may go with
        // it that takes the lock to put itself back.
        let gone = shared.lock().unsubscribe(number);
        drop(gone);
    });
    let subscription = Subscription::always().allowed_by(move |unsettled| {
        if let Some(subscriber) = resized.lock().subscribers.get_mut(&number) {
            subscriber.slots = unsettled.min(slots + MOST_AHEAD);
            subscriber.wake.notify_one();
        }
    });
    Ok(consumer.subscribed(subscription))
}

async fn pump(shared: Arc<Shared>, subscriber: u64, wake: Arc<Notify>) {
    loop {
        match step(&shared, subscriber) {
            Step::Again => {}
            Step::Wait { until: Some(until) } => {
                tokio::select! {
                    () = wake.notified() => {}
                    () = sleep_until(until) => {}
                }
            }
            Step::Wait { until: None } => wake.notified().await,
            Step::End => return,
        }
    }
}

/// Hands out one message, if there is one and a slot for it.
fn step(shared: &Arc<Shared>, number: u64) -> Step {
    let mut state = shared.lock();
    let state = &mut *state;
    let Some(subscriber) = state.subscribers.get_mut(&number) else {
        return Step::End;
    };
    let idle = Step::Wait { until: None };
    if subscriber.unsettled >= subscriber.slots {
        return idle;
    }
    let Some(queue) = state.queues.get_mut(&subscriber.queue) else {
        return idle;
    };
    let Ok(room) = subscriber.deliveries.try_reserve() else {
        return idle;
    };
    let Some((place, stored)) = queue.take(Instant::now()) else {
        return Step::Wait {
            until: queue.next_due(),
        };
    };
    let stale = Stale::new(shared.ended.subscribe());
    let held = Held {
        shared: shared.clone(),
        subscriber: number,
        queue: subscriber.queue.clone(),
        incarnation: queue.incarnation,
        message: Some((place, stored.clone())),
    };
    subscriber.unsettled += 1;
    room.send(Ok(stored.delivery(
        &subscriber.queue,
        stale,
        Box::new(held),
    )));
    Step::Again
}

/// A message out of its queue.
struct Held {
    shared: Arc<Shared>,
    subscriber: u64,
    queue: String,
    incarnation: u64,
    /// `None` once it is settled.
    message: Option<(Place, Stored)>,
}

impl Held {
    fn stale(&self) -> Error {
        Error::Stale {
            queue: self.queue.clone(),
        }
    }

    fn finish(&mut self, first: Vec<Publish>) -> Result<()> {
        let mut state = self.shared.lock();
        if state.closed {
            return Err(self.stale());
        }
        state.publish(first, Instant::now())?;
        drop(state);
        self.message = None;
        Ok(())
    }

    /// Puts the message back to its place. `lost` says that its delivery counts.
    fn put_back(&mut self, lost: impl FnOnce(Option<&Subscriber>) -> bool) -> Result<()> {
        let mut state = self.shared.lock();
        if state.closed {
            return Err(self.stale());
        }
        let lost = lost(state.subscribers.get(&self.subscriber));
        let Some((place, mut stored)) = self.message.take() else {
            return Ok(());
        };
        stored.lost_deliveries += u32::from(lost);
        if let Some(queue) = state.queues.get_mut(&self.queue) {
            // A new queue under the old name knows nothing of it.
            if queue.incarnation == self.incarnation {
                queue.put_back(place, stored);
            }
        }
        state.wake(&self.queue);
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.message.is_some() {
            // A consumer that is being dropped drops what was never read of its channel first, and is
            // unsubscribed then: such a delivery did not take place. (After a close nothing is to do.)
            let read = |of: Option<&Subscriber>| of.is_none_or(|of| !of.deliveries.is_closed());
            let _ = self.put_back(read);
        }
        let mut state = self.shared.lock();
        if let Some(subscriber) = state.subscribers.get_mut(&self.subscriber) {
            subscriber.unsettled -= 1;
            subscriber.wake.notify_one();
        }
    }
}

impl Settle for Held {
    fn ack(&mut self, first: Vec<Publish>, _: Until) -> BoxFuture<'_, Result<(), Unstored>> {
        Box::pin(async move { Ok(self.finish(first)?) })
    }

    fn release(mut self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async move { self.put_back(|_| false) })
    }
}
