//! The acknowledgements of one channel: those that come while others are written go out together, as one where nothing
//! unsettled lies between them.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};

use lapin::options::BasicAckOptions;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::live::RPC_TIMEOUT;
use super::settle::Session;

/// Which deliveries of a channel are unsettled, and which acknowledgements are to be written.
///
/// One of those who acknowledge hands frames to lapin, for the others, too, and does not wait until they are written:
/// an acknowledgement that is lost on its way is no other than one that is lost before. When they are written, one of
/// those who have come meanwhile is next.
#[derive(Default)]
pub(super) struct Acks {
    state: Arc<Mutex<State>>,
    /// What was handed over.
    writes: Mutex<Vec<Write>>,
}

/// Nothing of lapin's is in it: it is looked at while lapin holds locks.
#[derive(Default)]
struct State {
    /// Neither acknowledged nor given back.
    open: BTreeSet<u64>,
    ready: Vec<Ready>,
    /// Whether somebody hands frames over, or what was handed over is not written yet.
    is_written: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A frame on its way to the socket.
struct Write {
    /// Kept until it has resolved, or it would wake nobody.
    _frame: Pin<Box<dyn Future<Output = lapin::Result<()>> + Send>>,
    baton: Arc<Baton>,
}

struct Ready {
    /// `None` where only the turn is waited for: what was handed over before is written then.
    tag: Option<u64>,
    /// Who waits for it to be handed over by somebody else.
    waiter: Option<oneshot::Sender<Turn>>,
}

/// What those who wait are told.
enum Turn {
    /// It was handed over, if lapin took it.
    Over { taken: bool },
    /// It is its turn to hand over: what was handed over before is written.
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
        lock(&self.state)
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

    /// Acknowledges; whether lapin has it when this returns.
    pub(super) async fn ack(session: &Arc<Session>, tag: u64) -> bool {
        let turn = session.acks.state().turn(tag);
        match turn {
            None => Self::write(session),
            // Boxed: most have nobody before them.
            Some(turn) => match Box::pin((Waiting { session, turn }).turn()).await {
                Some(Turn::Over { taken }) => taken,
                Some(Turn::Write) => Self::write(session),
                None => false,
            },
        }
    }

    /// Resolves when what was handed over before is written, or never will be.
    pub(super) async fn written(session: &Arc<Session>) {
        let turn = {
            let mut state = session.acks.state();
            match state.is_written {
                true => state.wait(None),
                false => return,
            }
        };
        if let Some(Turn::Write) = (Waiting { session, turn }).turn().await {
            Self::write(session);
        }
    }

    /// Hands over what is ready; whether lapin takes it.
    fn write(session: &Arc<Session>) -> bool {
        let baton = Arc::new(Baton {
            state: session.acks.state.clone(),
            session: Arc::downgrade(session),
            is_passed: AtomicBool::new(false),
        });
        let Round { frames, waiters } = session.acks.state().take();
        let last = frames.len().saturating_sub(1);
        let mut taken = true;
        let mut under_way = None;
        for (place, Frame { tag, multiple }) in frames.into_iter().enumerate() {
            let channel = session.channel.clone();
            let options = BasicAckOptions { multiple };
            let mut frame: Pin<Box<dyn Future<Output = _> + Send>> =
                Box::pin(async move { channel.basic_ack(tag, options).await });
            // They are written in order. Were the baton passed before the last one is handed over, another round could
            // cover its tag, and to name it again would end the channel.
            let waker = match place == last {
                true => Waker::from(baton.clone()),
                false => Waker::noop().clone(),
            };
            // The first poll queues the frame.
            match frame.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Pending => under_way = (place == last).then_some(frame),
                Poll::Ready(done) => taken &= done.is_ok(),
            }
        }
        match under_way {
            Some(frame) => session.acks.keep(Write {
                _frame: frame,
                baton,
            }),
            None => baton.pass(),
        }
        session.settled.notify_one();
        for waiter in waiters {
            // An error means that it does not wait any more.
            let _ = waiter.send(Turn::Over { taken });
        }
        taken
    }

    /// Keeps a frame until it is written, and those before it no longer.
    fn keep(&self, write: Write) {
        let mut writes = lock(&self.writes);
        writes.retain(|write| !write.baton.is_passed.load(Ordering::Acquire));
        writes.push(write);
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
        if self.is_written {
            return Some(self.wait(Some(tag)));
        }
        self.is_written = true;
        self.ready.push(Ready {
            tag: Some(tag),
            waiter: None,
        });
        None
    }

    fn wait(&mut self, tag: Option<u64>) -> oneshot::Receiver<Turn> {
        let (waiter, turn) = oneshot::channel();
        let waiter = Some(waiter);
        self.ready.push(Ready { tag, waiter });
        turn
    }

    /// What is to be written now.
    fn take(&mut self) -> Round {
        let mut tags = Vec::with_capacity(self.ready.len());
        let mut waiters = Vec::new();
        for ready in self.ready.drain(..) {
            if let Some(tag) = ready.tag {
                self.open.remove(&tag);
                tags.push(tag);
            }
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
    /// `None` if there is none: lapin forgets some of what it is given while a connection breaks.
    async fn turn(mut self) -> Option<Turn> {
        let session = self.session;
        tokio::select! {
            biased;
            turn = timeout(RPC_TIMEOUT, &mut self.turn) => turn.ok()?.ok(),
            () = session.live.ended() => None,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // From now on it is told nothing.
        self.turn.close();
        // It was told to write, and is not there to do it.
        if matches!(self.turn.try_recv(), Ok(Turn::Write)) {
            pass(&self.session.acks.state, &Arc::downgrade(self.session));
        }
    }
}

/// The right to write, passed on once: when what was handed over is written.
struct Baton {
    state: Arc<Mutex<State>>,
    session: Weak<Session>,
    is_passed: AtomicBool,
}

impl Baton {
    fn pass(&self) {
        if !self.is_passed.swap(true, Ordering::AcqRel) {
            pass(&self.state, &self.session);
        }
    }
}

impl Drop for Baton {
    fn drop(&mut self) {
        self.pass();
    }
}

/// lapin wakes with locks of its own held, so nothing of it may be called or dropped here.
impl Wake for Baton {
    fn wake(self: Arc<Self>) {
        self.pass();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.pass();
    }
}

fn pass(state: &Mutex<State>, session: &Weak<Session>) {
    let has_nobody = lock(state).pass();
    if has_nobody && let Some(session) = session.upgrade() {
        // All who waited have given up; their work is done nonetheless.
        let transport = session.core.transport.clone();
        transport.spawn(async move {
            Acks::write(&session);
        });
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

    #[test]
    fn who_waits_for_the_writing_is_next_and_acknowledges_nothing() {
        let mut state = State::default();
        state.open.extend(1..=2);
        assert!(state.turn(1).is_none());
        assert_eq!(frames(&mut state), [(1, false)]);
        let mut written = state.wait(None);
        assert!(!state.pass());
        assert!(matches!(written.try_recv(), Ok(Turn::Write)));
        assert_eq!(frames(&mut state), []);
        assert!(!state.pass() && !state.is_written);
    }
}
