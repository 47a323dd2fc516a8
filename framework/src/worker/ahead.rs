//! Taking short calls ahead of the slots, so that no slot waits for the broker between two of them: how many, and when
//! to stop.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep};

use super::pace::{Gaps, Pace};
use super::serve::Lane;
use crate::broker::{BoxFuture, Stale, Subscription};

/// How long what was taken ahead waits for a slot before it goes back to its queue.
const PATIENCE: Duration = Duration::from_millis(10);
/// How long nothing more is taken ahead after a change, which costs the broker a subscription.
const PAUSE: Duration = Duration::from_millis(200);
/// How long deliveries may still come that were on their way when fewer were asked for.
const ON_THE_WAY: Duration = Duration::from_secs(1);

/// How many calls a worker takes from its queues at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Prefetch {
    /// One for each free slot: no call ever waits in a worker.
    #[default]
    Strict,
    /// While calls are short, more of them, so that slots do not wait for the broker between two calls: as many as
    /// take the time of two round trips to the broker, 5 ms at most, and never more than 256. At most as many run at
    /// once as there are slots, as ever.
    ///
    /// They begin in the order in which they came. Calls that take at most 20 µs in the mean run one after the other
    /// where they come: an `async fn` among them that blocks its thread holds up those behind it.
    ///
    /// Where a call turns out to be long, those that were taken ahead go back to their queue within some 10 ms, at no
    /// cost to their attempts, and further back in it before RabbitMQ 4.3. A worker that dies has more calls
    /// [in its hands](crate::Worker::max_deliveries) than it has slots; on RabbitMQ those among them that were done in
    /// the last millisecond, which are acknowledged together, run again.
    Adaptive,
}

/// How many deliveries a lane takes ahead of its slots.
pub(super) struct Ahead {
    prefetch: Prefetch,
    state: Mutex<State>,
}

struct State {
    subscription: Option<Subscription>,
    slots: usize,
    /// Deliveries beyond the slots that are allowed now.
    ahead: usize,
    changed: Option<Instant>,
    /// Until when more may come than are allowed.
    flush: Option<Instant>,
    pace: Pace,
    gaps: Gaps,
}

impl Ahead {
    pub(super) fn new(prefetch: Prefetch) -> Self {
        let state = State {
            subscription: None,
            slots: 0,
            ahead: 0,
            changed: None,
            flush: None,
            pace: Pace::default(),
            gaps: Gaps::default(),
        };
        Self {
            prefetch,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> Option<MutexGuard<'_, State>> {
        match self.prefetch {
            Prefetch::Strict => None,
            Prefetch::Adaptive => Some(self.state.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// The lane takes from its queue through this subscription from now on.
    pub(super) fn subscribed(&self, subscription: Subscription, slots: usize) {
        if let Some(mut state) = self.state() {
            state.subscription = Some(subscription);
            state.slots = slots;
            state.ahead = 0;
            state.gaps = Gaps::default();
            state.gaps.allow(slots as isize);
        }
    }

    /// A delivery has come; whether its run is likely to be brief.
    pub(super) fn came(&self) -> bool {
        let Some(mut state) = self.state() else {
            return false;
        };
        if let Some(gap) = state.gaps.came(Instant::now()) {
            state.pace.waited(gap);
        }
        state.pace.is_brief()
    }

    /// A body ran for so long.
    pub(super) fn ran(&self, took: Duration) {
        if let Some(mut state) = self.state() {
            let now = Instant::now();
            state.gaps.ran(now);
            state.pace.ran(took);
            state.adapt(now);
        }
    }

    /// Resolves when a delivery that was taken ahead has waited for a slot for too long; nothing is taken ahead then.
    pub(super) async fn impatience(&self) {
        let waits = self
            .state()
            .is_some_and(|state| state.has_more_than_slots());
        if !waits {
            return std::future::pending().await;
        }
        sleep(PATIENCE).await;
        if let Some(mut state) = self.state() {
            state.pace.distrust();
            state.allow(0, Instant::now());
        }
    }
}

impl State {
    fn has_more_than_slots(&self) -> bool {
        self.ahead > 0 || self.flush.is_some_and(|until| Instant::now() < until)
    }

    fn adapt(&mut self, now: Instant) {
        let wanted = self.pace.wanted(self.slots);
        let changed = self.changed.map(|changed| now.duration_since(changed));
        let is_due = changed.is_none_or(|since| since >= PAUSE);
        let is_too_much = self.ahead > 2 * self.pace.most(self.slots);
        if is_too_much || wanted >= 2 * self.ahead.max(1) && is_due {
            self.allow(wanted, now);
        }
    }

    fn allow(&mut self, ahead: usize, now: Instant) {
        if ahead == self.ahead {
            return;
        }
        if ahead < self.ahead {
            self.flush = Some(now + ON_THE_WAY);
        }
        tracing::debug!(slots = self.slots, ahead, pace = ?self.pace, "takes calls ahead");
        self.gaps.allow(ahead as isize - self.ahead as isize);
        (self.ahead, self.changed) = (ahead, Some(now));
        if let Some(subscription) = &self.subscription {
            subscription.allow(self.slots + ahead);
        }
    }
}

/// What waiting for a slot comes to.
pub(super) enum Admission {
    Slot(OwnedSemaphorePermit),
    /// The worker stops: others may run it while this one finishes what it began.
    Stops,
    /// The delivery is void.
    Void,
    /// It was taken ahead of the slots, and they are busy.
    WaitedTooLong,
}

/// A delivery's turn to have a slot: in the order in which deliveries came, whoever asks first.
pub(super) enum Place {
    Now(OwnedSemaphorePermit),
    Later(BoxFuture<'static, Option<OwnedSemaphorePermit>>),
}

impl Place {
    pub(super) fn of(lane: &Lane) -> Self {
        if let Ok(permit) = lane.slots.clone().try_acquire_owned() {
            return Self::Now(permit);
        }
        let permit = lane.slots.clone().acquire_owned();
        let mut later: BoxFuture<'static, _> = Box::pin(async move { permit.await.ok() });
        // Polled once, it stands in line.
        match later.as_mut().now_or_never() {
            Some(Some(permit)) => Self::Now(permit),
            _ => Self::Later(later),
        }
    }

    /// Waits for it. It comes at once, but after a lost connection, while attempts of void deliveries go on, beside
    /// calls that were acknowledged early, and to what is taken ahead.
    pub(super) async fn comes(
        self,
        stopping: &watch::Sender<bool>,
        ahead: &Ahead,
        stale: &Stale,
    ) -> Admission {
        let later = match self {
            Self::Now(_) if *stopping.borrow() => return Admission::Stops,
            Self::Now(permit) => return Admission::Slot(permit),
            Self::Later(later) => later,
        };
        let mut stopping = stopping.subscribe();
        let wait = async {
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => Admission::Stops,
                permit = later => permit.map_or(Admission::Stops, Admission::Slot),
                () = stale.stale() => Admission::Void,
                () = ahead.impatience() => Admission::WaitedTooLong,
            }
        };
        Box::pin(wait).await
    }
}

/// A slot of a lane, in which a call runs.
pub(super) struct Slot<'a> {
    pub(super) lane: &'a Lane,
    permit: Option<OwnedSemaphorePermit>,
}

impl<'a> Slot<'a> {
    pub(super) fn new(lane: &'a Lane, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self { lane, permit }
    }

    /// The body has run: where calls are taken ahead, the next one runs while this one is settled.
    pub(super) fn ran(&mut self, took: Duration) {
        self.lane.ahead.ran(took);
        if self.lane.ahead.prefetch == Prefetch::Adaptive {
            self.permit = None;
        }
    }

    /// Takes the slot again, if it was left.
    pub(super) async fn retake(&mut self) {
        if self.permit.is_none() {
            self.permit = self.lane.slots.clone().acquire_owned().await.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::MOST_AHEAD;

    #[tokio::test(start_paused = true)]
    async fn more_is_asked_for_slowly_and_less_at_once() {
        let (asked, mut asks) = tokio::sync::mpsc::unbounded_channel();
        let ahead = Ahead::new(Prefetch::Adaptive);
        let subscription = Subscription::always().allowed_by(move |unsettled| {
            let _ = asked.send(unsettled);
        });
        ahead.subscribed(subscription, 2);
        let short = async |times| {
            for _ in 0..times {
                ahead.ran(Duration::from_micros(1));
                tokio::time::advance(Duration::from_millis(1)).await;
                ahead.came();
            }
        };
        short(15).await;
        assert!(asks.try_recv().is_err(), "too little is known");
        short(1).await;
        assert_eq!(asks.try_recv(), Ok(2 + MOST_AHEAD));
        ahead.impatience().await;
        assert_eq!(asks.try_recv(), Ok(2));
        short(100).await;
        assert!(asks.try_recv().is_err(), "too soon");
        assert!(
            tokio::time::timeout(PATIENCE, ahead.impatience())
                .await
                .is_ok()
        );
        sleep(ON_THE_WAY).await;
        let quiet = tokio::time::timeout(PATIENCE * 10, ahead.impatience());
        assert!(quiet.await.is_err(), "who is not ahead waits for a slot");
        assert!(asks.try_recv().is_err());
    }
}
