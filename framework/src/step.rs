//! A call without its type: what [`Call`](crate::Call), [`Partial`](crate::Partial) and the workflows made of them
//! have in common.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value as Json, json};

use crate::app::Outgoing;
use crate::broker::{Queue, Route};
use crate::error::{Error, Result};
use crate::id::new_id;
use crate::message::{
    Arguments, FARTHEST_EXPIRY, Message, Signature, SignatureOptions, format_time, header,
};
use crate::options::{CallOptions, Due};

/// A task with arguments and options, not yet sent.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) task: String,
    /// Without the result of the step before.
    pub(crate) arguments: Arguments,
    pub(crate) options: CallOptions,
    /// An argument that could not be encoded; returned when the call is sent.
    pub(crate) problem: Option<Error>,
    /// Whether the result of the step before becomes its first argument.
    pub(crate) takes_input: bool,
    /// Whether its task is one of this binary's, so that a worker with Garenne takes from its queue.
    pub(crate) is_ours: bool,
    /// Whether its task was declared as one that runs elsewhere, so that its queue is not ours to make.
    pub(crate) is_foreign: bool,
}

impl Step {
    pub(crate) fn new(task: String, queue: &str) -> Self {
        Self {
            task,
            arguments: Arguments::default(),
            options: CallOptions::to(queue),
            problem: None,
            takes_input: false,
            is_ours: false,
            is_foreign: false,
        }
    }

    /// A call of a task whose function this binary does not have.
    pub(crate) fn named(task: String) -> Self {
        Self::new(task, crate::task::TaskOptions::DEFAULT.queue)
    }

    pub(crate) fn arg<A: Serialize>(&mut self, value: &A) -> Result<()> {
        let position = self.arguments.args.len() + 1 + usize::from(self.takes_input);
        let raw = encode(&self.task, || format!("argument {position}"), value)?;
        self.arguments.args.push(raw);
        Ok(())
    }

    pub(crate) fn kwarg<A: Serialize>(&mut self, name: String, value: &A) -> Result<()> {
        let raw = encode(&self.task, || format!("argument `{name}`"), value)?;
        self.arguments.kwargs.insert(name, raw);
        Ok(())
    }

    /// Makes an empty list its first argument, if it still lacks one.
    pub(crate) fn bind_empty_list(&mut self) {
        if std::mem::take(&mut self.takes_input) {
            let empty = RawValue::from_string("[]".into()).expect("an empty list is JSON");
            self.arguments.args.insert(0, empty);
        }
    }

    /// Its queue, if workers of ours take from it.
    pub(crate) fn queue_of_ours(&self) -> Option<&Queue> {
        let built_in = self.task.starts_with("garenne.");
        (self.is_ours && !built_in && self.options.exchange.is_none())
            .then_some(&self.options.queue)
    }

    /// The task's name, the arguments and the options.
    pub(crate) fn into_parts(self) -> Result<(String, Arguments, CallOptions)> {
        match self.problem {
            Some(problem) => Err(problem),
            None => {
                let mut options = self.options;
                options.queue = owned(options.queue, self.is_foreign);
                Ok((self.task, self.arguments, options))
            }
        }
    }

    /// Chooses the queue that it goes to, which must be there before it is sent: one of several by the call's id, which it
    /// gets by that.
    pub(crate) fn choose_queue(&mut self) -> Queue {
        if self.options.queue.shards > 1 {
            let id = self.options.id.take();
            let id = id.unwrap_or_else(new_id);
            self.options.choose_shard(&id);
            self.options.id = Some(id);
        }
        owned(self.options.queue.clone(), self.is_foreign)
    }

    /// What goes to the broker if it is sent at `now`, and the task's name.
    pub(crate) fn prepare(self, now: SystemTime) -> Result<(Outgoing, String)> {
        let is_ours = self.queue_of_ours().is_some();
        let (task, arguments, options) = self.into_parts()?;
        let mut outgoing = outgoing(&task, &arguments, options, now)?;
        if !is_ours {
            outgoing.spell_out(&arguments);
        }
        Ok((outgoing, task))
    }

    /// What would go to the broker if it were sent at `now`, under no id.
    pub(crate) fn sketch(&self, now: SystemTime) -> Result<Sketch> {
        if let Some(problem) = &self.problem {
            return Err(Error::invalid(
                "call of task",
                &self.task,
                problem.to_string(),
            ));
        }
        self.options.validate(&self.task, now)?;
        let mut message = Message::new(String::new(), &self.task, &self.arguments);
        let delay = self.options.write_to(&mut message, now);
        Ok(Sketch {
            message,
            route: self.options.route(),
            delay,
            wants_reply: !self.options.ignore_result,
        })
    }

    /// The call as others carry it with them until its turn comes. `prefix` is the app's.
    pub(crate) fn freeze(self, prefix: &str, now: SystemTime) -> Result<Signature> {
        let Self {
            task,
            arguments,
            options,
            problem,
            takes_input,
            is_ours,
            is_foreign: _,
        } = self;
        if let Some(problem) = problem {
            return Err(problem);
        }
        options.validate(&task, now)?;
        if let Some((exchange, _)) = &options.exchange {
            let reason = format!(
                "in a workflow, task `{task}` must go to one queue: what goes through an exchange may run several times"
            );
            return Err(Error::invalid("exchange", exchange.name(), reason));
        }
        let mut headers = options.headers;
        headers.values_mut().for_each(fit_headers);
        let mut set = |name: &str, value: Json| {
            if !value.is_null() {
                headers.insert(name.to_owned(), value);
            }
        };
        set(header::RETRIES, json!(options.retries));
        set(
            header::ACK,
            json!(options.ack.map(crate::task::Ack::as_str)),
        );
        if let Some(backoff) = options.backoff {
            let (base, max) = backoff.bounds();
            set(
                header::BACKOFF,
                json!([base.as_secs_f64(), max.as_secs_f64()]),
            );
        }
        let (countdown, eta) = match options.due {
            Due::Now => (None, None),
            Due::In(countdown) => (Some(countdown.as_secs_f64()), None),
            Due::At(eta) => (None, Some(format_time(eta).into())),
        };
        let far = options.expires.filter(|expires| *expires > FARTHEST_EXPIRY);
        let expires = options.expires.filter(|_| far.is_none());
        let id = options.id.unwrap_or_else(new_id);
        let mut signature = Signature {
            task,
            args: arguments.args,
            kwargs: arguments.kwargs,
            options: SignatureOptions {
                task_id: Some(id),
                priority: options.priority,
                countdown,
                eta,
                expires: expires.map(|expires| expires.as_secs_f64().into()),
                garenne_expires: far.map(|expires| expires.as_secs_f64()),
                garenne_deadline: options.deadline.map(|deadline| deadline.as_secs_f64()),
                time_limit: options.timeout.map(|timeout| timeout.as_secs_f64()),
                headers: Some(headers).filter(|headers| !headers.is_empty()),
                ..SignatureOptions::default()
            },
            subtask_type: None,
            immutable: !takes_input,
        };
        let queue = format!("{prefix}{}", options.queue.name());
        match is_ours {
            true => signature.options.go_to_ours(queue),
            false => signature.options.queue = Some(queue),
        }
        Ok(signature)
    }
}

/// Makes a double of each integer that no header can hold: Python could not send it.
fn fit_headers(value: &mut Json) {
    match value {
        Json::Number(number) if number.is_u64() && number.as_i64().is_none() => {
            *value = json!(number.as_f64());
        }
        Json::Array(values) => values.iter_mut().for_each(fit_headers),
        Json::Object(entries) => entries.values_mut().for_each(fit_headers),
        _ => {}
    }
}

/// What a call would look like, and where it would go.
pub(crate) struct Sketch {
    pub(crate) message: Message,
    pub(crate) route: Route,
    pub(crate) delay: Duration,
    pub(crate) wants_reply: bool,
}

/// What goes to the broker if a call of `task` is sent at `now`.
pub(crate) fn outgoing(
    task: &str,
    arguments: &Arguments,
    mut options: CallOptions,
    now: SystemTime,
) -> Result<Outgoing> {
    options.validate(task, now)?;
    let id = options.id.take().unwrap_or_else(new_id);
    options.choose_shard(&id);
    let mut message = Message::new(id, task, arguments);
    let delay = options.write_to(&mut message, now);
    Ok(Outgoing {
        message,
        queue: options.queue,
        exchange: options.exchange,
        delay,
        wants_reply: !options.ignore_result,
    })
}

fn owned(queue: Queue, is_foreign: bool) -> Queue {
    match is_foreign {
        true => queue.of_others(),
        false => queue,
    }
}

fn encode<A: Serialize>(
    task: &str,
    what: impl FnOnce() -> String,
    value: &A,
) -> Result<Box<RawValue>> {
    serde_json::value::to_raw_value(value).map_err(|source| Error::Encode {
        task: task.to_owned(),
        what: what(),
        source,
    })
}

/// The options of a call, for each type that has one call's: `options_mut` are the call's.
macro_rules! option_setters {
    () => {
        /// Goes to this queue. It is declared if it does not exist yet.
        pub fn queue(mut self, queue: impl Into<Queue>) -> Self {
            self.options_mut().queue = queue.into();
            self
        }

        /// Goes to the same one of its queue's [`shards`](Queue::shards) as every other call with this key, a customer's
        /// say. Without one, calls are spread over all of them.
        pub fn shard_key(mut self, key: impl Into<String>) -> Self {
            self.options_mut().shard_key = Some(key.into());
            self
        }

        /// Is sent under this id instead of a random one. Sent twice, it is recognisably the same call.
        pub fn id(mut self, id: impl Into<String>) -> Self {
            self.options_mut().id = Some(id.into());
            self
        }

        /// Repeats a failed attempt at most this many times.
        pub fn retries(mut self, retries: u32) -> Self {
            self.options_mut().retries = Some(retries);
            self
        }

        /// Waits this long between attempts, for example `SECOND..5 * MINUTE`.
        pub fn backoff(mut self, backoff: impl Into<Backoff>) -> Self {
            self.options_mut().backoff = Some(backoff.into());
            self
        }

        /// Ends an attempt that takes longer. Zero is no limit: the task's own counts then, if it has one.
        pub fn timeout(mut self, timeout: Duration) -> Self {
            self.options_mut().timeout = Some(timeout);
            self
        }

        /// Is delivered before calls of lower priority, on queues that have priorities
        /// ([`Queue::max_priority`]); 0 is the lowest.
        pub fn priority(mut self, priority: u8) -> Self {
            self.options_mut().priority = Some(priority);
            self
        }

        /// Is not started later than this after being sent.
        pub fn expires(mut self, after: Duration) -> Self {
            self.options_mut().expires = Some(after);
            self
        }

        /// Is to be done within this time after being sent, with all its retries and all that its tasks send: the
        /// whole has one deadline. (A [`timeout`](Self::timeout) is each attempt's own, and what
        /// [`expires`](Self::expires) may take any time once it is started.)
        ///
        /// Past it, the call is not started (it fails with the kind [`Expired`]), an attempt that runs is ended
        /// ([`TimedOut`]), and a retry that would be due after it is not made: the call fails with the error of its
        /// last attempt. What a task sends through [`ctx.app()`](crate::Context::app) inherits the deadline, and may
        /// only have a nearer one of its own; so does what follows it in a workflow, except for what follows a
        /// group: that inherits none of its members'. A step's own deadline counts from when its turn comes.
        ///
        /// [`Expired`]: crate::FailureKind::Expired
        /// [`TimedOut`]: crate::FailureKind::TimedOut
        pub fn deadline(mut self, after: Duration) -> Self {
            self.options_mut().deadline = Some(after);
            self
        }

        /// When the worker acknowledges it.
        pub fn ack(mut self, ack: Ack) -> Self {
            self.options_mut().ack = Some(ack);
            self
        }

        /// Is not started before this time has passed. It waits in the broker.
        pub fn countdown(mut self, countdown: Duration) -> Self {
            self.options_mut().due = Due::In(countdown);
            self
        }

        /// Is not started before this moment. It waits in the broker.
        pub fn eta(mut self, eta: SystemTime) -> Self {
            self.options_mut().due = Due::At(eta);
            self
        }

        /// Wants no reply: cheaper for calls that nobody awaits.
        pub fn ignore_result(mut self) -> Self {
            self.options_mut().ignore_result = true;
            self
        }

        /// Carries a header of your own, which headers exchanges can route by and the task can read with
        /// [`Context::header`](crate::Context::header).
        pub fn header(mut self, name: impl Into<String>, value: impl Into<Json>) -> Self {
            self.options_mut().headers.insert(name.into(), value.into());
            self
        }
    };
}
pub(crate) use option_setters;
