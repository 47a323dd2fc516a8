//! How far a call has come, as its task tells: a stream beside the call's result.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::stream::{self, Stream, StreamExt};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use crate::app::App;
use crate::waiters::Waiting;

/// What a running task [tells of itself](crate::Context::progress), made by
/// [`Handle::progress`](crate::Handle::progress). It ends when the call is done.
#[must_use = "take what the task tells with `.next().await`"]
pub struct Progress<P>(Pin<Box<dyn Stream<Item = P> + Send>>);

impl<P: DeserializeOwned + Send + 'static> Progress<P> {
    pub(crate) fn of(app: App, waiting: Option<Arc<Waiting>>) -> Self {
        let Some(waiting) = waiting else {
            return Self(stream::empty().boxed());
        };
        let patience = app.result_timeout().min(100 * 365 * crate::DAY);
        let end = Instant::now() + patience;
        // The app is what reads the news: it lives at least as long as somebody waits.
        let news = stream::unfold((app, waiting, 0), move |(app, waiting, seen)| async move {
            let news = timeout_at(end, waiting.progress(seen)).await.ok()?;
            news.map(|(seen, raw)| (raw, (app, waiting, seen)))
        });
        Self(news.filter_map(async |raw| typed(raw.get())).fuse().boxed())
    }

    /// The newest that is not yet taken, or the next; `None` once the call is done, or after the app's result
    /// timeout.
    pub async fn next(&mut self) -> Option<P> {
        self.0.next().await
    }
}

fn typed<P: DeserializeOwned>(text: &str) -> Option<P> {
    let told = serde_json::from_str(text);
    told.inspect_err(|error| {
        let expected = std::any::type_name::<P>();
        tracing::warn!(%error, "a task's progress is no `{expected}`, and is skipped");
    })
    .ok()
}

impl<P> Stream for Progress<P> {
    type Item = P;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<P>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl<P> fmt::Debug for Progress<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").finish_non_exhaustive()
    }
}
