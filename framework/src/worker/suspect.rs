//! Messages that have come back unsettled so often that one of them must be killing its workers. In each
//! process they run one at a time, so that the guilty one is not taken for those that died with it.

use std::time::Duration;

use tokio::sync::{RwLock, RwLockReadGuard, Semaphore, SemaphorePermit};

/// How long the one whose turn it is lets the others get away from it.
const HEAD_START: Duration = Duration::from_millis(200);

/// How long one that must wait is put off; twice that at most.
const PUT_OFF: Duration = Duration::from_secs(1);

/// Whose turn it is among a worker's suspects.
pub(super) struct Suspects {
    turn: Semaphore,
    /// Read by those that are being put off: until that is done, a death would be counted against them.
    leaving: RwLock<()>,
}

impl Default for Suspects {
    fn default() -> Self {
        Self {
            turn: Semaphore::new(1),
            leaving: RwLock::default(),
        }
    }
}

/// What a suspect may do.
pub(super) enum Turn<'a> {
    /// Run: no other one does as long as this is held.
    Mine { _turn: SemaphorePermit<'a> },
    /// Go back to the broker, and come again later. Held until it has gone.
    Later { _leaving: RwLockReadGuard<'a, ()> },
}

impl Suspects {
    /// Takes the turn, if nobody has it.
    pub(super) async fn turn(&self) -> Turn<'_> {
        match self.turn.try_acquire() {
            Ok(turn) => {
                tokio::time::sleep(HEAD_START).await;
                drop(self.leaving.write().await);
                Turn::Mine { _turn: turn }
            }
            Err(_) => Turn::Later {
                _leaving: self.leaving.read().await,
            },
        }
    }
}

/// Whether a message that is delivered for the `deliveries`-th time is suspect. Half of the lives it may
/// have are spent in company: most that come back were only there when something else went wrong.
pub(super) fn is_suspect(deliveries: u32, max_deliveries: u32) -> bool {
    deliveries > (max_deliveries / 2).max(1)
}

/// How long a suspect is put off: evenly distributed by `chance`, so that they do not come back together.
pub(super) fn put_off(chance: u64) -> Duration {
    PUT_OFF + PUT_OFF.mul_f64(chance as f64 / u64::MAX as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_becomes_suspect_halfway_to_the_limit() {
        let first = |max| (1..=max).find(|n| is_suspect(*n, max));
        assert_eq!(
            [1, 2, 3, 4, 5, 8].map(first),
            [None, Some(2), Some(2), Some(3), Some(3), Some(5)]
        );
    }

    #[test]
    fn they_are_put_off_for_one_to_two_seconds() {
        assert_eq!(put_off(0), PUT_OFF);
        assert_eq!(put_off(u64::MAX), 2 * PUT_OFF);
    }

    #[tokio::test(start_paused = true)]
    async fn one_runs_when_the_others_have_left() {
        let suspects = std::sync::Arc::new(Suspects::default());
        let first = suspects.clone();
        let first = tokio::spawn(async move { matches!(first.turn().await, Turn::Mine { .. }) });
        tokio::task::yield_now().await;
        let other = suspects.turn().await;
        assert!(matches!(other, Turn::Later { .. }));
        tokio::time::sleep(10 * HEAD_START).await;
        assert!(!first.is_finished(), "it waits for the other one");
        drop(other);
        assert!(first.await.expect("no panic"));
        assert!(
            matches!(suspects.turn().await, Turn::Mine { .. }),
            "free again"
        );
    }
}
