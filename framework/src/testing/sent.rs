//! What was sent through an app in memory, and what should have been.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::Value;

use super::rehearsal;
use crate::app::App;
use crate::broker::Route;
use crate::broker::memory::Entry;
use crate::call::Call;
use crate::message::{Arguments, Headers, cut};
use crate::registry::Registry;
use crate::task::TaskOptions;

/// Calls shown where the one that should be there is not.
const SHOWN: usize = 20;
/// Bytes of an argument shown.
const ARGUMENT_LIMIT: usize = 100;

/// A call as it was sent.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Sent {
    /// Its id.
    pub id: String,
    /// The task's name.
    pub task: String,
    /// The arguments by position.
    pub args: Vec<Value>,
    /// The arguments by name.
    pub kwargs: BTreeMap<String, Value>,
    /// The queue that it was sent to; of a call through an exchange, the routing key.
    pub queue: String,
    /// The exchange that it was sent through; empty for a queue's own name.
    pub exchange: String,
    /// How long after it was sent it is due.
    pub delay: Duration,
    /// Its priority, where it has one.
    pub priority: Option<u8>,
    /// Whether nobody gets its result.
    pub ignores_result: bool,
    /// Its headers: Celery's, ours and your own.
    pub headers: Headers,
}

/// The calls that were sent through `app`, the oldest first: by you, by tasks, by a scheduler, as they were sent
/// first. Of more than 10,000, the newest.
///
/// # Panics
/// Where the app is not in memory.
#[must_use]
pub fn sent(app: &App) -> Vec<Sent> {
    let entries = rehearsal(app).broker.sent().into_iter();
    entries.map(|entry| Sent::of(entry, app.prefix())).collect()
}

/// Checks that a call like `call` was sent through `app`: of the same task, with the same arguments, and with
/// whatever options `call` sets.
///
/// Arguments are compared as the JSON that travels, by position and by name as they were given. Of the options,
/// those count that `call` has: its queue where it is not the task's own, its exchange, countdown or eta, priority,
/// retries, backoff, time limit, acknowledgement, `ignore_result` and headers. An expiry and a deadline do not.
///
/// # Panics
/// Where there is none, with the calls that were sent instead, and where the app is not in memory.
#[track_caller]
pub fn assert_sent<T>(app: &App, call: &Call<T>) {
    let (expected, all) = (Expected::of(app, call), sent(app));
    if !all.iter().any(|sent| expected.is(sent)) {
        let mut text = format!("no such call was sent: {expected}\n");
        text.push_str(&instead(&expected, &all));
        panic!("{text}");
    }
}

/// Checks that no call like `call` was sent through `app`, as [`assert_sent`] would find it.
///
/// # Panics
/// Where there is one, and where the app is not in memory.
#[track_caller]
pub fn refute_sent<T>(app: &App, call: &Call<T>) {
    let (expected, all) = (Expected::of(app, call), sent(app));
    if let Some(found) = all.iter().find(|sent| expected.is(sent)) {
        panic!("this call was sent, as {}: {found}", found.id);
    }
}

fn instead(expected: &Expected, all: &[Sent]) -> String {
    if all.is_empty() {
        return "nothing was sent at all".into();
    }
    // What is most like it comes first.
    let (same, others): (Vec<_>, Vec<_>) =
        all.iter().partition(|sent| sent.task == expected.call.task);
    let mut text = format!("{} sent instead:", all.len());
    for sent in same.into_iter().chain(others).take(SHOWN) {
        text.push_str(&format!("\n  {sent}"));
    }
    if all.len() > SHOWN {
        text.push_str("\n  …");
    }
    text
}

impl Sent {
    fn of(entry: Entry, prefix: &str) -> Self {
        let Entry {
            message,
            route,
            delay,
        } = entry;
        let named = |name: &str| name.strip_prefix(prefix).unwrap_or(name).to_owned();
        let (exchange, queue) = match &route {
            Route::Queue(queue) => (String::new(), named(queue)),
            Route::Exchange {
                exchange,
                routing_key,
            } => (named(exchange), routing_key.clone()),
            other => (String::new(), other.to_string()),
        };
        let arguments = Arguments::decode(&message).unwrap_or_default();
        let (args, kwargs) = values(&arguments);
        Self {
            ignores_result: message.ignores_result(),
            task: message.text("task").unwrap_or_default().to_owned(),
            id: message.id,
            args,
            kwargs,
            queue,
            exchange,
            delay,
            priority: message.priority,
            headers: message.headers,
        }
    }
}

fn values(arguments: &Arguments) -> (Vec<Value>, BTreeMap<String, Value>) {
    let value = |raw: &str| serde_json::from_str(raw).unwrap_or_default();
    let args = arguments.args.iter().map(|raw| value(raw.get())).collect();
    let kwargs = arguments.kwargs.iter();
    let kwargs = kwargs.map(|(name, raw)| (name.clone(), value(raw.get())));
    (args, kwargs.collect())
}

/// The call that should have been sent, or not.
struct Expected {
    call: Sent,
    /// Whether its queue was said, and is not the task's own.
    names_queue: bool,
}

/// Headers that each call has for itself, or that say nothing of it.
const OWN: [&str; 13] = [
    "id",
    "ignore_result",
    "root_id",
    "parent_id",
    "lang",
    "argsrepr",
    "kwargsrepr",
    "retries",
    "eta",
    "expires",
    "origin",
    "task",
    crate::message::header::DEADLINE,
];

impl Expected {
    #[track_caller]
    fn of<T>(app: &App, call: &Call<T>) -> Self {
        let sketch = match call.sketch(app.now()) {
            Ok(sketch) => sketch,
            Err(error) => panic!("the call could not be sent at all: {error}"),
        };
        let entry = Entry {
            message: sketch.message,
            route: sketch.route,
            delay: sketch.delay,
        };
        let mut call = Sent::of(entry, "");
        call.ignores_result = !sketch.wants_reply;
        let tasks = Registry::linked().unwrap_or_default();
        let known = tasks.get(&call.task).map(|task| task.options.queue);
        let own = known.unwrap_or(TaskOptions::DEFAULT.queue);
        Self {
            names_queue: !call.exchange.is_empty() || call.queue != own,
            call,
        }
    }

    fn is(&self, sent: &Sent) -> bool {
        let call = &self.call;
        let has = |(name, value): (&String, &Value)| {
            OWN.contains(&name.as_str()) || sent.headers.get(name) == Some(value)
        };
        let is_due_then = call.delay.is_zero()
            || call.delay == sent.delay
            || call.headers.get("eta") == sent.headers.get("eta");
        let goes_there =
            !self.names_queue || (&call.exchange, &call.queue) == (&sent.exchange, &sent.queue);
        call.task == sent.task
            && call.args == sent.args
            && call.kwargs == sent.kwargs
            && call.headers.iter().all(has)
            && call
                .priority
                .is_none_or(|priority| sent.priority == Some(priority))
            && (sent.ignores_result || !call.ignores_result)
            && is_due_then
            && goes_there
    }
}

impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Value| {
            let text = value.to_string();
            match text.len() > ARGUMENT_LIMIT {
                true => format!("{}…", cut(&text, ARGUMENT_LIMIT)),
                false => text,
            }
        };
        let by_position = self.args.iter().map(shown);
        let by_name = self.kwargs.iter();
        let by_name = by_name.map(|(name, value)| format!("{name} = {}", shown(value)));
        let arguments: Vec<_> = by_position.chain(by_name).collect();
        write!(f, "{}({})", self.task, arguments.join(", "))?;
        match self.exchange.is_empty() {
            true => write!(f, " to queue `{}`", self.queue)?,
            false => write!(f, " through `{}` with `{}`", self.exchange, self.queue)?,
        }
        if !self.delay.is_zero() {
            write!(f, ", due after {:?}", self.delay)?;
        }
        if let Some(priority) = self.priority {
            write!(f, ", priority {priority}")?;
        }
        if self.ignores_result {
            f.write_str(", its result ignored")?;
        }
        for (name, value) in &self.headers {
            if !OWN.contains(&name.as_str()) {
                write!(f, ", {name}: {}", shown(value))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.call.fmt(f)
    }
}
