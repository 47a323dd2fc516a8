//! The acknowledgements of one channel: those that come while others are written go out together, as one where nothing
//! unsettled lies between them. Where calls are taken ahead, they wait for each other, too.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use lapin::options::{BasicAckOptions, BasicQosOptions};
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use super::live::{RPC_TIMEOUT, rpc};
use super::settle::Session;
use crate::broker::QueueType;

/// How long an acknowledgement waits for others to go out with.
const PATIENCE: Duration = Duration::from_millis(1);

/// How long a quorum queue has to carry out what it was told last. Nothing says when it has.
const OVERTAKING: Duration = Duration::from_millis(50);

/// Which deliveries of a channel are unsettled, and which acknowledgements are to be written.
///
/// Who acknowledges does not wait until that is written, nor until lapin has it: an acknowledgement that is lost on its
/// way is no other than one that is lost before. Whoever holds a session lets it live until nothing is ready any more.
pub(super) struct Acks {
    state: Arc<Mutex<State>>,
    /// What was handed over.
    writes: Mutex<Vec<Write>>,
    /// Told when something was written.
    written: Arc<Notify>,
}

/// Nothing of lapin's is in it: it is looked at while lapin holds locks.
#[derive(Default)]
struct State {
    /// Neither acknowledged nor given back.
    open: BTreeSet<u64>,
    /// Acknowledged, and not handed to lapin.
    ready: Vec<u64>,
    /// How many are handed over together, if they come soon enough.
    group: usize,
    /// Whether somebody hands frames over, or what was handed over is not written yet.
    is_written: bool,
    /// Whether what is ready is handed over when its time has come.
    is_timed: bool,
    /// Whether nothing more comes.
    has_ended: bool,
    /// How many were acknowledged, of these handed over, and of these written.
    acknowledged: u64,
    handed_over: u64,
    written: u64,
}

/// Who hands over an acknowledgement.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    /// Its caller, with all that are ready.
    Now,
    /// Somebody, when its time has come: the caller is to see to that.
    Timed,
    /// Somebody who is there.
    Others,
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

/// One acknowledgement on the wire.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    tag: u64,
    /// Of all up to this one.
    multiple: bool,
}

impl Acks {
    /// Acknowledgements that wait until so many are `group`ed, but not long.
    pub(super) fn new(group: usize) -> Self {
        let state = State {
            group,
            ..State::default()
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            writes: Mutex::default(),
            written: Arc::default(),
        }
    }

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
        self.written.notify_waiters();
    }

    /// How many deliveries are neither acknowledged nor given back.
    pub(super) fn unsettled(&self) -> usize {
        self.state().open.len()
    }

    /// Whether all that was acknowledged was handed to lapin.
    pub(super) fn are_handed_over(&self) -> bool {
        self.state().ready.is_empty()
    }

    /// Acknowledges; false where lapin refuses it at once.
    pub(super) fn ack(session: &Arc<Session>, tag: u64) -> bool {
        let turn = session.acks.state().turn(tag);
        match turn {
            Turn::Now => Self::write(session),
            Turn::Others => true,
            turn => {
                Self::hand_over(session.clone(), turn);
                true
            }
        }
    }

    /// Resolves when what was acknowledged before is written, or never will be.
    pub(super) async fn written(session: &Arc<Session>) {
        let (wanted, is_due) = session.acks.state().flush();
        if is_due {
            Self::write(session);
        }
        let written = async {
            loop {
                let told = session.acks.written.notified();
                tokio::pin!(told);
                // From here on nothing is missed.
                told.as_mut().enable();
                if session.acks.state().written >= wanted {
                    return;
                }
                told.await;
            }
        };
        tokio::select! {
            biased;
            _ = timeout(RPC_TIMEOUT, written) => {}
            () = session.live.ended() => {}
        }
    }

    /// Resolves when the server has what was acknowledged before, and what a consumer that has ended did not start, or
    /// never will.
    pub(super) async fn flush(session: &Arc<Session>) {
        tokio::select! {
            () = Self::given_up(session) => {}
            () = session.live.ended() => return,
        }
        Self::written(session).await;
        // Written is not enough: a process that ends with deliveries unread resets its connection, and what the server
        // has not read by then is lost. It answers in order; and no consumer follows on this channel that this is for.
        let options = BasicQosOptions { global: false };
        let answered = rpc(session.channel.basic_qos(1, options));
        let answered = session.live.guard(answered).await;
        // A quorum queue has them then, as commands of low priority: that its consumer is gone would overtake them.
        if answered.is_ok() && session.queue_type != Some(QueueType::Classic) {
            sleep(OVERTAKING).await;
        }
    }

    /// Resolves when nothing is unsettled, if the consumer has ended: on a classic queue what it had not started goes back
    /// as a copy, and without its acknowledgement would be there twice.
    async fn given_up(session: &Arc<Session>) {
        let has_ended = |deliveries: mpsc::Sender<_>| deliveries.is_closed();
        if !session.deliveries.upgrade().is_none_or(has_ended) {
            return;
        }
        loop {
            let told = session.acks.written.notified();
            tokio::pin!(told);
            // From here on nothing is missed.
            told.as_mut().enable();
            if session.acks.state().is_over() {
                return;
            }
            told.await;
        }
    }

    /// Nothing more comes.
    pub(super) fn end(&self) {
        self.state().has_ended = true;
        self.written.notify_waiters();
    }

    /// Sees to it that what is ready is handed over when it is its turn.
    fn hand_over(session: Arc<Session>, turn: Turn) {
        let transport = session.core.transport.clone();
        transport.detach(async move {
            if turn == Turn::Timed {
                sleep(PATIENCE).await;
                if !session.acks.state().time_is_up() {
                    return;
                }
            }
            Self::write(&session);
        });
    }

    /// Hands over what is ready; whether lapin takes it.
    fn write(session: &Arc<Session>) -> bool {
        let baton = Arc::new(Baton {
            state: session.acks.state.clone(),
            written: session.acks.written.clone(),
            session: Arc::downgrade(session),
            is_passed: AtomicBool::new(false),
        });
        let frames = session.acks.state().take();
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
        taken
    }

    /// Keeps a frame until it is written, and those before it no longer.
    fn keep(&self, write: Write) {
        let mut writes = lock(&self.writes);
        writes.retain(|write| !write.baton.is_passed.load(Ordering::Acquire));
        writes.push(write);
    }
}

impl State {
    /// Notes an acknowledgement.
    fn turn(&mut self, tag: u64) -> Turn {
        self.ready.push(tag);
        self.acknowledged += 1;
        match self.is_written {
            true => Turn::Others,
            false => self.next(),
        }
    }

    /// Whether nothing is unsettled any more, and nothing will be.
    fn is_over(&self) -> bool {
        self.has_ended && self.open.is_empty()
    }

    /// Who is to hand over what is ready.
    fn next(&mut self) -> Turn {
        if self.ready.len() >= self.group {
            self.is_written = true;
            return Turn::Now;
        }
        match std::mem::replace(&mut self.is_timed, true) {
            true => Turn::Others,
            false => Turn::Timed,
        }
    }

    /// Whether what is ready is to be handed over by the caller, after its time.
    fn time_is_up(&mut self) -> bool {
        self.is_timed = false;
        self.claim()
    }

    fn claim(&mut self) -> bool {
        let is_due = !self.is_written && !self.ready.is_empty();
        self.is_written |= is_due;
        is_due
    }

    /// How many are to be written until all of now are, and whether the caller is to hand over what is ready.
    fn flush(&mut self) -> (u64, bool) {
        (self.acknowledged, self.claim())
    }

    /// What is to be written now.
    fn take(&mut self) -> Vec<Frame> {
        let mut tags = std::mem::take(&mut self.ready);
        for tag in &tags {
            self.open.remove(tag);
        }
        self.handed_over = self.acknowledged;
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
        frames
    }

    /// What was handed over is written; who is to hand over what is ready.
    fn pass(&mut self) -> Turn {
        self.written = self.handed_over;
        self.is_written = false;
        match self.ready.is_empty() {
            true => Turn::Others,
            false => self.next(),
        }
    }
}

/// The right to write, passed on once: when what was handed over is written.
struct Baton {
    state: Arc<Mutex<State>>,
    written: Arc<Notify>,
    session: Weak<Session>,
    is_passed: AtomicBool,
}

impl Baton {
    fn pass(&self) {
        if self.is_passed.swap(true, Ordering::AcqRel) {
            return;
        }
        let turn = lock(&self.state).pass();
        self.written.notify_waiters();
        if turn != Turn::Others
            && let Some(session) = self.session.upgrade()
        {
            Acks::hand_over(session, turn);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn acks(group: usize, open: impl IntoIterator<Item = u64>) -> State {
        State {
            group,
            open: open.into_iter().collect(),
            ..State::default()
        }
    }

    fn frames(state: &mut State) -> Vec<(u64, bool)> {
        let frames = state.take();
        let frames = frames.iter();
        frames.map(|frame| (frame.tag, frame.multiple)).collect()
    }

    fn ready(state: &mut State, tags: impl IntoIterator<Item = u64>) {
        for tag in tags {
            state.turn(tag);
        }
    }

    #[test]
    fn neighbours_are_acknowledged_together() {
        let mut state = acks(1, 1..=9);
        ready(&mut state, [1]);
        assert_eq!(frames(&mut state), [(1, false)]);
        ready(&mut state, [4, 2, 3]);
        assert_eq!(frames(&mut state), [(4, true)]);
    }

    #[test]
    fn nothing_unsettled_is_acknowledged_with_others() {
        let mut state = acks(1, 1..=9);
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
    fn one_at_a_time_hands_over() {
        let mut state = acks(1, 1..=3);
        assert_eq!(state.turn(1), Turn::Now);
        assert_eq!(frames(&mut state), [(1, false)]);
        assert_eq!(state.turn(2), Turn::Others);
        assert_eq!(state.turn(3), Turn::Others);
        assert_eq!(state.pass(), Turn::Now, "two have come meanwhile");
        assert_eq!(frames(&mut state), [(3, true)]);
        assert_eq!(state.pass(), Turn::Others, "none is left");
        assert!(!state.is_written);
    }

    #[test]
    fn a_group_is_handed_over_when_it_is_full_or_its_time_is_up() {
        let mut state = acks(3, 1..=9);
        assert_eq!(state.turn(1), Turn::Timed);
        assert_eq!(state.turn(2), Turn::Others);
        assert_eq!(state.turn(3), Turn::Now, "it is full");
        assert_eq!(frames(&mut state), [(3, true)]);
        assert!(!state.time_is_up(), "nothing is left to hand over");
        ready(&mut state, [4]);
        assert_eq!(state.pass(), Turn::Timed);
        assert!(state.time_is_up());
        assert_eq!(frames(&mut state), [(4, false)]);
        ready(&mut state, [5, 6, 7]);
        assert_eq!(state.pass(), Turn::Now);
    }

    #[test]
    fn who_waits_for_the_writing_waits_for_what_came_before() {
        let mut state = acks(3, 1..=4);
        assert_eq!(state.turn(1), Turn::Timed);
        assert_eq!(state.flush(), (1, true));
        assert_eq!(frames(&mut state), [(1, false)]);
        assert_eq!(state.turn(2), Turn::Others);
        assert_eq!(state.flush(), (2, false), "it is handed over afterwards");
        assert_eq!(state.pass(), Turn::Others, "the first one's time comes");
        assert_eq!(state.written, 1);
        assert!(state.time_is_up());
        assert_eq!(frames(&mut state), [(2, false)]);
        assert_eq!(state.pass(), Turn::Others);
        assert_eq!(state.flush(), (2, false), "it is written");
        assert_eq!(state.written, 2);
    }
}
