//! Remote control from the worker's side: who it is among the nodes, what it hears, what it answers.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::Shared;
use super::lanes::Wishes;
use super::node;
use super::serve::AbortOnDrop;
use super::teller::Voice;
use crate::app::App;
use crate::broker::{Announcement, Channel, ChannelKind, Listener};
use crate::control::request::{Asker, Request, answer};
use crate::message::Message;

mod inspect;
mod stamped;
mod steer;

/// How long a starting worker waits to be heard of. It works without that, too.
const JOIN_LIMIT: Duration = Duration::from_secs(5);
/// How often a worker that cannot hear tries again.
const JOIN_AGAIN: Duration = Duration::from_secs(60);
/// How long a request may take, its answer included.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// How long a stop waits for the last words.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A node among the others.
pub(super) struct Presence {
    pub(super) node: String,
    /// `None` where the broker does not let it listen.
    pub(super) listener: Option<Listener>,
}

/// Takes a place among the nodes, under a name that nobody else has.
pub(super) async fn join(app: &App, name: Option<&str>) -> Presence {
    let wanted = node::name(name);
    let other = node::another(&wanted);
    let mut refused = None;
    for node in [&wanted, &other] {
        match timeout(JOIN_LIMIT, listen(app, node)).await {
            Ok(Ok(listener)) => {
                if let Some(refused) = refused {
                    tracing::warn!(node, "the worker cannot be `{wanted}`: {refused}");
                }
                return Presence {
                    node: node.clone(),
                    listener: Some(listener),
                };
            }
            // Somebody else has the name, more likely than not.
            Ok(Err(error @ crate::Error::Refused { .. })) => refused = Some(error.to_string()),
            Ok(Err(error)) => {
                refused = Some(error.to_string());
                break;
            }
            Err(_) => {
                refused = Some(format!("nothing happened within {JOIN_LIMIT:?}"));
                break;
            }
        }
    }
    tracing::warn!(
        "the worker cannot be controlled remotely yet: {}",
        refused.unwrap_or_default()
    );
    Presence {
        node: other,
        listener: None,
    }
}

async fn listen(app: &App, node: &str) -> crate::error::Result<Listener> {
    let channel = Channel::new(ChannelKind::Control, app.prefix());
    app.broker().listen(&channel, node).await
}

/// Those beside the work: who tells what happens, and who does what is asked.
pub(super) struct Attendant {
    voice: Option<JoinHandle<()>>,
    end: Option<oneshot::Sender<()>>,
    _ear: AbortOnDrop,
}

impl Attendant {
    pub(super) fn start(
        shared: &Arc<Shared>,
        voice: Voice,
        listener: Option<Listener>,
        wishes: Wishes,
    ) -> Self {
        let (end, ended) = oneshot::channel();
        let ear = Ear {
            shared: shared.clone(),
            wishes,
            clock: AtomicU64::new(1),
        };
        Self {
            voice: Some(tokio::spawn(voice.run(shared.clone(), ended))),
            end: Some(end),
            _ear: AbortOnDrop(tokio::spawn(ear.run(listener))),
        }
    }

    /// Says goodbye.
    pub(super) async fn leave(mut self) {
        // It has ended by itself only if it panicked.
        let _ = self.end.take().map(|end| end.send(()));
        if let Some(voice) = &mut self.voice
            && timeout(LAST_WORDS, voice).await.is_err()
        {
            tracing::debug!("the worker's last words were not heard");
        }
    }
}

impl Drop for Attendant {
    fn drop(&mut self) {
        if let Some(voice) = self.voice.take() {
            voice.abort();
        }
    }
}

/// What a request comes to.
pub(super) enum Answer {
    /// This is answered.
    Value(Value),
    /// Nothing is.
    Silence,
}

impl Answer {
    fn ok(text: impl Into<String>) -> Self {
        Self::Value(json!({ "ok": text.into() }))
    }

    fn error(text: impl Into<String>) -> Self {
        Self::Value(json!({ "error": text.into() }))
    }
}

/// Who does what is asked, one request after the other.
struct Ear {
    shared: Arc<Shared>,
    wishes: Wishes,
    /// Lamport's: later than all that was heard.
    clock: AtomicU64,
}

impl Ear {
    async fn run(self, listener: Option<Listener>) {
        let mut listener = match listener {
            Some(listener) => listener,
            None => self.listen().await,
        };
        // It ends with the broker.
        while let Some(message) = listener.next().await {
            // One request must not keep the worker from hearing the next.
            let heard = AssertUnwindSafe(self.hear(&message)).catch_unwind();
            match timeout(REQUEST_LIMIT, heard).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => tracing::error!("a request was dropped: its answer panicked"),
                Err(_) => tracing::warn!("a request took too long"),
            }
        }
    }

    async fn listen(&self) -> Listener {
        loop {
            sleep(JOIN_AGAIN).await;
            match listen(&self.shared.app, self.shared.teller.node()).await {
                Ok(listener) => return listener,
                Err(error) => tracing::debug!(%error, "still no remote control"),
            }
        }
    }

    async fn hear(&self, message: &Message) {
        let heard = message.headers.get("clock").and_then(Value::as_u64);
        self.clock
            .fetch_max(heard.unwrap_or_default(), Ordering::Relaxed);
        self.clock.fetch_add(1, Ordering::Relaxed);
        let request = match Request::decode(message) {
            Ok(request) => request,
            Err(reason) => {
                tracing::warn!("ignored a request that cannot be read: {reason}");
                return;
            }
        };
        let node = self.shared.teller.node();
        if !request.is_for(node) {
            return;
        }
        if Request::is_late(message, SystemTime::now()) {
            tracing::debug!(
                method = request.method,
                "ignored a request that nobody waits for any more"
            );
            return;
        }
        tracing::debug!(method = request.method, "asked");
        let answered = self.carry_out(&request).await;
        if let (Answer::Value(value), Some(asker)) = (answered, request.asker()) {
            self.reply(&value, &asker).await;
        }
    }

    async fn carry_out(&self, request: &Request) -> Answer {
        if let Some(value) = self.inspect(request) {
            return Answer::Value(value);
        }
        match self.steer(request).await {
            Some(answer) => answer,
            None => Answer::error(format!("KeyError('{}')", request.method.escape_debug())),
        }
    }

    async fn reply(&self, value: &Value, asker: &Asker) {
        let channel = Channel::new(ChannelKind::Reply, self.shared.app.prefix());
        if asker.exchange != channel.name() {
            tracing::warn!(
                exchange = asker.exchange,
                "ignored a request: answers go to `{}`",
                channel.name()
            );
            return;
        }
        let mut message = answer(self.shared.teller.node(), value, asker);
        message.set("clock", self.clock.load(Ordering::Relaxed));
        let announcement = Announcement {
            channel,
            key: asker.name.clone(),
            message,
        };
        if let Err(error) = self.shared.app.broker().announce(announcement).await {
            tracing::debug!(%error, "an answer was lost");
        }
    }
}
