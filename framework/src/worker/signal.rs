//! The signals by which people and supervisors stop a process.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::broker::BoxFuture;

/// Resolves on ctrl-c (SIGINT), or on SIGTERM where there is one.
///
/// # Panics
/// Outside a tokio runtime.
#[must_use = "it resolves when awaited, usually by `Worker::run`"]
pub fn shutdown_signal() -> ShutdownSignal {
    // Listening begins here, not when it is first polled: a signal in between is not missed.
    #[cfg(unix)]
    let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    #[cfg(unix)]
    let interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt());
    ShutdownSignal(Box::pin(async move {
        #[cfg(unix)]
        match (terminate, interrupt) {
            (Ok(mut terminate), Ok(mut interrupt)) => {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                return;
            }
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "cannot listen for signals")
            }
        }
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::error!(%error, "cannot listen for ctrl-c");
            std::future::pending::<()>().await;
        }
    }))
}

/// What [`shutdown_signal`] returns. A worker that is stopped by it hands everything back at the second
/// signal.
pub struct ShutdownSignal(BoxFuture<'static, ()>);

impl Future for ShutdownSignal {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl std::fmt::Debug for ShutdownSignal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ShutdownSignal")
    }
}
