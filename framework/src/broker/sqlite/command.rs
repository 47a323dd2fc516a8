//! What callers ask of the writer thread, and the handle by which they ask. Knows no SQL.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as threads;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::consume::Claimed;
use super::liveness::DeadProcess;
use super::outgoing::{Outgoing, Parking};
use super::store::Packed;
use crate::broker::{Channel, Exchange, Queue, Stale};
use crate::error::{Error, Result};
use crate::message::Message;

/// What is said where the thread has ended.
const CLOSED: Error = Error::Closed { what: "the broker" };

/// Publishes that wait for the writer thread before further callers have to wait for room.
const ROOM: usize = 4096;
/// How long anything but a publish, which has its own deadline, waits for the writer thread.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(30);

/// Names one delivery of one message. The number tells it from an earlier delivery of a message that
/// had the same place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) seq: i64,
    pub(super) number: u64,
}

/// What the writer thread can be asked to do in a transaction.
pub(super) enum Request {
    Declare(Queue),
    DeclareExchange(Exchange),
    Publish(Outgoing),
    Subscribe {
        number: u64,
        queue: Queue,
        slots: usize,
        deliveries: mpsc::Sender<Result<Claimed>>,
    },
    Unsubscribe(u64),
    /// A consumer may have so many deliveries at a time.
    Allow {
        number: u64,
        slots: usize,
    },
    Settle {
        claim: Claim,
        queue: Arc<str>,
        first: Vec<Outgoing>,
    },
    Release(Claim),
    /// Settles a message that nobody has claimed, if it is still the one that was read.
    Take {
        seq: i64,
        queue: String,
        print: u64,
        first: Vec<Outgoing>,
    },
    OpenJoin(Box<Parking>),
    CheckJoin {
        join: String,
        parts: u32,
        fire: bool,
    },
    CloseJoin(String),
    /// A call that is due at this time, in milliseconds since 1970, is cancelled.
    Cancel(String, i64),
    Delete(String),
    Replies {
        address: String,
        messages: mpsc::Sender<Packed>,
    },
    /// Answered with the ids known.
    Cancellations(mpsc::Sender<String>),
    Listen {
        number: u64,
        channel: Channel,
        name: String,
        sender: mpsc::Sender<Message>,
    },
    Unlisten(u64),
    Announce {
        channel: String,
        key: String,
        /// The message without its body, in JSON.
        envelope: String,
        body: Arc<Vec<u8>>,
    },
    /// Takes a lease; `granted` is answered if it was free.
    TakeLease {
        name: String,
        holder: u64,
        granted: oneshot::Sender<Stale>,
    },
    WriteLease {
        name: String,
        holder: u64,
        value: Vec<u8>,
    },
    FreeLease {
        name: String,
        holder: u64,
    },
    /// Takes back what a dead process held.
    Rescue(DeadProcess),
    /// Takes part again after this process's own row was taken for a dead one's.
    Rejoin,
    /// Forgets what has been kept long enough.
    Prune,
    /// Writes something, so that the commit brings the whole log to the disk.
    Sync,
    /// Does nothing, but is answered when all that was settled before is.
    Flush,
}

fn settling(queue: &str) -> String {
    format!("settling a delivery from queue `{queue}`")
}

impl Request {
    /// What was asked, for an error's sentence.
    pub(super) fn what(&self) -> String {
        match self {
            Self::Declare(queue) => format!("declaring queue `{}`", queue.name()),
            Self::DeclareExchange(exchange) => format!("declaring exchange `{}`", exchange.name()),
            Self::Publish(outgoing) => outgoing.route.to_string(),
            Self::Subscribe { queue, .. } => format!("consuming queue `{}`", queue.name()),
            Self::Unsubscribe(_) => "ending a consumer".into(),
            Self::Allow { .. } => "giving a consumer more or less to do".into(),
            Self::Settle { queue, .. } => settling(queue),
            Self::Take { queue, .. } => settling(queue),
            Self::Release(_) => "handing a delivery back".into(),
            Self::OpenJoin(parking) => format!("opening join `{}`", parking.join),
            Self::CheckJoin { join, .. } => format!("looking at join `{join}`"),
            Self::CloseJoin(join) => format!("closing join `{join}`"),
            Self::Cancel(id, _) => format!("cancelling `{id}`"),
            Self::Delete(queue) => format!("deleting queue `{queue}`"),
            Self::Replies { .. } => "opening the reply queue".into(),
            Self::Cancellations(_) => "reading the cancelled calls".into(),
            Self::Listen { channel, name, .. } => {
                format!("listening to `{}` as `{name}`", channel.name())
            }
            Self::Unlisten(_) => "ending a listener".into(),
            Self::Announce { .. } => "a broadcast".into(),
            Self::TakeLease { name, .. } => format!("taking the lease `{name}`"),
            Self::WriteLease { name, .. } => format!("writing the lease `{name}`"),
            Self::FreeLease { name, .. } => format!("freeing the lease `{name}`"),
            Self::Rescue(_) => "rescuing a dead process's deliveries".into(),
            Self::Rejoin => "registering this process".into(),
            Self::Prune => "forgetting old dead letters".into(),
            Self::Sync => "syncing the log".into(),
            Self::Flush => "waiting for what was settled".into(),
        }
    }
}

/// A request's result: ids for [`Request::Cancellations`], the name for a lease that was taken, empty for all
/// others.
pub(super) type Answer = Result<Vec<String>>;

/// A request's result, and the request: its messages are freed where they were allocated, which contends with nobody.
type Answered = (Answer, Request);

/// A request and who waits for it.
pub(super) struct Job {
    pub(super) request: Request,
    answer: Option<oneshot::Sender<Answered>>,
    /// Set by whoever is first: the thread that begins the work, or the caller that gives it up.
    taken: Option<Arc<AtomicBool>>,
    _room: Option<OwnedSemaphorePermit>,
}

impl Job {
    /// A request whose answer nobody waits for.
    pub(super) fn silent(request: Request) -> Self {
        Self {
            request,
            answer: None,
            taken: None,
            _room: None,
        }
    }

    /// Whether somebody waits for the answer, and can do something about a failure.
    pub(super) fn is_attended(&self) -> bool {
        self.answer.is_some()
    }

    /// Claims the right to do the work; false if the caller has given it up.
    pub(super) fn take(&self) -> bool {
        self.taken
            .as_ref()
            .is_none_or(|taken| !taken.swap(true, Ordering::AcqRel))
    }

    /// Ends the job.
    pub(super) fn answer(self, answer: Answer) {
        match (self.answer, answer) {
            // A caller that has gone away knows that the outcome is unknown to it.
            (Some(caller), answer) => drop(caller.send((answer, self.request))),
            (None, Err(error)) => tracing::debug!(%error, "unattended broker operation failed"),
            (None, Ok(_)) => {}
        }
    }
}

/// What reaches the writer thread.
pub(super) enum Command {
    Do(Job),
    /// Another process says that there is news.
    Wake,
    /// Ends the thread; answered when the file is closed.
    Close(oneshot::Sender<()>),
}

/// How callers reach the writer thread.
#[derive(Clone)]
pub(super) struct Handle {
    inbox: threads::Sender<Command>,
    room: Arc<Semaphore>,
}

impl Handle {
    /// A handle, and the thread's end of it.
    pub(super) fn new() -> (Self, threads::Receiver<Command>) {
        let (inbox, commands) = threads::channel();
        let room = Arc::new(Semaphore::new(ROOM));
        (Self { inbox, room }, commands)
    }

    /// Sends a command; false if the thread has ended.
    pub(super) fn send(&self, command: Command) -> bool {
        self.inbox.send(command).is_ok()
    }

    /// Asks for something whose outcome nobody waits for.
    pub(super) fn post(&self, request: Request) {
        let _ = self.try_post(request);
    }

    /// As [`post`](Self::post), where it matters whether the thread is there to do it.
    pub(super) fn try_post(&self, request: Request) -> Result<()> {
        match self.send(Command::Do(Job::silent(request))) {
            true => Ok(()),
            false => Err(CLOSED),
        }
    }

    /// Asks and waits for the answer.
    pub(super) async fn call(&self, request: Request) -> Answer {
        self.call_within(request, CALL_LIMIT).await
    }

    /// Asks and waits so long for the answer.
    pub(super) async fn call_within(&self, request: Request, limit: Duration) -> Answer {
        self.ask(request, None, limit).await.0
    }

    /// Publishes, waiting first for room in the thread's inbox. Gives back what was refused.
    pub(super) async fn publish(
        &self,
        outgoing: Outgoing,
        limit: Duration,
    ) -> (Result<()>, Option<Outgoing>) {
        let started = Instant::now();
        let room = Arc::clone(&self.room).acquire_owned();
        let Ok(room) = timeout_at(after(started, limit), room).await else {
            let error = Error::Unavailable {
                what: outgoing.route.to_string(),
                waited: limit,
                reason: "too many publishes wait for the file".into(),
            };
            return (Err(error), Some(outgoing));
        };
        let left = limit.saturating_sub(started.elapsed());
        let request = Request::Publish(outgoing);
        match self.ask(request, room.ok(), left).await {
            (Err(error), Some(Request::Publish(outgoing))) => (Err(error), Some(outgoing)),
            (answer, _) => (answer.map(drop), None),
        }
    }

    async fn ask(
        &self,
        request: Request,
        room: Option<OwnedSemaphorePermit>,
        limit: Duration,
    ) -> (Answer, Option<Request>) {
        let (answer, outcome) = oneshot::channel();
        let taken = Arc::new(AtomicBool::new(false));
        // Kept for the rare late answer only, so the common case pays for no words.
        let route = match &request {
            Request::Publish(outgoing) => Some(outgoing.route.clone()),
            _ => None,
        };
        let what = if route.is_none() {
            request.what()
        } else {
            String::new()
        };
        self.send(Command::Do(Job {
            request,
            answer: Some(answer),
            taken: Some(Arc::clone(&taken)),
            _room: room,
        }));
        match timeout_at(after(Instant::now(), limit), outcome).await {
            Ok(Ok((answer, request))) => (answer, Some(request)),
            Ok(Err(_)) => (Err(CLOSED), None),
            Err(_) => {
                let what = route.map_or(what, |route| route.to_string());
                let error = if taken.swap(true, Ordering::AcqRel) {
                    Error::Unconfirmed {
                        route: what,
                        waited: limit,
                    }
                } else {
                    Error::Unavailable {
                        what,
                        waited: limit,
                        reason: "the file was busy all the time".into(),
                    }
                };
                (Err(error), None)
            }
        }
    }
}

/// `start + limit`, or as good as never where the clock ends before.
fn after(start: Instant, limit: Duration) -> Instant {
    const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
    start + limit.min(NEVER)
}
