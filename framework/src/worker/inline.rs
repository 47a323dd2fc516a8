//! Brief calls are run where they come, one after the other: to give each a task of the runtime's own costs as much as
//! they do.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Waker};

use super::body::panic_text;

/// How many are given a task of their own after one that had to wait after all, as those do that have something to send.
const PAUSE: u32 = 64;

/// Runs what is brief.
#[derive(Default)]
pub(super) struct Inline {
    /// How many more are given a task of their own.
    pause: u32,
}

impl Inline {
    /// Runs `process` to its end, if it `is_brief` and does not have to wait; otherwise gives it back, for a task of its
    /// own to go on with it.
    pub(super) fn run<F: Future<Output = ()>>(
        &mut self,
        is_brief: bool,
        mut process: Pin<Box<F>>,
    ) -> Option<Pin<Box<F>>> {
        if !is_brief {
            return Some(process);
        }
        if self.pause > 0 {
            self.pause -= 1;
            return Some(process);
        }
        // Nobody: whoever goes on with it polls it again, and is woken from then on.
        let mut nobody = Context::from_waker(Waker::noop());
        match catch_unwind(AssertUnwindSafe(|| process.as_mut().poll(&mut nobody))) {
            Ok(poll) if poll.is_pending() => {
                self.pause = PAUSE;
                Some(process)
            }
            Ok(_) => None,
            Err(panic) => {
                let panic = panic_text(panic);
                tracing::error!(%panic, "a slot failed; its delivery goes back to the queue");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[test]
    fn what_is_brief_ends_at_once() {
        let mut inline = Inline::default();
        assert!(inline.run(false, Box::pin(ready(()))).is_some());
        assert!(inline.run(true, Box::pin(ready(()))).is_none());
        let panics = async { panic!("a defect") };
        assert!(inline.run(true, Box::pin(panics)).is_none());
    }

    #[test]
    fn where_one_has_to_wait_the_next_are_not_tried() {
        let mut inline = Inline::default();
        assert!(inline.run(true, Box::pin(pending())).is_some());
        for _ in 0..PAUSE {
            assert!(inline.run(true, Box::pin(ready(()))).is_some());
        }
        assert!(inline.run(true, Box::pin(ready(()))).is_none());
    }
}
