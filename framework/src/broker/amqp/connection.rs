//! A supervised connection: whoever needs it connects it again, and everybody sees when the server takes
//! no messages.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::dial::{Dialled, Passes, dial};
use super::gate::Gate;
use super::live::Live;
use crate::error::{Error, Result};

/// A connection that ended sooner was none, so the next attempt waits.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// After one that ended sooner another node is tried first.
const TRIAL: Duration = Duration::from_secs(10);

/// Keeps one connection: whoever needs it connects it.
pub(super) struct Slot {
    addresses: Vec<String>,
    /// The place of the address to begin with.
    first: AtomicUsize,
    name: String,
    state: tokio::sync::Mutex<State>,
    gate: Arc<Gate>,
    closing: watch::Receiver<bool>,
    last_error: Mutex<String>,
    connects: AtomicU64,
}

#[derive(Default)]
struct State {
    live: Option<Arc<Live>>,
    since: Option<Instant>,
    backoff: Backoff,
}

impl Slot {
    pub(super) fn new(
        addresses: Vec<String>,
        name: String,
        closing: watch::Receiver<bool>,
    ) -> Self {
        Self {
            addresses,
            first: AtomicUsize::new(0),
            name,
            state: tokio::sync::Mutex::default(),
            gate: Arc::new(Gate::new()),
            closing,
            last_error: Mutex::default(),
            connects: AtomicU64::new(0),
        }
    }

    /// The live connection, after as many attempts as it takes.
    pub(super) async fn get(&self) -> Result<Arc<Live>> {
        // One at a time: whoever holds the lock connects for all.
        let mut state = self.state.lock().await;
        if let Some(live) = state.live.as_ref().filter(|live| live.is_up()) {
            return Ok(live.clone());
        }
        let ended = state.live.take().zip(state.since.take());
        let lived = ended.as_ref().map(|(_, since)| since.elapsed());
        if lived.is_none_or(|lived| lived > SHORT_LIFE) {
            state.backoff.reset();
        }
        if let Some((live, since)) = &ended
            && since.elapsed() < TRIAL
        {
            // The node may be cut off from the others, and take no part in what they do.
            self.begin_after(live);
        }
        let mut closing = self.closing.clone();
        let connect = async {
            state.backoff.wait().await;
            self.dial(Passes::Endless).await
        };
        let live = tokio::select! {
            _ = closing.wait_for(|closing| *closing) => return Err(closed()),
            live = connect => live?,
        };
        state.live = Some(live.clone());
        state.since = Some(Instant::now());
        Ok(live)
    }

    async fn dial(&self, passes: Passes) -> Result<Arc<Live>> {
        let failed = |error: &Error| {
            tracing::debug!(connection = %self.name, "{error}");
            if let Error::Connect { reason, .. } = error {
                let mut last = self
                    .last_error
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                last.clone_from(reason);
            }
        };
        let first = self.first.swap(0, Ordering::Relaxed);
        let Dialled {
            connection,
            socket,
            handled,
            url,
            place,
        } = dial(&self.addresses, first, &self.name, passes, failed).await?;
        let generation = self.connects.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::info!(connection = %self.name, url, generation, "connected to RabbitMQ");
        self.gate.renew(generation);
        Ok(Live::follow(
            connection,
            (socket, handled),
            (generation, place),
            &self.name,
            &self.gate,
        ))
    }

    /// Ends a connection on which nothing gets on, though it looks alive. The next one begins with another
    /// address: the node may be what is wrong.
    pub(super) fn leave(&self, live: &Live) {
        self.begin_after(live);
        live.cut();
    }

    /// Has the next connection begin with the address after this one's.
    fn begin_after(&self, live: &Live) {
        self.first.store(live.place + 1, Ordering::Relaxed);
    }

    /// Does the same, if there is another address.
    pub(super) fn leave_for_others(&self, live: &Live) {
        if self.addresses.len() > 1 {
            tracing::warn!(connection = %self.name, "nothing gets on at this node: connecting to another");
            self.leave(live);
        }
    }

    /// The place of the address that it is connected to.
    pub(super) fn place(&self) -> Option<usize> {
        // Whoever holds the lock connects.
        let state = self.state.try_lock().ok()?;
        let live = state.live.as_ref().filter(|live| live.is_up());
        live.map(|live| live.place)
    }

    /// Ends a connection to the address at one place, and has the next begin with that at another.
    pub(super) fn leave_for(&self, from: usize, to: usize) {
        if let Ok(mut state) = self.state.try_lock()
            && let Some(live) = state.live.take_if(|live| live.place == from)
        {
            self.first.store(to, Ordering::Relaxed);
            live.cut();
        }
    }

    /// A connection for each address, of which none is made before it is needed.
    pub(super) fn each_alone(&self, name: &str) -> Vec<Self> {
        let alone = |address: &String| {
            let name = format!("{} {name}", self.name);
            Self::new(vec![address.clone()], name, self.closing.clone())
        };
        self.addresses.iter().map(alone).collect()
    }

    /// Why the server takes no messages, while it does not.
    pub(super) fn blocked(&self) -> watch::Receiver<Option<String>> {
        self.gate.subscribe()
    }

    /// What the last attempt to connect failed of.
    pub(super) fn last_error(&self) -> String {
        let reason = self
            .last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match reason.as_str() {
            "" => "the connection does not get on".into(),
            reason => reason.into(),
        }
    }

    /// Connects, trying each address once.
    pub(super) async fn connect(&self) -> Result<()> {
        let live = self.dial(Passes::One).await?;
        let mut state = self.state.lock().await;
        state.live = Some(live);
        state.since = Some(Instant::now());
        Ok(())
    }

    pub(super) async fn close(&self) {
        let live = self.state.lock().await.live.take();
        if let Some(live) = live {
            live.close().await;
        }
    }
}

pub(super) fn closed() -> Error {
    Error::Closed { what: "the broker" }
}
