//! A call that is not sent yet, as Celery's canvas writes it on the wire: a *signature*. Chains, callbacks and
//! joins carry signatures of what is to follow a call.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{Arguments, Embed, Headers, Message, format_time, header, parse_time, stamps};

/// The exchange that leads to the queues which we declare, by their names.
const QUEUES: &str = "garenne";

/// A call that is not sent yet, on the wire.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Signature {
    /// The task's name.
    pub task: String,
    /// Arguments by position, without the result of the call before.
    #[serde(default, deserialize_with = "or_default")]
    pub args: Vec<Box<RawValue>>,
    /// Arguments by name.
    #[serde(default, deserialize_with = "or_default")]
    pub kwargs: BTreeMap<String, Box<RawValue>>,
    /// How it is to be sent and run.
    #[serde(default, deserialize_with = "or_default")]
    pub options: SignatureOptions,
    /// `chain`, `group`, `chord`, … where it stands for several calls, as only Python can send them.
    #[serde(default)]
    pub subtask_type: Option<String>,
    /// Whether it goes without the result of the call before.
    #[serde(default)]
    pub immutable: bool,
}

/// How a signature is to be sent and run: those of Celery's options that are acted on.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(
    missing_docs,
    reason = "they are Celery's options, under Celery's names"
)]
pub struct SignatureOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_index: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub countdown: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_time_limit: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignore_result: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Headers>,
    /// What follows it, the next one last.
    #[serde(skip_serializing_if = "Signatures::is_empty")]
    pub chain: Signatures,
    /// What is sent when it has succeeded.
    #[serde(skip_serializing_if = "Signatures::is_empty")]
    pub link: Signatures,
    /// What is sent when it has failed.
    #[serde(skip_serializing_if = "Signatures::is_empty")]
    pub link_error: Signatures,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chord: Option<Box<RawValue>>,
    /// Ours: within how many seconds of being sent it is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub garenne_deadline: Option<f64>,
    /// Ours: `expires` where that would be farther away than Python can bear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub garenne_expires: Option<f64>,
    /// Ours: the join whose body it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub garenne_join: Option<Joined>,
    /// Its stamps, and in `stamped_headers` their names: in Python's form they stand among the options.
    #[serde(flatten, skip_deserializing)]
    pub stamps: Headers,
}

impl SignatureOptions {
    /// The queue that it goes to, by its name on the broker; `None` where it goes through an exchange, or
    /// where it does not say.
    #[must_use]
    pub fn queue_name(&self) -> Option<&str> {
        let exchange = self.exchange.as_deref().unwrap_or_default();
        match &self.queue {
            Some(queue) => Some(queue),
            None if exchange.is_empty() || exchange == QUEUES => self.routing_key.as_deref(),
            None => None,
        }
    }

    /// How long the broker is to keep it that is sent `now`.
    #[must_use]
    pub fn delay(&self, now: SystemTime) -> Duration {
        let eta = self.eta.as_ref().and_then(|eta| moment(eta, now));
        let until = eta.and_then(|eta| eta.duration_since(now).ok());
        let countdown = self.countdown.and_then(seconds);
        countdown.or(until).unwrap_or_default()
    }

    /// Has it go to a queue that workers of ours declare. Under the name of a queue alone, Python would
    /// declare it, too, in its own way, and be refused.
    pub fn go_to_ours(&mut self, queue: String) {
        self.exchange = Some(QUEUES.into());
        self.routing_key = Some(queue);
    }
}

/// Signatures that are not read before their turn comes, so that nothing of them is lost on the way.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub struct Signatures(pub Vec<Box<RawValue>>);

impl Signatures {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Signatures {
    /// Reads a list, or a single one as Python sometimes writes it, or nothing.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Some(raw) = Option::<Box<RawValue>>::deserialize(deserializer)? else {
            return Ok(Self::default());
        };
        match raw.get().as_bytes().first() {
            Some(b'[') => serde_json::from_str(raw.get())
                .map(Self)
                .map_err(D::Error::custom),
            Some(b'{') if raw.get() != "{}" => Ok(Self(vec![raw])),
            _ => Ok(Self::default()),
        }
    }
}

/// What the body of a join carries: where its members' results are, and in which order they go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The join's name.
    pub join: String,
    /// The members' ids, in the order of their results.
    pub members: Vec<String>,
    /// 0 where a failed member fails the whole. Otherwise results and failures are both collected, this many
    /// times wrapped.
    #[serde(default)]
    pub collected: u32,
    /// Whether the body goes without the results.
    #[serde(default)]
    pub immutable: bool,
}

/// What a member of a join carries in its header `garenne-join`: where its outcome goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The join's name.
    pub join: String,
    /// How many parts it waits for.
    pub parts: u32,
    /// Whether a failure makes it fire at once.
    pub fail_fast: bool,
}

impl Part {
    /// As the header's text.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("a part always serialises")
    }

    /// What a message's header says.
    #[must_use]
    pub fn of(headers: &Headers) -> Option<Self> {
        serde_json::from_str(headers.get(header::JOIN)?.as_str()?).ok()
    }
}

/// A message that is to follow another, and after which time.
#[derive(Debug, Clone, PartialEq)]
pub struct Following {
    /// The message.
    pub message: Message,
    /// How long the broker is to keep it.
    pub delay: Duration,
}

impl Signature {
    /// Reads one.
    ///
    /// # Errors
    /// What serde says.
    pub fn decode(raw: &RawValue) -> serde_json::Result<Self> {
        let mut signature: Self = serde_json::from_str(raw.get())?;
        if raw.get().contains("\"stamped_headers\"") {
            let named: Stamped = serde_json::from_str(raw.get())?;
            signature.options.stamps = stamps::of_options(&named.options);
        }
        Ok(signature)
    }

    /// As it is written.
    #[must_use]
    pub fn encode(&self) -> Box<RawValue> {
        serde_json::value::to_raw_value(self).expect("a signature always serialises")
    }

    /// The message of this call, sent `now`: with `input`, the result of the call before, in front of its
    /// arguments, unless it wants none; `chain` is what follows it, beside what it says itself.
    #[must_use]
    pub fn message(
        self,
        input: Option<&RawValue>,
        mut chain: Vec<Box<RawValue>>,
        now: SystemTime,
    ) -> Following {
        let Self {
            task,
            args,
            kwargs,
            options,
            immutable,
            ..
        } = self;
        let delay = options.delay(now);
        let input = input.filter(|_| !immutable).map(RawValue::to_owned);
        let arguments = Arguments {
            args: input.into_iter().chain(args).collect(),
            kwargs,
        };
        chain.extend(options.chain.0);
        let embed = Embed {
            callbacks: options.link,
            errbacks: options.link_error,
            chain: Signatures(chain),
            chord: options.chord,
            garenne_join: options.garenne_join,
        };
        let id = options.task_id.unwrap_or_else(crate::id::new_id);
        let mut message = Message::new(id, &task, &arguments);
        if options.exchange.as_deref() != Some(QUEUES) {
            message.spell_out(&arguments);
        }
        if !embed.is_empty() {
            message.body = arguments.encode_with(&embed).into();
        }
        let headers = options.headers.unwrap_or_default();
        message.headers.extend(headers);
        message.stamp(options.stamps);
        message.priority = options.priority;
        message.reply_to = options.reply_to;
        if options.correlation_id.is_some() {
            message.correlation_id = options.correlation_id;
        }
        let texts = [
            ("root_id", options.root_id),
            ("parent_id", options.parent_id),
            ("group", options.group_id),
            ("shadow", options.shadow),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                message.set(name, text);
            }
        }
        if let Some(index) = options.group_index {
            message.set("group_index", index);
        }
        if options.time_limit.is_some() || options.soft_time_limit.is_some() {
            let limits = json!([options.time_limit, options.soft_time_limit]);
            message.set("timelimit", limits);
        }
        if options.ignore_result == Some(true) {
            message.set("ignore_result", true);
        }
        let far = options.garenne_expires.and_then(seconds);
        let expires = options.expires.and_then(|expires| moment(&expires, now));
        let expires = expires.or_else(|| now.checked_add(far?));
        if let Some(expires) = expires {
            message.set("expires", format_time(expires));
        }
        let deadline = options.garenne_deadline.and_then(seconds);
        if let Some(deadline) = deadline.and_then(|after| now.checked_add(after)) {
            message.set_deadline(deadline);
        }
        if let Some(eta) = (!delay.is_zero()).then(|| now.checked_add(delay)).flatten() {
            message.set_eta(eta);
        }
        Following { message, delay }
    }
}

/// A signature's options once more, for what stands among them under names of its own.
#[derive(Deserialize)]
struct Stamped {
    #[serde(default, deserialize_with = "or_default")]
    options: Headers,
}

fn seconds(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok()
}

/// A moment as Python may give it: in seconds from now, in words, or with its type beside it.
fn moment(value: &Value, now: SystemTime) -> Option<SystemTime> {
    match value {
        Value::Number(number) => now.checked_add(seconds(number.as_f64()?)?),
        Value::String(text) => parse_time(text),
        Value::Object(typed) => parse_time(typed.get("__value__")?.as_str()?),
        _ => None,
    }
}

/// Reads `null` as nothing.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}
