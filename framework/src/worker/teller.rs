//! Tells those who listen what the worker does, beside the work: a call never waits for it, and where they cannot
//! keep up, events are dropped and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};

use super::Shared;
use super::activity::Taken;
use super::verdict::Verdict;
use crate::broker::{Announcement, Channel, ChannelKind};
use crate::event::{self, CallSummary, Event, EventKind, TEXT_LIMIT, WorkerStatus};
use crate::failure::FailureKind;
use crate::message::{Message, cut};

/// How often a worker tells that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Events of calls that wait to be told.
const BACKLOG: usize = 8192;
/// Events told together, as Celery's workers do.
const GROUP: usize = 24;
/// Events told together where they come faster than that.
const LARGEST_GROUP: usize = 256;
/// How long a smaller group waits for more.
const GROUP_WAIT: Duration = Duration::from_millis(100);
/// How long one announcement may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Takes events of calls.
pub(super) struct Teller {
    node: String,
    /// Whether events of calls are wanted.
    enabled: AtomicBool,
    events: mpsc::Sender<Event>,
    /// Events that there was no room for.
    lost: AtomicU64,
}

/// Tells what a [`Teller`] was given, and that the worker is alive.
pub(super) struct Voice {
    events: mpsc::Receiver<Event>,
}

impl Teller {
    pub(super) fn new(node: String, enabled: bool) -> (Self, Voice) {
        let (sender, events) = mpsc::channel(BACKLOG);
        let teller = Self {
            node,
            enabled: AtomicBool::new(enabled),
            events: sender,
            lost: AtomicU64::new(0),
        };
        (teller, Voice { events })
    }

    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// Switches events of calls on or off; returns whether that changed something.
    pub(super) fn enable(&self, on: bool) -> bool {
        self.enabled.swap(on, Ordering::Relaxed) != on
    }

    fn tell(&self, shared: &Shared, kind: EventKind) {
        let event = Event::new(&self.node, shared.app.now(), kind);
        if self.events.try_send(event).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Shared {
    /// Tells that a call was taken.
    pub(super) fn tell_taken(&self, message: &Message) {
        if self.teller.enabled.load(Ordering::Relaxed) {
            self.teller
                .tell(self, EventKind::TaskReceived(CallSummary::of(message)));
        }
    }

    /// Tells that an attempt begins.
    pub(super) fn tell_begun(&self, message: &Message) {
        if self.teller.enabled.load(Ordering::Relaxed) {
            let id = message.id.clone();
            self.teller.tell(self, EventKind::TaskStarted { id });
        }
    }

    /// Tells what became of a call.
    pub(super) fn tell_end(&self, message: &Message, verdict: &Verdict, taken: &Taken<'_>) {
        if self.teller.enabled.load(Ordering::Relaxed)
            && let Some(kind) = kind(message, verdict, taken.runtime())
        {
            self.teller.tell(self, kind);
        }
    }

    /// In memory nobody dies unseen, and a heartbeat would make days of paused time long.
    fn heartbeat(&self) -> Duration {
        match self.app.rehearsal() {
            Some(_) => crate::DAY,
            None => HEARTBEAT,
        }
    }

    fn status(&self) -> WorkerStatus {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let mut load = load.split(' ').map_while(|number| number.parse().ok());
        WorkerStatus {
            pid: std::process::id(),
            freq: self.heartbeat().as_secs_f64(),
            active: self.activity.running(),
            processed: self.activity.begun().values().sum(),
            loadavg: [(); 3].map(|()| load.next().unwrap_or_default()),
            sw_ident: "garenne".into(),
            sw_ver: env!("CARGO_PKG_VERSION").into(),
            sw_sys: capitalized(std::env::consts::OS),
        }
    }

    /// Tells that the worker is alive, now.
    pub(super) async fn tell_alive(&self) {
        self.announce(EventKind::WorkerHeartbeat(self.status()))
            .await;
    }

    /// Tells something of the worker, if somebody may be listening.
    async fn announce(&self, kind: EventKind) {
        let event = Event::new(&self.teller.node, self.app.now(), kind);
        self.announce_all(std::slice::from_ref(&event)).await;
    }

    async fn announce_all(&self, events: &[Event]) {
        let channel = Channel::new(ChannelKind::Event, self.app.prefix());
        if !self.app.broker().may_be_heard(&channel) {
            return;
        }
        let (key, message) = event::encode(&self.teller.node, events);
        let announcement = Announcement {
            channel,
            key,
            message,
        };
        let told = timeout(PATIENCE, self.app.broker().announce(announcement));
        match told.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "events were not told"),
            Err(_) => tracing::debug!("events were not told in time"),
        }
    }
}

/// The event that a verdict is; `None` if it is none.
fn kind(message: &Message, verdict: &Verdict, runtime: Option<Duration>) -> Option<EventKind> {
    let id = message.id.clone();
    let text = |text: &str| cut(text, TEXT_LIMIT).to_owned();
    Some(match verdict {
        Verdict::Done(value) => EventKind::TaskSucceeded {
            id,
            result: text(value.get()),
            runtime: Some(runtime.unwrap_or_default().as_secs_f64()),
        },
        Verdict::Dead { failure, .. } => EventKind::TaskFailed {
            id,
            exception: text(&match &*failure.error_type {
                // An error that is a text has no type worth telling.
                "" | "alloc::string::String" | "&str" => failure.message.clone(),
                name => format!("{name}: {}", failure.message),
            }),
            traceback: failure.traceback.as_deref().map(text),
        },
        Verdict::Dropped(failure) => EventKind::TaskRevoked {
            id,
            terminated: runtime.is_some(),
            expired: failure.kind == FailureKind::Expired,
        },
        Verdict::Retry { error, .. } => EventKind::TaskRetried {
            id,
            exception: text(error),
        },
        Verdict::Postponed { .. } if runtime.is_some() => EventKind::TaskRetried {
            id,
            exception: "put off by the task itself".into(),
        },
        Verdict::HandBack | Verdict::PutOff { .. } => EventKind::TaskRejected { id, requeue: true },
        _ => return None,
    })
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().into_iter().flat_map(char::to_uppercase);
    first.chain(chars).collect()
}

impl Voice {
    /// Tells everything until it is to end; then what is left, and that the worker goes.
    pub(super) async fn run(mut self, shared: Arc<Shared>, mut end: oneshot::Receiver<()>) {
        shared
            .announce(EventKind::WorkerOnline(shared.status()))
            .await;
        let mut heartbeat = interval(shared.heartbeat());
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat.tick().await;
        let mut events = Vec::with_capacity(LARGEST_GROUP);
        loop {
            tokio::select! {
                _ = &mut end => break,
                _ = heartbeat.tick() => shared.tell_alive().await,
                Some(event) = self.events.recv() => {
                    events.push(event);
                    self.gather(&mut events).await;
                    shared.announce_all(&events).await;
                    events.clear();
                    let lost = shared.teller.lost.swap(0, Ordering::Relaxed);
                    if lost > 0 {
                        tracing::warn!(lost, "calls end faster than events of them can be told: some were not");
                    }
                }
            }
        }
        while let Ok(event) = self.events.try_recv() {
            events.push(event);
            self.take(&mut events);
            shared.announce_all(&events).await;
            events.clear();
        }
        shared
            .announce(EventKind::WorkerOffline(shared.status()))
            .await;
    }

    /// Waits a little for others, and takes what is there.
    async fn gather(&mut self, events: &mut Vec<Event>) {
        let until = Instant::now() + GROUP_WAIT;
        while events.len() < GROUP {
            match timeout_at(until, self.events.recv()).await {
                Ok(Some(event)) => events.push(event),
                _ => break,
            }
        }
        self.take(events);
    }

    /// Takes what is there.
    fn take(&mut self, events: &mut Vec<Event>) {
        while events.len() < LARGEST_GROUP
            && let Ok(event) = self.events.try_recv()
        {
            events.push(event);
        }
    }
}
