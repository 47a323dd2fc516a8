//! When a call is to be sent: [`every`], [`cron`], [`at`]. Pure: reads no clock.

use std::fmt;
use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

#[cfg(feature = "cron")]
use super::cron::Cron;
use crate::error::{Error, Result};

/// The shortest interval of [`every`].
const SHORTEST: Duration = Duration::from_millis(10);
/// The longest interval, and the longest jitter.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// When a call is to be sent, again and again or once.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use garenne::{HOUR, MINUTE, SECOND, every, at, scheduler::Missed};
///
/// let heartbeat = every(30 * SECOND);
/// let backup = every(6 * HOUR).jitter(5 * MINUTE).missed(Missed::Skip);
/// let launch = at(SystemTime::now() + HOUR);
/// ```
#[derive(Debug, Clone)]
#[must_use = "a schedule does nothing until it is added to a `Scheduler` or set with `app.schedules()`"]
pub struct Schedule {
    pub(super) when: When,
    jitter: Duration,
    pub(super) missed: Missed,
}

#[derive(Debug, Clone)]
pub(super) enum When {
    Every(Duration),
    #[cfg(feature = "cron")]
    Cron(Box<Cron>),
    At(Timestamp),
}

/// What becomes of ticks that nobody sent in time, because no scheduler ran or the broker was away for more than
/// a minute. (What is at most a minute late, as after another scheduler's death, is always sent.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Missed {
    /// They are not made up for.
    Skip,
    /// The last of them is sent, once: the default.
    #[default]
    RunOnce,
    /// All are sent, but no more than the last thousand.
    RunAll,
}

/// Each time that so long has passed since 1970-01-01 00:00 UTC: `every(HOUR)` is at the full hour, whenever the
/// scheduler was started, and does not drift. From 10 ms to 366 days.
///
/// For times of day, which daylight saving moves, there is [`cron`].
pub fn every(interval: Duration) -> Schedule {
    Schedule::new(When::Every(interval))
}

/// Once, at that time. Added when the time has passed already, it is sent at once, unless it is
/// [skipped](Missed::Skip).
///
/// The broker remembers for a week that it was sent, so that a program may add or set it at each start. One that is
/// [set](super::Schedules::set) when its time has passed for more than a week counts as sent.
pub fn at(time: SystemTime) -> Schedule {
    let time = Timestamp::try_from(time).unwrap_or(Timestamp::MAX);
    let whole = Timestamp::from_millisecond(time.as_millisecond());
    Schedule::new(When::At(whole.unwrap_or(Timestamp::MAX)))
}

/// When a clock on the wall shows what the expression says: `minute hour day month weekday`, or the same with a
/// second before them.
///
/// In UTC, unless [`timezone`](Schedule::timezone) names another time zone. Each field is `*`, a number, a range
/// `1-5`, either of them with a step `*/15`, or a list of those; months and weekdays have names (`JAN`, `mon`), the
/// weekday 0 and 7 is Sunday. `L` is the last day of the month, `LW` its last working day, `15W` the working day
/// next to the 15th; `5L` the last Friday, `5#2` the second. Instead of the fields there may be `@hourly`,
/// `@daily` (`@midnight`), `@weekly`, `@monthly`, `@yearly` (`@annually`). Where both the day of the month and the
/// weekday are restricted, either will do, as in every cron.
///
/// **When clocks are changed**, it behaves as Vixie's cron does. An expression with a `*` (or `*/n`) in its minutes
/// or hours goes on as time passes: hours that are repeated count twice, hours that are skipped not at all. Any
/// other is a time of day, and runs once a day: a time that is skipped runs right after the skip (02:30 at 03:00),
/// one that is repeated runs the first time only.
///
/// ```
/// # fn main() -> Result<(), garenne::Error> {
/// use garenne::cron;
///
/// let nightly = cron("0 3 * * *")?.timezone("Europe/Paris")?;
/// let workdays = cron("30 9-17 * * MON-FRI")?;
/// let payday = cron("0 8 L * *")?;
/// let often = cron("*/10 * * * * *")?; // every ten seconds
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Invalid`] with the reason, where the expression is none or no day can match it.
#[cfg(feature = "cron")]
pub fn cron(expression: &str) -> Result<Schedule> {
    Ok(Schedule::new(When::Cron(Box::new(Cron::parse(
        expression,
    )?))))
}

impl Schedule {
    fn new(when: When) -> Self {
        Self {
            when,
            jitter: Duration::ZERO,
            missed: Missed::default(),
        }
    }

    /// The time zone of a cron expression, by its name in the IANA database.
    ///
    /// # Errors
    /// [`Error::Invalid`] where there is no such zone, or this system has no zones at all, or the schedule is not
    /// one of cron's.
    #[cfg(feature = "cron")]
    pub fn timezone(self, name: &str) -> Result<Self> {
        let reason = "only a cron expression has one: others go by the time that passes";
        match self.when {
            When::Cron(cron) => Ok(Self {
                when: When::Cron(Box::new(cron.zone(name)?)),
                ..self
            }),
            _ => Err(Error::invalid("time zone", name, reason)),
        }
    }

    /// Each tick is sent later by a part of `spread` that chance decides: so that not all that is due at the full
    /// hour is sent in one moment. It is the same part whichever scheduler sends the tick.
    pub fn jitter(self, spread: Duration) -> Self {
        Self {
            jitter: spread,
            ..self
        }
    }

    /// What becomes of ticks that nobody sent in time; [`Missed::RunOnce`] unless set.
    pub fn missed(self, missed: Missed) -> Self {
        Self { missed, ..self }
    }

    pub(super) fn validate(&self) -> Result<()> {
        if let When::Every(interval) = self.when
            && !(SHORTEST..=LONGEST).contains(&interval)
        {
            let reason = format!("it must be between {SHORTEST:?} and 366 days");
            return Err(Error::invalid("interval", format!("{interval:?}"), reason));
        }
        if self.jitter > LONGEST {
            let reason = "it must not be longer than 366 days";
            return Err(Error::invalid(
                "jitter",
                format!("{:?}", self.jitter),
                reason,
            ));
        }
        Ok(())
    }

    /// The first tick after `time`.
    pub(super) fn after(&self, time: Timestamp) -> Option<Timestamp> {
        match &self.when {
            When::Every(interval) => {
                let interval = i128::try_from(interval.as_nanos()).ok()?.max(1);
                let next = time.as_nanosecond().div_euclid(interval) + 1;
                Timestamp::from_nanosecond(next.checked_mul(interval)?).ok()
            }
            #[cfg(feature = "cron")]
            When::Cron(cron) => cron.after(time),
            When::At(moment) => (*moment > time).then_some(*moment),
        }
    }

    /// When the tick of the entry `name` is sent: at its time, or later by its jitter.
    pub(super) fn sent_at(&self, name: &str, tick: Timestamp) -> Timestamp {
        let nanos = self.jitter.as_nanos();
        let part = (nanos * u128::from(scatter(name, tick))) >> 64;
        let part = i64::try_from(part).unwrap_or(i64::MAX);
        tick.checked_add(SignedDuration::from_nanos(part))
            .unwrap_or(Timestamp::MAX)
    }

    /// Its longest jitter.
    pub(super) fn spread(&self) -> SignedDuration {
        SignedDuration::try_from(self.jitter).unwrap_or(SignedDuration::MAX)
    }

    /// Whether it has one tick only.
    /// Its only tick, if it has only one.
    pub(super) fn moment(&self) -> Option<Timestamp> {
        match self.when {
            When::At(moment) => Some(moment),
            _ => None,
        }
    }

    /// As it is kept in the broker.
    pub(super) fn to_json(&self) -> Value {
        let mut json = match &self.when {
            When::Every(interval) => json!({"every": interval.as_secs_f64()}),
            #[cfg(feature = "cron")]
            When::Cron(cron) => match &cron.zone_name {
                Some(zone) => json!({"cron": cron.text, "timezone": zone}),
                None => json!({"cron": cron.text}),
            },
            When::At(time) => json!({"at": time.to_string()}),
        };
        if !self.jitter.is_zero() {
            json["jitter"] = self.jitter.as_secs_f64().into();
        }
        if self.missed != Missed::default() {
            json["missed"] = self.missed.as_str().into();
        }
        json
    }

    /// Reads what [`to_json`](Self::to_json) wrote.
    pub(super) fn from_json(json: &Value) -> Result<Self> {
        let unreadable = |reason: &str| Error::invalid("stored schedule", json.to_string(), reason);
        let text = |name: &str| json.get(name).and_then(Value::as_str);
        let seconds = |name: &str| {
            let value = json.get(name).and_then(Value::as_f64)?;
            Duration::try_from_secs_f64(value).ok()
        };
        let mut schedule = if let Some(interval) = seconds("every") {
            every(interval)
        } else if let Some(time) = text("at") {
            let time = time.parse().map_err(|_| unreadable("`at` is no time"))?;
            Self::new(When::At(time))
        } else if let Some(expression) = text("cron") {
            stored_cron(expression, text("timezone"))?
        } else {
            return Err(unreadable("this version of garenne knows no such schedule"));
        };
        schedule.jitter = seconds("jitter").unwrap_or_default();
        schedule.missed = match text("missed") {
            None => Missed::default(),
            Some(word) => Missed::from_word(word)
                .ok_or_else(|| unreadable("this version of garenne does not know its `missed`"))?,
        };
        Ok(schedule)
    }
}

#[cfg(feature = "cron")]
fn stored_cron(expression: &str, zone: Option<&str>) -> Result<Schedule> {
    let schedule = cron(expression)?;
    match zone {
        Some(zone) => schedule.timezone(zone),
        None => Ok(schedule),
    }
}

#[cfg(not(feature = "cron"))]
fn stored_cron(expression: &str, _: Option<&str>) -> Result<Schedule> {
    let reason = "this scheduler was built without garenne's feature `cron`";
    Err(Error::invalid("cron expression", expression, reason))
}

impl Missed {
    fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::RunOnce => "run_once",
            Self::RunAll => "run_all",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [Self::Skip, Self::RunOnce, Self::RunAll]
            .into_iter()
            .find(|missed| missed.as_str() == word)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.when {
            When::Every(interval) => write!(f, "every {interval:?}"),
            #[cfg(feature = "cron")]
            When::Cron(cron) => {
                let zone = cron.zone_name.as_deref().unwrap_or("UTC");
                write!(f, "cron {} {zone}", cron.text)
            }
            When::At(time) => write!(f, "at {time}"),
        }
    }
}

/// Evenly distributed, and the same for the same tick on every machine (FNV-1a, then mixed).
fn scatter(name: &str, tick: Timestamp) -> u64 {
    let bytes = name.bytes().chain(tick.as_nanosecond().to_le_bytes());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DAY, HOUR, MINUTE, SECOND};

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn intervals_are_counted_from_1970_and_do_not_drift() {
        for (interval, from, next) in [
            (30 * SECOND, "2026-11-21T03:00:00Z", "2026-11-21T03:00:30Z"),
            (
                30 * SECOND,
                "2026-11-21T03:00:29.999Z",
                "2026-11-21T03:00:30Z",
            ),
            (HOUR, "2026-11-21T03:59:59Z", "2026-11-21T04:00:00Z"),
            (DAY, "2026-12-31T00:00:01Z", "2027-01-01T00:00:00Z"),
            (7 * SECOND, "1970-01-01T00:00:00Z", "1970-01-01T00:00:07Z"),
            (SECOND, "1969-12-31T23:59:58.5Z", "1969-12-31T23:59:59Z"),
            (
                SECOND / 4,
                "2026-11-21T03:00:00.3Z",
                "2026-11-21T03:00:00.5Z",
            ),
        ] {
            let found = every(interval).after(time(from)).expect("a tick");
            assert_eq!(found, time(next), "{interval:?} after {from}");
        }
    }

    #[test]
    fn a_moment_comes_once() {
        let moment = time("2026-11-21T03:00:00.123Z");
        let once = at(moment.into());
        assert_eq!(once.after(time("2026-11-21T02:00:00Z")), Some(moment));
        assert_eq!(once.after(moment), None);
    }

    #[test]
    fn jitter_is_the_same_everywhere_and_within_its_spread() {
        let schedule = every(HOUR).jitter(10 * MINUTE);
        let mut sum = SignedDuration::ZERO;
        let mut tick = time("2026-11-21T00:00:00Z");
        for _ in 0..1000 {
            tick = schedule.after(tick).expect("a tick");
            let sent = schedule.sent_at("a", tick);
            assert_eq!(sent, schedule.clone().sent_at("a", tick));
            let offset = sent.duration_since(tick);
            assert!(!offset.is_negative() && offset < schedule.spread());
            sum += offset;
        }
        let mean = sum / 1000;
        assert!((270..330).contains(&mean.as_secs()), "{mean:?}");
        let other = schedule.sent_at("b", tick);
        assert_ne!(other, schedule.sent_at("a", tick));
        assert_eq!(every(HOUR).sent_at("a", tick), tick);
    }

    #[test]
    fn what_is_stored_is_read_again() {
        let schedules = [
            every(1500 * crate::MILLISECOND),
            every(HOUR).jitter(MINUTE).missed(Missed::RunAll),
            at(time("2026-11-21T03:00:00.25Z").into()).missed(Missed::Skip),
            #[cfg(feature = "cron")]
            cron("*/5 0 3 * * MON-FRI").expect("an expression"),
        ];
        for schedule in schedules {
            let json = schedule.to_json();
            let read = Schedule::from_json(&json).expect("readable");
            assert_eq!(read.to_string(), schedule.to_string());
            assert_eq!(read.to_json(), json);
        }
        for bad in [
            json!({}),
            json!({"every": -1}),
            json!({"at": "x"}),
            json!({"cron": "x"}),
            json!({"every": 1, "missed": "x"}),
            json!(null),
        ] {
            assert!(Schedule::from_json(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn intervals_out_of_bounds_are_refused() {
        for interval in [Duration::ZERO, SECOND / 1000, 400 * DAY] {
            assert!(every(interval).validate().is_err(), "{interval:?}");
        }
        assert!(every(SHORTEST).validate().is_ok());
        assert!(every(SECOND).jitter(400 * DAY).validate().is_err());
    }
}
