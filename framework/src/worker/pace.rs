//! How fast a queue's calls go, which says how many are taken ahead of the slots.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::broker::MOST_AHEAD;

/// Work that is taken ahead at most.
const MOST_WORK: Duration = Duration::from_millis(5);
/// Runs that must be seen before anything is taken ahead, all of them short.
const SAMPLES: u32 = 16;
/// Runs that the mean is of.
const WINDOW: u32 = 256;
/// Runs that take no longer are brief: to give each a task of the runtime's own costs as much.
const BRIEF: Duration = Duration::from_micros(20);

/// How long calls take, and how long the next one takes to come.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    samples: u32,
    run: f64,
    round_trip: f64,
}

impl Pace {
    /// A run took so long. That the system gave the thread to somebody else for a moment, or one call in hundreds is
    /// somewhat longer, changes little; one that is longer than all that may be taken ahead counts at once.
    pub(super) fn ran(&mut self, took: Duration) {
        if took >= MOST_WORK {
            self.distrust();
        }
        self.samples = self.samples.saturating_add(1).min(WINDOW);
        self.run += (took.as_secs_f64() - self.run) / f64::from(self.samples);
    }

    /// What was seen so far says little of what comes.
    pub(super) fn distrust(&mut self) {
        self.samples = 0;
    }

    /// Whether runs are so brief that they had better be done where they come.
    pub(super) fn is_brief(&self) -> bool {
        self.samples >= SAMPLES && self.run <= BRIEF.as_secs_f64()
    }

    /// The next delivery came so long after a run: for the settlement, the broker and the way, or because the queue was
    /// empty.
    pub(super) fn waited(&mut self, took: Duration) {
        self.round_trip += (took.min(MOST_WORK).as_secs_f64() - self.round_trip) / 16.0;
    }

    /// How many to take ahead of so many slots: a power of two, so that small changes change nothing.
    pub(super) fn wanted(&self, slots: usize) -> usize {
        let calls = self.calls(slots, (2.0 * self.round_trip).min(MOST_WORK.as_secs_f64()));
        match calls.min(MOST_AHEAD) {
            0 => 0,
            calls => 1 << calls.ilog2(),
        }
    }

    /// How many of them are as much work as may be taken ahead.
    pub(super) fn most(&self, slots: usize) -> usize {
        self.calls(slots, MOST_WORK.as_secs_f64())
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
pub(super) struct Gaps {
    places: usize,
    /// When calls had run whose places are empty.
    empty: VecDeque<Instant>,
    /// Deliveries that come for no call that has run, as more are allowed; below zero, calls that are followed by none.
    unmatched: isize,
}

impl Gaps {
    pub(super) fn allow(&mut self, more: isize) {
        self.places = self.places.saturating_add_signed(more);
        self.unmatched += more;
    }

    pub(super) fn ran(&mut self, now: Instant) {
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

    pub(super) fn came(&mut self, now: Instant) -> Option<Duration> {
        if self.unmatched > 0 {
            self.unmatched -= 1;
            return None;
        }
        let ran = self.empty.pop_front()?;
        Some(now.duration_since(ran))
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
    fn runs_are_brief_where_no_long_one_is_among_them() {
        let micro = Duration::from_micros(1);
        assert!(!Pace::default().is_brief(), "nothing is known yet");
        assert!(pace(5 * micro, micro).is_brief());
        assert!(!pace(50 * micro, micro).is_brief());
        let mut pace = pace(10 * micro, micro);
        // Over the window it adds 15 µs to each.
        pace.ran(Duration::from_millis(4));
        assert!(!pace.is_brief());
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
}
