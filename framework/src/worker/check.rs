//! What speaks against running a message, found before its task is called.

use std::time::{Duration, SystemTime};

use super::Shared;
use super::continuation::unsupported;
use super::memory::Key;
use super::verdict::{Verdict, failure};
use crate::broker::Delivery;
use crate::failure::FailureKind;
use crate::message::{Arguments, Joined, Message};
use crate::retry::LONGEST_DELAY;
use crate::task::Definition;
use crate::workflow::builtin;

/// The call's arguments, checked so far as can be without knowing the function's types.
pub(super) struct Checked {
    pub(super) arguments: Arguments,
    /// The join whose body the call is.
    pub(super) joined: Option<Box<Joined>>,
    pub(super) definition: &'static Definition,
    pub(super) name: &'static str,
}

impl Shared {
    /// Makes a packed body plain.
    pub(super) fn unpack(&self, message: &mut Message) -> Result<(), Verdict> {
        let (limit, msgpack) = (self.app.max_message_size(), self.app.accepts_msgpack());
        let unpacked = message.unpack(limit, msgpack);
        unpacked.map_err(|unreadable| Verdict::Dead {
            reason: "unreadable",
            failure: failure(message, FailureKind::Rejected, unreadable.0),
        })
    }

    /// What speaks against running a message.
    pub(super) fn check(
        &self,
        delivery: &Delivery,
        message: &Message,
        key: &Key,
    ) -> Result<Checked, Verdict> {
        let dead_as = |reason, exception: &str, text: String| {
            let mut failure = failure(message, FailureKind::Rejected, text);
            failure.error_type = exception.into();
            Verdict::Dead { reason, failure }
        };
        let dead = |reason, text| dead_as(reason, "", text);
        let name = message
            .task()
            .map_err(|e| dead("unreadable", e.to_string()))?;
        if let Some(text) = message.unsupported() {
            return Err(dead_as(
                "unsupported",
                "kombu.exceptions.ContentDisallowed",
                text,
            ));
        }
        let (size, limit) = (message.body.len(), self.app.max_message_size());
        if size > limit {
            let text = format!(
                "the body has {size} bytes, more than the {limit} that this worker's app accepts"
            );
            return Err(dead("too_large", text));
        }
        if delivery.deliveries > self.max_deliveries {
            let text = format!(
                "delivered {} times without being settled: it seems to kill the workers that take it",
                delivery.deliveries - 1
            );
            return Err(dead("poison", text));
        }
        if self.cancelled.contains(&key.id) || self.stamps.revoke(message) {
            return Err(Verdict::Dropped(failure(
                message,
                FailureKind::Cancelled,
                "cancelled before it ran",
            )));
        }
        let now = self.app.now();
        if let Some(last) = message.last_start().filter(|last| *last <= now) {
            let late = now.duration_since(last).unwrap_or_default();
            let what = match message.deadline() == Some(last) {
                true => "its deadline passed",
                false => "expired",
            };
            let text = format!("{what} {late:.1?} before a worker took it");
            return Err(Verdict::Dropped(failure(
                message,
                FailureKind::Expired,
                text,
            )));
        }
        if let Some(delay) = early(message, now) {
            return Err(Verdict::Postponed { delay });
        }
        let registered = self.tasks.get(name).or_else(|| builtin(name));
        let definition = registered.ok_or_else(|| {
            let known: Vec<_> = self.tasks.iter().map(|task| task.name).collect();
            let text = format!(
                "no task `{}` in this worker, which knows {}",
                name.escape_debug(),
                known.join(", ")
            );
            dead_as("unknown_task", "celery.exceptions.NotRegistered", text)
        })?;
        let (arguments, embed) =
            Arguments::decode_json(&message.body).map_err(|e| dead("unreadable", e.to_string()))?;
        if let Some(text) = unsupported(&embed, self.has_result_backend(), now) {
            return Err(dead("unsupported", text));
        }
        if let Some(delay) = self.limits.wait(definition.name, message.is_postponed()) {
            return Err(Verdict::Postponed { delay });
        }
        Ok(Checked {
            arguments,
            joined: embed.garenne_join.map(Box::new),
            definition,
            name: definition.name,
        })
    }
}

impl Shared {
    /// Whether results are kept, and with them how far Celery's chords have come.
    #[allow(clippy::unused_self, reason = "not where the feature is on")]
    fn has_result_backend(&self) -> bool {
        #[cfg(feature = "redis")]
        return self.app.results().is_some();
        #[cfg(not(feature = "redis"))]
        false
    }
}

/// How much too early a message of another kind of sender is, which left the waiting to us. Our own
/// senders let the broker wait, by its clock.
fn early(message: &Message, now: SystemTime) -> Option<Duration> {
    if message.is_of_ours() {
        return None;
    }
    message
        .eta()?
        .duration_since(now)
        .ok()
        // No broker keeps it longer; it is postponed again then.
        .map(|early| early.min(LONGEST_DELAY))
        .filter(|early| !early.is_zero())
}
