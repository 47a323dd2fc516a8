//! The acknowledgements of one channel: those that come while others are written go out together, as one where nothing
//! unsettled lies between them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::try_join_all;
use lapin::options::BasicAckOptions;
use tokio::sync::oneshot;

use super::live::rpc;
use super::settle::Session;

/// Which deliveries of a channel are unsettled, and which acknowledgements are to be written.
///
/// One of those who acknowledge writes, for the others, too; when it is done, it lets one of those who have come
/// meanwhile write.
#[derive(Default)]
pub(super) struct Acks(Mutex<State>);

#[derive(Default)]
struct State {
    /// Neither acknowledged nor given back.
    open: BTreeSet<u64>,
    ready: Vec<Ready>,
    is_written: bool,
}

struct Ready {
    tag: u64,
    /// Who waits for it to be written by somebody else.
    waiter: Option<oneshot::Sender<Turn>>,
}

/// What those who wait are told.
enum Turn {
    Over { written: bool },
    Write,
}

/// One acknowledgement on the wire.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    tag: u64,
    /// Of all up to this one.
    multiple: bool,
}

impl Acks {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A delivery has come; those of one channel come in order.
    pub(super) fn delivered(&self, tag: u64) {
        self.state().open.insert(tag);
    }

    /// It was given back, and that is written.
    pub(super) fn given_back(&self, tag: u64) {
        self.state().open.remove(&tag);
    }

    /// How many deliveries are neither acknowledged nor given back.
    pub(super) fn unsettled(&self) -> usize {
        self.state().open.len()
    }

    /// Acknowledges; whether it is written when this returns.
    pub(super) async fn ack(session: &Arc<Session>, tag: u64) -> bool {
        let turn = session.acks.state().turn(tag);
        match turn {
            None => Self::write(session).await,
            Some(turn) => match (Waiting { session, turn }).turn().await {
                Some(Turn::Over { written }) => written,
                Some(Turn::Write) => Self::write(session).await,
                None => false,
            },
        }
    }

    async fn write(session: &Arc<Session>) -> bool {
        let baton = Baton(session);
        let ready = session.acks.state().take();
        let frames = ready.frames.into_iter().map(|frame| {
            let multiple = frame.multiple;
            let options = BasicAckOptions { multiple };
            session.channel.basic_ack(frame.tag, options)
        });
        let written = session.live.guard(rpc(try_join_all(frames))).await.is_ok();
        drop(baton);
        session.settled.notify_one();
        for waiter in ready.waiters {
            // An error means that it does not wait any more.
            let _ = waiter.send(Turn::Over { written });
        }
        written
    }
}

/// What is written together.
struct Round {
    frames: Vec<Frame>,
    waiters: Vec<oneshot::Sender<Turn>>,
}

impl State {
    /// Notes an acknowledgement; `None` if it is for the caller to write it.
    fn turn(&mut self, tag: u64) -> Option<oneshot::Receiver<Turn>> {
        let (waiter, turn) = match self.is_written {
            true => {
                let (waiter, turn) = oneshot::channel();
                (Some(waiter), Some(turn))
            }
            false => (None, None),
        };
        self.is_written = true;
        self.ready.push(Ready { tag, waiter });
        turn
    }

    /// What is to be written now.
    fn take(&mut self) -> Round {
        let mut tags = Vec::with_capacity(self.ready.len());
        let mut waiters = Vec::new();
        for ready in self.ready.drain(..) {
            self.open.remove(&ready.tag);
            tags.push(ready.tag);
            waiters.extend(ready.waiter);
        }
        tags.sort_unstable();
        // What comes later has a higher tag: nothing below the lowest open one is unsettled but these.
        let lowest = self.open.first().copied().unwrap_or(u64::MAX);
        let together = tags.partition_point(|tag| *tag < lowest);
        let mut frames = Vec::with_capacity(1 + tags.len() - together);
        if let Some(last) = together.checked_sub(1).and_then(|last| tags.get(last)) {
            frames.push(Frame {
                tag: *last,
                multiple: together > 1,
            });
        }
        let others = tags.iter().skip(together).map(|tag| Frame {
            tag: *tag,
            multiple: false,
        });
        frames.extend(others);
        Round { frames, waiters }
    }

    /// Lets one who waits write; whether somebody has to be found to do it.
    fn pass(&mut self) -> bool {
        for ready in &mut self.ready {
            if let Some(waiter) = ready.waiter.take()
                && waiter.send(Turn::Write).is_ok()
            {
                return false;
            }
        }
        self.is_written = !self.ready.is_empty();
        self.is_written
    }
}

/// One who waits for its turn.
struct Waiting<'a> {
    session: &'a Arc<Session>,
    turn: oneshot::Receiver<Turn>,
}

impl Waiting<'_> {
    async fn turn(mut self) -> Option<Turn> {
        (&mut self.turn).await.ok()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // It was told to write, and is not there to do it.
        if matches!(self.turn.try_recv(), Ok(Turn::Write)) {
            drop(Baton(self.session));
        }
    }
}

/// The right to write, passed on when it is dropped.
struct Baton<'a>(&'a Arc<Session>);

impl Drop for Baton<'_> {
    fn drop(&mut self) {
        if self.0.acks.state().pass() {
            // All who waited have given up; their work is done nonetheless.
            let session = self.0.clone();
            let transport = session.core.transport.clone();
            transport.spawn(async move {
                Acks::write(&session).await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(state: &mut State) -> Vec<(u64, bool)> {
        let round = state.take();
        let frames = round.frames.iter();
        frames.map(|frame| (frame.tag, frame.multiple)).collect()
    }

    fn ready(state: &mut State, tags: impl IntoIterator<Item = u64>) {
        for tag in tags {
            let _ = state.turn(tag);
        }
    }

    #[test]
    fn neighbours_are_acknowledged_together() {
        let mut state = State::default();
        state.open.extend(1..=9);
        ready(&mut state, [1]);
        assert_eq!(frames(&mut state), [(1, false)]);
        ready(&mut state, [4, 2, 3]);
        assert_eq!(frames(&mut state), [(4, true)]);
    }

    #[test]
    fn nothing_unsettled_is_acknowledged_with_others() {
        let mut state = State::default();
        state.open.extend(1..=9);
        ready(&mut state, [2, 3, 5]);
        assert_eq!(frames(&mut state), [(2, false), (3, false), (5, false)]);
        // 2, 3 and 5 are settled: naming one of them again would end the channel.
        ready(&mut state, [1, 4, 6, 8]);
        assert_eq!(frames(&mut state), [(6, true), (8, false)]);
        state.open.remove(&7);
        ready(&mut state, [9]);
        assert_eq!(frames(&mut state), [(9, false)]);
        assert!(state.open.is_empty());
    }

    #[test]
    fn one_at_a_time_writes_and_then_another() {
        let mut state = State::default();
        state.open.extend(1..=4);
        assert!(state.turn(1).is_none());
        let _ = state.take();
        let (gone, mut next) = (state.turn(2), state.turn(3));
        drop(gone);
        assert!(!state.pass(), "the one who still waits writes");
        let told = next.as_mut().and_then(|turn| turn.try_recv().ok());
        assert!(matches!(told, Some(Turn::Write)));
        assert_eq!(frames(&mut state), [(3, true)]);
        assert!(!state.pass(), "nobody is left");
        drop(state.turn(4));
        let _ = state.take();
        drop(state.turn(4));
        assert!(state.pass(), "who waited has given up");
    }
}
