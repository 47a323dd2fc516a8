//! The acknowledgements of one channel: those that come while others are written go out together, as one where nothing
//! unsettled lies between them. Where calls are taken ahead, they wait for each other, too.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use lapin::options::{BasicAckOptions, BasicQosOptions};
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use super::live::RPC_TIMEOUT;
use super::settle::Session;
use super::unsettled::{Frame, Turn, Unsettled};
use crate::broker::{QueueType, Stale};

/// How long an acknowledgement waits for others to go out with.
const PATIENCE: Duration = Duration::from_millis(1);

/// How long a quorum queue has to carry out what it was told last. Nothing says when it has.
const OVERTAKING: Duration = Duration::from_millis(50);

/// A channel's acknowledgements, and what else becomes of its deliveries.
///
/// Who acknowledges does not wait until that is written, nor until lapin has it: an acknowledgement that is lost on its
/// way is no other than one that is lost before. Whoever needs to know that it arrived [asks](Self::arrived). Whoever
/// holds a session lets it live until nothing is ready any more.
pub(super) struct Acks {
    unsettled: Arc<Mutex<Unsettled>>,
    /// What was handed over.
    writes: Mutex<Vec<Write>>,
    /// Told when something was written, has returned or has ended.
    news: Arc<Notify>,
}

/// That a delivery which nobody holds is on its way back to its queue.
pub(super) struct Returning(Arc<Session>);

impl Drop for Returning {
    fn drop(&mut self) {
        self.0.acks.unsettled().returned();
        self.0.acks.news.notify_waiters();
    }
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

impl Acks {
    /// Acknowledgements that wait until so many are `group`ed, but not long.
    pub(super) fn new(group: usize) -> Self {
        Self {
            unsettled: Arc::new(Mutex::new(Unsettled::new(group))),
            writes: Mutex::default(),
            news: Arc::default(),
        }
    }

    fn unsettled(&self) -> MutexGuard<'_, Unsettled> {
        lock(&self.unsettled)
    }

    /// A delivery has come; those of one channel come in order.
    pub(super) fn delivered(&self, tag: u64) {
        self.unsettled().delivered(tag);
    }

    /// It was given back, and that is written.
    pub(super) fn given_back(&self, tag: u64) {
        self.unsettled().given_back(tag);
    }

    /// A delivery is on its way back for as long as the answer lives.
    pub(super) fn returning(session: &Arc<Session>) -> Returning {
        session.acks.unsettled().returns();
        Returning(session.clone())
    }

    /// How many deliveries are neither acknowledged nor given back.
    pub(super) fn count_unsettled(&self) -> usize {
        self.unsettled().len()
    }

    /// Whether all that was acknowledged was handed to lapin.
    pub(super) fn are_handed_over(&self) -> bool {
        self.unsettled().are_handed_over()
    }

    /// Acknowledges; false where lapin refuses it at once.
    pub(super) fn ack(session: &Arc<Session>, tag: u64) -> bool {
        let turn = session.acks.unsettled().ack(tag);
        match turn {
            Turn::Now => Self::write(session),
            Turn::Others => true,
            turn => {
                Self::hand_over(session.clone(), turn);
                true
            }
        }
    }

    /// Resolves when the server has what was acknowledged before, or never will; whether it has.
    ///
    /// That it is written is not enough: a process that ends with deliveries unread resets its connection, and what the
    /// server has not read by then is lost. Of what it has read it answers the last.
    pub(super) async fn arrived(session: &Arc<Session>) -> bool {
        let (wanted, is_due) = session.acks.unsettled().flush();
        if is_due {
            Self::write(session);
        }
        let written = Self::until(session, |unsettled| unsettled.written >= wanted);
        // Where lapin loses a frame.
        let _ = timeout(RPC_TIMEOUT, written).await;
        if session.check().is_err() {
            return false;
        }
        // For consumers that follow on this channel, of which there are none. However slow the server is, it has read the
        // acknowledgement in the end, or the connection ends.
        let options = BasicQosOptions { global: false };
        let answered = Self::while_valid(session, session.channel.basic_qos(1, options));
        answered.await.is_some_and(|answered| answered.is_ok())
    }

    /// Resolves when the server has carried out what was acknowledged before, and what a consumer that has ended did not
    /// start is back, or neither will ever be.
    pub(super) async fn flush(session: &Arc<Session>) {
        let has_ended = |deliveries: mpsc::Sender<_>| deliveries.is_closed();
        if session.deliveries.upgrade().is_none_or(has_ended) {
            // On a classic queue they go back as copies, and without their acknowledgements would be there twice.
            Self::until(session, Unsettled::is_over).await;
        }
        // A quorum queue gets them as commands of low priority: that its consumer is gone would overtake them.
        if Self::arrived(session).await && session.queue_type != Some(QueueType::Classic) {
            sleep(OVERTAKING).await;
        }
    }

    /// Resolves when it is so, or nothing can be settled any more.
    async fn until(session: &Arc<Session>, is_so: impl Fn(&Unsettled) -> bool) {
        let wait = async {
            loop {
                let told = session.acks.news.notified();
                tokio::pin!(told);
                // From here on nothing is missed.
                told.as_mut().enable();
                if is_so(&session.acks.unsettled()) {
                    return;
                }
                told.await;
            }
        };
        Self::while_valid(session, wait).await;
    }

    /// What `work` resolves to, or `None` once nothing can be settled any more.
    async fn while_valid<T>(session: &Session, work: impl Future<Output = T>) -> Option<T> {
        let stale = Stale::new(session.stale.subscribe());
        tokio::select! {
            biased;
            done = work => Some(done),
            () = stale.stale() => None,
            () = session.live.ended() => None,
        }
    }

    /// Nothing more comes.
    pub(super) fn end(&self) {
        self.unsettled().end();
        self.news.notify_waiters();
    }

    /// Sees to it that what is ready is handed over when it is its turn.
    fn hand_over(session: Arc<Session>, turn: Turn) {
        let transport = session.core.transport.clone();
        transport.detach(async move {
            if turn == Turn::Timed {
                sleep(PATIENCE).await;
                if !session.acks.unsettled().time_is_up() {
                    return;
                }
            }
            Self::write(&session);
        });
    }

    /// Hands over what is ready; whether lapin takes it.
    fn write(session: &Arc<Session>) -> bool {
        let baton = Arc::new(Baton {
            unsettled: session.acks.unsettled.clone(),
            news: session.acks.news.clone(),
            session: Arc::downgrade(session),
            is_passed: AtomicBool::new(false),
        });
        let frames = session.acks.unsettled().take();
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

/// The right to write, passed on once: when what was handed over is written.
struct Baton {
    unsettled: Arc<Mutex<Unsettled>>,
    news: Arc<Notify>,
    session: Weak<Session>,
    is_passed: AtomicBool,
}

impl Baton {
    fn pass(&self) {
        if self.is_passed.swap(true, Ordering::AcqRel) {
            return;
        }
        let turn = lock(&self.unsettled).pass();
        self.news.notify_waiters();
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
