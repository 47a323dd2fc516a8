//! The results of a group's members, as they come.

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::FutureExt;
use futures_util::stream::{FuturesUnordered, Stream, StreamExt};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::app::App;
use crate::awaited::{Awaited, Outcome, first_failure, wrap};
use crate::broker::BoxFuture;
use crate::failure::Failure;
use crate::handle::{Handle, decode, no_reply, too_late};

/// The results of a group's members as they come, each with its index. Made by
/// [`Handle::results`](crate::Handle::results).
#[must_use = "results come by `.next().await`"]
pub struct Results<T> {
    coming: FuturesUnordered<BoxFuture<'static, Arrival>>,
    arrived: VecDeque<(usize, Outcome)>,
    id: String,
    task: String,
    /// The app is what reads the replies: it lives at least as long as somebody waits.
    _app: App,
    result: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned + 'static> Handle<Vec<T>> {
    /// The results of a group's members as they come, each with its index in the group.
    ///
    /// A member that fails is one of them, whatever the group's policy: the stream goes on. Where the `Vec` is
    /// one call's result, as that of a body, its elements come together. No result is waited for longer than
    /// the app's result timeout.
    ///
    /// ```standalone_crate
    /// # use garenne::{App, Worker, group, task};
    /// # #[task]
    /// # async fn add(a: i64, b: i64) -> i64 { a + b }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let app = App::in_memory();
    /// # let worker = Worker::new(&app).queue("default", 4).spawn();
    /// let sums = group((0..10).map(|n| add::call(n, n))).send(&app).await?;
    /// let mut results = sums.results();
    /// while let Some((index, sum)) = results.next().await {
    ///     println!("{index} + {index} = {}", sum?);
    /// }
    /// # worker.stop().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn results(&self) -> Results<T> {
        let deadline = self.app.result_timeout();
        Results::new(
            &self.awaited,
            self.id(),
            self.task(),
            self.app.clone(),
            deadline,
        )
    }
}

enum Arrival {
    /// A member's.
    One(usize, Outcome),
    /// The whole list at once.
    All(Outcome),
}

impl<T: DeserializeOwned> Results<T> {
    pub(crate) fn new(
        awaited: &Awaited,
        id: &str,
        task: &str,
        app: App,
        timeout: Duration,
    ) -> Self {
        let (gates, awaited) = match awaited.clone() {
            Awaited::Gated { gates, then } => (gates, *then),
            other => (Vec::new(), other),
        };
        let coming = FuturesUnordered::new();
        let gate = first_failure(gates).shared();
        let within = move |outcome: BoxFuture<'static, Outcome>| {
            let gate = gate.clone();
            async move {
                tokio::select! {
                    biased;
                    outcome = outcome => outcome,
                    failure = gate => Err(failure),
                    () = tokio::time::sleep(timeout) => Err(too_late(timeout)),
                }
            }
        };
        match awaited {
            Awaited::Many { members, collected } => {
                for (index, member) in members.into_iter().enumerate() {
                    let outcome = within(member.outcome(no_reply));
                    let one = async move { Arrival::One(index, wrap(outcome.await, collected)) };
                    coming.push(one.boxed());
                }
            }
            other => {
                let outcome = within(other.outcome(no_reply));
                coming.push(async move { Arrival::All(outcome.await) }.boxed());
            }
        }
        Self {
            coming,
            arrived: VecDeque::new(),
            id: id.to_owned(),
            task: task.to_owned(),
            _app: app,
            result: PhantomData,
        }
    }

    /// The next result, and the index of its member; `None` after the last.
    ///
    /// Where one call was to return the whole list and has failed, its failure comes with the index 0.
    pub async fn next(&mut self) -> Option<(usize, Result<T, Failure>)> {
        StreamExt::next(self).await
    }

    fn receive(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::One(index, outcome) => self.arrived.push_back((index, outcome)),
            Arrival::All(outcome) => {
                let list = decode::<Vec<Box<RawValue>>>(outcome, &self.id, &self.task);
                match list {
                    Ok(list) => self.arrived.extend(list.into_iter().map(Ok).enumerate()),
                    Err(failure) => self.arrived.push_back((0, Err(failure))),
                }
            }
        }
    }
}

impl<T: DeserializeOwned> Stream for Results<T> {
    type Item = (usize, Result<T, Failure>);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some((index, outcome)) = self.arrived.pop_front() {
                let result = decode(outcome, &self.id, &self.task);
                return Poll::Ready(Some((index, result)));
            }
            match self.coming.poll_next_unpin(cx) {
                Poll::Ready(Some(arrival)) => self.receive(arrival),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl<T> fmt::Debug for Results<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Results")
            .field("coming", &self.coming.len())
            .finish_non_exhaustive()
    }
}
