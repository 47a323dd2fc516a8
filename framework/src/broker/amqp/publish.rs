//! Publishing: a message is handed to the task that owns the confirm channel (`confirms.rs`), and its caller
//! is told what became of it, by its deadline.

use std::sync::Arc;
use std::time::Duration;

use lapin::BasicProperties;
use lapin::types::ShortString;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::confirms::Actor;
use super::connection::closed;
use super::live::Trouble;
use super::transport::Transport;
use crate::broker::Route;
use crate::error::{Error, Result};

/// Requests that wait for a place in the window, beside those in the channel to the task.
pub(super) const BACKLOG: usize = 1024;
/// One message, ready for the wire.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// Where it goes, for errors.
    pub(super) route: Route,
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) body: Vec<u8>,
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

/// A request on its way through the task.
pub(super) struct Ticket {
    pub(super) request: Arc<Request>,
    pub(super) deadline: Instant,
    /// Gone once the caller has been told.
    done: Option<oneshot::Sender<Verdict>>,
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

/// Hands requests to the publishing task.
pub(super) struct Publisher {
    requests: mpsc::Sender<Ticket>,
    blocked: watch::Receiver<Option<String>>,
    transport: Arc<Transport>,
    flush: watch::Sender<bool>,
    task: tokio::sync::Mutex<Option<oneshot::Receiver<()>>>,
}

impl Publisher {
    pub(super) async fn start(transport: &Arc<Transport>) -> Result<Self> {
        let (requests, receiver) = mpsc::channel(BACKLOG);
        let (flush, flushed) = watch::channel(false);
        let (ended, task) = oneshot::channel();
        let actor = Actor::new(transport.clone(), receiver, flushed);
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
            requests,
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
        let (done, verdict) = oneshot::channel();
        let ticket = Ticket {
            request: request.clone(),
            deadline,
            done: Some(done),
            number: 0,
            written: None,
            channels_lost: 0,
        };
        match timeout_at(deadline, self.requests.send(ticket)).await {
            Ok(Ok(())) => verdict.await.map_err(|_| closed()),
            Ok(Err(_)) => Err(closed()),
            Err(_) => Ok(Verdict::Late(unsent(&self.blocked, &self.transport))),
        }
    }

    /// Waits until all that was submitted has its verdict, but not longer than `limit`.
    pub(super) async fn flush(&self, limit: Duration) {
        self.flush.send_replace(true);
        if let Some(task) = self.task.lock().await.take() {
            let _ = timeout(limit, task).await;
        }
    }
}

pub(super) fn unsent(blocked: &watch::Receiver<Option<String>>, transport: &Transport) -> Late {
    match blocked.borrow().clone() {
        Some(reason) => Late::Blocked(reason),
        None => Late::Unsent(transport.publishing.last_error()),
    }
}

impl Request {
    /// What a verdict means to the caller.
    pub(super) fn conclude(&self, verdict: Verdict) -> Result<()> {
        let (route, waited) = (|| self.route.to_string(), self.limit);
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
                waited,
            },
            Verdict::Late(Late::Blocked(reason)) => Error::Blocked {
                route: route(),
                reason,
                waited,
            },
            Verdict::Late(Late::Unsent(reason)) => Error::Unavailable {
                what: format!("the message to {}", self.route),
                waited,
                reason,
            },
        })
    }
}
