//! A worker at work: it feeds deliveries into slots until it is told to stop, and stops in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::deaf::Watch;
use super::{Shared, execute, shutdown_signal};
use crate::broker::{Consumer, Queue};
use crate::error::{Error, Result};

/// How long a stop may take once the grace period is over and everything was told to end.
const HAND_BACK_LIMIT: Duration = Duration::from_secs(6);

pub(super) struct AbortOnDrop(pub(super) JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A worker that consumes.
pub(super) struct Started {
    pub(super) shared: Arc<Shared>,
    pub(super) feeds: Vec<Feed>,
    pub(super) watches: Vec<Watch>,
    /// Dropping it ends the health endpoint.
    pub(super) _endpoint: Option<oneshot::Sender<()>>,
    pub(super) grace: Duration,
    pub(super) follow: AbortOnDrop,
}

impl Started {
    pub(super) async fn serve(
        self,
        shutdown: impl Future<Output = ()>,
        second_signal: bool,
    ) -> Result<()> {
        let stop = &self.shared.stopping;
        let mut feeds = JoinSet::new();
        for feed in self.feeds {
            feeds.spawn(feed.run(stop.subscribe()));
        }
        let mut watches = JoinSet::new();
        for watch in self.watches {
            watches.spawn(watch.run());
        }
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            Some(Ok(deaf)) = watches.join_next() => {
                tracing::error!("{deaf}");
                Err(deaf)
            }
            Some(ended) = feeds.join_next() => flatten(ended),
        };
        tracing::info!(grace = ?self.grace, "worker stops: finishing what runs");
        self.shared.health.stops();
        drop(watches);
        stop.send_replace(true);
        let again = async {
            if second_signal {
                shutdown_signal().await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        let drain = async {
            let mut outcome = Ok(());
            while let Some(ended) = feeds.join_next().await {
                outcome = outcome.and(flatten(ended));
            }
            outcome
        };
        tokio::pin!(drain);
        let in_time = tokio::select! {
            outcome = &mut drain => Some(outcome),
            () = tokio::time::sleep(self.grace) => None,
            () = again => None,
        };
        let outcome = match in_time {
            Some(outcome) => outcome,
            None => {
                tracing::warn!("handing back what still runs");
                self.shared.hand_back.send_replace(true);
                tokio::time::timeout(HAND_BACK_LIMIT, drain)
                    .await
                    .unwrap_or_else(|_| {
                        tracing::error!(
                            "some deliveries could not be settled; the broker gives them to others"
                        );
                        Ok(())
                    })
            }
        };
        drop(self.follow);
        tracing::info!("worker stopped");
        ended.and(outcome)
    }
}

fn flatten(ended: Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    ended.unwrap_or_else(|panic| Err(Error::broker("the worker's loop", panic)))
}

/// What the slots of one queue share.
pub(super) struct Lane {
    pub(super) queue: Queue,
    /// One permit for each task that may run at a time.
    pub(super) slots: Semaphore,
    /// Deliveries that have come.
    pub(super) taken: AtomicU64,
}

/// Takes deliveries from one queue into slots.
pub(super) struct Feed {
    pub(super) consumer: Consumer,
    pub(super) lane: Arc<Lane>,
    pub(super) worker: Arc<Shared>,
}

impl Feed {
    async fn run(mut self, mut stopping: watch::Receiver<bool>) -> Result<()> {
        let mut slots = JoinSet::new();
        let outcome = loop {
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => break Ok(()),
                Some(ended) = slots.join_next(), if !slots.is_empty() => {
                    if let Err(panic) = ended {
                        tracing::error!(%panic, "a slot failed; its delivery goes back to the queue");
                    }
                }
                next = self.consumer.next() => match next {
                    Some(Ok(delivery)) => {
                        self.lane.taken.fetch_add(1, Ordering::Relaxed);
                        slots.spawn(execute::process(self.worker.clone(), self.lane.clone(), delivery));
                    }
                    Some(Err(error)) => break Err(error),
                    None => break Err(Error::Closed { what: "the broker" }),
                },
            }
        };
        drop(self.consumer);
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
        outcome
    }
}
