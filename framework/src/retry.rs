//! How long to wait before the next attempt. Pure: chance is an argument.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

/// The longest time that a broker keeps a message before it is due: two years.
pub(crate) const LONGEST_DELAY: Duration = Duration::from_secs(2 * 365 * 24 * 60 * 60);

/// Exponential backoff with full jitter: before retry `n` the wait is a random part of
/// `base · 2^(n-1)`, at most `max`.
///
/// Full jitter spreads the retries of many calls that failed together
/// (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
///
/// ```
/// use garenne::{Backoff, MINUTE, SECOND};
///
/// assert_eq!(Backoff::from(SECOND..5 * MINUTE).ceiling(3), 4 * SECOND);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    max: Duration,
}

impl Backoff {
    /// From one second to ten minutes.
    pub const DEFAULT: Self = Self::new(Duration::from_secs(1), Duration::from_secs(600));

    /// From `base` to at most `max`; a `max` below `base` means `base`.
    #[must_use]
    pub const fn new(base: Duration, max: Duration) -> Self {
        let max = if max.as_nanos() < base.as_nanos() {
            base
        } else {
            max
        };
        Self { base, max }
    }

    /// The longest wait before retry `retry`; the first is 1.
    #[must_use]
    pub fn ceiling(&self, retry: u32) -> Duration {
        let factor = 2_u32
            .checked_pow(retry.saturating_sub(1))
            .unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.max)
    }

    /// The wait before retry `retry`, with `chance` evenly distributed over all of `u64`.
    #[must_use]
    pub fn delay(&self, retry: u32, chance: u64) -> Duration {
        let nanos = self.ceiling(retry).as_nanos().min(u128::from(u64::MAX));
        let part = (nanos * u128::from(chance)) >> 64;
        Duration::from_nanos(u64::try_from(part).unwrap_or(u64::MAX))
    }

    pub(crate) fn bounds(&self) -> (Duration, Duration) {
        (self.base, self.max)
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl From<Range<Duration>> for Backoff {
    fn from(range: Range<Duration>) -> Self {
        Self::new(range.start, range.end)
    }
}

impl From<RangeInclusive<Duration>> for Backoff {
    fn from(range: RangeInclusive<Duration>) -> Self {
        Self::new(*range.start(), *range.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_ceiling_doubles_up_to_the_maximum() {
        let backoff = Backoff::new(SECOND, 10 * SECOND);
        let ceilings: Vec<u64> = (0..7).map(|n| backoff.ceiling(n).as_secs()).collect();
        assert_eq!(ceilings, [1, 1, 2, 4, 8, 10, 10]);
        assert_eq!(backoff.ceiling(u32::MAX), 10 * SECOND);
        assert_eq!(Backoff::new(SECOND, Duration::ZERO).ceiling(9), SECOND);
    }

    #[test]
    fn the_delay_spreads_over_all_of_the_ceiling() {
        let backoff = Backoff::new(SECOND, 10 * SECOND);
        assert_eq!(backoff.delay(3, 0), Duration::ZERO);
        assert_eq!(backoff.delay(3, u64::MAX / 2).as_millis(), 1999);
        assert!(backoff.delay(3, u64::MAX) < 4 * SECOND);
        assert!(backoff.delay(3, u64::MAX) > 3 * SECOND);
        assert!(Backoff::new(Duration::MAX, Duration::MAX).delay(9, u64::MAX) > SECOND);
    }
}
