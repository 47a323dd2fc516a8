//! Limits that operators set while the worker runs: how often a task may start, how long it may take.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The shortest time between two starts that counts as a limit: a million a second are none.
const SHORTEST: f64 = 1e-6;
/// The longest: a call a year.
const LONGEST: f64 = 365.0 * 24.0 * 3600.0;

/// The longest that a call is sent away for: by then the limit may have been lifted, or set higher.
const LONGEST_AWAY: Duration = Duration::from_secs(600);

/// Limits by task.
#[derive(Default)]
pub(super) struct Limits {
    /// Whether there is any: nearly always there is none.
    any: AtomicBool,
    tasks: Mutex<HashMap<&'static str, Limit>>,
}

#[derive(Default)]
struct Limit {
    rate: Option<Pace>,
    timeout: Option<Duration>,
}

/// How fast calls may start, and whose turn it is.
#[derive(Debug, Clone)]
struct Pace {
    /// As the operator wrote it.
    said: String,
    /// Between two starts.
    interval: Duration,
    /// When the next call may start.
    next: Instant,
    /// When the one after the last that was sent away may.
    end_of_line: Instant,
}

impl Pace {
    fn new(said: &str, interval: Duration, now: Instant) -> Self {
        Self {
            said: said.to_owned(),
            interval,
            next: now,
            end_of_line: now,
        }
    }

    /// Whether a call may start now; if not, when it is to come again. One that comes `again` has waited, and starts if
    /// any may; a new one goes to the end of the line, or has no place yet where that is too far away.
    ///
    /// A call may be half an interval early, since those before it may have been late; over time the rate is kept.
    fn admit(&mut self, again: bool, now: Instant) -> Option<Duration> {
        let early = now + self.interval / 2;
        if (again || self.end_of_line <= early) && self.next <= early {
            self.next = self.next.max(now) + self.interval;
            self.end_of_line = self.end_of_line.max(self.next);
            return None;
        }
        let away = self.end_of_line.max(self.next) - now;
        if away > LONGEST_AWAY {
            return Some(LONGEST_AWAY);
        }
        self.end_of_line = now + away + self.interval;
        Some(away)
    }
}

impl Limits {
    fn change(&self, task: &'static str, change: impl FnOnce(&mut Limit)) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = tasks.entry(task).or_default();
        change(limit);
        if limit.rate.is_none() && limit.timeout.is_none() {
            tasks.remove(task);
        }
        self.any.store(!tasks.is_empty(), Ordering::Relaxed);
    }

    fn of<T>(&self, task: &str, look: impl FnOnce(&mut Limit) -> Option<T>) -> Option<T> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.get_mut(task).and_then(look)
    }

    /// Limits how fast calls of a task may start: `10/m`, `5/s`, `100/h`, or calls a second; nothing and 0 lift the
    /// limit.
    ///
    /// # Errors
    /// What is wrong with `rate`.
    pub(super) fn set_rate(&self, task: &'static str, rate: &str) -> Result<(), String> {
        let interval = parse(rate).ok_or_else(|| format!("Invalid rate limit string: '{rate}'"))?;
        let pace = interval.map(|interval| Pace::new(rate, interval, Instant::now()));
        self.change(task, |limit| limit.rate = pace);
        Ok(())
    }

    /// The rate of a task as it was written, if it is limited.
    pub(super) fn rate(&self, task: &str) -> Option<String> {
        self.of(task, |limit| {
            limit.rate.as_ref().map(|pace| pace.said.clone())
        })
    }

    /// How long a call has to wait for its turn, if it has to.
    pub(super) fn wait(&self, task: &str, again: bool) -> Option<Duration> {
        self.of(task, |limit| {
            limit.rate.as_mut()?.admit(again, Instant::now())
        })
    }

    /// Limits how long an attempt may take.
    pub(super) fn set_timeout(&self, task: &'static str, timeout: Option<Duration>) {
        self.change(task, |limit| limit.timeout = timeout);
    }

    /// How long an attempt may take, where an operator has said so.
    pub(super) fn timeout(&self, task: &str) -> Option<Duration> {
        self.of(task, |limit| limit.timeout)
    }
}

/// The time between two starts; the inner `None` is no limit, the outer one no rate.
fn parse(rate: &str) -> Option<Option<Duration>> {
    let (calls, unit) = rate.trim().split_once('/').unwrap_or((rate.trim(), "s"));
    let unit = match unit {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    let calls: f64 = match calls {
        "" => 0.0,
        calls => calls.parse().ok()?,
    };
    if !calls.is_finite() || calls < 0.0 {
        return None;
    }
    let seconds = (calls > 0.0).then(|| unit / calls);
    let seconds = seconds.filter(|seconds| *seconds >= SHORTEST);
    Some(seconds.map(|seconds| Duration::from_secs_f64(seconds.min(LONGEST))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_celerys() {
        let seconds = |rate| {
            parse(rate)
                .expect(rate)
                .map(|interval| interval.as_secs_f64())
        };
        assert_eq!(seconds("10/m"), Some(6.0));
        assert_eq!(seconds("5/s"), Some(0.2));
        assert_eq!(seconds("1/h"), Some(3600.0));
        assert_eq!(seconds("2"), Some(0.5));
        assert_eq!(
            (seconds("0"), seconds(""), seconds("0/s")),
            (None, None, None)
        );
        for wrong in ["x", "5/d", "-1/s", "nan", "inf/s", "1/m/m"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    /// When the first `count` of so many `calls` start that come at once. Each comes again when it was told to, as late as
    /// `late` says of those that wait beside it.
    async fn starts(
        limits: &Limits,
        calls: usize,
        count: usize,
        late: fn(usize) -> Duration,
    ) -> Vec<Duration> {
        let begin = Instant::now();
        let mut waiting: Vec<(Duration, bool)> = vec![(Duration::ZERO, false); calls];
        let mut starts = Vec::new();
        while starts.len() < count {
            waiting.sort();
            let (due, again) = waiting.remove(0);
            tokio::time::sleep_until(begin + due).await;
            match limits.wait("t", again) {
                None => starts.push(begin.elapsed()),
                Some(wait) => {
                    assert!(wait <= LONGEST_AWAY, "{wait:?}");
                    waiting.push((begin.elapsed() + wait + late(waiting.len()), true));
                }
            }
        }
        starts
    }

    #[tokio::test(start_paused = true)]
    async fn calls_start_at_their_rate_and_none_is_sent_away_for_ever() {
        let limits = Limits::default();
        limits.set_rate("t", "10/s").expect("a rate");
        let late = |waiting| Duration::from_millis(u64::try_from(waiting).expect("few") % 7);
        let starts = starts(&limits, 20, 20, late).await;
        let (first, last) = (starts[0], starts[19]);
        assert!(first < Duration::from_millis(50), "{starts:?}");
        assert!(
            last >= Duration::from_millis(1800) && last < Duration::from_millis(2600),
            "{starts:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_rate_is_kept_and_hides_no_call_for_long() {
        let hour = Duration::from_secs(3600);
        let limits = Limits::default();
        limits.set_rate("t", "1/h").expect("a rate");
        let starts = starts(&limits, 1000, 5, |_| Duration::ZERO).await;
        for pair in starts.windows(2) {
            let apart = pair[1] - pair[0];
            assert!(apart >= hour / 2 && apart <= hour + hour / 60, "{starts:?}");
        }
        assert!(starts[4] >= 4 * hour - hour / 2, "{starts:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_can_be_lifted() {
        let limits = Limits::default();
        limits.set_rate("t", "1/h").expect("a rate");
        assert_eq!(limits.wait("t", false), None);
        assert!(limits.wait("t", false).is_some() && limits.wait("other", false).is_none());
        assert_eq!(limits.rate("t").as_deref(), Some("1/h"));
        limits.set_timeout("t", Some(Duration::from_secs(5)));
        limits.set_rate("t", "0").expect("no limit");
        assert_eq!((limits.wait("t", false), limits.rate("t")), (None, None));
        assert_eq!(limits.timeout("t"), Some(Duration::from_secs(5)));
        limits.set_timeout("t", None);
        assert!(!limits.any.load(Ordering::Relaxed));
    }
}
