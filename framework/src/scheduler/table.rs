//! The entries that are kept in the broker, as the value of a lease. Pure: time is an argument.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::schedule::Schedule;
use super::template::Template;
use crate::error::{Error, Result};
use crate::message::cut;

/// What this version writes.
const FORMAT: u32 = 1;
/// Entries that there may be.
pub(super) const MOST_ENTRIES: usize = 10_000;
/// Bytes of an entry's name: its ticks' ids have a time after it.
const NAME_LIMIT: usize = 150;
/// How long an entry of one tick is kept when that was sent.
const KEPT: SignedDuration = SignedDuration::from_hours(1);
/// A moment that had passed for so long when it was set may have been sent, and forgotten: less than progress is kept.
const TAKEN_FOR_SENT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// All entries, by name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Table {
    #[serde(default)]
    format: u32,
    #[serde(default)]
    pub(super) entries: BTreeMap<String, Row>,
}

/// One entry. It is both in the code of schedulers and set at run time, or one of the two; what was set goes first.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Row {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) set: Option<Definition>,
    /// As the active scheduler's code has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<Definition>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) paused: bool,
    /// When its schedule was set: earlier ticks are none of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// When it was resumed: ticks during a pause are not made up for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resumed: Option<String>,
    /// Its last tick, as of late: the truth is in the active scheduler's own lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<String>,
}

/// What is sent when.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Definition {
    pub(super) schedule: Value,
    pub(super) task: String,
    /// `None` where the call is in the code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) call: Option<Box<RawValue>>,
}

impl Definition {
    /// What the code says, to be shown.
    pub(super) fn of_code(schedule: &Schedule, template: &Template) -> Self {
        Self {
            schedule: schedule.to_json(),
            task: template.task.clone(),
            call: None,
        }
    }

    /// What is set at run time.
    pub(super) fn to_set(schedule: &Schedule, template: &Template) -> Result<Self> {
        let call = Some(template.to_json()?);
        Ok(Self {
            call,
            ..Self::of_code(schedule, template)
        })
    }
}

impl Definition {
    fn moment(&self) -> Option<Timestamp> {
        let moment = self.schedule.get("at").and_then(Value::as_str);
        moment?.parse().ok()
    }
}

/// Reads a time that we wrote.
fn time(text: Option<&String>) -> Option<Timestamp> {
    text?.parse().ok()
}

impl Row {
    pub(super) fn definition(&self) -> Option<&Definition> {
        self.set.as_ref().or(self.code.as_ref())
    }

    pub(super) fn last(&self) -> Option<Timestamp> {
        time(self.last.as_ref())
    }

    pub(super) fn since(&self) -> Option<Timestamp> {
        time(self.since.as_ref())
    }

    pub(super) fn resumed(&self) -> Option<Timestamp> {
        time(self.resumed.as_ref())
    }

    /// From where on its ticks count, if `last` was its last one; `None` where it has never been seen.
    pub(super) fn base(&self, schedule: &Schedule, last: Option<Timestamp>) -> Option<Timestamp> {
        let Some(moment) = schedule.moment() else {
            return last.max(self.since()).max(self.resumed());
        };
        // Its time may have passed when it was set. A last tick that is another is of an earlier schedule's.
        let last = last.filter(|last| *last == moment);
        let long_past = self.since().filter(|since| is_long_past(moment, *since));
        let last = last.or(long_past).or(Some(Timestamp::UNIX_EPOCH));
        last.max(self.resumed())
    }

    /// Whether its only tick was sent long ago, or never will be.
    fn is_over(&self, now: Timestamp) -> bool {
        let moment = self.set.as_ref().and_then(Definition::moment);
        let Some(moment) = moment else { return false };
        let was_sent = self
            .last()
            .is_some_and(|last| last == moment && now.duration_since(last) > KEPT);
        let passed_by = |time: Option<Timestamp>| time.is_some_and(|time| time >= moment);
        let is_long_past = |since| is_long_past(moment, since);
        was_sent || passed_by(self.resumed()) || self.since().is_some_and(is_long_past)
    }
}

fn is_long_past(moment: Timestamp, since: Timestamp) -> bool {
    since.duration_since(moment) > TAKEN_FOR_SENT
}

impl Table {
    pub(super) fn decode(value: Option<&[u8]>) -> Result<Self> {
        let Some(value) = value else {
            return Ok(Self::default());
        };
        let unreadable = |reason: String| Error::Refused {
            what: "to read the schedules in the broker".into(),
            reason,
        };
        let table: Self =
            serde_json::from_slice(value).map_err(|error| unreadable(error.to_string()))?;
        match table.format > FORMAT {
            true => Err(unreadable(format!(
                "a newer version of garenne wrote them (format {}, this one knows {FORMAT})",
                table.format
            ))),
            false => Ok(table),
        }
    }

    pub(super) fn encode(&mut self) -> Result<Vec<u8>> {
        self.format = FORMAT;
        serde_json::to_vec(self).map_err(|error| Error::broker("encoding the schedules", error))
    }

    /// Adds an entry, or changes it.
    pub(super) fn set(&mut self, name: &str, definition: Definition, now: Timestamp) -> Result<()> {
        validate_name(name)?;
        if !self.entries.contains_key(name) && self.entries.len() >= MOST_ENTRIES {
            let reason = format!("there are {MOST_ENTRIES} entries already: remove some");
            return Err(Error::invalid("schedule", name, reason));
        }
        let row = self.entries.entry(name.to_owned()).or_default();
        let before = row.set.as_ref().map(|before| &before.schedule);
        // One that is set again as it is, at every start of a program, goes on.
        if before != Some(&definition.schedule) {
            row.since = Some(now.to_string());
        }
        row.set = Some(definition);
        Ok(())
    }

    pub(super) fn pause(&mut self, name: &str) -> Result<()> {
        self.row(name)?.paused = true;
        Ok(())
    }

    pub(super) fn resume(&mut self, name: &str, now: Timestamp) -> Result<()> {
        let row = self.row(name)?;
        if row.paused {
            row.paused = false;
            row.resumed = Some(now.to_string());
        }
        Ok(())
    }

    /// Removes what was set at run time; whether there was something.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let Some(row) = self.entries.get_mut(name) else {
            return false;
        };
        let was_set = row.set.take().is_some();
        if row.code.is_none() {
            self.entries.remove(name);
        }
        was_set
    }

    fn row(&mut self, name: &str) -> Result<&mut Row> {
        self.entries.get_mut(name).ok_or_else(|| {
            let reason =
                "there is no such entry: one in the code is known once a scheduler has run it";
            Error::invalid("schedule", name, reason)
        })
    }

    /// Notes what the active scheduler knows: its code's entries, and the last tick of each. Forgets what is over.
    pub(super) fn note(
        &mut self,
        code: &BTreeMap<String, Definition>,
        last: &BTreeMap<String, Timestamp>,
        now: Timestamp,
    ) {
        for (name, row) in &mut self.entries {
            if !code.contains_key(name) {
                row.code = None;
            }
        }
        for (name, definition) in code {
            self.entries.entry(name.clone()).or_default().code = Some(definition.clone());
        }
        for (name, row) in &mut self.entries {
            if let Some(last) = last.get(name) {
                row.last = Some(last.to_string());
            }
        }
        self.entries.retain(|_, row| match (&row.set, &row.code) {
            // Its pause is remembered for other schedulers that have it in their code.
            (None, None) => row.paused,
            (Some(_), None) => !row.is_over(now),
            _ => true,
        });
    }
}

/// Refuses names that cannot be part of an id.
pub(super) fn validate_name(name: &str) -> Result<()> {
    let reason = match name {
        "" => "it is empty".to_owned(),
        _ if name.len() > NAME_LIMIT => {
            format!("it has {} bytes, more than {NAME_LIMIT}", name.len())
        }
        _ if name.chars().any(char::is_control) => "it contains a control character".to_owned(),
        _ => return Ok(()),
    };
    Err(Error::invalid(
        "schedule name",
        cut(name, NAME_LIMIT),
        reason,
    ))
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
