//! Sending many calls at once, in bounded memory.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, IntoFuture, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::{FuturesUnordered, Stream, StreamExt};

use crate::app::App;
use crate::broker::BoxFuture;
use crate::call::Call;
use crate::error::Result;
use crate::handle::Handle;

/// Calls that are under way at a time: enough to hide the confirms' round trip, few enough to bound the
/// memory of a million calls.
const WINDOW: usize = 512;

impl App {
    /// Sends many calls at once: their confirms are awaited together.
    ///
    /// The outcomes are one for each call, in the calls' order. Awaited, they come as a vector; as a
    /// stream, they come one by one, and an iterator of a million calls takes the memory of a few
    /// hundred.
    ///
    /// ```standalone_crate
    /// # use garenne::{App, Worker, task};
    /// # #[task]
    /// # async fn add(a: i64, b: i64) -> i64 { a + b }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let app = App::in_memory();
    /// # let worker = Worker::new(&app).queue("default", 4).spawn();
    /// for sent in app.send_all((0..10).map(|n| add::call(n, n))).await {
    ///     println!("{}", sent?.await?);
    /// }
    ///
    /// let mut sending = app.send_all((0..1_000).map(|n| add::call(n, 1).ignore_result()));
    /// while let Some(sent) = sending.next().await {
    ///     sent?;
    /// }
    /// # worker.stop().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn send_all<T, I>(&self, calls: I) -> SendAll<T, I::IntoIter>
    where
        I: IntoIterator<Item = Call<T>>,
        T: 'static,
    {
        SendAll::new(self.clone(), calls.into_iter())
    }
}

/// Many calls on their way: await it for a vector of the outcomes, or take them one by one.
/// Made by [`App::send_all`].
#[must_use = "nothing is sent until it is awaited, or its outcomes are taken with `.next().await`"]
pub struct SendAll<T, I> {
    app: App,
    calls: std::iter::Fuse<I>,
    under_way: FuturesUnordered<Numbered<Result<Handle<T>>>>,
    /// Of each call that was begun and not given out yet, in the calls' order: its outcome, once that is there.
    outcomes: VecDeque<Option<Result<Handle<T>>>>,
    /// The number of the first of these calls.
    first: usize,
}

/// What is under way for the call of this number.
struct Numbered<O> {
    number: usize,
    future: BoxFuture<'static, O>,
}

impl<O> Future for Numbered<O> {
    type Output = (usize, O);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let number = self.number;
        self.future.as_mut().poll(cx).map(|output| (number, output))
    }
}

impl<T: 'static, I: Iterator<Item = Call<T>>> SendAll<T, I> {
    pub(crate) fn new(app: App, calls: I) -> Self {
        Self {
            app,
            calls: calls.fuse(),
            under_way: FuturesUnordered::new(),
            outcomes: VecDeque::new(),
            first: 0,
        }
    }

    /// The outcome of the next call, in the calls' order; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Handle<T>>> {
        poll_fn(|cx| self.poll_outcome(cx)).await
    }

    fn fill(&mut self) {
        while self.outcomes.len() < WINDOW {
            let Some(call) = self.calls.next() else { break };
            let number = self.first + self.outcomes.len();
            let refused = match call.prepare(self.app.now()) {
                Ok(prepared) => {
                    let future = Box::pin(prepared.send(self.app.clone()));
                    self.under_way.push(Numbered { number, future });
                    None
                }
                Err(error) => Some(Err(error)),
            };
            self.outcomes.push_back(refused);
        }
    }

    fn poll_outcome(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Handle<T>>>> {
        self.fill();
        loop {
            let Some(first) = self.outcomes.front_mut() else {
                return Poll::Ready(None);
            };
            if let Some(outcome) = first.take() {
                self.outcomes.pop_front();
                self.first += 1;
                return Poll::Ready(Some(outcome));
            }
            match self.under_way.poll_next_unpin(cx) {
                Poll::Ready(Some((number, outcome))) => {
                    if let Some(place) = self.outcomes.get_mut(number - self.first) {
                        *place = Some(outcome);
                    }
                }
                // Not without an outcome: each call that has none is under way.
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl<T: 'static, I: Iterator<Item = Call<T>> + Unpin> Stream for SendAll<T, I> {
    type Item = Result<Handle<T>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_outcome(cx)
    }
}

impl<T, I> IntoFuture for SendAll<T, I>
where
    T: 'static,
    I: Iterator<Item = Call<T>> + Send + 'static,
{
    type Output = Vec<Result<Handle<T>>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(mut self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut outcomes = Vec::new();
            while let Some(outcome) = self.next().await {
                outcomes.push(outcome);
            }
            outcomes
        })
    }
}

impl<T, I> fmt::Debug for SendAll<T, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendAll")
            .field("under_way", &self.outcomes.len())
            .finish_non_exhaustive()
    }
}
