//! Whether a delivery still counts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Tells whether a delivery is void because its connection has ended.
#[derive(Debug, Clone)]
pub struct Stale(watch::Receiver<bool>);

impl Stale {
    /// Follows `ended`, which becomes true when deliveries of its session are void.
    #[must_use]
    pub fn new(ended: watch::Receiver<bool>) -> Self {
        Self(ended)
    }

    /// A delivery that is valid as long as the process lives.
    #[must_use]
    pub fn never() -> Self {
        Self(watch::channel(false).1)
    }

    /// Whether it is void now.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves when it becomes void; pends for ever if it never does.
    pub async fn stale(&self) {
        let mut ended = self.0.clone();
        if ended.wait_for(|ended| *ended).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Tells whether the delivery that an attempt stands on is void: another may take its place. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Standing(Arc<Mutex<Stale>>);

impl Standing {
    /// On a delivery that is void when `stale` says so.
    pub(crate) fn on(stale: &Stale) -> Self {
        Self(Arc::new(Mutex::new(stale.clone())))
    }

    fn current(&self) -> MutexGuard<'_, Stale> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.current().is_stale()
    }

    /// Resolves when it is or becomes void.
    pub(crate) async fn stale(&self) {
        loop {
            let current = self.current().clone();
            current.stale().await;
            // Otherwise another delivery has taken its place in the meantime.
            if self.is_stale() {
                return;
            }
        }
    }

    /// Another delivery takes the place of the one that it stood on; returns whether that one is void.
    pub(crate) fn replace(&self, stale: &Stale) -> bool {
        std::mem::replace(&mut *self.current(), stale.clone()).is_stale()
    }
}
