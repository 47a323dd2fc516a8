//! A message's past: the errors of its attempts, how it became a dead letter, and how it gets a new life.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{Message, cut, format_time, header, parse_time};

/// Bytes kept of one error in the history.
const ERROR_LIMIT: usize = 1024;
/// Bytes of the whole history on the wire; where it is longer, the oldest errors are left out.
pub(super) const HISTORY_LIMIT: usize = 16 * 1024;
/// Bytes kept of the error that a dead letter died of.
const LAST_ERROR_LIMIT: usize = 8 * 1024;

/// How an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PastError {
    /// The attempt's number; the first is 1.
    pub attempt: u32,
    /// When it failed, where that was noted.
    pub at: Option<SystemTime>,
    /// What went wrong, in words; cut after 1 KiB.
    pub error: String,
}

/// An error of the history as it is written.
#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(default)]
    attempt: u32,
    at: Option<String>,
    error: String,
}

impl Message {
    /// The errors of earlier attempts, the oldest first: the newest ones that fit 16 KiB.
    #[must_use]
    pub fn errors(&self) -> Vec<PastError> {
        let entries = self.entries().into_iter();
        entries
            .map(|entry| PastError {
                attempt: entry.attempt,
                at: entry.at.as_deref().and_then(parse_time),
                error: entry.error,
            })
            .collect()
    }

    /// The errors of earlier attempts in words, the oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<String> {
        let entries = self.entries().into_iter();
        entries.map(|entry| entry.error).collect()
    }

    fn entries(&self) -> Vec<Entry> {
        let text = self.text(header::HISTORY).unwrap_or("[]");
        serde_json::from_str(text).unwrap_or_default()
    }

    /// The message of the next attempt; this one failed `now` with `error`.
    #[must_use]
    pub fn next_attempt(&self, error: &str, now: SystemTime) -> Self {
        let mut next = self.again();
        next.set("retries", self.attempt());
        next.remember(self.attempt(), error, now);
        next
    }

    /// The message as a dead letter of `queue`: itself, with the reason and the error it died of.
    #[must_use]
    pub fn dead(&self, queue: &str, reason: &str, error: &str, now: SystemTime) -> Self {
        let mut dead = self.again();
        dead.shed();
        dead.remember(self.attempt(), error, now);
        dead.set(header::REASON, reason);
        dead.set(header::ERROR, cut(error, LAST_ERROR_LIMIT));
        dead.set(header::QUEUE, queue);
        dead.set(header::DIED_AT, format_time(now));
        dead
    }

    /// A dead letter's message for a new life of its call: under the same id and with its history, but as
    /// a first attempt, that neither is delayed nor has expired `now`, nor missed its deadline.
    #[must_use]
    pub fn revived(&self, now: SystemTime) -> Self {
        let mut alive = self.again();
        let of_its_death = [
            header::REASON,
            header::ERROR,
            header::QUEUE,
            header::DIED_AT,
            header::ATTEMPTS,
        ];
        for name in of_its_death {
            alive.headers.remove(name);
        }
        if alive.headers.contains_key("retries") {
            alive.set("retries", 0);
        }
        if alive.last_start().is_some_and(|last| last <= now) {
            alive.headers.remove("expires");
            alive.headers.remove(header::EXPIRES);
            alive.headers.remove(header::DEADLINE);
        }
        alive.set(header::REVIVALS, self.revivals().saturating_add(1));
        alive
    }

    /// How often a dead letter of this call was sent to its queue again.
    #[must_use]
    pub fn revivals(&self) -> u32 {
        self.count(header::REVIVALS).unwrap_or(0)
    }

    fn remember(&mut self, attempt: u32, error: &str, now: SystemTime) {
        let mut entries = self.entries();
        entries.push(Entry {
            attempt,
            at: Some(format_time(now)),
            error: cut(error, ERROR_LIMIT).to_owned(),
        });
        loop {
            let text = serde_json::to_string(&entries).unwrap_or_default();
            if text.len() <= HISTORY_LIMIT || entries.len() == 1 {
                return self.set(header::HISTORY, text);
            }
            entries.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::super::Arguments;
    use super::super::tests::NOW;
    use super::*;

    fn died() -> Message {
        let mut message = Message::new("id-1".into(), "t", &Arguments::default());
        message.set("tenant", "acme");
        message.set("expires", format_time(NOW + Duration::from_secs(10)));
        message.reply_to = Some("garenne.reply.x".into());
        message.priority = Some(5);
        let second = message.next_attempt("first", NOW);
        second.dead("q", "failed", "second", NOW + Duration::from_secs(5))
    }

    #[test]
    fn each_error_keeps_its_attempt_and_time() {
        let errors = died().errors();
        let times = [NOW, NOW + Duration::from_secs(5)].map(Some);
        assert_eq!([errors[0].at, errors[1].at], times);
        assert_eq!([errors[0].attempt, errors[1].attempt], [1, 2]);
        assert_eq!(died().history(), ["first", "second"]);
        let mut odd = died();
        for text in ["no JSON", "{}", "[1]", r#"[{"at": "soon"}]"#] {
            odd.set(header::HISTORY, text);
            assert_eq!(odd.errors(), [], "{text}");
        }
        odd.set(header::HISTORY, json!([1]));
        assert_eq!(odd.errors(), []);
    }

    #[test]
    fn a_new_life_is_a_first_attempt_with_a_past() {
        let mut dead = died();
        dead.set("x-death", json!([{"reason": "rejected"}]));
        dead.set(header::DELIVERIES, 3);
        let alive = dead.revived(NOW + Duration::from_secs(7));
        assert_eq!((alive.attempt(), alive.revivals()), (1, 1));
        assert_eq!(alive.errors(), dead.errors());
        assert_eq!(alive.text("tenant"), Some("acme"));
        assert_eq!((&alive.id, &alive.body), (&dead.id, &dead.body));
        assert_eq!((&alive.reply_to, alive.priority), (&dead.reply_to, Some(5)));
        assert!(alive.expires().is_some(), "it can still run in time");
        for name in [
            header::REASON,
            header::ERROR,
            header::DIED_AT,
            header::DELIVERIES,
            "x-death",
        ] {
            assert!(!alive.headers.contains_key(name), "{name}");
        }
        let late = dead.revived(NOW + Duration::from_secs(11));
        assert_eq!(late.expires(), None, "it would die at once");
        assert_eq!(late.revived(NOW).revivals(), 2);
    }
}
