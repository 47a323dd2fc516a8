//! The queues that a running worker takes from: more and fewer of them, with more and fewer slots, while it works.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};

use super::Shared;
use super::deaf::Watch;
use super::serve::{Feed, Lane};
use super::start::open_lane;
use crate::broker::Queue;
use crate::error::{Error, Result};

/// A queue grows to so many slots, and no further.
const MOST_SLOTS: usize = 100_000;
/// Wishes that wait for their turn.
const WISHES: usize = 64;

/// A change that somebody wants.
#[derive(Debug)]
pub(super) enum Change {
    /// Takes from this queue, too.
    Add(Queue, usize),
    /// Takes from the queue of this name no longer.
    Cancel(String),
    /// Gives each queue so many slots more.
    Grow(usize),
    /// Takes so many slots from each queue.
    Shrink(usize),
}

/// A change, and who waits to hear whether it could be made.
pub(super) struct Wish {
    change: Change,
    answer: oneshot::Sender<Result<(), String>>,
}

/// Where wishes are made.
#[derive(Clone)]
pub(super) struct Wishes(mpsc::Sender<Wish>);

impl Wishes {
    pub(super) fn new() -> (Self, mpsc::Receiver<Wish>) {
        let (sender, wishes) = mpsc::channel(WISHES);
        (Self(sender), wishes)
    }

    /// Wishes for a change, and waits until it is made.
    ///
    /// # Errors
    /// Why it was not.
    pub(super) async fn make(&self, change: Change) -> Result<(), String> {
        let (answer, done) = oneshot::channel();
        let stops = |_| "the worker stops".to_owned();
        self.0
            .send(Wish { change, answer })
            .await
            .map_err(|_| stops(()))?;
        done.await.map_err(|_| stops(()))?
    }
}

/// A queue that is taken from.
struct Open {
    lane: Arc<Lane>,
    slots: usize,
    stop: watch::Sender<bool>,
    watch: AbortHandle,
}

/// A lane that was opened for a wish.
struct Opened {
    change: Change,
    lane: Result<(Feed, Watch)>,
    slots: usize,
    answer: Option<oneshot::Sender<Result<(), String>>>,
}

/// All queues that a worker takes from.
pub(super) struct Lanes {
    shared: Arc<Shared>,
    deaf_after: Option<Duration>,
    is_watched: bool,
    open: Vec<Open>,
    feeds: JoinSet<Result<()>>,
    watches: JoinSet<Error>,
    opening: JoinSet<Opened>,
    /// Why a queue cannot be taken from any more, told before what runs there has ended.
    failed: (mpsc::Sender<Error>, mpsc::Receiver<Error>),
}

impl Lanes {
    pub(super) fn new(shared: Arc<Shared>, deaf_after: Option<Duration>, is_watched: bool) -> Self {
        Self {
            shared,
            deaf_after,
            is_watched,
            open: Vec::new(),
            feeds: JoinSet::new(),
            watches: JoinSet::new(),
            opening: JoinSet::new(),
            failed: mpsc::channel(1),
        }
    }

    /// Takes from these lanes, each with its slots, from now on.
    pub(super) fn start_all(&mut self, opened: impl IntoIterator<Item = (Feed, Watch, usize)>) {
        for (feed, watch, slots) in opened {
            self.start(feed, watch, slots);
        }
        // Once for all: what is noted names every queue.
        self.note();
    }

    fn start(&mut self, feed: Feed, watch: Watch, slots: usize) {
        let (stop, stopped) = watch::channel(false);
        let is_watched = self.is_watched;
        let watch = async move {
            match is_watched {
                true => watch.run().await,
                false => std::future::pending().await,
            }
        };
        self.open.push(Open {
            lane: feed.lane.clone(),
            slots,
            stop,
            watch: self.watches.spawn(watch),
        });
        let (stopping, failed) = (self.shared.stopping.subscribe(), self.failed.0.clone());
        self.feeds.spawn(feed.run(stopping, stopped, failed));
    }

    /// Carries out wishes, until something ends that the worker cannot go on without.
    pub(super) async fn run(&mut self, wishes: &mut mpsc::Receiver<Wish>) -> Result<()> {
        loop {
            tokio::select! {
                Some(watch) = self.watches.join_next(), if !self.watches.is_empty() => match watch {
                    Ok(deaf) => {
                        tracing::error!("{deaf}");
                        return Err(deaf);
                    }
                    Err(stopped) if stopped.is_cancelled() => {}
                    Err(panic) => tracing::error!(%panic, "a queue is not watched any more"),
                },
                Some(error) = self.failed.1.recv() => {
                    if !matches!(error, Error::Closed { .. }) {
                        tracing::error!("{error}");
                    }
                    return Err(error);
                }
                // One that ends in order was told to.
                Some(feed) = self.feeds.join_next(), if !self.feeds.is_empty() => flatten(feed)?,
                Some(opened) = self.opening.join_next(), if !self.opening.is_empty() => match opened {
                    Ok(opened) => self.opened(opened),
                    Err(panic) => tracing::error!(%panic, "a queue could not be taken from"),
                },
                Some(wish) = wishes.recv() => self.grant(wish),
                else => std::future::pending().await,
            }
        }
    }

    /// Watches no longer.
    pub(super) fn unwatch(&mut self) {
        self.watches.abort_all();
        self.opening.abort_all();
    }

    /// Waits until all that was taken is settled.
    pub(super) async fn drain(&mut self) -> Result<()> {
        let mut outcome = Ok(());
        while let Some(ended) = self.feeds.join_next().await {
            outcome = outcome.and(flatten(ended));
        }
        if let Ok(error) = self.failed.1.try_recv() {
            outcome = outcome.and(Err(error));
        }
        outcome
    }

    fn grant(&mut self, wish: Wish) {
        let Wish { change, answer } = wish;
        match change {
            Change::Add(queue, slots) => {
                if self
                    .open
                    .iter()
                    .any(|open| open.lane.queue.name() == queue.name())
                {
                    let _ = answer.send(Ok(()));
                    return;
                }
                let lane = Lane::new(queue.clone(), slots, self.shared.prefetch);
                let lane = Arc::new(lane);
                self.reopen(Change::Add(queue, slots), lane, slots, Some(answer));
            }
            Change::Cancel(name) => {
                self.stop(&name);
                tracing::info!(queue = name, "consuming no longer");
                let _ = answer.send(Ok(()));
            }
            Change::Grow(n) => {
                for (lane, slots) in self.resizable() {
                    let more = slots.saturating_add(n).min(MOST_SLOTS.max(slots)) - slots;
                    lane.slots.add_permits(more);
                    self.resize(Change::Grow(more), lane, slots + more);
                }
                let _ = answer.send(Ok(()));
            }
            Change::Shrink(n) => {
                let shrinkable: Vec<_> = self.resizable();
                let shrinkable = shrinkable.into_iter().filter(|(_, slots)| *slots > 1);
                let mut shrunk = false;
                for (lane, slots) in shrinkable.collect::<Vec<_>>() {
                    let fewer = n.min(slots - 1);
                    take_slots(lane.clone(), fewer);
                    self.resize(Change::Shrink(fewer), lane, slots - fewer);
                    shrunk = true;
                }
                let _ = answer.send(match shrunk {
                    true => Ok(()),
                    false => Err("no queue has more than one slot".into()),
                });
            }
        }
    }

    /// The lanes that can be subscribed anew: an exclusive queue would go with its consumer.
    fn resizable(&self) -> Vec<(Arc<Lane>, usize)> {
        let lanes = self.open.iter().filter(|open| !open.lane.queue.exclusive);
        lanes.map(|open| (open.lane.clone(), open.slots)).collect()
    }

    fn resize(&mut self, change: Change, lane: Arc<Lane>, slots: usize) {
        for open in &mut self.open {
            if Arc::ptr_eq(&open.lane, &lane) {
                open.slots = slots;
            }
        }
        self.reopen(change, lane, slots, None);
    }

    /// Subscribes to a lane's queue with so many slots.
    fn reopen(
        &mut self,
        change: Change,
        lane: Arc<Lane>,
        slots: usize,
        answer: Option<oneshot::Sender<Result<(), String>>>,
    ) {
        let (shared, deaf_after) = (self.shared.clone(), self.deaf_after);
        self.opening.spawn(async move {
            Opened {
                lane: open_lane(&shared, lane, slots, deaf_after).await,
                change,
                slots,
                answer,
            }
        });
    }

    fn opened(&mut self, opened: Opened) {
        let Opened {
            change,
            lane,
            slots,
            answer,
        } = opened;
        let told = match lane {
            // Cancelled meanwhile.
            Ok((feed, _)) if answer.is_none() && !self.has(&feed.lane) => Ok(()),
            Ok((feed, watch)) => {
                // The former subscription: what it has delivered stays valid.
                let name = feed.lane.queue.name().to_owned();
                self.stop(&name);
                self.start_all([(feed, watch, slots)]);
                Ok(())
            }
            Err(error) => {
                tracing::error!(?change, "not done: {error}");
                Err(error.to_string())
            }
        };
        if let Some(answer) = answer {
            let _ = answer.send(told);
        }
    }

    fn has(&self, lane: &Arc<Lane>) -> bool {
        self.open.iter().any(|open| Arc::ptr_eq(&open.lane, lane))
    }

    fn stop(&mut self, queue: &str) {
        self.open.retain(|open| {
            let stays = open.lane.queue.name() != queue;
            if !stays {
                open.stop.send_replace(true);
                open.watch.abort();
                self.shared.health.forget_queue(queue);
            }
            stays
        });
        self.note();
    }

    /// Lets those who ask know.
    fn note(&self) {
        let queues = self
            .open
            .iter()
            .map(|open| (open.lane.queue.clone(), open.slots));
        self.shared.queues.send_replace(queues.collect());
    }
}

/// Takes slots off a lane as they become free.
fn take_slots(lane: Arc<Lane>, count: usize) {
    tokio::spawn(async move {
        // All at once: those who come between must not find the slots that are to go.
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if let Ok(slots) = lane.slots.acquire_many(count).await {
            slots.forget();
        }
    });
}

fn flatten(ended: Result<Result<()>, JoinError>) -> Result<()> {
    ended.unwrap_or_else(|panic| Err(Error::broker("the worker's loop", panic)))
}
