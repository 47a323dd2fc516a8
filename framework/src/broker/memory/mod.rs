//! The broker in this process's memory, for tests: the same queues, delays, priorities and settlement as
//! the others, and nothing that outlives the process. All its waits follow tokio's clock, so that with
//! paused time an hour's delay is over at once.

mod audience;
mod browse;
mod consumer;
mod joins;
mod journal;
mod lease;
mod queue;
mod state;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

pub(crate) use self::journal::Entry;
use self::state::State;
use crate::broker::{
    Announcement, BACKLOG, BoxFuture, Broker, Browse, Cancellations, Channel, Consumer, Depth,
    Exchange, Join, Lease, Listener, Publish, Queue, Replies,
};
use crate::error::{Error, Result};
use crate::message::Message;

/// Replies and cancellations under way to their reader; what is more waits in the broker.
const CHANNEL_SIZE: usize = 256;

/// A broker in this process's memory.
///
/// Two of them know nothing of each other: who is to meet shares one.
#[derive(Debug, Default)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
}

/// What the broker, its pumps and its deliveries share.
struct Shared {
    state: Mutex<State>,
    /// Becomes true when the broker is closed, and outstanding deliveries are void.
    ended: watch::Sender<bool>,
}

impl Shared {
    /// The state, which no panic can leave half changed: nothing in it calls foreign code.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            ended: watch::Sender::new(false),
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Shared")
            .field("closed", &state.closed)
            .field("queues", &state.queues.keys())
            .finish_non_exhaustive()
    }
}

impl MemoryBroker {
    /// An empty broker.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The calls that were sent, the oldest first.
    pub(crate) fn sent(&self) -> Vec<Entry> {
        self.shared.lock().journal.entries()
    }

    /// Resolves when something has been sent since it last did.
    pub(crate) async fn sending(&self) {
        let sending = self.shared.lock().journal.sending.clone();
        sending.notified().await;
    }

    /// The task queues in which something waits, now or for its time, or is not settled yet, and how much.
    pub(crate) fn unfinished(&self) -> BTreeMap<String, u64> {
        self.shared.lock().unfinished(Instant::now())
    }
}

impl Broker for MemoryBroker {
    fn declare<'a>(&'a self, queue: &'a Queue) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.shared.lock().open()?.declare(queue) })
    }

    fn declare_exchange<'a>(&'a self, exchange: &'a Exchange) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            exchange.validate()?;
            let _as_it_is = self.shared.lock().open()?.declare_exchange(exchange);
            Ok(())
        })
    }

    fn publish(&self, publish: Publish) -> BoxFuture<'static, Result<()>> {
        let shared = self.shared.clone();
        Box::pin(async move {
            let mut state = shared.lock();
            state.open()?.publish(vec![publish], Instant::now())
        })
    }

    fn consume<'a>(&'a self, queue: &'a Queue, slots: usize) -> BoxFuture<'a, Result<Consumer>> {
        Box::pin(async move { consumer::start(&self.shared, queue, slots) })
    }

    fn browse<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Box<dyn Browse>>> {
        Box::pin(async move { browse::start(&self.shared, queue) })
    }

    fn replies(&self) -> BoxFuture<'_, Result<Replies>> {
        Box::pin(async move {
            let mut queue = Queue::exclusive();
            queue.name = format!("garenne.reply.{}", uuid::Uuid::new_v4().simple());
            let consumer = consumer::start(&self.shared, &queue, CHANNEL_SIZE)?;
            let (sender, messages) = mpsc::channel(CHANNEL_SIZE);
            tokio::spawn(forward_replies(consumer, sender));
            Ok(Replies {
                address: queue.name,
                messages: messages.into(),
            })
        })
    }

    fn cancel_delayed<'a>(&'a self, id: &'a str, due_in: Duration) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut state = self.shared.lock();
            state.open()?.cancel(id, Instant::now(), due_in);
            Ok(())
        })
    }

    fn cancellations(&self) -> BoxFuture<'_, Result<Cancellations>> {
        Box::pin(async move {
            // A reader that is behind must neither hold up who cancels nor miss an id.
            let (watcher, mut backlog) = mpsc::unbounded_channel();
            let known = self.shared.lock().open()?.watch(watcher);
            let (sender, later) = mpsc::channel(CHANNEL_SIZE);
            tokio::spawn(async move {
                while let Some(id) = backlog.recv().await {
                    if sender.send(id).await.is_err() {
                        return;
                    }
                }
            });
            Ok(Cancellations { known, later })
        })
    }

    fn listen<'a>(
        &'a self,
        channel: &'a Channel,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Listener>> {
        Box::pin(async move {
            let (sender, messages) = mpsc::channel(BACKLOG);
            let mut state = self.shared.lock();
            state.open()?.audience.join(channel, name, sender)?;
            Ok(Listener::new(messages))
        })
    }

    fn announce(&self, announcement: Announcement) -> BoxFuture<'static, Result<()>> {
        let shared = self.shared.clone();
        Box::pin(async move {
            shared.lock().open()?.audience.tell(&announcement);
            Ok(())
        })
    }

    fn open_join(&self, join: Join) -> BoxFuture<'static, Result<()>> {
        let shared = self.shared.clone();
        Box::pin(async move {
            let mut state = shared.lock();
            state.open()?.open_join(join, Instant::now())
        })
    }

    fn check_join<'a>(
        &'a self,
        join: &'a str,
        parts: u32,
        fire: bool,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut state = self.shared.lock();
            state.open()?.check_join(join, parts, fire, Instant::now())
        })
    }

    fn parts<'a>(
        &'a self,
        join: &'a str,
        most: usize,
    ) -> BoxFuture<'a, Result<Option<Vec<Message>>>> {
        Box::pin(async move {
            let mut state = self.shared.lock();
            Ok(state.open()?.parts(join, most, Instant::now()))
        })
    }

    fn close_join<'a>(&'a self, join: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.shared.lock().open()?.close_join(join);
            Ok(())
        })
    }

    fn may_be_heard(&self, channel: &Channel) -> bool {
        self.shared.lock().audience.may_hear(channel)
    }

    fn depth<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Depth>> {
        Box::pin(async move {
            let mut state = self.shared.lock();
            let state = state.open()?;
            let consumers = state.consumers(queue);
            let found = state.queues.get_mut(queue).ok_or_else(|| Error::Refused {
                what: format!("the depth of queue `{queue}`"),
                reason: "there is no such queue".into(),
            })?;
            let depth = Depth::new(found.ready(Instant::now()), consumers);
            Ok(depth.with_delayed(found.delayed()))
        })
    }

    fn delayed(&self) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            let mut state = self.shared.lock();
            Ok(state.open()?.delayed(Instant::now()))
        })
    }

    fn delete<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.shared.lock().open()?.queues.remove(queue);
            Ok(())
        })
    }

    fn lease<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Box<dyn Lease>>> {
        Box::pin(lease::acquire(&self.shared, name))
    }

    fn read_lease<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>>> {
        Box::pin(async move { Ok(self.shared.lock().open()?.leases.value(name)) })
    }

    fn lease_changes<'a>(&'a self, name: &'a str, known: Option<&'a [u8]>) -> BoxFuture<'a, ()> {
        Box::pin(lease::changes(&self.shared, name, known))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let gone = self.shared.lock().close();
            self.shared.ended.send_replace(true);
            for subscriber in &gone {
                subscriber.wake.notify_one();
            }
        })
    }
}

/// Passes replies on until the broker is closed or nobody reads them; then their queue is gone.
async fn forward_replies(mut consumer: Consumer, sender: mpsc::Sender<Message>) {
    loop {
        let next = tokio::select! {
            next = consumer.next() => next,
            () = sender.closed() => return,
        };
        let Some(Ok(mut delivery)) = next else {
            return;
        };
        let reply = std::mem::take(&mut delivery.message);
        if sender.send(reply).await.is_err() || delivery.ack(None).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
