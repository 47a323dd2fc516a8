//! A worker's start: everything that can be wrong is found here, before it takes anything.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::{Semaphore, watch};

use super::cancel::CancelledCalls;
use super::deaf::Watch;
use super::health::Health;
use super::memory::{Outcomes, Running};
use super::serve::{AbortOnDrop, Feed, Lane, Started};
use super::suspect::Suspects;
use super::{Shared, Worker};
use crate::broker::{HoldLimit, Queue};
use crate::error::{Error, Result};
use crate::registry::Registry;

impl Worker {
    /// What can be known to be wrong without the broker; the tasks that the worker knows.
    fn check(&self) -> Result<Registry> {
        let mut tasks = Registry::linked()?;
        self.tasks.iter().try_for_each(|task| tasks.add(task))?;
        if self.observer.is_none() {
            tasks.check(&self.state)?;
        }
        if let Some(state) = self.repeated {
            return Err(Error::invalid(
                "state",
                state,
                "the worker was given two values of this type",
            ));
        }
        if self.queues.is_empty() {
            return Err(Error::NoQueues);
        }
        for (queue, concurrency) in &self.queues {
            queue.validate()?;
            if *concurrency == 0 {
                return Err(Error::invalid(
                    "concurrency",
                    "0",
                    format!("queue `{}` needs a slot", queue.name()),
                ));
            }
        }
        Ok(tasks)
    }

    pub(super) async fn start(self) -> Result<Started> {
        let tasks = self.check()?;
        let health = Health::default();
        let endpoint = self.health.map(|address| health.serve(&address));
        let endpoint = endpoint.transpose()?;
        // Nobody is deaf in memory, where looking each second would make days of paused time long.
        let is_watched = self.app.rehearsal().is_none() || endpoint.is_some();
        let shared = Arc::new(Shared {
            health,
            slots: self.queues.iter().map(|(_, concurrency)| concurrency).sum(),
            app: self.app,
            tasks,
            state: Arc::new(self.state),
            max_deliveries: self.max_deliveries,
            cancelled: CancelledCalls::default(),
            running: Running::default(),
            outcomes: Outcomes::default(),
            suspects: Suspects::default(),
            runaways: Arc::default(),
            observer: self.observer,
            stopping: watch::channel(false).0,
            hand_back: watch::channel(false).0,
        });
        let follow = follow_cancellations(&shared).await?;
        let (mut feeds, mut watches) = (Vec::new(), Vec::new());
        for (queue, concurrency) in &self.queues {
            let queue = queue.prefixed(shared.app.prefix());
            shared.app.broker().declare(&queue).await?;
            let consumer = shared.app.broker().consume(&queue, *concurrency).await?;
            if let Some(limit) = consumer.limit() {
                warn_of_long_tasks(&shared, &queue, limit);
            }
            tracing::info!(queue = queue.name(), concurrency, "consuming");
            let lane = Arc::new(Lane {
                slots: Semaphore::new((*concurrency).min(Semaphore::MAX_PERMITS)),
                taken: AtomicU64::new(0),
                queue,
            });
            let subscription = consumer.subscription().clone();
            if is_watched {
                watches.push(Watch::new(
                    shared.clone(),
                    lane.clone(),
                    subscription,
                    self.deaf_after,
                ));
            }
            feeds.push(Feed {
                consumer,
                worker: shared.clone(),
                lane,
            });
        }
        let known: Vec<&str> = shared.tasks.iter().map(|task| task.name).collect();
        tracing::info!(tasks = ?known, "worker started");
        shared.health.works();
        Ok(Started {
            shared,
            feeds,
            watches,
            _endpoint: endpoint,
            grace: self.grace,
            follow,
        })
    }
}

/// Learns which calls are cancelled, before the first one is taken and from then on.
async fn follow_cancellations(shared: &Arc<Shared>) -> Result<AbortOnDrop> {
    let mut cancellations = shared.app.broker().cancellations().await?;
    cancellations
        .known
        .drain(..)
        .for_each(|id| shared.cancelled.add(id));
    let follower = shared.clone();
    Ok(AbortOnDrop(tokio::spawn(async move {
        while let Some(id) = cancellations.later.recv().await {
            follower.cancelled.add(id);
        }
    })))
}

/// Says which tasks may take longer than the broker lets a worker have their calls.
fn warn_of_long_tasks(shared: &Shared, queue: &Queue, limit: &HoldLimit) {
    let prefix = shared.app.prefix();
    let name = queue.name().strip_prefix(prefix).unwrap_or(queue.name());
    for task in shared.tasks.iter() {
        let timeout = task.options.timeout.unwrap_or_default();
        if task.options.queue == name && timeout > limit.after {
            tracing::warn!(
                task = task.name,
                queue = queue.name(),
                ?timeout,
                limit = ?limit.after,
                "unless told otherwise, the broker takes a call back that runs for longer than the limit: {}",
                limit.advice
            );
        }
    }
}
