//! Messages that a look has shown: settled one by one, acknowledged together.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lapin::Channel;

use super::live::{Live, Trouble, rpc};
use super::send::{Core, Outgoing};
use crate::broker::{BoxFuture, Publish, Settle, Unstored, Until};
use crate::error::{Error, Result};

/// What the look and the deliveries that it shows have in common.
pub(super) struct Shared {
    pub(super) core: Arc<Core>,
    pub(super) queue: String,
    pub(super) channel: Channel,
    /// The connection lives as long as someone holds it.
    pub(super) live: Arc<Live>,
    pub(super) tags: Mutex<Tags>,
}

/// The tags of what was fetched: on its way from `held` to `settled` to acknowledged.
#[derive(Default)]
pub(super) struct Tags {
    pub(super) held: BTreeSet<u64>,
    pub(super) settled: BTreeSet<u64>,
}

impl Shared {
    pub(super) fn tags(&self) -> MutexGuard<'_, Tags> {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stale(&self) -> Error {
        Error::Stale {
            queue: self.queue.clone(),
        }
    }

    /// Awaits the server's answer, but not beyond the connection's end.
    pub(super) async fn rpc<T>(
        &self,
        request: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, Trouble> {
        self.live.guard(rpc(request)).await
    }

    fn is_held(&self, tag: u64) -> bool {
        self.channel.status().connected() && self.tags().held.contains(&tag)
    }

    /// Has a message acknowledged with the others of its page.
    pub(super) fn settle(&self, tag: u64) -> Result<()> {
        let mut tags = self.tags();
        if !self.channel.status().connected() || !tags.held.remove(&tag) {
            return Err(self.stale());
        }
        tags.settled.insert(tag);
        Ok(())
    }
}

/// Settles one message that was shown.
pub(super) struct Shown {
    pub(super) shared: Arc<Shared>,
    pub(super) tag: u64,
}

impl Settle for Shown {
    fn ack(&mut self, first: Vec<Publish>, _: Until) -> BoxFuture<'_, Result<(), Unstored>> {
        Box::pin(async move {
            if !self.shared.is_held(self.tag) {
                return Err(self.shared.stale().into());
            }
            for (stored, publish) in first.into_iter().enumerate() {
                let send = async { self.shared.core.send(&mut Outgoing::new(publish)?).await };
                send.await.map_err(|error| Unstored { error, stored })?;
            }
            Ok(self.shared.settle(self.tag)?)
        })
    }

    fn release(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}
