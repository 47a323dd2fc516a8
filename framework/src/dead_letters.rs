//! Dead letters: what failed for good, to be looked at, sent again or discarded.

use std::time::Duration;

use futures_util::future::join_all;

use crate::app::App;
use crate::broker::{Publish, Route, dead_letter_name};
use crate::error::{Error, Result};

mod letter;
mod selection;
mod walk;

pub use letter::DeadLetter;
pub use selection::Dead;
pub use walk::Letters;
use walk::Walk;

/// Letters that [`DeadLetters::list`] returns unless the selection says otherwise.
const LISTED: usize = 100;

/// The dead letters of one queue. Made by [`App::dead_letters`].
///
/// They are kept for 30 days in the queue `<queue>.dead`, with the reason, the errors of all attempts and
/// the original message. They come in the order of the queue: the oldest first, where priorities do not
/// say otherwise.
///
/// Looking changes nothing. What is retried or discarded is chosen among the letters there are at the
/// beginning, so that calls which die again at once are not retried for ever. Several may work on the same
/// letters at a time: each letter is retried or discarded once. On RabbitMQ, what one is looking at is
/// hidden from the others for that time, so they may find less than there is.
///
/// ```standalone_crate
/// # use garenne::{App, Dead, Worker, task};
/// #[task]
/// async fn parse(text: String) -> Result<u64, std::num::ParseIntError> {
///     text.parse()
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let app = App::in_memory();
/// # let worker = Worker::new(&app).queue("default", 4).spawn();
/// let failure = parse::call("seven".into()).send(&app).await?.await.unwrap_err();
///
/// let dead = app.dead_letters("default");
/// for letter in dead.list(Dead::all().task("parse").limit(20)).await? {
///     println!("{letter}: parse({})", letter.arguments());
/// }
/// let letter = dead.show(&failure.id).await?.expect("it failed");
/// assert_eq!((letter.reason.as_str(), letter.attempts), ("failed", 1));
///
/// // After a bug is mended: run them again. What is hopeless goes.
/// assert_eq!(dead.retry(Dead::all().reason("panicked")).await?, 0);
/// assert_eq!(dead.discard(Dead::all().id(failure.id)).await?, 1);
/// # worker.stop().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct DeadLetters {
    app: App,
    queue: String,
}

impl DeadLetters {
    pub(crate) fn new(app: App, queue: &str) -> Self {
        let queue = queue.to_owned();
        Self { app, queue }
    }

    /// How many there are.
    ///
    /// # Errors
    /// Where the queue has no dead-letter queue: it was never declared.
    pub async fn count(&self) -> Result<u64> {
        Ok(self.app.broker().depth(&self.name()).await?.ready)
    }

    /// The selected letters, at most 100 unless the selection has a limit of its own.
    ///
    /// # Errors
    /// Where the queue has no dead-letter queue, or the broker cannot be asked.
    pub async fn list(&self, which: Dead) -> Result<Vec<DeadLetter>> {
        let limit = which.limit.unwrap_or(LISTED);
        let mut listing = self.stream(which.limit(limit));
        let mut letters = Vec::new();
        while let Some(letter) = listing.next().await {
            letters.push(letter?);
        }
        Ok(letters)
    }

    /// The selected letters one by one, in bounded memory however many there are.
    ///
    /// ```no_run
    /// # async fn all(app: garenne::App) -> garenne::error::Result<()> {
    /// let mut letters = app.dead_letters("mail").stream(garenne::Dead::all());
    /// while let Some(letter) = letters.next().await {
    ///     println!("{}", letter?);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn stream(&self, which: Dead) -> Letters {
        Letters::new(self.clone(), which)
    }

    /// The letter of the call with this id, the oldest if it has several.
    ///
    /// # Errors
    /// As for [`list`](Self::list).
    pub async fn show(&self, id: &str) -> Result<Option<DeadLetter>> {
        let letters = self.list(Dead::all().id(id).limit(1)).await?;
        Ok(letters.into_iter().next())
    }

    /// Sends the selected calls to their queues again, and returns how many.
    ///
    /// Each call keeps its id, headers, priority and the history of its errors, and who awaits it will get
    /// its result; its attempts are counted from the beginning, and an expiry that has passed is lifted. It
    /// is confirmed on its queue before it leaves the dead letters: after a crash in between (on RabbitMQ)
    /// it is in both.
    ///
    /// # Errors
    /// Where a letter could not be sent: it stays. All others were tried nevertheless, unless the broker is
    /// away or blocked. The error says how many were done for certain, and how many perhaps: those that were
    /// settled when the connection was lost, before the broker had said that it knows.
    pub async fn retry(&self, which: Dead) -> Result<u64> {
        self.settle("retrying", which, true).await
    }

    /// Deletes the selected letters, and returns how many.
    ///
    /// # Errors
    /// As for [`retry`](Self::retry).
    pub async fn discard(&self, which: Dead) -> Result<u64> {
        self.settle("discarding", which, false).await
    }

    async fn settle(&self, what: &str, which: Dead, again: bool) -> Result<u64> {
        let mut walk = Walk::start(self, which).await?;
        // What was settled is certain when the look has got on, or was closed.
        let (mut done, mut perhaps, mut failed) = (0, 0, None);
        let mut lost = false;
        let stopped = loop {
            let page = match walk.page().await {
                Ok(page) => page,
                Err(error) => {
                    lost = true;
                    break Some(error);
                }
            };
            done += std::mem::take(&mut perhaps);
            if page.is_empty() {
                break None;
            }
            let settled = page.into_iter().map(|(letter, delivery)| async move {
                match again {
                    true => delivery.retry(self.revival(&letter)).await,
                    false => delivery.ack(None).await,
                }
            });
            for outcome in join_all(settled).await {
                match outcome {
                    Ok(()) => perhaps += 1,
                    // Somebody else has settled it, or its connection is gone, which closing tells.
                    Err(Error::Stale { .. }) => {}
                    Err(error) => failed = Some(error),
                }
            }
            if failed.as_ref().is_some_and(stops) {
                break failed.take();
            }
        };
        let closed = walk.close().await.err();
        if !lost && closed.is_none() {
            done += std::mem::take(&mut perhaps);
        }
        match stopped.or(failed).or(closed) {
            None => Ok(done),
            Some(error) => {
                let queue = &self.queue;
                let perhaps = match perhaps {
                    0 => String::new(),
                    count => format!(", {count} perhaps"),
                };
                let what = format!(
                    "{what} dead letters of queue `{queue}` ({done} done{perhaps}, others stay)"
                );
                Err(Error::broker(what, error))
            }
        }
    }

    /// The message of a letter's new life, on its way.
    fn revival(&self, letter: &DeadLetter) -> Publish {
        Publish {
            route: Route::Queue(format!("{}{}", self.app.prefix(), letter.queue)),
            message: letter.message.revived(self.app.now()),
            delay: Duration::ZERO,
            deadline: self.app.send_timeout(),
        }
    }

    /// The dead-letter queue's name on the broker.
    fn name(&self) -> String {
        dead_letter_name(&format!("{}{}", self.app.prefix(), self.queue))
    }
}

/// Whether an error of one letter is one of all.
fn stops(error: &Error) -> bool {
    error.is_transient() || matches!(error, Error::Closed { .. } | Error::Broker { .. })
}
