//! Remote control: asks workers how they are and tells them what to do, Python's as well as ours.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout_at};

use crate::app::App;
use crate::broker::{Announcement, Channel, ChannelKind};
use crate::error::{Error, Result};
use crate::message::Message;

mod answers;
pub(crate) mod request;

pub use answers::{ActiveCall, ActiveQueue, CallState, Stats};
use answers::{Pong, Said, Scheduled};
use request::{Asker, Request};

/// Answers read of one request.
const MOST_ANSWERS: usize = 10_000;
/// Slots to ask for at a time.
const MOST_SLOTS: usize = 1000;
/// `add_consumer` and `pool_shrink` under names that Python's workers do not know.
pub(crate) const ADD_CONSUMER: &str = "garenne_add_consumer";
pub(crate) const POOL_SHRINK: &str = "garenne_pool_shrink";
/// How long a request that nobody answers is heeded.
const HEEDED: Duration = Duration::from_secs(60);

/// What each node answered, by its name: a value, or why there is none.
pub type Answers<T> = BTreeMap<String, Result<T, Refusal>>;

/// Why a node did not do what it was asked, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// How many calls of a task a worker may start in which time: `Rate::per(10, MINUTE)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    calls: u32,
    time: Duration,
}

impl Rate {
    /// `calls` in each `time`, evenly spread.
    #[must_use]
    pub const fn per(calls: u32, time: Duration) -> Self {
        Self { calls, time }
    }

    /// As Celery writes it: calls an hour.
    fn on_the_wire(self) -> String {
        let an_hour = f64::from(self.calls) * 3600.0 / self.time.as_secs_f64().max(1e-6);
        format!("{an_hour}/h")
    }
}

/// Asks workers and tells them what to do; from [`App::control`]. Answers come by node.
///
/// Each method waits for the answers until the [timeout](Self::timeout), or until all nodes that were
/// [named](Self::to) have answered: how many others there are, nobody knows.
///
/// ```standalone_crate
/// # use garenne::{App, Worker, SECOND, task};
/// # #[task]
/// # async fn add(a: i64, b: i64) -> i64 { a + b }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let app = App::in_memory();
/// let worker = Worker::new(&app).name("w1@here").queue("default", 4).spawn();
/// worker.ready().await;
///
/// for (node, stats) in app.control().timeout(SECOND).stats().await? {
///     println!("{node}: {} slots", stats?.slots);
/// }
/// let w1 = app.control().to(["w1@here"]);
/// assert!(w1.ping().await?["w1@here"].is_ok());
/// w1.add_consumer("reports", 2).await?["w1@here"].clone()?;
/// w1.shutdown().await?;
/// # worker.stop().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "it asks nothing until one of its requests is awaited"]
pub struct Control {
    app: App,
    nodes: Vec<String>,
    timeout: Duration,
}

impl App {
    /// Remote control of the workers of this app's broker.
    pub fn control(&self) -> Control {
        Control {
            app: self.clone(),
            nodes: Vec::new(),
            timeout: Duration::from_secs(1),
        }
    }
}

impl Control {
    /// Speaks to these nodes only.
    pub fn to<N: Into<String>>(mut self, nodes: impl IntoIterator<Item = N>) -> Self {
        self.nodes = nodes.into_iter().map(Into::into).collect();
        self
    }

    /// How long answers are awaited; a second unless set.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Which nodes are there.
    ///
    /// # Errors
    /// As for every request: where the broker refuses, or is away. That nobody answers is none.
    pub async fn ping(&self) -> Result<Answers<()>> {
        let pongs: Answers<Pong> = self.ask("ping", json!({})).await?;
        Ok(map(pongs, |_| ()))
    }

    /// The calls that run now.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping).
    pub async fn active(&self) -> Result<Answers<Vec<ActiveCall>>> {
        self.ask("active", json!({})).await
    }

    /// The calls that were taken and do not run yet.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping).
    pub async fn reserved(&self) -> Result<Answers<Vec<ActiveCall>>> {
        self.ask("reserved", json!({})).await
    }

    /// The calls that wait in the workers for their time: only Python's do that. Ours leave it to the broker.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping).
    pub async fn scheduled(&self) -> Result<Answers<Vec<ActiveCall>>> {
        let scheduled: Answers<Vec<Scheduled>> = self.ask("scheduled", json!({})).await?;
        let calls = |calls: Vec<Scheduled>| calls.into_iter().map(|call| call.request).collect();
        Ok(map(scheduled, calls))
    }

    /// The ids of cancelled calls that the workers remember; at most the latest ten thousand of each.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping).
    pub async fn revoked(&self) -> Result<Answers<Vec<String>>> {
        self.ask("revoked", json!({})).await
    }

    /// The tasks that the workers know, with their rate limits in brackets.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping).
    pub async fn registered(&self) -> Result<Answers<Vec<String>>> {
        self.ask("registered", json!({})).await
    }

    /// How the workers are.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping).
    pub async fn stats(&self) -> Result<Answers<Stats>> {
        self.ask("stats", json!({})).await
    }

    /// The queues that the workers take from.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping).
    pub async fn active_queues(&self) -> Result<Answers<Vec<ActiveQueue>>> {
        self.ask("active_queues", json!({})).await
    }

    /// What the workers know of these calls, by id; a call that a worker does not have is left out.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping).
    pub async fn query_task<I: Into<String>>(
        &self,
        ids: impl IntoIterator<Item = I>,
    ) -> Result<Answers<BTreeMap<String, (CallState, ActiveCall)>>> {
        let ids: Vec<String> = ids.into_iter().map(Into::into).collect();
        self.ask("query_task", json!({ "ids": ids })).await
    }

    /// Has the workers drop a call when it comes to them. What runs goes on; [`terminate`](Self::terminate) stops
    /// that, too, as [`Handle::cancel`](crate::Handle::cancel) does.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping).
    pub async fn revoke(&self, id: impl Into<String>) -> Result<Answers<String>> {
        self.tell("revoke", json!({"task_id": id.into(), "terminate": false}))
            .await
    }

    /// As [`revoke`](Self::revoke), and a running attempt is ended: an `async` task of ours is dropped.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping).
    pub async fn terminate(&self, id: impl Into<String>) -> Result<Answers<String>> {
        let arguments = json!({"task_id": id.into(), "terminate": true, "signal": "SIGTERM"});
        self.tell("revoke", arguments).await
    }

    /// Has the workers drop the calls that carry a stamp of Celery's: a label that a Python app has put on calls, to
    /// be revoked together. What runs goes on. It lasts as long as the worker's process.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping).
    pub async fn revoke_by_stamp(&self, name: &str, value: &str) -> Result<Answers<String>> {
        self.stamped(name, value, false).await
    }

    /// As [`revoke_by_stamp`](Self::revoke_by_stamp), and running attempts are ended.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping).
    pub async fn terminate_by_stamp(&self, name: &str, value: &str) -> Result<Answers<String>> {
        self.stamped(name, value, true).await
    }

    async fn stamped(&self, name: &str, value: &str, terminate: bool) -> Result<Answers<String>> {
        let arguments = json!({
            "headers": { name: [value] }, "terminate": terminate, "signal": "SIGTERM",
        });
        self.tell("revoke_by_stamped_headers", arguments).await
    }

    /// Has each worker start calls of a task no faster than this; `None` lifts the limit. It lasts as long as the
    /// worker's process. Calls that come faster wait in the broker, and spend no attempt by that.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping).
    pub async fn rate_limit(
        &self,
        task: &str,
        rate: impl Into<Option<Rate>>,
    ) -> Result<Answers<String>> {
        let rate = rate
            .into()
            .map_or_else(|| json!(0), |rate| json!(rate.on_the_wire()));
        self.tell("rate_limit", json!({"task_name": task, "rate_limit": rate}))
            .await
    }

    /// Limits how long an attempt at a task may take from now on, where its call does not say so itself; `None`
    /// brings back what the task says. It lasts as long as the worker's process.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping).
    pub async fn time_limit(
        &self,
        task: &str,
        limit: impl Into<Option<Duration>>,
    ) -> Result<Answers<String>> {
        let hard = limit.into().map(|limit| limit.as_secs_f64());
        self.tell(
            "time_limit",
            json!({"task_name": task, "soft": null, "hard": hard}),
        )
        .await
    }

    /// Gives each queue of a worker so many slots more, at most a thousand at a time: Python's workers start as many
    /// processes.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping).
    pub async fn pool_grow(&self, slots: usize) -> Result<Answers<String>> {
        if slots > MOST_SLOTS {
            let reason =
                format!("more than {MOST_SLOTS} at a time: each is a process in a Python worker");
            return Err(Error::invalid("number of slots", slots.to_string(), reason));
        }
        self.tell("pool_grow", json!({ "n": slots })).await
    }

    /// Takes so many slots from each queue of a worker, but not the last one. What runs goes on. Python's workers
    /// refuse: one of them would end its last process, too, and be deaf. `celery control pool_shrink` tells them.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping).
    pub async fn pool_shrink(&self, slots: usize) -> Result<Answers<String>> {
        self.tell(POOL_SHRINK, json!({ "n": slots })).await
    }

    /// Has the workers take from a queue, too, each running at most `concurrency` of its calls at a time. Python's
    /// workers refuse: one of them would end if it found a queue made in another way than its own. Celery's own
    /// `celery control add_consumer` tells them.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping).
    pub async fn add_consumer(&self, queue: &str, concurrency: usize) -> Result<Answers<String>> {
        self.tell(
            ADD_CONSUMER,
            json!({"queue": queue, "concurrency": concurrency}),
        )
        .await
    }

    /// Has the workers take from a queue no longer. What runs goes on.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping).
    pub async fn cancel_consumer(&self, queue: &str) -> Result<Answers<String>> {
        self.tell("cancel_consumer", json!({ "queue": queue }))
            .await
    }

    /// Has the workers tell what happens to each call; see [`App::events`].
    ///
    /// # Errors
    /// As for [`ping`](Self::ping).
    pub async fn enable_events(&self) -> Result<Answers<String>> {
        self.tell("enable_events", json!({})).await
    }

    /// Has the workers tell no longer what happens to calls.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping).
    pub async fn disable_events(&self) -> Result<Answers<String>> {
        self.tell("disable_events", json!({})).await
    }

    /// Has the workers tell at once, through [`App::events`], that they are alive.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping).
    pub async fn heartbeat(&self) -> Result<()> {
        self.announce("heartbeat", Map::new(), None).await
    }

    /// Has the workers stop in order, as SIGTERM does. They do not answer.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping).
    pub async fn shutdown(&self) -> Result<()> {
        self.announce("shutdown", Map::new(), None).await
    }

    /// Asks for anything else by its name, and hands out what comes as it is.
    ///
    /// # Errors
    /// As for [`ping`](Self::ping). `election`, `add_consumer` and `pool_shrink` are
    /// refused: each can end Python's workers.
    pub async fn request(
        &self,
        method: &str,
        arguments: Map<String, Value>,
    ) -> Result<Answers<Value>> {
        if matches!(method, "election" | "add_consumer" | "pool_shrink") {
            let reason = "it can end Python's workers; for workers with Garenne, `Control` has methods of its own";
            return Err(Error::invalid("request", method, reason));
        }
        self.ask(method, Value::Object(arguments)).await
    }

    async fn tell(&self, method: &str, arguments: Value) -> Result<Answers<String>> {
        let said: Answers<Said> = self.ask(method, arguments).await?;
        Ok(map(said, |said| said.ok))
    }

    async fn ask<T: DeserializeOwned>(&self, method: &str, arguments: Value) -> Result<Answers<T>> {
        let arguments = match arguments {
            Value::Object(arguments) => arguments,
            _ => Map::new(),
        };
        let channel = Channel::new(ChannelKind::Reply, self.app.prefix());
        let asker = Asker {
            exchange: channel.name(),
            name: uuid::Uuid::new_v4().to_string(),
            ticket: uuid::Uuid::new_v4().to_string(),
        };
        let mut listener = self.app.broker().listen(&channel, &asker.name).await?;
        self.announce(method, arguments, Some(&asker)).await?;
        let until = Instant::now() + self.timeout;
        let mut answers = Answers::new();
        while let Ok(Some(message)) = timeout_at(until, listener.next()).await {
            if message.text("ticket") == Some(&asker.ticket) {
                answers.extend(read(&message));
            }
            let is_there = |node: &String| answers.contains_key(node);
            let all = !self.nodes.is_empty() && self.nodes.iter().all(is_there);
            if all || answers.len() > MOST_ANSWERS {
                break;
            }
        }
        Ok(answers)
    }

    async fn announce(
        &self,
        method: &str,
        arguments: Map<String, Value>,
        asker: Option<&Asker>,
    ) -> Result<()> {
        // Workers compare it with their system's clock, also where tokio's is paused.
        let heeded = asker.map_or(HEEDED, |_| self.timeout.min(HEEDED));
        let expires = SystemTime::now() + heeded;
        let request = Request::new(method, arguments, &self.nodes, asker);
        let announcement = Announcement {
            channel: Channel::new(ChannelKind::Control, self.app.prefix()),
            key: String::new(),
            message: request.encode(expires),
        };
        self.app.broker().announce(announcement).await
    }
}

/// The answers in a message: usually one.
fn read<T: DeserializeOwned>(message: &Message) -> Answers<T> {
    let nodes: Map<String, Value> = match serde_json::from_slice(&message.body) {
        Ok(nodes) => nodes,
        Err(error) => {
            tracing::debug!(%error, "ignored an answer");
            return Answers::new();
        }
    };
    let answer = |(node, value): (String, Value)| {
        let error = value
            .get("error")
            .and_then(Value::as_str)
            .map(str::to_owned);
        let answer = match error {
            Some(error) => Err(Refusal(error)),
            None => serde_json::from_value(value)
                .map_err(|error| Refusal(format!("its answer cannot be read: {error}"))),
        };
        (node, answer)
    };
    nodes.into_iter().map(answer).collect()
}

fn map<T, U>(answers: Answers<T>, change: impl Fn(T) -> U) -> Answers<U> {
    let answers = answers.into_iter();
    answers
        .map(|(node, answer)| (node, answer.map(&change)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_written_as_calls_an_hour() {
        assert_eq!(Rate::per(10, crate::MINUTE).on_the_wire(), "600/h");
        assert_eq!(Rate::per(1, crate::HOUR).on_the_wire(), "1/h");
    }

    #[test]
    fn a_nodes_refusal_is_told_from_its_answer() {
        let message = Message {
            body: br#"{"a@h": {"ok": "done"}, "b@h": {"error": "unknown task"}, "c@h": 5}"#
                .to_vec()
                .into(),
            ..Message::default()
        };
        let answers: Answers<Said> = read(&message);
        assert!(answers["a@h"].is_ok());
        let refusal = |node: &str| answers[node].as_ref().expect_err("refused").0.clone();
        assert_eq!(refusal("b@h"), "unknown task");
        assert!(
            refusal("c@h").contains("cannot be read"),
            "{}",
            refusal("c@h")
        );
    }
}
