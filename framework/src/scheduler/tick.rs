//! Which ticks are due, and what becomes of those that were missed. Pure: time is an argument.

use jiff::{SignedDuration, Timestamp};

use super::schedule::{Missed, Schedule};

/// Ticks that are later than this were missed; those that are not wait for a successor of a scheduler that died.
pub(super) const TAKEOVER: SignedDuration = SignedDuration::from_secs(60);
/// Ticks of one entry that are made up for at once.
pub(super) const MOST: usize = 1000;
/// A clock that is behind an entry's last tick by more than this was set back: the entry begins anew.
const SET_BACK: SignedDuration = SignedDuration::from_hours(3);

/// What is to be done for one entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The ticks to send, in order.
    pub(super) ticks: Vec<Timestamp>,
    /// The last tick that is done with when they are sent.
    pub(super) last: Timestamp,
    /// Whether others were left out.
    pub(super) skipped: bool,
}

/// A tick's id: the same whoever sends it.
pub(super) fn id(name: &str, tick: Timestamp) -> String {
    format!("{name}@{tick}")
}

/// Where an entry begins whose last tick seems to be `last`.
pub(super) fn begin(last: Timestamp, now: Timestamp) -> Timestamp {
    match last.duration_since(now) > SET_BACK {
        true => now,
        false => last,
    }
}

/// When the next tick after `last` is to be sent.
pub(super) fn next(schedule: &Schedule, name: &str, last: Timestamp) -> Option<Timestamp> {
    let tick = schedule.after(last)?;
    Some(schedule.sent_at(name, tick))
}

/// What is due at `now`, after all up to `last` was done.
pub(super) fn due(schedule: &Schedule, name: &str, last: Timestamp, now: Timestamp) -> Option<Due> {
    let first = next(schedule, name, last)?;
    let late = now.duration_since(first);
    if late.is_negative() {
        return None;
    }
    if late <= TAKEOVER || schedule.missed == Missed::RunAll {
        return Some(all(schedule, name, last, now));
    }
    let missed_before = now.saturating_sub(TAKEOVER).unwrap_or(now);
    // Up to here, jitter cannot say that one was not missed.
    let sure = missed_before.saturating_sub(schedule.spread());
    let surely = sure.ok().and_then(|sure| latest(schedule, last, sure));
    let mut due = all(schedule, name, surely.unwrap_or(last), now);
    let is_missed = |tick: &Timestamp| schedule.sent_at(name, *tick) < missed_before;
    let missed = due.ticks.iter().copied().rfind(is_missed).or(surely);
    due.ticks.retain(|tick| !is_missed(tick));
    if schedule.missed == Missed::RunOnce {
        due.skipped |= missed.is_some() && schedule.after(last) != missed;
        due.ticks.splice(..0, missed);
    } else {
        due.skipped |= missed.is_some();
    }
    Some(due)
}

/// All that is due, or the last of it.
fn all(schedule: &Schedule, name: &str, last: Timestamp, now: Timestamp) -> Due {
    let is_due = |tick: &Timestamp| schedule.sent_at(name, *tick) <= now;
    let mut ticks: Vec<Timestamp> = Vec::new();
    while let Some(tick) = schedule
        .after(ticks.last().copied().unwrap_or(last))
        .filter(is_due)
    {
        if ticks.len() == MOST {
            return newest(schedule, last, now);
        }
        ticks.push(tick);
    }
    Due {
        last: ticks.last().copied().unwrap_or(last),
        ticks,
        skipped: false,
    }
}

/// The last ticks up to `now`, however many there are.
fn newest(schedule: &Schedule, last: Timestamp, now: Timestamp) -> Due {
    let mut ticks = Vec::with_capacity(MOST);
    let mut until = now.saturating_sub(schedule.spread()).unwrap_or(now);
    while ticks.len() < MOST
        && let Some(tick) = latest(schedule, last, until)
    {
        ticks.push(tick);
        until = tick - SignedDuration::from_nanos(1);
    }
    ticks.reverse();
    Due {
        last: ticks.last().copied().unwrap_or(last),
        ticks,
        skipped: true,
    }
}

/// The last tick after `last` and not after `until`: found by halving, whatever lies between.
fn latest(schedule: &Schedule, last: Timestamp, until: Timestamp) -> Option<Timestamp> {
    let after = |nanos: i128| {
        let time = Timestamp::from_nanosecond(nanos).ok()?;
        schedule.after(time).filter(|tick| *tick <= until)
    };
    let mut low = last.as_nanosecond();
    let mut found = after(low)?;
    let mut high = until.as_nanosecond();
    while found.as_nanosecond() > low && high > low + 1 {
        // Nothing between `low` and `found` has a tick.
        low = found.as_nanosecond().min(high);
        let middle = low + (high - low) / 2;
        match after(middle) {
            Some(tick) => found = tick,
            None => {
                high = middle;
                match after(low) {
                    Some(tick) => found = tick,
                    None => break,
                }
            }
        }
    }
    Some(found)
}

#[cfg(test)]
#[path = "tick_tests.rs"]
mod tests;
