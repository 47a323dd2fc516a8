//! What a running task tells of its progress, on its way to who awaits the call: at most ten times a second,
//! the newest only, and never in the way of the task or after its reply.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::Shared;
use crate::broker::{BoxFuture, Publish, Route, Standing};
use crate::context::Newest;
use crate::error::Result;
use crate::message::{Message, header};
use crate::reply::Progress;

/// The pause between two reports.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the end of an attempt waits for its last report to be stored.
const LAST: Duration = Duration::from_secs(1);

/// Reports one attempt's progress.
pub(super) struct Reporter<'a> {
    worker: &'a Shared,
    message: &'a Message,
    /// `None` where nobody waits for it.
    newest: Option<Arc<Newest>>,
    stale: Standing,
    /// Under way to the broker: waited for before the reply goes out, so that it cannot come after it.
    under_way: Option<BoxFuture<'static, Result<()>>>,
}

impl Shared {
    /// A reporter, and where the task tells its progress; `None` where nobody waits for it.
    pub(super) fn reporter<'a>(
        &'a self,
        message: &'a Message,
        stale: Standing,
    ) -> (Option<Arc<Newest>>, Reporter<'a>) {
        let newest = (!message.ignores_result()).then(Arc::default);
        let reporter = Reporter {
            worker: self,
            message,
            newest: newest.clone(),
            stale,
            under_way: None,
        };
        (newest, reporter)
    }
}

impl Reporter<'_> {
    /// Reports while the task runs.
    pub(super) async fn follow(&mut self) -> Infallible {
        loop {
            match &self.newest {
                Some(newest) => newest.told().await,
                None => return std::future::pending().await,
            }
            Box::pin(self.report()).await;
            Box::pin(tokio::time::sleep(PAUSE)).await;
        }
    }

    /// Reports what the task told last, if that has not been reported, and nothing more.
    pub(super) async fn finish(mut self) {
        let newest = self.newest.as_ref();
        let is_unreported = newest.is_some_and(|newest| newest.is_there());
        if self.under_way.is_none() && !is_unreported {
            return;
        }
        let last = async {
            self.arrive().await;
            if is_unreported {
                self.report().await;
            }
        };
        if Box::pin(timeout(LAST, last)).await.is_err() {
            tracing::debug!(
                id = self.message.id,
                "the last progress was not stored in time"
            );
        }
    }

    async fn report(&mut self) {
        let value = self.newest.as_ref().and_then(|newest| newest.take());
        let Some(value) = value else { return };
        if self.stale.is_stale() {
            // Another attempt at the same call may be telling its own.
            return;
        }
        let progress = Progress {
            id: self.message.id.clone(),
            value,
        };
        let message = progress.encode(self.message);
        let app = &self.worker.app;
        #[cfg(feature = "redis")]
        if let Some(results) = app.results().cloned() {
            let shown = message.clone();
            self.under_way = Some(Box::pin(async move { results.show(&shown).await }));
            self.arrive().await;
        }
        // A join waits for results; it would take this for one.
        let is_member = self.message.headers.contains_key(header::JOIN);
        let Some(address) = self.message.reply_to.clone().filter(|_| !is_member) else {
            return;
        };
        let publish = Publish {
            route: Route::Reply(address),
            message,
            delay: Duration::ZERO,
            deadline: app.send_timeout(),
        };
        self.under_way = Some(app.broker().publish(publish));
        self.arrive().await;
    }

    async fn arrive(&mut self) {
        if let Some(under_way) = &mut self.under_way {
            if let Err(error) = under_way.await {
                tracing::debug!(id = self.message.id, "progress was not stored: {error}");
            }
            self.under_way = None;
        }
    }
}
