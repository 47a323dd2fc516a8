//! Cron expressions, and when they match in a time zone. Pure: reads no clock.
//!
//! `cronexpr` reads the fields; what it takes for minutes serves for seconds, too. Days are asked of it one by
//! one, in UTC, with `L` put into figures (it misses the last day of December otherwise). What a change of the
//! clocks does is decided here, as Vixie's cron does.

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions, parse_crontab_with};
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

use crate::error::{Error, Result};

/// Days looked at for the next match: a 29th of February may be eight years away, and one on a certain day of
/// the week forty.
const HORIZON: usize = 41 * 366;
/// More than clocks are ever changed by.
const A_DAY_AND_AN_HOUR: SignedDuration = SignedDuration::from_hours(25);
/// Longer than any sensible expression.
const LENGTH_LIMIT: usize = 500;
const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// An expression, read, and its time zone.
#[derive(Debug, Clone)]
pub(super) struct Cron {
    /// As it was written.
    pub(super) text: String,
    /// `None` is UTC.
    pub(super) zone_name: Option<String>,
    zone: TimeZone,
    /// In each day that matches.
    times: Times,
    days: Days,
    /// Whether it goes by the time that passes, not by what the clocks say: a `*` in minutes or hours.
    runs_through: bool,
}

#[derive(Debug, Clone)]
struct Times {
    seconds: Vec<i8>,
    minutes: Vec<i8>,
    hours: Vec<i8>,
}

/// The fields of days, months and weekdays.
#[derive(Debug, Clone)]
enum Days {
    Plain(Crontab),
    /// With an `L` in it, by the month's length (28 to 31) and the weekday of its first day.
    ByMonth(Vec<Crontab>),
}

impl Cron {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let refused = |reason: String| Error::invalid("cron expression", text, reason);
        if text.len() > LENGTH_LIMIT {
            return Err(refused(format!("it has more than {LENGTH_LIMIT} bytes")));
        }
        let written = text.trim();
        let nickname = NICKNAMES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(written));
        let expanded = match nickname {
            Some((_, fields)) => fields,
            None if written.starts_with('@') => {
                let known = NICKNAMES.map(|(name, _)| name).join(", ");
                return Err(refused(format!(
                    "the nicknames are {known}; for a fixed interval use `every(…)`"
                )));
            }
            None => written,
        };
        let fields: Vec<&str> = expanded.split_ascii_whitespace().collect();
        let (second, fields) = match fields.len() {
            5 => ("0", &fields[..]),
            6 => (fields[0], &fields[1..]),
            n => {
                return Err(refused(format!(
                    "it has {n} fields: write `minute hour day month weekday`, or six with a second before them"
                )));
            }
        };
        let [minute, hour, day, month, weekday] = fields else {
            return Err(refused("it has not five fields".into()));
        };
        // First as it is written, so that what is said of it is about the user's own words.
        let last_working_day = |item: &str| (item == "LW").then(|| "31W".to_owned());
        let plain_day = each_item(day, last_working_day);
        let written_fields = format!("{minute} {hour} {plain_day} {month} {weekday}");
        read(&written_fields).map_err(&refused)?;
        let seconds = read(&format!("{second} * * * *"));
        let seconds = seconds.map_err(|reason| refused(format!("{reason} (in the seconds)")))?;
        let cron = Self {
            text: written.to_owned(),
            zone_name: None,
            zone: TimeZone::UTC,
            times: Times {
                seconds: minutes_of(&seconds),
                minutes: minutes_of(&read(&format!("{minute} * * * *")).map_err(&refused)?),
                hours: hours_of(&read(&format!("0 {hour} * * *")).map_err(&refused)?),
            },
            days: Days::new(day, month, weekday).map_err(&refused)?,
            runs_through: minute.starts_with('*') || hour.starts_with('*'),
        };
        // From the beginning of a cycle of the calendar on.
        let start = DateTime::constant(2000, 1, 1, 0, 0, 0, 0);
        match cron.next_wall(start) {
            Some(_) => Ok(cron),
            None => Err(refused("there is no such day".into())),
        }
    }

    pub(super) fn zone(mut self, name: &str) -> Result<Self> {
        self.zone = TimeZone::get(name).map_err(|error| {
            let what_to_do = match jiff::tz::db().is_definitively_empty() {
                true => {
                    "this system has no time zones: install its package `tzdata`, set TZDIR to where they are, \
                     or build with garenne's feature `bundled-timezones`"
                }
                false => "time zones have names like `Europe/Paris` or `UTC`",
            };
            Error::invalid("time zone", name, format!("{what_to_do} ({error})"))
        })?;
        self.zone_name = Some(name.to_owned());
        Ok(self)
    }

    /// The first match after `time`.
    pub(super) fn after(&self, time: Timestamp) -> Option<Timestamp> {
        match self.runs_through {
            true => self.next_elapsing(time),
            false => self.next_fixed(time),
        }
    }

    /// For times of day: each runs once a day that has it or should have it. One that the clocks skip runs
    /// when they have skipped it, one that they repeat the first time.
    fn next_fixed(&self, time: Timestamp) -> Option<Timestamp> {
        let mut wall = self.zone.to_datetime(time);
        loop {
            wall = self.next_wall(wall)?;
            let ambiguous = self.zone.to_ambiguous_timestamp(wall);
            let instant = match ambiguous.offset() {
                AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => {
                    ambiguous.earlier().ok()?
                }
                // The offset before the gap makes it a moment after the jump: the jump is the one before.
                AmbiguousOffset::Gap { .. } => {
                    let after = ambiguous.later().ok()? + SignedDuration::from_secs(1);
                    self.zone.preceding(after).next()?.timestamp()
                }
            };
            if instant > time {
                return Some(instant);
            }
        }
    }

    /// For intervals: each match of the clocks' time, twice where they repeat it.
    fn next_elapsing(&self, time: Timestamp) -> Option<Timestamp> {
        let mut from = time;
        // Each round is a stretch without a change of the clocks; the horizon ends it, too.
        loop {
            let end = self.zone.following(from).next();
            let offset = self.zone.to_offset(from);
            let wall = self.next_wall(offset.to_datetime(from));
            let instant = wall.and_then(|wall| offset.to_timestamp(wall).ok());
            match end.map(|end| end.timestamp()) {
                Some(end) if instant.is_none_or(|instant| instant >= end) => {
                    let offset = self.zone.to_offset(end);
                    let first = offset.to_datetime(end);
                    if self.matches(first) {
                        return Some(end);
                    }
                    // No stretch before the match has one.
                    from = end.max(instant? - A_DAY_AND_AN_HOUR);
                }
                _ => return instant,
            }
        }
    }

    fn matches(&self, wall: DateTime) -> bool {
        wall.subsec_nanosecond() == 0 && self.times.has(wall.time()) && self.days.have(wall.date())
    }

    /// The first match of a clock's time after `wall`, whether a day has it or not.
    fn next_wall(&self, wall: DateTime) -> Option<DateTime> {
        let mut date = wall.date();
        let mut after = Some(wall.time());
        for _ in 0..HORIZON {
            if self.days.have(date)
                && let Some(time) = self.times.next(after)
            {
                return Some(date.to_datetime(time));
            }
            after = None;
            date = date.tomorrow().ok()?;
        }
        None
    }
}

impl Times {
    fn has(&self, time: Time) -> bool {
        self.seconds.contains(&time.second())
            && self.minutes.contains(&time.minute())
            && self.hours.contains(&time.hour())
    }

    /// The first time of a day, or the first after `after`.
    fn next(&self, after: Option<Time>) -> Option<Time> {
        let first = |all: &[i8]| all.first().copied();
        let (second, minute, hour) = (
            first(&self.seconds)?,
            first(&self.minutes)?,
            first(&self.hours)?,
        );
        let Some(after) = after else {
            return Some(Time::constant(hour, minute, second, 0));
        };
        let above = |all: &[i8], value: i8| all.iter().copied().find(|n| *n > value);
        let at_hour = self.hours.contains(&after.hour());
        if at_hour
            && self.minutes.contains(&after.minute())
            && let Some(second) = above(&self.seconds, after.second())
        {
            return Some(Time::constant(after.hour(), after.minute(), second, 0));
        }
        if at_hour && let Some(minute) = above(&self.minutes, after.minute()) {
            return Some(Time::constant(after.hour(), minute, second, 0));
        }
        above(&self.hours, after.hour()).map(|hour| Time::constant(hour, minute, second, 0))
    }
}

impl Days {
    fn new(day: &str, month: &str, weekday: &str) -> Result<Self, String> {
        let has_last = |field: &str| field.to_ascii_uppercase().contains('L');
        if !has_last(day) && !has_last(weekday) {
            return read(&format!("0 0 {day} {month} {weekday}")).map(Self::Plain);
        }
        let mut by_month = Vec::with_capacity(28);
        for length in 28..=31 {
            for first in 0..7 {
                let day = each_item(day, |item| match item {
                    "L" => Some(length.to_string()),
                    "LW" => Some(format!("{length}W")),
                    _ => None,
                });
                let weekday = each_item(weekday, |item| {
                    let name = item.strip_suffix('L')?;
                    let place = number_of(name)?;
                    // Its first day in this month, counted from 0; five of them, if there is room.
                    let fits = (place + 7 - first) % 7 + 28 < length;
                    Some(format!("{name}#{}", if fits { 5 } else { 4 }))
                });
                by_month.push(read(&format!("0 0 {day} {month} {weekday}"))?);
            }
        }
        Ok(Self::ByMonth(by_month))
    }

    fn have(&self, date: Date) -> bool {
        let crontab = match self {
            Self::Plain(crontab) => Some(crontab),
            Self::ByMonth(all) => {
                let first = date.first_of_month().weekday().to_sunday_zero_offset();
                let place = i32::from(date.days_in_month() - 28) * 7 + i32::from(first);
                usize::try_from(place).ok().and_then(|place| all.get(place))
            }
        };
        crontab.is_some_and(|crontab| is_at(crontab, date.at(0, 0, 0, 0)))
    }
}

/// The field with some of its items replaced.
fn each_item(field: &str, replace: impl Fn(&str) -> Option<String>) -> String {
    let items = field.split(',').map(|item| {
        let upper = item.to_ascii_uppercase();
        replace(&upper).unwrap_or(upper)
    });
    items.collect::<Vec<_>>().join(",")
}

/// A weekday's number, from Sunday on.
fn number_of(weekday: &str) -> Option<i32> {
    let names = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
    let named = names.iter().position(|name| *name == weekday);
    let number = named.or_else(|| weekday.parse().ok().filter(|n| *n < 8))?;
    i32::try_from(number % 7).ok()
}

/// Reads five fields, in UTC; the error is a reason.
fn read(fields: &str) -> std::result::Result<Crontab, String> {
    let mut options = ParseOptions::default();
    options.fallback_timezone_option = FallbackTimezoneOption::UTC;
    parse_crontab_with(fields, options).map_err(|error| {
        let said = error.to_string();
        // It draws what it means with a caret below the expression.
        let last = said.lines().last().unwrap_or_default();
        let (before, reason) = last.split_once('^').unwrap_or(("", last));
        let rest = fields.get(before.len()..).unwrap_or_default();
        let rest = rest.split_whitespace().next().unwrap_or_default();
        match rest {
            "" => reason.trim().to_owned(),
            rest => format!("{} at `{rest}`", reason.trim()),
        }
    })
}

fn is_at(crontab: &Crontab, wall: DateTime) -> bool {
    let instant = jiff::tz::Offset::UTC.to_timestamp(wall);
    instant.is_ok_and(|instant| crontab.matches(MakeTimestamp(instant)).unwrap_or(false))
}

/// The minutes that an expression of the form `minutes * * * *` allows.
fn minutes_of(crontab: &Crontab) -> Vec<i8> {
    let day = Date::constant(2000, 1, 1);
    let minutes = 0..60;
    minutes
        .filter(|minute| is_at(crontab, day.at(0, *minute, 0, 0)))
        .collect()
}

/// The hours that an expression of the form `0 hours * * *` allows.
fn hours_of(crontab: &Crontab) -> Vec<i8> {
    let day = Date::constant(2000, 1, 1);
    let hours = 0..24;
    hours
        .filter(|hour| is_at(crontab, day.at(*hour, 0, 0, 0)))
        .collect()
}

#[cfg(test)]
#[path = "cron_tests.rs"]
mod tests;
