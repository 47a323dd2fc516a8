//! Waits between attempts.

use std::time::Duration;

use tokio::time::sleep;

const FIRST: Duration = Duration::from_millis(50);
/// Not longer, so that work goes on within a second of the server's return.
const LAST: Duration = Duration::from_millis(700);

/// Waits that grow, each with a random part so that a crowd of clients does not return in step. The first
/// one is none.
#[derive(Debug, Default)]
pub(super) struct Backoff(u32);

impl Backoff {
    pub(super) fn reset(&mut self) {
        self.0 = 0;
    }

    /// The next wait.
    pub(super) fn next(&mut self) -> Duration {
        let steps = self.0;
        self.0 = steps.saturating_add(1);
        let Some(doublings) = steps.checked_sub(1) else {
            return Duration::ZERO;
        };
        let full = FIRST.saturating_mul(1 << doublings.min(10)).min(LAST);
        let random = uuid::Uuid::new_v4().as_u128() as u8;
        full.mul_f64(0.5 + f64::from(random) / 512.0)
    }

    /// Waits.
    pub(super) async fn wait(&mut self) {
        let wait = self.next();
        // tokio takes a millisecond to sleep for no time.
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_less_than_a_second() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(), Duration::ZERO);
        let waits: Vec<_> = (0..40).map(|_| backoff.next()).collect();
        assert!((FIRST / 2..=FIRST).contains(&waits[0]), "{waits:?}");
        assert!(
            waits[39] >= LAST / 2 && waits.iter().all(|wait| *wait <= LAST),
            "{waits:?}"
        );
        backoff.reset();
        assert_eq!(backoff.next(), Duration::ZERO);
    }
}
