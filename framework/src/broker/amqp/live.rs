//! One connection while it lives: its channels, the server's answers, and its end.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::{Channel, Connection, ErrorKind, Event};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::dial::Socket;
use super::gate::Gate;
use super::handled::Handled;
use crate::error::Error;

/// How long the server may take to answer one request.
pub(super) const RPC_TIMEOUT: Duration = Duration::from_secs(10);
/// Channel numbers tried on one connection before it is replaced.
const CHANNEL_ATTEMPTS: usize = 16;
/// Closing hangs on a blocked connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often to look whether the connection has ended without a word.
const LOOK: Duration = Duration::from_millis(100);

/// What the server or the connection had against a request.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    /// AMQP's reply code, where the server sent one.
    pub(super) code: Option<u16>,
    /// In words.
    pub(super) text: String,
}

impl Trouble {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self {
            code: None,
            text: text.into(),
        }
    }

    /// Whether the server speaks of its own state, which passes: it stops (320), lacks resources (506),
    /// fails inside (541), or the queue's node is down.
    fn passes(&self) -> bool {
        matches!(self.code, Some(320 | 506 | 541)) || self.text.contains("down or inaccessible")
    }

    /// Whether asking again would be answered in the same way.
    pub(super) fn is_lasting(&self) -> bool {
        self.code.is_some() && !self.passes()
    }

    /// Whether there is no such queue or exchange.
    pub(super) fn is_missing(&self) -> bool {
        self.code == Some(404) && !self.passes()
    }

    /// The server's refusal of `what`.
    pub(super) fn refused(self, what: impl Into<String>) -> Error {
        match self.code {
            Some(_) if self.is_lasting() => Error::Refused {
                what: what.into(),
                reason: self.text,
            },
            _ => Error::Unavailable {
                what: what.into(),
                waited: RPC_TIMEOUT,
                reason: self.text,
            },
        }
    }
}

impl From<lapin::Error> for Trouble {
    fn from(error: lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(said) => Self {
                code: Some(said.get_id()),
                text: said.get_message().to_string(),
            },
            _ => Self::new(error.to_string()),
        }
    }
}

/// Awaits the server's answer, but not for ever.
pub(super) async fn rpc<T>(
    request: impl Future<Output = lapin::Result<T>>,
) -> std::result::Result<T, Trouble> {
    match timeout(RPC_TIMEOUT, request).await {
        Ok(answer) => answer.map_err(Trouble::from),
        Err(_) => Err(Trouble::new(format!("no answer within {RPC_TIMEOUT:?}"))),
    }
}

/// A connection that was alive when it was handed out. Whoever uses it keeps it alive.
pub(super) struct Live {
    connection: Connection,
    /// Counts this app's connections of one kind: a log's reader sees which one is meant.
    pub(super) generation: u64,
    /// Its address's place among all.
    pub(super) place: usize,
    socket: Socket,
    /// Tells when lapin has handled what has come.
    pub(super) handled: Handled,
    ended: watch::Receiver<bool>,
    /// Opens no channels any more, so another connection is to take its place.
    spent: AtomicBool,
}

impl Live {
    /// Follows what the server says about the connection as a whole: through the gate, whether it takes
    /// messages.
    pub(super) fn follow(
        connection: Connection,
        (socket, handled): (Socket, Handled),
        (generation, place): (u64, usize),
        name: &str,
        gate: &Arc<Gate>,
    ) -> Arc<Self> {
        let (end, ended) = watch::channel(false);
        let mut events = Box::pin(connection.events_listener());
        let status = connection.status().clone();
        let (gate, name, plug) = (gate.clone(), name.to_owned(), socket.clone());
        tokio::spawn(async move {
            let mut reason = String::from("it was closed");
            while status.connected() {
                // lapin says nothing about some ends, and hangs whoever asks it for something then.
                match timeout(LOOK, events.next()).await {
                    Ok(Some(Event::ConnectionBlocked(why))) => {
                        tracing::warn!(connection = %name, reason = %why, "RabbitMQ takes no messages");
                        gate.set(generation, Some(why));
                    }
                    Ok(Some(Event::ConnectionUnblocked)) => {
                        tracing::info!(connection = %name, "RabbitMQ takes messages again");
                        gate.set(generation, None);
                    }
                    // Errors of single channels are told here, too.
                    Ok(Some(Event::Error(error))) => reason = Trouble::from(error).text,
                    Ok(Some(_)) | Err(_) => {}
                    Ok(None) => break,
                }
            }
            if status.errored() {
                tracing::warn!(connection = %name, generation, reason, "the connection to RabbitMQ ended");
            }
            gate.set(generation, None);
            end.send_replace(true);
            plug.shut();
        });
        Arc::new(Self {
            connection,
            generation,
            place,
            socket,
            handled,
            ended,
            spent: AtomicBool::new(false),
        })
    }

    pub(super) fn is_up(&self) -> bool {
        self.connection.status().connected() && !self.spent.load(Ordering::Relaxed)
    }

    /// Resolves when the connection has ended.
    pub(super) async fn ended(&self) {
        // An error means that it was not followed to its end: the runtime is going down.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Awaits `work` on this connection, but not beyond the connection's end: lapin forgets some of the
    /// requests that are made while a connection breaks.
    pub(super) async fn guard<T>(
        &self,
        work: impl Future<Output = std::result::Result<T, Trouble>>,
    ) -> std::result::Result<T, Trouble> {
        tokio::select! {
            biased;
            done = work => done,
            () = self.ended() => Err(Trouble::new("the connection ended")),
        }
    }

    /// Opens a channel.
    ///
    /// When lapin has used all channel numbers and begins anew, it fails with the error that once closed a
    /// number's former channel. That error is not about us, and the next number may be good.
    pub(super) async fn channel(&self) -> std::result::Result<Channel, Trouble> {
        let mut last = String::new();
        for _ in 0..CHANNEL_ATTEMPTS {
            match self.guard(rpc(self.connection.create_channel())).await {
                Ok(channel) => return Ok(channel),
                Err(trouble) => last = trouble.text,
            }
            if !self.is_up() {
                break;
            }
        }
        self.spent.store(true, Ordering::Relaxed);
        Err(Trouble::new(format!("no channel can be opened: {last}")))
    }

    /// Closes it, in the protocol's way if the server plays along.
    pub(super) async fn close(&self) {
        if self.connection.status().connected() {
            let _ = timeout(CLOSE_TIMEOUT, self.connection.close(200, "bye".into())).await;
        }
        self.socket.shut();
    }

    /// Ends it without a word, so that everything on it is made anew.
    pub(super) fn cut(&self) {
        self.socket.shut();
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // lapin now says goodbye by itself, which a blocked or mute server does not let it finish.
        let socket = self.socket.clone();
        let shut = async move {
            sleep(CLOSE_TIMEOUT).await;
            socket.shut();
        };
        match tokio::runtime::Handle::try_current() {
            Ok(handle) => drop(handle.spawn(shut)),
            Err(_) => self.socket.shut(),
        }
    }
}
