//! Leases of the broker in memory.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::Shared;
use crate::broker::{BoxFuture, Lease, Stale};
use crate::error::{Error, Result};

/// All leases, by name.
#[derive(Debug, Default)]
pub(super) struct Leases(HashMap<String, Entry>);

#[derive(Debug, Default)]
struct Entry {
    value: Option<Vec<u8>>,
    held: bool,
    /// Wakes the first who waits.
    freed: Arc<Notify>,
    /// Wakes all who wait for another value.
    written: watch::Sender<()>,
}

impl Leases {
    pub(super) fn value(&self, name: &str) -> Option<Vec<u8>> {
        self.0.get(name)?.value.clone()
    }

    fn entry(&mut self, name: &str) -> &mut Entry {
        self.0.entry(name.to_owned()).or_default()
    }

    fn free(&mut self, name: &str) {
        let entry = self.entry(name);
        entry.held = false;
        entry.freed.notify_one();
    }
}

/// Waits until the lease is free, and holds it.
pub(super) async fn acquire(shared: &Arc<Shared>, name: &str) -> Result<Box<dyn Lease>> {
    let lost = Stale::new(shared.ended.subscribe());
    loop {
        let freed = {
            let mut state = shared.lock();
            let entry = state.open()?.leases.entry(name);
            if !entry.held {
                entry.held = true;
                return Ok(Box::new(Held {
                    shared: shared.clone(),
                    name: name.to_owned(),
                    value: entry.value.clone(),
                    lost,
                }));
            }
            entry.freed.clone()
        };
        tokio::select! {
            // A wake-up that is dropped with this future goes to the next who waits.
            () = freed.notified() => {}
            () = lost.stale() => {}
        }
    }
}

/// Resolves when the value is another than `known`, or the broker is closed.
pub(super) async fn changes(shared: &Arc<Shared>, name: &str, known: Option<&[u8]>) {
    loop {
        let mut written = {
            let mut state = shared.lock();
            let Ok(state) = state.open() else { return };
            let entry = state.leases.entry(name);
            if entry.value.as_deref() != known {
                return;
            }
            entry.written.subscribe()
        };
        // An error means that the broker was closed.
        let _ = written.changed().await;
    }
}

struct Held {
    shared: Arc<Shared>,
    name: String,
    value: Option<Vec<u8>>,
    lost: Stale,
}

impl Lease for Held {
    fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    fn write(&mut self, value: Vec<u8>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let mut state = self.shared.lock();
            let state = state.open().map_err(|_| Error::Stale {
                queue: self.name.clone(),
            })?;
            let entry = state.leases.entry(&self.name);
            entry.value = Some(value.clone());
            entry.written.send_replace(());
            self.value = Some(value);
            Ok(())
        })
    }

    fn lost(&self) -> &Stale {
        &self.lost
    }

    fn release(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move { drop(self) })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Ok(state) = self.shared.lock().open() {
            state.leases.free(&self.name);
        }
    }
}
