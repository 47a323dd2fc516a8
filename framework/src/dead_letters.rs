//! Dead letters: what failed for good, to be looked at, sent again or discarded.

use std::fmt;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;

use crate::app::App;
use crate::broker::{Browse, Delivery, Publish, Route, dead_letter_name};
use crate::error::{Error, Result};
use crate::message::{Arguments, Message, PastError, header, parse_time};

/// Messages fetched at a time: what bounds the memory, whatever the queue's length.
const PAGE: usize = 100;
/// Letters that [`DeadLetters::list`] returns unless the selection says otherwise.
const LISTED: usize = 100;
/// The reason of a message that does not say why it is dead.
const NO_REASON: &str = "unknown";

/// Selects dead letters: all, or those to which everything applies that is asked for.
///
/// ```
/// use garenne::Dead;
///
/// let everything = Dead::all();
/// let ten_poisonous_mails = Dead::all().task("mail.send").reason("poison").limit(10);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct Dead {
    task: Option<String>,
    reason: Option<String>,
    id: Option<String>,
    skip: usize,
    limit: Option<usize>,
}

impl Dead {
    /// Every dead letter.
    pub fn all() -> Self {
        Self::default()
    }

    /// Those of this task.
    pub fn task(mut self, name: impl Into<String>) -> Self {
        self.task = Some(name.into());
        self
    }

    /// Those that died for this reason, one word, as in [`DeadLetter::reason`].
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// That of the call with this id.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Not the first `count` of those.
    pub fn skip(mut self, count: usize) -> Self {
        self.skip = count;
        self
    }

    /// At most `count` of those.
    pub fn limit(mut self, count: usize) -> Self {
        self.limit = Some(count);
        self
    }

    /// How many letters must be seen at least to find all of those.
    fn reach(&self) -> usize {
        match (self.limit, &self.task, &self.reason, &self.id) {
            (Some(limit), None, None, None) => limit.saturating_add(self.skip),
            _ => usize::MAX,
        }
    }

    fn selects(&self, letter: &DeadLetter) -> bool {
        let fits = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|w| w == is);
        fits(&self.task, &letter.task)
            && fits(&self.reason, &letter.reason)
            && fits(&self.id, &letter.id)
    }
}

/// A message that nothing will run again by itself, and how it came to that.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DeadLetter {
    /// The call's id; empty where the message has none.
    pub id: String,
    /// The task's name; empty where the message names none.
    pub task: String,
    /// Why it is dead, in one word: `failed`, `panicked`, `timed_out` (the last attempt did);
    /// `arguments`, `unknown_task`, `unreadable`, `unsupported`, `too_large` (it cannot be run); `result`
    /// (its result cannot be returned); `poison` (it ended too many workers); `stopped` (its worker was,
    /// after an early acknowledgement); RabbitMQ's own `delivery_limit`, `rejected`, `expired` and
    /// `maxlen`; or `unknown`.
    pub reason: String,
    /// Why it is dead, in a sentence.
    pub error: String,
    /// How every attempt failed, the oldest first, those of earlier lives included: the newest that fit
    /// 16 KiB.
    pub errors: Vec<PastError>,
    /// How many attempts were made in its last life.
    pub attempts: u32,
    /// How often it was retried from the dead letters before.
    pub revivals: u32,
    /// When it died, where that is known.
    pub died_at: Option<SystemTime>,
    /// The queue that it was taken from.
    pub queue: String,
    /// The exchange that it was sent to; empty if it was sent to its queue.
    pub exchange: String,
    /// The routing key that it was sent with.
    pub routing_key: String,
    /// The message with its original headers and body, and the notes of its death among the headers.
    pub message: Message,
}

impl DeadLetter {
    /// Reads the dead letter that `message` is, taken from the dead letters of `queue`.
    fn read(message: Message, queue: &str, prefix: &str) -> Self {
        let text = |name: &str| message.text(name).map(str::to_owned);
        let plain = |name: String| name.strip_prefix(prefix).map(str::to_owned).unwrap_or(name);
        let queue = text(header::QUEUE).map_or_else(|| queue.to_owned(), plain);
        let attempts = message.count(header::ATTEMPTS);
        Self {
            id: message.id.clone(),
            task: text("task").unwrap_or_default(),
            reason: text(header::REASON).unwrap_or_else(|| NO_REASON.into()),
            error: text(header::ERROR).unwrap_or_default(),
            errors: message.errors(),
            attempts: attempts.unwrap_or_else(|| message.attempt() - 1),
            revivals: message.revivals(),
            died_at: text(header::DIED_AT).as_deref().and_then(parse_time),
            exchange: text(header::EXCHANGE).map_or_else(String::new, plain),
            routing_key: text(header::ROUTING_KEY).unwrap_or_else(|| queue.clone()),
            queue,
            message,
        }
    }

    /// The arguments as they would be written in a call: `2, 3, y: [1]`, each in JSON. Of a message that
    /// cannot be read, its body as text.
    #[must_use]
    pub fn arguments(&self) -> String {
        let Ok(Arguments { args, kwargs }) = Arguments::decode(&self.message) else {
            return String::from_utf8_lossy(&self.message.body).into_owned();
        };
        let by_position = args.iter().map(|value| value.get().to_owned());
        let by_name = kwargs
            .iter()
            .map(|(name, value)| format!("{name}: {value}"));
        by_position.chain(by_name).collect::<Vec<_>>().join(", ")
    }

    /// The body as it was sent, byte for byte.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.message.body
    }
}

impl fmt::Display for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            task,
            reason,
            attempts,
            error,
            ..
        } = self;
        write!(
            f,
            "task `{task}` ({id}) {reason} after {attempts} attempt(s): {error}"
        )
    }
}

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
        Letters {
            page: Vec::new().into_iter(),
            state: State::New(self.clone(), which),
        }
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

/// Dead letters one by one. Made by [`DeadLetters::stream`].
#[must_use = "nothing is fetched until its letters are taken with `.next().await`"]
pub struct Letters {
    page: std::vec::IntoIter<DeadLetter>,
    state: State,
}

enum State {
    New(DeadLetters, Dead),
    Walking(Walk),
    Done,
}

impl Letters {
    /// The next letter; `None` at the end.
    ///
    /// # Errors
    /// As for [`DeadLetters::list`]; nothing comes after an error.
    pub async fn next(&mut self) -> Option<Result<DeadLetter>> {
        loop {
            if let Some(letter) = self.page.next() {
                return Some(Ok(letter));
            }
            match self.turn().await {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.state = State::Done;
                    return Some(Err(error));
                }
            }
        }
    }

    /// Goes one step on; false at the end.
    async fn turn(&mut self) -> Result<bool> {
        self.state = match std::mem::replace(&mut self.state, State::Done) {
            State::New(letters, which) => State::Walking(Walk::start(&letters, which).await?),
            State::Walking(mut walk) => {
                let page = walk.page().await?;
                if page.is_empty() {
                    walk.close().await?;
                    return Ok(false);
                }
                let letters = page.into_iter().map(|(letter, _)| letter);
                self.page = letters.collect::<Vec<_>>().into_iter();
                State::Walking(walk)
            }
            State::Done => return Ok(false),
        };
        Ok(true)
    }
}

impl fmt::Debug for Letters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Letters").finish_non_exhaustive()
    }
}

/// A walk through a dead-letter queue, from its head to what was its end.
struct Walk {
    look: Box<dyn Browse>,
    letters: DeadLetters,
    which: Dead,
    /// Messages not seen yet of those that there were at the beginning.
    unseen: usize,
}

impl Walk {
    async fn start(letters: &DeadLetters, which: Dead) -> Result<Self> {
        let unseen = usize::try_from(letters.count().await?).unwrap_or(usize::MAX);
        Ok(Self {
            look: letters.app.broker().browse(&letters.name()).await?,
            letters: letters.clone(),
            which,
            unseen,
        })
    }

    /// The next selected letters; none at the end.
    async fn page(&mut self) -> Result<Vec<(DeadLetter, Delivery)>> {
        let mut page = Vec::new();
        while page.is_empty() && self.unseen > 0 && self.which.limit != Some(0) {
            let wanted = self.which.reach().min(PAGE).min(self.unseen);
            let shown = self.look.next(wanted).await?;
            self.unseen = match shown.len() {
                0 => 0,
                seen => self.unseen.saturating_sub(seen),
            };
            for mut delivery in shown {
                let message = std::mem::take(&mut delivery.message);
                let prefix = self.letters.app.prefix();
                let letter = DeadLetter::read(message, &self.letters.queue, prefix);
                if !self.which.selects(&letter) || self.which.limit == Some(0) {
                    continue;
                }
                if self.which.skip > 0 {
                    self.which.skip -= 1;
                    continue;
                }
                self.which.limit = self.which.limit.map(|limit| limit - 1);
                page.push((letter, delivery));
            }
        }
        Ok(page)
    }

    async fn close(self) -> Result<()> {
        self.look.close().await
    }
}
