//! A call that is sent again and again: kept in a scheduler, or in the broker as JSON.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::tick;
use crate::app::App;
use crate::broker::{Exchange, ExchangeKind, Queue, QueueType};
use crate::call::Call;
use crate::error::{Error, Result};
use crate::message::{Arguments, Headers, format_time, parse_time};
use crate::options::{CallOptions, Due};
use crate::retry::Backoff;
use crate::step::outgoing;
use crate::task::Ack;

/// A call to be sent under other ids.
#[derive(Debug, Clone)]
pub(super) struct Template {
    pub(super) task: String,
    arguments: Arguments,
    options: CallOptions,
}

impl Template {
    /// # Errors
    /// What sending the call would say of it; and where it has an id, or a queue of its worker's own.
    pub(super) fn new<T>(call: Call<T>) -> Result<Self> {
        let (task, arguments, mut options) = call.into_parts()?;
        if let Some(id) = &options.id {
            let reason = "a scheduled call has the id of its tick";
            return Err(Error::invalid("call id", id, reason));
        }
        if options.queue.exclusive {
            let reason = "it goes with its worker, so no schedule can send to it";
            return Err(Error::invalid("queue", options.queue.name(), reason));
        }
        // Nobody awaits it.
        options.ignore_result = true;
        options.validate(&task, SystemTime::now())?;
        Ok(Self {
            task,
            arguments,
            options,
        })
    }

    /// Sends it for a tick; again, where that was done before.
    pub(super) async fn send(&self, app: &App, name: &str, tick: Timestamp) -> Result<()> {
        let mut options = self.options.clone();
        options.id = Some(tick::id(name, tick));
        let mut outgoing = outgoing(&self.task, &self.arguments, options, app.now())?;
        // Whose worker will run it was not kept.
        outgoing.spell_out(&self.arguments);
        app.send(Box::new(outgoing)).await.map(drop)
    }

    /// As it is kept in the broker.
    pub(super) fn to_json(&self) -> Result<Box<RawValue>> {
        let options = &self.options;
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        let stored = Stored {
            task: self.task.clone(),
            args: self.arguments.args.clone(),
            kwargs: self.arguments.kwargs.clone(),
            queue: options.queue.name().to_owned(),
            queue_type: options.queue.queue_type.map(|queue_type| match queue_type {
                QueueType::Quorum => "quorum".to_owned(),
                QueueType::Classic => "classic".to_owned(),
            }),
            max_priority: options.queue.max_priority,
            shards: Some(options.queue.shards).filter(|shards| *shards > 1),
            shard_key: options.shard_key.clone(),
            of_others: options.queue.must_exist,
            exchange: options.exchange.as_ref().map(|(exchange, key)| {
                let kind = exchange.kind().as_str().to_owned();
                (exchange.name().to_owned(), kind, key.clone())
            }),
            retries: options.retries,
            backoff: options.backoff.map(|backoff| {
                let (base, max) = backoff.bounds();
                (base.as_secs_f64(), max.as_secs_f64())
            }),
            timeout: seconds(options.timeout),
            priority: options.priority,
            expires: seconds(options.expires),
            deadline: seconds(options.deadline),
            early: options.ack.map(|ack| ack == Ack::Early),
            countdown: match options.due {
                Due::In(countdown) => Some(countdown.as_secs_f64()),
                _ => None,
            },
            eta: match options.due {
                Due::At(eta) => Some(format_time(eta)),
                _ => None,
            },
            headers: options.headers.clone(),
        };
        serde_json::value::to_raw_value(&stored).map_err(|source| Error::Encode {
            task: self.task.clone(),
            what: "the scheduled call".into(),
            source,
        })
    }

    /// Reads what [`to_json`](Self::to_json) wrote.
    pub(super) fn from_json(json: &RawValue) -> Result<Self> {
        let stored: Stored = serde_json::from_str(json.get())
            .map_err(|error| Error::invalid("stored call", json.get(), error.to_string()))?;
        let seconds = |value: Option<f64>| {
            value.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        };
        let mut options = CallOptions::to(&stored.queue);
        options.queue = Queue {
            queue_type: match stored.queue_type.as_deref() {
                Some("quorum") => Some(QueueType::Quorum),
                Some("classic") => Some(QueueType::Classic),
                _ => None,
            },
            max_priority: stored.max_priority,
            shards: stored.shards.unwrap_or(1),
            must_exist: stored.of_others,
            ..Queue::new(stored.queue)
        };
        if let Some((name, kind, key)) = stored.exchange {
            let exchange = match kind.as_str() {
                kind if kind == ExchangeKind::Fanout.as_str() => Exchange::fanout(name),
                kind if kind == ExchangeKind::Topic.as_str() => Exchange::topic(name),
                kind if kind == ExchangeKind::Headers.as_str() => Exchange::headers(name),
                _ => Exchange::direct(name),
            };
            options.exchange = Some((exchange, key));
        }
        options.shard_key = stored.shard_key;
        options.retries = stored.retries;
        options.backoff = stored
            .backoff
            .and_then(|(base, max)| Some(Backoff::new(seconds(Some(base))?, seconds(Some(max))?)));
        options.timeout = seconds(stored.timeout);
        options.priority = stored.priority;
        options.expires = seconds(stored.expires);
        options.deadline = seconds(stored.deadline);
        options.ack = stored.early.map(|early| match early {
            true => Ack::Early,
            false => Ack::Late,
        });
        options.due = match (seconds(stored.countdown), stored.eta) {
            (Some(countdown), _) => Due::In(countdown),
            (None, Some(eta)) => parse_time(&eta).map_or(Due::Now, Due::At),
            (None, None) => Due::Now,
        };
        options.ignore_result = true;
        options.headers = stored.headers;
        Ok(Self {
            task: stored.task,
            arguments: Arguments {
                args: stored.args,
                kwargs: stored.kwargs,
            },
            options,
        })
    }
}

/// All that is sent of a call; times in seconds. Bindings of its queue are its workers' to declare.
#[derive(Serialize, Deserialize)]
struct Stored {
    task: String,
    #[serde(default)]
    args: Vec<Box<RawValue>>,
    #[serde(default)]
    kwargs: BTreeMap<String, Box<RawValue>>,
    queue: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    queue_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_priority: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shards: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shard_key: Option<String>,
    /// Whether its workers are others than ours.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    of_others: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exchange: Option<(String, String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retries: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    backoff: Option<(f64, f64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    early: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    countdown: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    eta: Option<String>,
    #[serde(default, skip_serializing_if = "Headers::is_empty")]
    headers: Headers,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HOUR, MINUTE, SECOND};

    #[test]
    fn a_call_is_read_as_it_was_stored() {
        let call = Call::<()>::named("reports.make")
            .queue(Queue::new("reports").max_priority(9))
            .publish_to(&Exchange::topic("logs"), "a.b")
            .arg("größe")
            .and_then(|call| call.arg(1e300))
            .and_then(|call| call.kwarg("day", [1, 2]))
            .expect("encoded")
            .retries(3)
            .backoff(SECOND..MINUTE)
            .timeout(MINUTE)
            .priority(7)
            .expires(HOUR)
            .deadline(2 * HOUR)
            .ack(Ack::Early)
            .countdown(SECOND / 2)
            .header("tenant", "acme");
        let template = Template::new(call).expect("a call");
        let json = template.to_json().expect("JSON");
        let read = Template::from_json(&json).expect("readable");
        assert_eq!(format!("{read:?}"), format!("{template:?}"));
        let plain = Template::new(Call::<()>::named("t")).expect("a call");
        let json = plain.to_json().expect("JSON");
        let read = Template::from_json(&json).expect("readable");
        assert_eq!(format!("{read:?}"), format!("{plain:?}"));
        assert_eq!(
            json.get(),
            r#"{"task":"t","args":[],"kwargs":{},"queue":"default"}"#
        );
    }

    #[test]
    fn what_cannot_be_sent_again_and_again_is_refused() {
        assert!(Template::new(Call::<()>::named("t").id("one")).is_err());
        assert!(Template::new(Call::<()>::named("t").queue(Queue::exclusive())).is_err());
        assert!(Template::new(Call::<()>::named("")).is_err());
        let null = RawValue::from_string("null".into()).expect("JSON");
        assert!(Template::from_json(&null).is_err());
    }
}
