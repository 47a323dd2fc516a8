//! What workers tell of themselves and of the calls that they run, in the form of Celery's events: monitors such as
//! Flower and `celery events` read ours, and we read Python's.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::app::App;
use crate::broker::{Channel, ChannelKind, Listener};
use crate::error::Result;
use crate::message::{Message, cut, usual};

mod seconds;

/// Bytes of a text that an event carries, as in Celery.
pub(crate) const TEXT_LIMIT: usize = 1024;

/// Something that happened to a call or to a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Event {
    /// The node that tells it: a worker's name, or a sender's.
    #[serde(rename = "hostname")]
    pub node: String,
    /// When it happened, by that node's clock.
    #[serde(rename = "timestamp", with = "seconds")]
    pub at: SystemTime,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened. Of texts, the first 1024 bytes are told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
#[non_exhaustive]
pub enum EventKind {
    /// A call was sent; told by Python's senders that are set up for it.
    #[serde(rename = "task-sent")]
    TaskSent(CallSummary),
    /// A worker has taken a call.
    #[serde(rename = "task-received")]
    TaskReceived(CallSummary),
    /// An attempt began.
    #[serde(rename = "task-started")]
    TaskStarted {
        /// The call's id.
        #[serde(rename = "uuid")]
        id: String,
    },
    /// The call is done.
    #[serde(rename = "task-succeeded")]
    TaskSucceeded {
        /// The call's id.
        #[serde(rename = "uuid")]
        id: String,
        /// Its result, as text.
        #[serde(default)]
        result: String,
        /// How long the attempt took, in seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        runtime: Option<f64>,
    },
    /// The call has failed for good.
    #[serde(rename = "task-failed")]
    TaskFailed {
        /// The call's id.
        #[serde(rename = "uuid")]
        id: String,
        /// The error, as text.
        #[serde(default)]
        exception: String,
        /// Where it happened, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        traceback: Option<String>,
    },
    /// An attempt failed, and another one will follow.
    #[serde(rename = "task-retried")]
    TaskRetried {
        /// The call's id.
        #[serde(rename = "uuid")]
        id: String,
        /// The error, as text.
        #[serde(default)]
        exception: String,
    },
    /// The call was cancelled or has expired.
    #[serde(rename = "task-revoked")]
    TaskRevoked {
        /// The call's id.
        #[serde(rename = "uuid")]
        id: String,
        /// Whether it was running.
        #[serde(default)]
        terminated: bool,
        /// Whether it came too late, rather than being cancelled.
        #[serde(default)]
        expired: bool,
    },
    /// The worker does not take the call, or gives it back.
    #[serde(rename = "task-rejected")]
    TaskRejected {
        /// The call's id.
        #[serde(rename = "uuid")]
        id: String,
        /// Whether it went back to its queue.
        #[serde(default)]
        requeue: bool,
    },
    /// A worker has started.
    #[serde(rename = "worker-online")]
    WorkerOnline(WorkerStatus),
    /// A worker is alive.
    #[serde(rename = "worker-heartbeat")]
    WorkerHeartbeat(WorkerStatus),
    /// A worker has stopped in order.
    #[serde(rename = "worker-offline")]
    WorkerOffline(WorkerStatus),
    /// Anything else that somebody tells: the event as it came.
    #[serde(untagged)]
    Other(serde_json::Map<String, Value>),
}

/// A call as events describe it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CallSummary {
    /// The call's id.
    #[serde(rename = "uuid")]
    pub id: String,
    /// The task's name.
    #[serde(rename = "name", default)]
    pub task: String,
    /// Its positional arguments, as text.
    #[serde(default)]
    pub args: String,
    /// Its keyword arguments, as text.
    #[serde(default)]
    pub kwargs: String,
    /// The call that began it all.
    #[serde(default)]
    pub root_id: Option<String>,
    /// The call whose task sent this one.
    #[serde(default)]
    pub parent_id: Option<String>,
    /// How many attempts failed before.
    #[serde(default)]
    pub retries: u32,
    /// When it is due, RFC 3339.
    #[serde(default)]
    pub eta: Option<String>,
    /// When it expires, RFC 3339.
    #[serde(default)]
    pub expires: Option<String>,
}

impl CallSummary {
    /// What `message` says of its call.
    pub(crate) fn of(message: &Message) -> Self {
        let text = |name: &str| {
            message
                .text(name)
                .map(|text| cut(text, TEXT_LIMIT).to_owned())
        };
        let (args, kwargs) = message.repr();
        Self {
            id: message.id.clone(),
            task: text("shadow").or_else(|| text("task")).unwrap_or_default(),
            args: cut(&args, TEXT_LIMIT).to_owned(),
            kwargs: cut(&kwargs, TEXT_LIMIT).to_owned(),
            root_id: Some(message.root_id().to_owned()),
            parent_id: text("parent_id"),
            retries: message.attempt() - 1,
            eta: text("eta"),
            expires: text("expires"),
        }
    }
}

/// How a worker is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// Its process.
    #[serde(default)]
    pub pid: u32,
    /// How often it tells that it is alive, in seconds.
    #[serde(default)]
    pub freq: f64,
    /// Attempts that run.
    #[serde(default)]
    pub active: u64,
    /// Attempts begun since it started.
    #[serde(default)]
    pub processed: u64,
    /// The machine's load, over 1, 5 and 15 minutes.
    #[serde(default)]
    pub loadavg: [f64; 3],
    /// The software: `garenne`, `py-celery`.
    #[serde(default)]
    pub sw_ident: String,
    /// Its version.
    #[serde(default)]
    pub sw_ver: String,
    /// The operating system.
    #[serde(default)]
    pub sw_sys: String,
}

impl Event {
    pub(crate) fn new(node: &str, at: SystemTime, kind: EventKind) -> Self {
        Self {
            node: node.to_owned(),
            at,
            kind,
        }
    }

    /// Its name on the wire: `task-started`.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.kind {
            EventKind::TaskSent(_) => "task-sent",
            EventKind::TaskReceived(_) => "task-received",
            EventKind::TaskStarted { .. } => "task-started",
            EventKind::TaskSucceeded { .. } => "task-succeeded",
            EventKind::TaskFailed { .. } => "task-failed",
            EventKind::TaskRetried { .. } => "task-retried",
            EventKind::TaskRevoked { .. } => "task-revoked",
            EventKind::TaskRejected { .. } => "task-rejected",
            EventKind::WorkerOnline(_) => "worker-online",
            EventKind::WorkerHeartbeat(_) => "worker-heartbeat",
            EventKind::WorkerOffline(_) => "worker-offline",
            EventKind::Other(fields) => fields.get("type").and_then(Value::as_str).unwrap_or(""),
        }
    }

    /// The id of the call that it is about, if it is about one.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        match &self.kind {
            EventKind::TaskSent(call) | EventKind::TaskReceived(call) => Some(&call.id),
            EventKind::TaskStarted { id }
            | EventKind::TaskSucceeded { id, .. }
            | EventKind::TaskFailed { id, .. }
            | EventKind::TaskRetried { id, .. }
            | EventKind::TaskRevoked { id, .. }
            | EventKind::TaskRejected { id, .. } => Some(id),
            EventKind::Other(fields) => fields.get("uuid")?.as_str(),
            _ => None,
        }
    }
}

/// The message that tells `events`, all of one node, and its routing key.
pub(crate) fn encode(node: &str, events: &[Event]) -> (String, Message) {
    let (key, body) = match events {
        [one] => (one.name().replace('-', "."), serde_json::to_vec(one)),
        // What Python's workers send, too, of calls. Events of workers never come in company: Python's would mind.
        many => ("task.multi".to_owned(), serde_json::to_vec(many)),
    };
    let mut message = Message {
        content_type: usual::media_type(),
        content_encoding: usual::encoding(),
        body: body.unwrap_or_default().into(),
        ..Message::default()
    };
    message.set("hostname", node);
    (key, message)
}

/// The events that a message tells; what cannot be read is left out.
fn decode(message: &Message) -> VecDeque<Event> {
    let read = |value: Value| serde_json::from_value(value).ok();
    match serde_json::from_slice(&message.body) {
        Ok(Value::Array(events)) => events.into_iter().filter_map(read).collect(),
        Ok(event) => read(event).into_iter().collect(),
        Err(error) => {
            tracing::debug!(%error, "ignored an event");
            VecDeque::new()
        }
    }
}

/// Events as they are told, from [`App::events`]. A stream.
#[must_use = "events are told to who asks for the next one"]
pub struct Events {
    listener: Listener,
    ready: VecDeque<Event>,
}

impl Events {
    /// The next event; `None` when the app was closed.
    pub async fn next(&mut self) -> Option<Event> {
        StreamExt::next(self).await
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(event));
            }
            match ready!(self.listener.poll_next(cx)) {
                Some(message) => self.ready = decode(&message),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl App {
    /// What workers tell from now on. They tell of calls only where somebody has asked them to, once:
    /// [`Control::enable_events`](crate::Control::enable_events) or [`Worker::events`](crate::Worker::events).
    ///
    /// Nothing is kept: what happens while the connection is away is not told, and who does not read for more than
    /// a thousand messages misses some.
    ///
    /// ```standalone_crate
    /// # use garenne::{App, EventKind, Worker, task};
    /// # #[task]
    /// # async fn add(a: i64, b: i64) -> i64 { a + b }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let app = App::in_memory();
    /// let mut events = app.events().await?;
    /// let worker = Worker::new(&app).queue("default", 1).events(true).spawn();
    /// let handle = add::call(2, 3).ignore_result().send(&app).await?;
    /// while let Some(event) = events.next().await {
    ///     println!("{} {} {:?}", event.node, event.name(), event.id());
    ///     if let EventKind::TaskSucceeded { result, .. } = event.kind {
    ///         assert_eq!(result, "5");
    ///         break;
    ///     }
    /// }
    /// # let _ = handle;
    /// # worker.stop().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where the broker refuses, or is away.
    pub async fn events(&self) -> Result<Events> {
        let channel = Channel::new(ChannelKind::Event, self.prefix());
        let name = uuid::Uuid::new_v4().to_string();
        Ok(Events {
            listener: self.broker().listen(&channel, &name).await?,
            ready: VecDeque::new(),
        })
    }
}

#[cfg(test)]
mod tests;
