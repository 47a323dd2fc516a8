//! How long a process keeps the file to itself: those that wait for its lock can only poll it, and would hardly ever find
//! it free beside one that writes on and on.

use std::time::Duration;

/// After holding the lock this long without a pause, a process rests for `REST`.
const LONGEST: Duration = Duration::from_millis(5);
/// The same where none of the others has written anything lately: one that begins to finds a gap between two
/// transactions, or waits this long once.
const LONGEST_ALONE: Duration = Duration::from_millis(25);
const REST: Duration = Duration::from_micros(700);

/// This process's turn at the file.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Time spent in transactions since the last pause.
    spent: Duration,
    /// Whether there are other processes.
    pub(super) others: bool,
    /// Whether they have written anything lately.
    pub(super) rivals: bool,
}

impl Turn {
    /// A transaction took so long.
    pub(super) fn worked(&mut self, took: Duration) {
        self.spent += took;
    }

    /// There was nothing to do for so long.
    pub(super) fn waited(&mut self, time: Duration) {
        if time > REST {
            self.spent = Duration::ZERO;
        }
    }

    /// How long the others are to have the file now, if it is their turn; ours then begins anew.
    pub(super) fn rest(&mut self) -> Option<Duration> {
        let longest = if self.rivals { LONGEST } else { LONGEST_ALONE };
        let is_over = self.others && self.spent > longest;
        is_over.then(|| {
            self.spent = Duration::ZERO;
            REST
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_writes_on_and_on_rests_when_there_are_others() {
        let mut turn = Turn::default();
        turn.worked(2 * LONGEST_ALONE);
        assert_eq!(turn.rest(), None, "nobody waits");
        turn.others = true;
        assert_eq!(turn.rest(), Some(REST));
        turn.worked(2 * LONGEST);
        assert_eq!(turn.rest(), None, "the others do nothing");
        turn.rivals = true;
        turn.waited(REST / 2);
        assert_eq!(turn.rest(), Some(REST));
        assert_eq!(turn.rest(), None, "a turn begins anew");
        turn.worked(2 * LONGEST);
        turn.waited(2 * REST);
        assert_eq!(
            turn.rest(),
            None,
            "they had it while there was nothing to do"
        );
    }
}
