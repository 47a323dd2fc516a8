//! How far the active scheduler has come: the value of its lease. Pure: time is an argument.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::ledger::Last;
use crate::error::{Error, Result};

/// What this version writes.
const FORMAT: u32 = 1;
/// How long the last tick of an entry is kept that nobody has had since: the table counts on a week.
const KEPT: SignedDuration = SignedDuration::from_hours(8 * 24);

/// The last tick of each entry that was sent.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) last: Last,
    /// Whether it is not written down yet.
    pub(super) dirty: bool,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    last: BTreeMap<String, String>,
}

impl Progress {
    pub(super) fn decode(value: Option<&[u8]>) -> Result<Self> {
        let Some(value) = value else {
            return Ok(Self::default());
        };
        let unreadable = |reason: String| Error::Refused {
            what: "to read the scheduler's state in the broker".into(),
            reason,
        };
        let stored: Stored =
            serde_json::from_slice(value).map_err(|error| unreadable(error.to_string()))?;
        if stored.format > FORMAT {
            return Err(unreadable(format!(
                "a newer version of garenne wrote it (format {}, this one knows {FORMAT})",
                stored.format
            )));
        }
        let last = stored.last.into_iter();
        let last = last.filter_map(|(name, time)| Some((name, time.parse().ok()?)));
        Ok(Self {
            last: last.collect(),
            dirty: false,
        })
    }

    pub(super) fn encode(&mut self, now: Timestamp, in_force: impl Fn(&str) -> bool) -> Vec<u8> {
        self.last
            .retain(|name, last| now.duration_since(*last) < KEPT || in_force(name));
        let last = self.last.iter();
        let stored = Stored {
            format: FORMAT,
            last: last
                .map(|(name, time)| (name.clone(), time.to_string()))
                .collect(),
        };
        // A map of texts always has a JSON.
        serde_json::to_vec(&stored).unwrap_or_default()
    }

    pub(super) fn set(&mut self, name: &str, last: Timestamp) {
        let before = self.last.insert(name.to_owned(), last);
        self.dirty |= before != Some(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_as_it_was_written() {
        let now: Timestamp = "2026-11-21T03:00:00Z".parse().expect("a time");
        let mut progress = Progress::default();
        progress.set("größe", now);
        progress.set("old", now - KEPT);
        progress.set("yearly", now - 10 * KEPT);
        assert!(progress.dirty);
        let value = progress.encode(now, |name| name == "yearly");
        let read = Progress::decode(Some(&value)).expect("readable");
        let kept = [
            ("größe".to_owned(), now),
            ("yearly".to_owned(), now - 10 * KEPT),
        ];
        assert_eq!(read.last, BTreeMap::from(kept));
        assert!(Progress::decode(None).expect("empty").last.is_empty());
        assert!(Progress::decode(Some(b"x")).is_err());
        let newer = Progress::decode(Some(br#"{"format":2,"last":{}}"#));
        assert!(
            newer
                .expect_err("newer")
                .to_string()
                .contains("newer version")
        );
    }
}
