//! Publishing: a message is put into the outbox, and its caller is told what became of it, by its deadline. While
//! nothing is wrong that takes no other thread of ours: who sends writes, and takes the confirms that have come.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use lapin::types::ShortString;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};

use super::confirms::Actor;
use super::connection::closed;
use super::live::Trouble;
use super::outbox::Outbox;
use super::properties::Properties;
use super::transport::Transport;
use crate::broker::Route;
use crate::error::{Error, Result};

/// One message, ready for the wire.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// Where it goes, for errors.
    pub(super) route: Route,
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: Properties,
    pub(super) body: Arc<Vec<u8>>,
    /// How long to try.
    pub(super) limit: Duration,
}

/// What became of a request.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The broker has it.
    Stored,
    /// No queue takes it.
    Unroutable,
    /// The broker refused to store it.
    Nacked,
    /// There is no such exchange.
    NoExchange(Trouble),
    /// The broker will not have it.
    Refused(Trouble),
    /// The deadline passed.
    Late(Late),
}

/// How far a request got by its deadline.
#[derive(Debug)]
pub(super) enum Late {
    /// On the wire, unconfirmed.
    Unconfirmed,
    /// Nowhere: the server takes no messages, for this reason.
    Blocked(String),
    /// Nowhere: there is no connection, for this reason.
    Unsent(String),
}

impl Late {
    /// Why it is late that was never sent.
    pub(super) fn before_it_was_sent(
        blocked: &watch::Receiver<Option<String>>,
        transport: &Transport,
    ) -> Self {
        match blocked.borrow().clone() {
            Some(reason) => Self::Blocked(reason),
            None => Self::Unsent(transport.publishing.last_error()),
        }
    }
}

/// A request in the outbox.
pub(super) struct Ticket {
    pub(super) request: Arc<Request>,
    pub(super) deadline: Instant,
    /// Gone once the caller has been told.
    done: Option<oneshot::Sender<Verdict>>,
    /// Woken when there is news of it.
    pub(super) sender: Option<Waker>,
    /// Its place in the order of sending.
    pub(super) number: u64,
    /// When it was last written.
    pub(super) written: Option<Instant>,
    pub(super) channels_lost: u8,
}

impl Ticket {
    pub(super) fn tell(&mut self, verdict: Verdict) {
        if let Some(done) = self.done.take() {
            let _ = done.send(verdict);
        }
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.done.as_ref().is_some_and(|done| !done.is_closed())
    }
}

/// Publishes requests.
pub(super) struct Publisher {
    outbox: Arc<Outbox>,
    blocked: watch::Receiver<Option<String>>,
    transport: Arc<Transport>,
    flush: watch::Sender<bool>,
    task: tokio::sync::Mutex<Option<oneshot::Receiver<()>>>,
}

impl Publisher {
    pub(super) async fn start(transport: &Arc<Transport>) -> Result<Self> {
        let outbox = Arc::new(Outbox::new(transport.clone()));
        let (flush, flushed) = watch::channel(false);
        let (ended, task) = oneshot::channel();
        let actor = Actor::new(transport.clone(), outbox.clone(), flushed);
        transport
            .run(async move {
                tokio::spawn(async move {
                    actor.run().await;
                    let _ = ended.send(());
                });
                Ok(())
            })
            .await?;
        Ok(Self {
            outbox,
            blocked: transport.publishing.blocked(),
            transport: transport.clone(),
            flush,
            task: tokio::sync::Mutex::new(Some(task)),
        })
    }

    /// Publishes `request` once (again only if its channel ends) and says what became of it.
    pub(super) async fn submit(
        &self,
        request: &Arc<Request>,
        deadline: Instant,
    ) -> Result<Verdict> {
        let Some(_place) = self.outbox.room(deadline).await? else {
            let late = Late::before_it_was_sent(&self.blocked, &self.transport);
            return Ok(Verdict::Late(late));
        };
        let sending = Sending {
            outbox: &self.outbox,
            under_way: None,
            request,
            deadline,
        };
        sending.await
    }

    /// Waits until all that was submitted has its verdict, but not longer than `limit`.
    pub(super) async fn flush(&self, limit: Duration) {
        self.flush.send_replace(true);
        if let Some(task) = self.task.lock().await.take() {
            let _ = timeout(limit, task).await;
        }
    }
}

/// One request on its way to its verdict.
struct Sending<'a> {
    outbox: &'a Outbox,
    request: &'a Arc<Request>,
    deadline: Instant,
    /// Its number, who is woken, and where the verdict comes.
    under_way: Option<(u64, Waker, oneshot::Receiver<Verdict>)>,
}

impl Future for Sending<'_> {
    type Output = Result<Verdict>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some((number, waker, verdict)) = &mut this.under_way else {
            let (done, verdict) = oneshot::channel();
            let waker = cx.waker().clone();
            let ticket = Ticket {
                request: this.request.clone(),
                deadline: this.deadline,
                done: Some(done),
                sender: Some(waker.clone()),
                number: 0,
                written: None,
                channels_lost: 0,
            };
            let Some(number) = this.outbox.put(ticket) else {
                return Poll::Ready(Err(closed()));
            };
            this.under_way = Some((number, waker, verdict));
            return this.verdict(cx);
        };
        if let Poll::Ready(told) = Pin::new(verdict).poll(cx) {
            this.under_way = None;
            return Poll::Ready(told.map_err(|_| closed()));
        }
        let is_another = !waker.will_wake(cx.waker());
        if is_another {
            waker.clone_from(cx.waker());
        }
        this.outbox.get_on(*number, is_another.then_some(&*waker));
        // It may just have told itself.
        this.verdict(cx)
    }
}

impl Sending<'_> {
    fn verdict(&mut self, cx: &mut Context<'_>) -> Poll<Result<Verdict>> {
        let Some((_, _, verdict)) = &mut self.under_way else {
            return Poll::Pending;
        };
        let told = Pin::new(verdict).poll(cx).map_err(|_| closed());
        if told.is_ready() {
            self.under_way = None;
        }
        told
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        // It may have been woken to look at what became of others' messages.
        if let Some((number, ..)) = self.under_way.take() {
            self.outbox.forsake(number);
        }
    }
}

impl Request {
    /// What a verdict means to the caller.
    pub(super) fn conclude(&self, verdict: Verdict, deadline: Instant) -> Result<()> {
        let route = || self.route.to_string();
        let waited = || {
            let left = deadline.saturating_duration_since(Instant::now());
            self.limit.saturating_sub(left)
        };
        Err(match verdict {
            Verdict::Stored => return Ok(()),
            Verdict::Unroutable => Error::Unroutable { route: route() },
            Verdict::Nacked => Error::Refused {
                what: format!("a message to {}", self.route),
                reason: "the queue is full or unavailable: let workers drain it, \
                         or look at its length limit and its replicas"
                    .into(),
            },
            Verdict::NoExchange(said) | Verdict::Refused(said) => Error::Refused {
                what: format!("a message to {}", self.route),
                reason: said.text,
            },
            Verdict::Late(Late::Unconfirmed) => Error::Unconfirmed {
                route: route(),
                waited: waited(),
            },
            Verdict::Late(Late::Blocked(reason)) => Error::Blocked {
                route: route(),
                reason,
                waited: waited(),
            },
            Verdict::Late(Late::Unsent(reason)) => Error::Unavailable {
                what: format!("the message to {}", self.route),
                waited: waited(),
                reason,
            },
        })
    }
}
