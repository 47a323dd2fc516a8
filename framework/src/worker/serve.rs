//! A worker at work: it feeds deliveries into slots until it is told to stop, and stops in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::ahead::{Ahead, Place, Prefetch};
use super::control::Attendant;
use super::inline::Inline;
use super::lanes::{Lanes, Wish};
use super::{Shared, execute, shutdown_signal};
use crate::broker::{Consumer, Queue};
use crate::error::{Error, Result};

/// How long a stop may take once the grace period is over and everything was told to end.
const HAND_BACK_LIMIT: Duration = Duration::from_secs(6);

/// How long a stop waits at least, once the grace period is over, until the broker has carried out what was acknowledged:
/// that takes a moment where it reads, or its file can be written, at all.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

pub(super) struct AbortOnDrop(pub(super) JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A worker that consumes.
pub(super) struct Started {
    pub(super) shared: Arc<Shared>,
    pub(super) lanes: Lanes,
    pub(super) wishes: mpsc::Receiver<Wish>,
    pub(super) attendant: Attendant,
    /// Dropping it ends the health endpoint.
    pub(super) _endpoint: Option<oneshot::Sender<()>>,
    pub(super) grace: Duration,
    pub(super) follow: AbortOnDrop,
}

impl Started {
    pub(super) async fn serve(
        mut self,
        shutdown: impl Future<Output = ()>,
        second_signal: bool,
    ) -> Result<()> {
        let stop = &self.shared.stopping;
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            () = self.shared.told_to_stop.notified() => Ok(()),
            ended = self.lanes.run(&mut self.wishes) => ended,
        };
        tracing::info!(grace = ?self.grace, "worker stops: finishing what runs");
        self.shared.health.stops();
        self.lanes.unwatch();
        stop.send_replace(true);
        let began = Instant::now();
        let again = async {
            if second_signal {
                shutdown_signal().await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        let drain = self.lanes.drain();
        tokio::pin!(drain);
        let in_time = tokio::select! {
            outcome = &mut drain => Some(outcome),
            () = tokio::time::sleep(self.grace) => None,
            () = again => None,
        };
        let (mut is_drained, mut left) = (true, FLUSH_LIMIT);
        let outcome = match in_time {
            Some(outcome) => {
                left = left.max(self.grace.saturating_sub(began.elapsed()));
                outcome
            }
            None => {
                tracing::warn!("handing back what still runs");
                self.shared.hand_back.send_replace(true);
                tokio::time::timeout(HAND_BACK_LIMIT, drain)
                    .await
                    .unwrap_or_else(|_| {
                        is_drained = false;
                        tracing::error!(
                            "some deliveries could not be settled; the broker gives them to others"
                        );
                        Ok(())
                    })
            }
        };
        // The process may end now, and what it has done is not to be done again.
        if is_drained {
            let flush = self.shared.app.broker().flush();
            if tokio::time::timeout(left, flush).await.is_err() {
                tracing::warn!("not all that was done could be settled; the rest may run again");
            }
        }
        self.attendant.leave().await;
        drop(self.follow);
        tracing::info!("worker stopped");
        ended.and(outcome)
    }
}

/// What the slots of one queue share.
pub(super) struct Lane {
    pub(super) queue: Queue,
    /// One permit for each task that may run at a time.
    pub(super) slots: Arc<Semaphore>,
    /// Deliveries that have come.
    pub(super) taken: AtomicU64,
    /// How many it takes ahead of its slots.
    pub(super) ahead: Ahead,
}

impl Lane {
    pub(super) fn new(queue: Queue, slots: usize, prefetch: Prefetch) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(slots.min(Semaphore::MAX_PERMITS))),
            taken: AtomicU64::new(0),
            ahead: Ahead::new(prefetch),
            queue,
        }
    }
}

/// Takes deliveries from one queue into slots.
pub(super) struct Feed {
    pub(super) consumer: Consumer,
    pub(super) lane: Arc<Lane>,
    pub(super) worker: Arc<Shared>,
}

impl Feed {
    /// Works until the worker or this feed is to stop; then until what it has taken is settled.
    pub(super) async fn run(
        mut self,
        mut stopping: watch::Receiver<bool>,
        mut stopped: watch::Receiver<bool>,
        failed: mpsc::Sender<Error>,
    ) -> Result<()> {
        let (mut slots, mut inline) = (JoinSet::new(), Inline::default());
        // Asked once, not for each delivery.
        let stop = async {
            tokio::select! {
                _ = stopping.wait_for(|stopping| *stopping) => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
        };
        tokio::pin!(stop);
        let error = loop {
            tokio::select! {
                biased;
                () = &mut stop => break None,
                Some(ended) = slots.join_next(), if !slots.is_empty() => {
                    if let Err(panic) = ended {
                        tracing::error!(%panic, "a slot failed; its delivery goes back to the queue");
                    }
                }
                next = self.consumer.next() => match next {
                    Some(Ok(delivery)) => {
                        self.lane.taken.fetch_add(1, Ordering::Relaxed);
                        let is_brief = self.lane.ahead.came();
                        let (worker, lane) = (self.worker.clone(), self.lane.clone());
                        let place = Place::of(&lane);
                        let process = execute::process(worker, lane, place, Box::new(delivery));
                        // Boxed: tokio copies a task's future, here of some kilobytes, again and again.
                        if let Some(process) = inline.run(is_brief, Box::pin(process)) {
                            slots.spawn(process);
                        }
                    }
                    Some(Err(error)) => break Some(error),
                    None => break Some(Error::Closed { what: "the broker" }),
                },
            }
        };
        drop(self.consumer);
        if let Some(error) = error {
            // The worker ends because of the first of them, and must not wait for what runs here for longer than the
            // grace period.
            let _ = failed.try_send(error);
        }
        while slots.join_next().await.is_some() {}
        let queue = &self.lane.queue;
        if queue.exclusive
            && let Err(error) = self.worker.app.broker().delete(queue.name()).await
        {
            tracing::debug!(
                queue = queue.name(),
                "the worker's own queue is left to expire: {error}"
            );
        }
        Ok(())
    }
}
