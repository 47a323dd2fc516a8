//! A worker's start: everything that can be wrong is found here, before it takes anything.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::activity::Activity;
use super::cancel::CancelledCalls;
use super::control::{Attendant, Presence, join};
use super::deaf::Watch;
use super::health::Health;
use super::lanes::{Lanes, Wishes};
use super::limits::Limits;
use super::memory::{Outcomes, Running};
use super::serve::{AbortOnDrop, Feed, Lane, Started};
use super::stamps::RevokedStamps;
use super::suspect::Suspects;
use super::teller::Teller;
use super::{Shared, Worker};
use crate::app::App;
use crate::broker::{Cancellations, HoldLimit, Queue, undivided};
use crate::error::{Error, Result};
use crate::registry::Registry;

/// Queues that are declared and subscribed to at the same time.
const OPENED_AT_ONCE: usize = 16;

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

    /// The broker's queues that it takes from, each with its slots.
    fn divided(&self, tasks: &Registry) -> Result<Vec<(Queue, usize)>> {
        let mut divided = Vec::new();
        for (queue, slots) in &self.queues {
            let of_tasks = tasks.iter().map(|task| &task.options);
            let of_tasks = of_tasks.filter(|options| options.queue == queue.name());
            let shards = of_tasks.map(|options| options.shards).max();
            let queue = queue.clone().shards(queue.shards.max(shards.unwrap_or(1)));
            queue.validate()?;
            let shards = queue.shards as usize;
            if *slots < shards {
                let reason = format!(
                    "queue `{}` is divided into {shards}, and each needs a slot",
                    queue.name()
                );
                return Err(Error::invalid("concurrency", slots.to_string(), reason));
            }
            let each = queue.each_shard().enumerate();
            divided.extend(each.map(|(number, shard)| {
                let more = usize::from(number < slots % shards);
                (shard, slots / shards + more)
            }));
        }
        Ok(divided)
    }

    pub(super) async fn start(self) -> Result<Started> {
        let tasks = self.check()?;
        let queues = self.divided(&tasks)?;
        let health = Health::default();
        let endpoint = self.health.map(|address| health.serve(&address));
        let endpoint = endpoint.transpose()?;
        // Nobody is deaf in memory, where looking each second would make days of paused time long.
        let is_watched = self.app.rehearsal().is_none() || endpoint.is_some();
        let queues: Vec<_> = queues
            .into_iter()
            .map(|(queue, slots)| (queue.prefixed(self.app.prefix()), slots))
            .collect();
        // Each takes some round trips to the broker, which do not wait for those of the others.
        let (presence, declared, cancellations) = tokio::join!(
            join(&self.app, self.name.as_deref()),
            declare(&self.app, &queues),
            self.app.broker().cancellations(),
        );
        declared?;
        let Presence { node, listener } = presence;
        let (teller, voice) = Teller::new(node, self.events);
        let shared = Arc::new(Shared {
            health,
            teller,
            activity: Activity::default(),
            limits: Limits::default(),
            queues: watch::channel(Vec::new()).0,
            told_to_stop: Notify::new(),
            since: Instant::now(),
            slots: self.queues.iter().map(|(_, concurrency)| concurrency).sum(),
            app: self.app,
            tasks,
            state: Arc::new(self.state),
            max_deliveries: self.max_deliveries,
            prefetch: self.prefetch,
            cancelled: CancelledCalls::default(),
            stamps: RevokedStamps::default(),
            running: Running::default(),
            outcomes: Outcomes::default(),
            suspects: Suspects::default(),
            runaways: Arc::default(),
            observer: self.observer,
            stopping: watch::channel(false).0,
            hand_back: watch::channel(false).0,
        });
        let follow = follow_cancellations(&shared, cancellations?);
        let opening = queues.into_iter().map(|(queue, slots)| {
            let (shared, deaf_after) = (shared.clone(), self.deaf_after);
            let lane = Arc::new(Lane::new(queue, slots, shared.prefetch));
            async move {
                let (feed, watch) = open_lane(&shared, lane, slots, deaf_after).await?;
                Ok::<_, Error>((feed, watch, slots))
            }
        });
        let opened: Vec<_> = stream::iter(opening)
            .buffered(OPENED_AT_ONCE)
            .try_collect()
            .await?;
        let mut lanes = Lanes::new(shared.clone(), self.deaf_after, is_watched);
        lanes.start_all(opened);
        let (wish, wishes) = Wishes::new();
        let attendant = Attendant::start(&shared, voice, listener, wish);
        let known: Vec<&str> = shared.tasks.iter().map(|task| task.name).collect();
        tracing::info!(node = shared.teller.node(), tasks = ?known, "worker started");
        shared.health.works();
        Ok(Started {
            shared,
            lanes,
            wishes,
            attendant,
            _endpoint: endpoint,
            grace: self.grace,
            follow,
        })
    }
}

/// Declares a lane's queue and subscribes to it with so many slots.
pub(super) async fn open_lane(
    shared: &Arc<Shared>,
    lane: Arc<Lane>,
    slots: usize,
    deaf_after: Option<Duration>,
) -> Result<(Feed, Watch)> {
    let queue = &lane.queue;
    shared.app.broker().declare(queue).await?;
    let consumer = shared.app.broker().consume(queue, slots).await?;
    if let Some(limit) = consumer.limit() {
        warn_of_long_tasks(shared, queue, limit);
    }
    tracing::info!(queue = queue.name(), concurrency = slots, "consuming");
    let subscription = consumer.subscription().clone();
    lane.ahead.subscribed(subscription.clone(), slots);
    let watch = Watch::new(shared.clone(), lane.clone(), subscription, deaf_after);
    let feed = Feed {
        consumer,
        worker: shared.clone(),
        lane,
    };
    Ok((feed, watch))
}

/// Declares the queues.
async fn declare(app: &App, queues: &[(Queue, usize)]) -> Result<()> {
    let declaring = queues.iter().map(|(queue, _)| app.broker().declare(queue));
    let declaring: Vec<_> = declaring.collect();
    stream::iter(declaring)
        .buffered(OPENED_AT_ONCE)
        .try_collect()
        .await
}

/// Notes which calls are cancelled, before the first one is taken and from then on.
fn follow_cancellations(shared: &Arc<Shared>, mut cancellations: Cancellations) -> AbortOnDrop {
    cancellations
        .known
        .drain(..)
        .for_each(|id| shared.cancelled.hear(&id));
    let follower = shared.clone();
    AbortOnDrop(tokio::spawn(async move {
        while let Some(id) = cancellations.later.recv().await {
            follower.cancelled.hear(&id);
        }
    }))
}

/// Says which tasks may take longer than the broker lets a worker have their calls.
fn warn_of_long_tasks(shared: &Shared, queue: &Queue, limit: &HoldLimit) {
    let prefix = shared.app.prefix();
    let name = undivided(queue.name().strip_prefix(prefix).unwrap_or(queue.name()));
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
