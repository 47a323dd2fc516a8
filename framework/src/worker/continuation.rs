//! What follows a call once its outcome is known: the next call of its chain, callbacks, its part of a join, its
//! reply. Pure: the messages are made here, and sent by `settle.rs`.

use std::time::{Duration, SystemTime};

use serde_json::value::{RawValue, to_raw_value};

use crate::broker::Route;
use crate::failure::Failure;
use crate::message::{
    Embed, Following, Message, Origin, Part, Signature, SignatureOptions, header,
};
use crate::reply::Reply;
use crate::workflow::EXPAND;

/// What follows a call.
pub(super) struct Continuation<'a> {
    message: &'a Message,
    embed: Embed,
}

/// A message, and where it goes.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) route: Route,
    pub(super) message: Message,
    pub(super) delay: Duration,
}

impl<'a> Continuation<'a> {
    /// What follows the call that `message` asks for. One that cannot be read is followed by its reply only.
    pub(super) fn of(message: &'a Message) -> Self {
        let embed = Embed::of(message).unwrap_or_default();
        Self { message, embed }
    }

    /// The join whose body the call is.
    pub(super) fn join(&self) -> Option<&str> {
        Some(&self.embed.garenne_join.as_ref()?.join)
    }

    /// All that follows it, in the order in which it is to be sent. `home` is where a call goes whose signature
    /// does not say it.
    pub(super) fn next(
        &self,
        outcome: &Result<Box<RawValue>, Failure>,
        now: SystemTime,
        home: &dyn Fn(&str) -> Route,
    ) -> Vec<Next> {
        let mut next = match outcome {
            Ok(value) => self.after_success(value, now, home),
            Err(failure) => self.after_failure(failure, now, home),
        };
        let Message {
            id,
            reply_to,
            correlation_id,
            headers,
            ..
        } = self.message;
        // What has sent a part of a workflow leaves it to that to say how it ended.
        let is_silent = outcome.is_ok() && self.message.text("task") == Some(EXPAND);
        let address = reply_to
            .as_deref()
            .filter(|_| !self.message.ignores_result());
        let reply = || Reply {
            id: id.clone(),
            outcome: outcome.clone(),
        };
        if !is_silent {
            next.extend(told(
                reply,
                Part::of(headers),
                address,
                correlation_id.as_deref(),
                self.message,
                now,
            ));
        }
        next
    }

    fn after_success(
        &self,
        value: &RawValue,
        now: SystemTime,
        home: &dyn Fn(&str) -> Route,
    ) -> Vec<Next> {
        let origin = self.message.origin();
        let send = |raw: &RawValue, rest: &[Box<RawValue>]| {
            let signature = readable(raw)?;
            Some(sent(signature, Some(value), rest, &origin, now, home))
        };
        let callbacks = self.embed.callbacks.0.iter();
        let mut next: Vec<Next> = callbacks.filter_map(|raw| send(raw, &[])).collect();
        if let Some((last, rest)) = self.embed.chain.0.split_last() {
            next.extend(send(last, rest));
        }
        next
    }

    fn after_failure(
        &self,
        failure: &Failure,
        now: SystemTime,
        home: &dyn Fn(&str) -> Route,
    ) -> Vec<Next> {
        // A deadline that is past must not keep anybody from hearing of it.
        let origin = Origin {
            deadline: None,
            ..self.message.origin()
        };
        let in_full = to_raw_value(failure).ok();
        let by_id = to_raw_value(&failure.id).ok();
        let mut next = Vec::new();
        for raw in &self.embed.errbacks.0 {
            let Some(signature) = readable(raw) else {
                continue;
            };
            let headers = signature.options.headers.as_ref();
            let wants_all = headers
                .and_then(|headers| headers.get(header::INPUT))
                .is_some();
            let input = if wants_all { &in_full } else { &by_id };
            next.push(sent(signature, input.as_deref(), &[], &origin, now, home));
        }
        // The next call is the last of the chain.
        for raw in self.embed.chain.0.iter().rev() {
            let Some(signature) = readable(raw) else {
                continue;
            };
            let SignatureOptions {
                task_id,
                reply_to,
                correlation_id,
                headers,
                ignore_result,
                ..
            } = signature.options;
            let (Some(id), false) = (task_id, ignore_result == Some(true)) else {
                continue;
            };
            let reply = || Reply {
                id,
                outcome: Err(failure.clone()),
            };
            let part = headers.as_ref().and_then(Part::of);
            let correlation = correlation_id.as_deref();
            next.extend(told(
                reply,
                part,
                reply_to.as_deref(),
                correlation,
                self.message,
                now,
            ));
        }
        next
    }
}

/// Why what follows the call could not be sent, which is better known before it is run.
pub(super) fn unsupported(embed: &Embed) -> Option<String> {
    if let Some(chord) = &embed.chord
        && !matches!(chord.get(), "null" | "[]" | "{}")
    {
        let text = "it is a member of a chord of Celery's, which counts its members in Redis: \
                    send it from a group of Garenne's";
        return Some(text.into());
    }
    let of_chain = embed.chain.0.last().into_iter();
    let callbacks = embed.callbacks.0.iter().chain(&embed.errbacks.0);
    of_chain.chain(callbacks).find_map(|raw| {
        let signature = match Signature::decode(raw) {
            Ok(signature) => signature,
            Err(error) => return Some(format!("what is to follow it cannot be read: {error}")),
        };
        let kind = signature.subtask_type.as_deref();
        let several = matches!(kind, Some("group" | "chord" | "chain"));
        several.then(|| {
            format!(
                "it is to be followed by a {} of Celery's, which only Python's workers can send",
                kind.unwrap_or_default()
            )
        })
    })
}

fn readable(raw: &RawValue) -> Option<Signature> {
    Signature::decode(raw)
        .inspect_err(|error| tracing::warn!("what is to follow a call cannot be read: {error}"))
        .ok()
}

/// The message of a call that follows another.
fn sent(
    signature: Signature,
    input: Option<&RawValue>,
    rest: &[Box<RawValue>],
    origin: &Origin,
    now: SystemTime,
    home: &dyn Fn(&str) -> Route,
) -> Next {
    let options = &signature.options;
    let route = match (options.queue_name(), &options.exchange) {
        (Some(queue), _) => Route::Queue(queue.to_owned()),
        (None, Some(exchange)) => Route::Exchange {
            exchange: exchange.clone(),
            routing_key: options.routing_key.clone().unwrap_or_default(),
        },
        (None, None) => home(&signature.task),
    };
    let Following { mut message, delay } = signature.message(input, rest.to_vec(), now);
    message.descend_from(origin);
    message.hide_far_expiry(now);
    Next {
        route,
        message,
        delay,
    }
}

/// How an outcome is told: to a join, or to who awaits it.
fn told(
    reply: impl FnOnce() -> Reply,
    part: Option<Part>,
    reply_to: Option<&str>,
    correlation_id: Option<&str>,
    request: &Message,
    now: SystemTime,
) -> Option<Next> {
    let failed = |reply: &Reply| reply.outcome.is_err();
    let (route, reply) = match (part, reply_to) {
        (Some(part), _) => {
            let reply = reply();
            let route = Route::Join {
                fire: failed(&reply) && part.fail_fast,
                join: part.join,
                parts: part.parts,
            };
            (route, reply)
        }
        (None, Some(address)) => (Route::Reply(address.to_owned()), reply()),
        (None, None) => return None,
    };
    Some(Next {
        route,
        message: reply.encode_for(correlation_id, request, now),
        delay: Duration::ZERO,
    })
}
