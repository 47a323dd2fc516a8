//! Alive means consuming: a watch on each queue that finds out when the worker should get something and
//! does not, and makes the subscription anew, then the connection, then gives up.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::Shared;
use super::serve::Lane;
use crate::broker::{Renew, Subscription};
use crate::error::Error;

/// How often to look. It costs the broker nothing unless the queue is quiet.
const TICK: Duration = Duration::from_secs(1);
/// How often in a row messages must be seen waiting, a tick apart: another worker may be about to get them.
const SIGHTINGS: u32 = 2;
/// How long a remedy may keep the queue out.
const REMEDY: Duration = Duration::from_secs(30);
/// How long to wait for the broker's answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Watches one queue of a worker.
pub(super) struct Watch {
    worker: Arc<Shared>,
    lane: Arc<Lane>,
    subscription: Subscription,
    /// Silence that makes suspicious; `None` if nothing does.
    patience: Option<Duration>,
    /// Deliveries seen at the last look.
    taken: u64,
    /// Since when nothing came although something could.
    quiet: Instant,
    /// Since when nothing came at all, for the report.
    silent: Instant,
    sightings: u32,
    remedies: u32,
    /// Since when the subscription is out.
    cut_off: Option<Instant>,
}

impl Watch {
    pub(super) fn new(
        worker: Arc<Shared>,
        lane: Arc<Lane>,
        subscription: Subscription,
        patience: Option<Duration>,
    ) -> Self {
        let now = Instant::now();
        Self {
            worker,
            lane,
            subscription,
            patience,
            taken: 0,
            quiet: now,
            silent: now,
            sightings: 0,
            remedies: 0,
            cut_off: None,
        }
    }

    /// Watches until the worker is deaf for good.
    pub(super) async fn run(mut self) -> Error {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let trouble = match self.look().await {
                Ok(trouble) => trouble,
                Err(deaf) => return deaf,
            };
            self.worker.health.of_queue(self.lane.queue.name(), trouble);
        }
    }

    /// Why the queue gives nothing now, if it should.
    async fn look(&mut self) -> Result<Option<String>, Error> {
        if let Some(outage) = self.subscription.outage() {
            // Who is cut off is not deaf. A short outage may be a remedy's own.
            if self.cut_off.get_or_insert_with(Instant::now).elapsed() > REMEDY {
                self.remedies = 0;
            }
            self.content();
            return Ok(Some(outage));
        }
        self.cut_off = None;
        let taken = self.lane.taken.load(Ordering::Relaxed);
        if taken != self.taken {
            self.taken = taken;
            self.remedies = 0;
            self.silent = Instant::now();
            self.content();
        }
        let free = self.lane.slots.available_permits();
        let Some(patience) = self.patience.filter(|_| free > 0) else {
            self.content();
            return Ok(None);
        };
        if self.quiet.elapsed() < patience {
            return Ok(None);
        }
        let ready = self.ready().await;
        if ready == 0 || self.lane.taken.load(Ordering::Relaxed) != self.taken {
            self.content();
            return Ok(None);
        }
        self.sightings += 1;
        if self.sightings < SIGHTINGS {
            return Ok(None);
        }
        self.content();
        self.remedy(ready).map(Some)
    }

    /// Nothing is wrong for now.
    fn content(&mut self) {
        self.quiet = Instant::now();
        self.sightings = 0;
    }

    /// Messages that could be delivered. What cannot be found out is no sign of deafness: a broker that is
    /// away is noticed elsewhere.
    async fn ready(&self) -> u64 {
        let depth = self.worker.app.broker().depth(self.lane.queue.name());
        match timeout(ANSWER, depth).await {
            Ok(Ok(depth)) => depth.ready,
            _ => 0,
        }
    }

    /// The next stronger remedy.
    fn remedy(&mut self, ready: u64) -> Result<String, Error> {
        let queue = self.lane.queue.name();
        let quiet = self.silent.elapsed();
        self.remedies += 1;
        let (renew, what) = match self.remedies {
            _ if !self.subscription.can_be_renewed() => {
                let trouble = format!(
                    "{ready} messages wait and slots are free, but nothing came for {quiet:.0?}"
                );
                tracing::warn!(queue, "{trouble}");
                return Ok(trouble);
            }
            1 => (Renew::Consumer, "subscribing anew"),
            2 => (Renew::Connection, "connecting anew"),
            _ => {
                let error = Error::Deaf {
                    queue: queue.to_owned(),
                    ready,
                    quiet,
                };
                self.worker.health.give_up(error.to_string());
                return Err(error);
            }
        };
        let trouble = format!(
            "{ready} messages wait and slots are free, but nothing came for {quiet:.0?}: {what}"
        );
        tracing::warn!(queue, "the worker is deaf: {trouble}");
        self.subscription.renew(renew);
        Ok(trouble)
    }
}
