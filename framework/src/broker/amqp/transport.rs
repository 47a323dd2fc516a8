//! The thread that drives connections. User code never runs there, so that tasks which hog their own
//! threads cannot starve the heartbeats. What is sent and what comes is not in its way: senders write by themselves
//! (`outbox.rs`), and deliveries are taken on the runtime that they are for.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::connection::{Slot, closed};
use crate::broker::url::BrokerUrl;
use crate::error::{Error, Result};

/// The thread that drives AMQP, and its two connections: a server that blocks publishers must not stop
/// the acknowledgements.
pub(super) struct Transport {
    handle: Handle,
    pub(super) publishing: Slot,
    pub(super) consuming: Slot,
    /// For what has ended the consuming connection and may do so again.
    pub(super) aside: Slot,
    closing: watch::Sender<bool>,
    end: watch::Sender<bool>,
    /// Cloned by all that `close` waits for.
    busy: Mutex<Option<mpsc::Sender<()>>>,
    idle: tokio::sync::Mutex<mpsc::Receiver<()>>,
}

/// Ends a task that nobody waits for any more: in an outage they would pile up.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Transport {
    /// Starts the thread and opens the publishing connection.
    pub(super) async fn start(url: &BrokerUrl, name: &str) -> Result<Arc<Self>> {
        let failed = |error| Error::broker("the transport's thread cannot start", error);
        let (end, mut ended) = watch::channel(false);
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new()
            .name("garenne-amqp".into())
            .spawn(move || {
                // An error means that the sender is gone, with all who could want something.
                let _ = runtime.block_on(ended.wait_for(|end| *end));
            })
            .map_err(failed)?;
        let closing = watch::channel(false).0;
        let slot = |kind| {
            let name = format!("{name} {kind}");
            Slot::new(url.addresses.clone(), name, closing.subscribe())
        };
        let (busy, idle) = mpsc::channel(1);
        let transport = Arc::new(Self {
            handle,
            publishing: slot("publish"),
            consuming: slot("consume"),
            aside: slot("aside"),
            closing,
            end,
            busy: Mutex::new(Some(busy)),
            idle: tokio::sync::Mutex::new(idle),
        });
        let this = transport.clone();
        let first = transport.run(async move { this.publishing.connect().await });
        match first.await {
            Ok(()) => Ok(transport),
            Err(error) => {
                transport.end.send_replace(true);
                Err(error)
            }
        }
    }

    /// All its connections.
    pub(super) fn slots(&self) -> [&Slot; 3] {
        [&self.publishing, &self.consuming, &self.aside]
    }

    /// Runs `work` on the transport's thread, as long as somebody waits for it.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let mut work = AbortOnDrop(self.handle.spawn(work));
        (&mut work.0).await.unwrap_or_else(|_| Err(closed()))
    }

    /// Runs `work` on the transport's thread; `close` waits for it.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(self.awaited(work));
    }

    /// Runs `work` on the caller's runtime, which spares what comes a change of thread on its way to the caller;
    /// `close` waits for it. It must leave connecting to [`run`](Self::run).
    pub(super) fn spawn_at_callers(&self, work: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.awaited(work));
    }

    /// Runs `work` on the transport's thread, and nobody waits for it.
    pub(super) fn detach(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(work);
    }

    fn awaited<F: Future<Output = ()>>(&self, work: F) -> impl Future<Output = ()> + use<F> {
        let busy = self
            .busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        async move {
            work.await;
            drop(busy);
        }
    }

    /// Becomes true when the broker is being closed.
    pub(super) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    pub(super) fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Tells everyone to stop, and waits until they have, but not longer than `limit`.
    pub(super) async fn stop(&self, limit: Duration) {
        self.closing.send_replace(true);
        self.busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let mut idle = self.idle.lock().await;
        let _ = timeout(limit, idle.recv()).await;
    }

    /// Closes the connections and ends the thread.
    pub(super) async fn disconnect(self: &Arc<Self>) {
        let this = self.clone();
        let _ = self
            .run(async move {
                join_all(this.slots().map(Slot::close)).await;
                Ok(())
            })
            .await;
        self.end.send_replace(true);
    }

    /// Ends it all without waiting.
    pub(super) fn abandon(self: &Arc<Self>) {
        self.closing.send_replace(true);
        let this = self.clone();
        self.handle.spawn(async move { this.disconnect().await });
    }
}
