//! What a broker hands over to who takes it.

use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll};

use tokio::sync::mpsc;

type Next<T> = dyn FnMut(&mut Context<'_>) -> Poll<Option<T>> + Send + Sync;

/// What comes in, one after the other; ends when the broker is closed.
pub struct Incoming<T>(Box<Next<T>>);

impl<T> Incoming<T> {
    /// Each of what comes through `channel`, as `make` makes it: by who takes it, not by the broker, which may have
    /// but one thread for all.
    pub fn made_of<R: Send + 'static>(
        mut channel: mpsc::Receiver<R>,
        make: impl Fn(R) -> T + Send + Sync + 'static,
    ) -> Self {
        Self(Box::new(move |cx| {
            channel.poll_recv(cx).map(|raw| raw.map(&make))
        }))
    }

    /// The next one; `None` when the broker was closed. Given up, it loses nothing.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| (self.0)(cx)).await
    }
}

impl<T: Send + 'static> From<mpsc::Receiver<T>> for Incoming<T> {
    fn from(channel: mpsc::Receiver<T>) -> Self {
        Self::made_of(channel, |made| made)
    }
}

impl<T> fmt::Debug for Incoming<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").finish_non_exhaustive()
    }
}
