//! The body of a task: on the runtime or on a thread of its own, its panics caught.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::task::{self, Poll};

use tokio::sync::oneshot;

use super::Shared;
use crate::broker::BoxFuture;
use crate::task::{Definition, Invocation, Outcome, Run};

/// How a body ended: with an outcome, or a panic's words.
pub(super) type Ended = Result<Outcome, String>;

impl Shared {
    /// The body of the task; `None` if there is no thread for it.
    pub(super) async fn body(
        &self,
        definition: &'static Definition,
        invocation: Invocation,
    ) -> Option<Ended> {
        match definition.run {
            Run::Async(run) => {
                // The call builds the future, and may already panic.
                let body = catch_unwind(AssertUnwindSafe(|| run(invocation)));
                Some(match body {
                    Ok(body) => Body(Some(body)).await,
                    Err(panic) => Err(panic_text(panic)),
                })
            }
            Run::Blocking(run) => {
                if self.runaways.load(Ordering::Relaxed) >= self.slots.cast_signed() {
                    tracing::error!(
                        "{} plain tasks go on after their time was up; no thread for another: \
                         let them ask `Context::is_cancelled`",
                        self.slots
                    );
                    return None;
                }
                let (send, ended) = oneshot::channel();
                let _held = self.app.clock().hold();
                let runtime = tokio::runtime::Handle::current();
                let runaways = self.runaways.clone();
                // A thread of its own rather than one of the runtime's pool, whose shutdown would wait
                // for ever for a task that never returns.
                let thread = std::thread::Builder::new()
                    .name(definition.name.to_owned())
                    .spawn(move || {
                        let _entered = runtime.enter();
                        let outcome = catch_unwind(AssertUnwindSafe(|| run(invocation)));
                        if send.send(outcome.map_err(panic_text)).is_err() {
                            runaways.fetch_sub(1, Ordering::Relaxed);
                        }
                    });
                match thread {
                    Ok(_) => Some(
                        Runaway {
                            ended,
                            count: &self.runaways,
                            over: false,
                        }
                        .end()
                        .await,
                    ),
                    Err(error) => {
                        tracing::error!(%error, "cannot start a thread");
                        None
                    }
                }
            }
        }
    }
}

/// A task's future. It may panic in every poll, and when it is dropped: because it has ended, or because its
/// time is up.
struct Body(Option<BoxFuture<'static, Outcome>>);

impl Future for Body {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Ended> {
        let Some(body) = &mut self.0 else {
            return Poll::Pending;
        };
        match catch_unwind(AssertUnwindSafe(|| body.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(outcome)) => Poll::Ready(Ok(outcome)),
            Err(panic) => {
                // It must not be polled again.
                drop(Self(self.0.take()));
                Poll::Ready(Err(panic_text(panic)))
            }
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let body = self.0.take();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(body))) {
            tracing::error!("a task panicked when it was dropped: {}", panic_text(panic));
        }
    }
}

/// Awaits a thread; dropped before it ends, the thread counts as a runaway.
struct Runaway<'a> {
    ended: oneshot::Receiver<Ended>,
    count: &'a AtomicIsize,
    over: bool,
}

impl Runaway<'_> {
    async fn end(mut self) -> Ended {
        let ended = (&mut self.ended).await;
        self.over = true;
        ended.unwrap_or_else(|_| Err("the task's thread ended without a word".into()))
    }
}

impl Drop for Runaway<'_> {
    fn drop(&mut self) {
        // Closed first: a thread that ends from now on cannot send, and counts itself off.
        self.ended.close();
        if !self.over && self.ended.try_recv().is_err() {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "the shape that `map_err` wants"
)]
pub(super) fn panic_text(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without words".into())
}
