//! Taking short calls ahead of the slots, so that no slot waits for the broker between two of them: how many, and when
//! to stop.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep};

use super::serve::Lane;
use crate::broker::{BoxFuture, MOST_AHEAD, Stale, Subscription};

/// Work that is taken ahead at most.
const MOST_WORK: Duration = Duration::from_millis(5);
/// How long what was taken ahead waits for a slot before it goes back to its queue.
const PATIENCE: Duration = Duration::from_millis(10);
/// Runs that must be seen before anything is taken ahead, all of them short.
const SAMPLES: u32 = 16;
/// Runs that the mean is of.
const WINDOW: u32 = 256;
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
    /// They begin in the order in which they came. Where a call turns out to be long, those that were taken ahead go
    /// back to their queue within some 10 ms, at no cost to their attempts, and further back in it before RabbitMQ 4.3.
    /// A worker that dies has more calls [in its hands](crate::Worker::max_deliveries) than it has slots; on RabbitMQ
    /// those among them that were done in the last millisecond, which are acknowledged together, run again.
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

/// How long calls take, and how long the next one takes to come.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    samples: u32,
    run: f64,
    round_trip: f64,
}

impl Pace {
    /// A run took so long. That the system gave the thread to somebody else for a moment, or one call in hundreds is
    /// somewhat longer, changes little; one that is longer than all that may be taken ahead counts at once.
    fn ran(&mut self, took: Duration) {
        if took >= MOST_WORK {
            self.samples = 0;
        }
        self.samples = self.samples.saturating_add(1).min(WINDOW);
        self.run += (took.as_secs_f64() - self.run) / f64::from(self.samples);
    }

    /// The next delivery came so long after a run: for the settlement, the broker and the way, or because the queue was
    /// empty.
    fn waited(&mut self, took: Duration) {
        self.round_trip += (took.min(MOST_WORK).as_secs_f64() - self.round_trip) / 16.0;
    }

    /// How many to take ahead of so many slots: a power of two, so that small changes change nothing.
    fn wanted(&self, slots: usize) -> usize {
        let calls = self.calls(slots, (2.0 * self.round_trip).min(MOST_WORK.as_secs_f64()));
        match calls.min(MOST_AHEAD) {
            0 => 0,
            calls => 1 << calls.ilog2(),
        }
    }

    /// How many calls so many slots run in a time.
    fn calls(&self, slots: usize, seconds: f64) -> usize {
        if self.samples < SAMPLES || self.run >= MOST_WORK.as_secs_f64() {
            return 0;
        }
        (slots as f64 * seconds / self.run.max(1e-9)).round() as usize
    }
}

/// How long the broker takes to fill the place of a call that has run: it gives one for one, in order.
#[derive(Default)]
struct Gaps {
    places: usize,
    /// When calls had run whose places are empty.
    empty: VecDeque<Instant>,
    /// Deliveries that come for no call that has run, as more are allowed; below zero, calls that are followed by none.
    unmatched: isize,
}

impl Gaps {
    fn allow(&mut self, more: isize) {
        self.places = self.places.saturating_add_signed(more);
        self.unmatched += more;
    }

    fn ran(&mut self, now: Instant) {
        if self.unmatched < 0 {
            self.unmatched += 1;
        } else {
            // More after a lost connection, whose deliveries come again.
            if self.empty.len() >= self.places {
                self.empty.pop_front();
            }
            self.empty.push_back(now);
        }
    }

    fn came(&mut self, now: Instant) -> Option<Duration> {
        if self.unmatched > 0 {
            self.unmatched -= 1;
            return None;
        }
        let ran = self.empty.pop_front()?;
        Some(now.duration_since(ran))
    }
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

    /// A delivery has come.
    pub(super) fn came(&self) {
        if let Some(mut state) = self.state()
            && let Some(gap) = state.gaps.came(Instant::now())
        {
            state.pace.waited(gap);
        }
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
            state.pace.samples = 0;
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
        let most = self.pace.calls(self.slots, MOST_WORK.as_secs_f64());
        if self.ahead > 2 * most || wanted >= 2 * self.ahead.max(1) && is_due {
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

    fn pace(run: Duration, round_trip: Duration) -> Pace {
        let mut pace = Pace::default();
        for _ in 0..1000 {
            pace.ran(run);
            pace.waited(round_trip);
        }
        pace
    }

    #[test]
    fn what_a_round_trip_takes_is_taken_ahead() {
        let (micro, milli) = (Duration::from_micros, Duration::from_millis);
        for (run, round_trip, slots, wanted) in [
            (micro(1), milli(1), 1, 256),
            (micro(1), milli(1), 32, 256),
            (micro(100), milli(1), 1, 16),
            (micro(100), micro(100), 1, 2),
            (milli(1), milli(1), 1, 2),
            (milli(1), milli(1), 8, 16),
            (milli(1), milli(100), 1, 4),
            (milli(1), milli(2), 1, 4),
            (milli(6), milli(100), 1, 0),
            (milli(4), milli(1), 1, 0),
            (milli(1000), milli(1), 1000, 0),
        ] {
            let found = pace(run, round_trip).wanted(slots);
            assert_eq!(found, wanted, "{run:?} {round_trip:?} {slots}");
        }
    }

    #[test]
    fn a_long_call_counts_at_once_and_for_a_while() {
        let milli = Duration::from_millis(1);
        let mut pace = pace(Duration::from_micros(10), milli);
        assert!(pace.wanted(1) > 64);
        pace.ran(100 * milli);
        assert_eq!(pace.wanted(1), 0);
        let mut short = 0;
        while pace.wanted(1) == 0 {
            pace.ran(Duration::from_micros(10));
            short += 1;
        }
        assert!((20..200).contains(&short), "{short}");
        assert_eq!(Pace::default().wanted(9), 0, "nothing is known yet");
    }

    #[test]
    fn a_call_that_was_held_up_for_a_moment_counts_little() {
        let milli = Duration::from_millis(1);
        let mut pace = pace(Duration::from_micros(2), milli);
        assert_eq!(pace.wanted(1), MOST_AHEAD);
        pace.ran(2 * milli);
        assert!(pace.wanted(1) >= MOST_AHEAD / 4);
    }

    #[test]
    fn a_place_is_empty_until_a_delivery_comes_for_it() {
        let milli = Duration::from_millis(1);
        let start = Instant::now();
        let mut gaps = Gaps::default();
        gaps.allow(2);
        assert_eq!(gaps.came(start), None, "a place that nobody had");
        gaps.ran(start);
        assert_eq!(gaps.came(start + milli), None, "the other one");
        gaps.ran(start + 2 * milli);
        assert_eq!(gaps.came(start + 3 * milli), Some(3 * milli));
        assert_eq!(gaps.came(start + 3 * milli), Some(milli));
        assert_eq!(gaps.came(start + 3 * milli), None);
        // One place goes: nothing comes for the call that is next to run.
        gaps.allow(-1);
        gaps.ran(start);
        gaps.ran(start + milli);
        assert_eq!(gaps.came(start + 2 * milli), Some(milli));
        (0..9).for_each(|_| gaps.ran(start));
        assert_eq!(gaps.empty.len(), 1, "no more than there are places");
    }

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
