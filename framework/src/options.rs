//! What a call says of its own sending and running, and how a message says it.

use std::time::{Duration, SystemTime};

use serde_json::{Value as Json, json};

use crate::broker::{Exchange, Queue, Route, validate_routing_key};
use crate::error::{Error, Result};
use crate::message::{Headers, Message, format_time, header};
use crate::retry::{Backoff, LONGEST_DELAY};
use crate::task::Ack;

/// What a call says of its own sending and running.
#[derive(Debug, Clone)]
pub(crate) struct CallOptions {
    pub(crate) id: Option<String>,
    pub(crate) queue: Queue,
    /// What chooses one of the queue's shards; `None` for the call's id.
    pub(crate) shard_key: Option<String>,
    pub(crate) exchange: Option<(Exchange, String)>,
    pub(crate) retries: Option<u32>,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) priority: Option<u8>,
    pub(crate) expires: Option<Duration>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) ack: Option<Ack>,
    pub(crate) due: Due,
    pub(crate) ignore_result: bool,
    pub(crate) headers: Headers,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Due {
    Now,
    In(Duration),
    At(SystemTime),
}

impl CallOptions {
    /// Nothing but the queue it goes to.
    pub(crate) fn to(queue: &str) -> Self {
        Self {
            id: None,
            queue: Queue::new(queue),
            shard_key: None,
            exchange: None,
            retries: None,
            backoff: None,
            timeout: None,
            priority: None,
            expires: None,
            deadline: None,
            ack: None,
            due: Due::Now,
            ignore_result: false,
            headers: Headers::new(),
        }
    }

    pub(crate) fn validate(&self, task: &str, now: SystemTime) -> Result<()> {
        self.queue.validate()?;
        if let Some((exchange, key)) = &self.exchange {
            exchange.validate()?;
            validate_routing_key(key)?;
        }
        if let (Due::In(delay), Some(expires)) = (self.due, self.expires)
            && delay >= expires
        {
            let reason = format!("the call is not due before {delay:?}, so it could never run");
            return Err(Error::invalid("expiry", format!("{expires:?}"), reason));
        }
        if let Due::In(delay) = self.due
            && delay > LONGEST_DELAY
        {
            let reason = format!("it is longer than {LONGEST_DELAY:?}");
            return Err(Error::invalid("countdown", format!("{delay:?}"), reason));
        }
        if let Due::At(eta) = self.due
            && eta
                .duration_since(now)
                .is_ok_and(|delay| delay > LONGEST_DELAY)
        {
            let reason = format!("it is more than {LONGEST_DELAY:?} away");
            return Err(Error::invalid("eta", format_time(eta), reason));
        }
        let too_long = |what, text: &str| {
            (text.is_empty() || text.len() > 200)
                .then(|| Error::invalid(what, text, "it must have between 1 and 200 bytes"))
        };
        let reserved = |name: &&String| {
            let own = name.starts_with("garenne-") || name.starts_with("__");
            own || RESERVED.contains(&name.as_str()) || OF_A_REQUEST.contains(&name.as_str())
        };
        match self.headers.keys().find(reserved) {
            Some(name) => Err(Error::invalid(
                "header",
                name,
                "this name is Garenne's or Celery's own",
            )),
            None => too_long("task name", task)
                .or_else(|| self.id.as_deref().and_then(|id| too_long("call id", id)))
                .map_or(Ok(()), Err),
        }
    }

    /// Chooses one of the queue's shards for the call `id`.
    pub(crate) fn choose_shard(&mut self, id: &str) {
        if self.queue.shards > 1 {
            self.queue = self.queue.shard_of(self.shard_key.as_deref().unwrap_or(id));
        }
    }

    /// Where the call goes.
    pub(crate) fn route(&self) -> Route {
        Route::through(self.exchange.as_ref(), &self.queue)
    }

    /// How long after `now` the call is due.
    pub(crate) fn delay(&self, now: SystemTime) -> Duration {
        match self.due {
            Due::Now => Duration::ZERO,
            Due::In(countdown) => countdown,
            Due::At(eta) => eta
                .duration_since(now)
                .unwrap_or_default()
                .min(LONGEST_DELAY),
        }
    }

    /// Writes the options into the message's headers, and says how long the broker is to keep it.
    pub(crate) fn write_to(&self, message: &mut Message, now: SystemTime) -> Duration {
        message.headers.extend(self.headers.clone());
        message.priority = self.priority;
        message.set(header::RETRIES, self.retries.map_or(Json::Null, Json::from));
        message.set(
            header::ACK,
            self.ack.map_or(Json::Null, |ack| ack.as_str().into()),
        );
        if let Some(backoff) = self.backoff {
            let (base, max) = backoff.bounds();
            message.set(
                header::BACKOFF,
                json!([base.as_secs_f64(), max.as_secs_f64()]),
            );
        }
        if let Some(timeout) = self.timeout {
            message.set("timelimit", json!([timeout.as_secs_f64(), null]));
        }
        if let Some(expires) = self.expires.and_then(|after| now.checked_add(after)) {
            message.set("expires", format_time(expires));
        }
        if let Some(deadline) = self.deadline.and_then(|after| now.checked_add(after)) {
            message.set_deadline(deadline);
        }
        message.hide_far_expiry(now);
        let delay = self.delay(now);
        if let Some(eta) = (!delay.is_zero()).then(|| now.checked_add(delay)).flatten() {
            message.set_eta(eta);
        }
        delay
    }
}

/// What a request is made of in a Python worker, where headers become its attributes: one of these names would
/// take the place of what Celery reads or calls there. Names with two underscores in front are Python's own.
const OF_A_REQUEST: [&str; 30] = [
    "_children",
    "_filter_x_death_headers",
    "_get_custom_headers",
    "_protected",
    "args",
    "as_execution_options",
    "callbacks",
    "called_directly",
    "chain",
    "children",
    "chord",
    "clear",
    "correlation_id",
    "delivery_info",
    "errbacks",
    "get",
    "headers",
    "hostname",
    "is_eager",
    "kwargs",
    "logfile",
    "loglevel",
    "properties",
    "reply_to",
    "soft_time_limit",
    "task_id",
    "taskset",
    "time_limit",
    "update",
    "utc",
];

/// Celery's headers, which a user's header must not replace.
const RESERVED: [&str; 22] = [
    "lang",
    "task",
    "id",
    "shadow",
    "eta",
    "expires",
    "group",
    "group_index",
    "retries",
    "timelimit",
    "root_id",
    "parent_id",
    "argsrepr",
    "kwargsrepr",
    "origin",
    "ignore_result",
    "replaced_task_nesting",
    "stamped_headers",
    "stamps",
    "compression",
    "CC",
    "BCC",
];
