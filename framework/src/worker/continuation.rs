//! What follows a call once its outcome is known: the next call of its chain, callbacks, its part of a join, its
//! reply. Pure: the messages are made here, and sent by `settle.rs`.

use std::time::{Duration, SystemTime};

use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use crate::broker::{Queue, Route};
use crate::failure::{Failure, FailureKind};
use crate::message::{
    Beginning, CANVAS_DEPTH, Chord, Embed, First, Following, Kind, Message, Origin, Part,
    Signature, SignatureOptions, header,
};
use crate::reply::Reply;
use crate::retry::LONGEST_DELAY;
use crate::workflow::EXPAND;

/// What follows a call.
pub(super) struct Continuation<'a> {
    message: &'a Message,
    embed: Embed,
}

/// What follows a call once its outcome is known.
#[derive(Debug, Default)]
pub(super) struct Consequences {
    /// What is to be sent, in this order.
    pub(super) publish: Vec<Next>,
    /// Celery's chords whose first members are among that; their sizes are to be known before.
    pub(super) chords: Vec<Chord>,
    /// What members of Celery's chords have come to: this call, or those that were to follow it.
    pub(super) parts: Vec<ChordPart>,
    /// Replies for the result backend, beside the call's own: to calls that were to follow it.
    pub(super) kept: Vec<Message>,
}

/// What a member of a chord of Celery's has come to.
#[derive(Debug)]
#[cfg_attr(
    not(feature = "redis"),
    allow(dead_code, reason = "nobody counts them")
)]
pub(super) struct ChordPart {
    /// The id of the chord's header.
    pub(super) group: String,
    /// The member's place in it.
    pub(super) index: Option<u64>,
    /// The chord's body.
    pub(super) body: Box<RawValue>,
    /// The member's result.
    pub(super) reply: Reply,
}

/// A message, and where it goes.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) route: Route,
    pub(super) message: Message,
    pub(super) delay: Duration,
}

impl<'a> Continuation<'a> {
    /// What follows the call that `message` asks for, as far as that can be read.
    pub(super) fn of(message: &'a Message) -> Self {
        let embed = Embed::readable_of(message);
        Self { message, embed }
    }

    /// The join whose body the call is.
    pub(super) fn join(&self) -> Option<&str> {
        Some(&self.embed.garenne_join.as_ref()?.join)
    }

    /// All that follows it. `home` is where a call goes whose signature does not say it.
    pub(super) fn next(
        &self,
        outcome: Result<&RawValue, &Failure>,
        now: SystemTime,
        home: &dyn Fn(&str) -> Route,
    ) -> Consequences {
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
        let reply = || replied(id, outcome);
        if let (Some(body), Some(group)) = (self.embed.chord(), self.message.text("group")) {
            next.parts.push(ChordPart {
                group: group.to_owned(),
                index: headers.get("group_index").and_then(Value::as_u64),
                body: body.to_owned(),
                reply: reply(),
            });
        }
        if !is_silent {
            next.publish.extend(told(
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
    ) -> Consequences {
        let mut next = Consequences::default();
        if self.embed.callbacks.is_empty() && self.embed.chain.is_empty() {
            return next;
        }
        let origin = self.message.origin();
        let mut send = |raw: &RawValue, rest: &[Box<RawValue>]| {
            if let Some(signature) = readable(raw) {
                next.send(signature, Some(value), rest.to_vec(), &origin, now, home);
            }
        };
        for callback in &self.embed.callbacks.0 {
            send(callback, &[]);
        }
        if let Some((last, rest)) = self.embed.chain.0.split_last() {
            send(last, rest);
        }
        next
    }

    fn after_failure(
        &self,
        failure: &Failure,
        now: SystemTime,
        home: &dyn Fn(&str) -> Route,
    ) -> Consequences {
        let mut next = Consequences::default();
        self.tell_errbacks(&self.embed.errbacks.0, failure, now, home, &mut next);
        // The next call is the last of the chain.
        for raw in self.embed.chain.0.iter().rev() {
            self.tell_of(raw, failure, now, CANVAS_DEPTH, &mut next);
        }
        next
    }

    fn tell_errbacks(
        &self,
        errbacks: &[Box<RawValue>],
        failure: &Failure,
        now: SystemTime,
        home: &dyn Fn(&str) -> Route,
        next: &mut Consequences,
    ) {
        // A deadline that is past must not keep anybody from hearing of it.
        let origin = Origin {
            deadline: None,
            ..self.message.origin()
        };
        let is_revoked = matches!(failure.kind, FailureKind::Cancelled | FailureKind::Expired);
        let in_full = to_raw_value(failure).ok();
        let by_id = to_raw_value(&failure.id).ok();
        for raw in errbacks {
            let Some(signature) = readable(raw) else {
                continue;
            };
            let headers = signature.options.headers.as_ref();
            let wants_all = headers
                .and_then(|headers| headers.get(header::INPUT))
                .is_some();
            // Python's are for errors alone. Of one that takes nothing it cannot be told whose it is.
            if is_revoked && !wants_all && !signature.immutable {
                continue;
            }
            let input = if wants_all { &in_full } else { &by_id };
            next.send(signature, input.as_deref(), Vec::new(), &origin, now, home);
        }
    }

    /// Has it told of calls that were to follow, and now never will: by reply, by join, in the result backend,
    /// to their chords. Of what is deeper inside than `depth` nobody is told: nobody could have sent it either.
    fn tell_of(
        &self,
        raw: &RawValue,
        failure: &Failure,
        now: SystemTime,
        depth: usize,
        next: &mut Consequences,
    ) {
        let Some(depth) = depth.checked_sub(1) else {
            tracing::warn!("what was to follow a call is nested too deeply to tell of it");
            return;
        };
        let Some(signature) = readable(raw) else {
            return;
        };
        match signature.inner() {
            Ok(inner) => {
                for raw in &inner {
                    self.tell_of(raw, failure, now, depth, next);
                }
            }
            Err(error) => tracing::warn!("what was to follow a call cannot be read: {error}"),
        }
        let is_call = signature.kind() == Kind::Call;
        let SignatureOptions {
            task_id,
            reply_to,
            correlation_id,
            group_id,
            group_index,
            headers,
            ignore_result,
            chord,
            chain,
            ..
        } = signature.options;
        for raw in chain.0.iter().rev() {
            self.tell_of(raw, failure, now, depth, next);
        }
        let (Some(id), true) = (task_id, is_call) else {
            return;
        };
        let reply = || Reply {
            id: id.clone(),
            outcome: Err(failure.clone()),
        };
        if let (Some(body), Some(group)) = (chord, group_id) {
            next.parts.push(ChordPart {
                group,
                index: group_index.map(u64::from),
                body,
                reply: reply(),
            });
        }
        if ignore_result == Some(true) {
            return;
        }
        let correlation = correlation_id.as_deref();
        next.kept
            .push(reply().encode_for(correlation, self.message, now));
        let part = headers.as_ref().and_then(Part::of);
        next.publish.extend(told(
            reply,
            part,
            reply_to.as_deref(),
            correlation,
            self.message,
            now,
        ));
    }

    /// The call's own reply for the result backend, if somebody may ask for it.
    #[cfg(feature = "redis")]
    pub(super) fn kept_reply(
        &self,
        outcome: Result<&RawValue, &Failure>,
        now: SystemTime,
    ) -> Option<Message> {
        let reply = || replied(&self.message.id, outcome).encode(self.message, now);
        (!self.message.ignores_result()).then(reply)
    }

    /// What follows when a chord is complete that the call has brought the last part of: its `body` with all
    /// results, or the news that one of the members has failed.
    #[cfg(feature = "redis")]
    pub(super) fn after_chord(
        &self,
        body: &RawValue,
        outcome: Result<Box<RawValue>, Failure>,
        now: SystemTime,
        home: &dyn Fn(&str) -> Route,
    ) -> Consequences {
        let mut next = Consequences::default();
        let Some(mut signature) = readable(body) else {
            return next;
        };
        match outcome {
            Ok(results) => {
                let rest = std::mem::take(&mut signature.options.chain.0);
                let origin = self.message.origin();
                next.send(signature, Some(&results), rest, &origin, now, home);
            }
            Err(failure) => {
                // As far as errbacks can tell, it was the body that failed.
                let id = signature.options.task_id.clone();
                let of_body = Failure {
                    id: id.unwrap_or_else(|| failure.id.clone()),
                    ..failure.clone()
                };
                let errbacks = &signature.options.link_error.0;
                self.tell_errbacks(errbacks, &of_body, now, home, &mut next);
                self.tell_of(body, &failure, now, CANVAS_DEPTH, &mut next);
            }
        }
        next
    }
}

impl Consequences {
    /// Sends what begins with `signature`.
    fn send(
        &mut self,
        signature: Signature,
        input: Option<&RawValue>,
        rest: Vec<Box<RawValue>>,
        origin: &Origin,
        now: SystemTime,
        home: &dyn Fn(&str) -> Route,
    ) {
        match Beginning::of(signature, input, rest) {
            Ok(beginning) => {
                let calls = beginning.calls.into_iter();
                self.publish
                    .extend(calls.map(|first| sent(first, origin, now, home)));
                self.chords.extend(beginning.chords);
            }
            // Nearly always refused before the call was run.
            Err(error) => tracing::warn!("what is to follow a call cannot be sent: {error}"),
        }
    }
}

/// Why what follows the call could not be sent, which is better known before it is run. Only a result backend
/// counts the members of Celery's chords.
pub(super) fn unsupported(
    embed: &Embed,
    has_result_backend: bool,
    now: SystemTime,
) -> Option<String> {
    const NEEDED: &str = "whose members are counted in Redis: give the app of this worker the \
                          `result_backend` of the Python app (feature `redis`), or send a group of Garenne's";
    if embed.chord().is_some() && !has_result_backend {
        return Some(format!("it is a member of a chord of Celery's, {NEEDED}"));
    }
    let of_chain = embed.chain.0.last().into_iter();
    let callbacks = embed.callbacks.0.iter().chain(&embed.errbacks.0);
    of_chain.chain(callbacks).find_map(|raw| {
        let unreadable = |error| format!("what is to follow it cannot be read: {error}");
        let signature = match Signature::decode(raw) {
            Ok(signature) => signature,
            Err(error) => return Some(unreadable(error.to_string())),
        };
        if signature.kind() == Kind::Call {
            return unsendable(&signature, now);
        }
        match Beginning::of(signature, None, Vec::new()) {
            Err(error) => Some(unreadable(error)),
            Ok(beginning) if !beginning.chords.is_empty() && !has_result_backend => Some(format!(
                "it is to be followed by a chord of Celery's, {NEEDED}"
            )),
            Ok(beginning) => {
                let mut calls = beginning.calls.iter();
                calls.find_map(|first| unsendable(&first.signature, now))
            }
        }
    })
}

/// Why the call could not be sent `now`, so far as that can be known without asking the broker.
fn unsendable(signature: &Signature, now: SystemTime) -> Option<String> {
    let Signature { task, options, .. } = signature;
    let delay = options.delay(now);
    if delay > LONGEST_DELAY {
        return Some(format!(
            "task `{task}`, which is to follow it, is due in {delay:?}, but no broker keeps a message for longer \
             than {LONGEST_DELAY:?}"
        ));
    }
    let name = options.queue_name()?;
    let error = Queue::new(name).validate().err()?;
    Some(format!(
        "task `{task}`, which is to follow it, cannot be sent: {error}"
    ))
}

fn readable(raw: &RawValue) -> Option<Signature> {
    Signature::decode(raw)
        .inspect_err(|error| tracing::warn!("what is to follow a call cannot be read: {error}"))
        .ok()
}

/// The message of a call that follows another.
fn sent(first: First, origin: &Origin, now: SystemTime, home: &dyn Fn(&str) -> Route) -> Next {
    let First {
        signature,
        input,
        rest,
    } = first;
    let options = &signature.options;
    let route = match (options.queue_name(), &options.exchange) {
        (Some(queue), _) => Route::Queue(queue.to_owned()),
        (None, Some(exchange)) => Route::Exchange {
            exchange: exchange.clone(),
            routing_key: options.routing_key.clone().unwrap_or_default(),
        },
        (None, None) => home(&signature.task),
    };
    let Following { mut message, delay } = signature.message(input.as_deref(), rest, now);
    message.descend_from(origin);
    message.hide_far_expiry(now);
    Next {
        route,
        message,
        delay,
    }
}

fn replied(id: &str, outcome: Result<&RawValue, &Failure>) -> Reply {
    Reply {
        id: id.to_owned(),
        outcome: outcome.map(ToOwned::to_owned).map_err(Clone::clone),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sent_after(kind: FailureKind, body: &str) -> Vec<String> {
        let message = Message {
            body: body.as_bytes().to_vec().into(),
            ..Message::default()
        };
        let failure = Failure::new("task", "id", kind, "no");
        let home = |_: &str| Route::Queue("home".into());
        let next = Continuation::of(&message).next(Err(&failure), SystemTime::UNIX_EPOCH, &home);
        let next = next.publish.into_iter();
        next.map(|next| match next.message.text("task") {
            Some(task) => task.to_owned(),
            None => next.route.to_string(),
        })
        .collect()
    }

    #[test]
    fn pythons_error_callbacks_are_not_for_what_was_revoked() {
        let body = r#"[[], {}, {"errbacks": [
            {"task": "python's"},
            {"task": "either's", "immutable": true},
            {"task": "ours", "options": {"headers": {"garenne-input": "failure"}}}
        ]}]"#;
        assert_eq!(
            sent_after(FailureKind::Failed, body),
            ["python's", "either's", "ours"]
        );
        for kind in [FailureKind::Cancelled, FailureKind::Expired] {
            assert_eq!(sent_after(kind, body), ["either's", "ours"], "{kind}");
        }
    }

    #[test]
    fn who_follows_an_unreadable_call_is_told() {
        let body = r#"[[NaN], {}, {"errbacks": [{"task": "errback"}], "chain": [
            {"task": "last", "options": {"task_id": "2", "reply_to": "replies"}},
            {"task": "next", "options": {"task_id": "1", "reply_to": "replies"}}
        ]}]"#;
        let sent = sent_after(FailureKind::Rejected, body);
        let reply = Route::Reply("replies".into()).to_string();
        assert_eq!(sent, ["errback", &*reply, &*reply]);
    }
}
