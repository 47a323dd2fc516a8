use super::*;
use crate::{DAY, HOUR, MINUTE, SECOND, at, every};

fn time(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn due_at(schedule: &Schedule, last: &str, now: &str) -> Option<(Vec<String>, String, bool)> {
    let due = due(schedule, "n", time(last), time(now))?;
    let ticks = due.ticks.iter().map(ToString::to_string).collect();
    Some((ticks, due.last.to_string(), due.skipped))
}

fn found(ticks: &[&str], last: &str, skipped: bool) -> Option<(Vec<String>, String, bool)> {
    let ticks = ticks.iter().map(|tick| (*tick).to_owned()).collect();
    Some((ticks, last.to_owned(), skipped))
}

#[test]
fn nothing_is_due_before_its_time() {
    let minutely = every(MINUTE);
    let last = "2026-11-21T03:00:00Z";
    assert_eq!(due_at(&minutely, last, "2026-11-21T03:00:59.999Z"), None);
    let sent = found(&["2026-11-21T03:01:00Z"], "2026-11-21T03:01:00Z", false);
    assert_eq!(due_at(&minutely, last, "2026-11-21T03:01:00Z"), sent);
    assert_eq!(
        due_at(&minutely, last, "2026-11-21T02:00:00Z"),
        None,
        "the clock was set back"
    );
}

#[test]
fn a_takeover_loses_nothing_whatever_the_policy() {
    for missed in [Missed::Skip, Missed::RunOnce, Missed::RunAll] {
        let often = every(SECOND).missed(missed);
        let due = due(
            &often,
            "n",
            time("2026-11-21T03:00:00Z"),
            time("2026-11-21T03:00:59.5Z"),
        );
        let due = due.expect("due");
        assert_eq!((due.ticks.len(), due.skipped), (59, false), "{missed:?}");
        assert_eq!(due.last, time("2026-11-21T03:00:59Z"));
    }
}

#[test]
fn a_longer_outage_is_up_to_the_policy() {
    let (last, now) = ("2026-11-21T03:00:00Z", "2026-11-21T06:30:00Z");
    let latest = "2026-11-21T06:00:00Z";
    let hourly = every(HOUR);
    let once = found(&[latest], latest, true);
    assert_eq!(due_at(&hourly, last, now), once, "the default is once");
    let skip = hourly.clone().missed(Missed::Skip);
    assert_eq!(due_at(&skip, last, now), found(&[], latest, true));
    let all = hourly.clone().missed(Missed::RunAll);
    let ticks = ["2026-11-21T04:00:00Z", "2026-11-21T05:00:00Z", latest];
    assert_eq!(due_at(&all, last, now), found(&ticks, latest, false));
    // One that was missed is no less than the last of several.
    let (last, now) = ("2026-11-21T05:00:00Z", "2026-11-21T06:30:00Z");
    assert_eq!(due_at(&hourly, last, now), found(&[latest], latest, false));
}

#[test]
fn what_comes_at_most_a_minute_late_is_sent_even_after_a_longer_outage() {
    let often = every(10 * SECOND);
    let (last, now) = ("2026-11-21T03:00:00Z", "2026-11-21T03:02:25Z");
    let late = [
        "2026-11-21T03:01:30Z",
        "2026-11-21T03:01:40Z",
        "2026-11-21T03:01:50Z",
        "2026-11-21T03:02:00Z",
        "2026-11-21T03:02:10Z",
        "2026-11-21T03:02:20Z",
    ];
    let skip = often.clone().missed(Missed::Skip);
    assert_eq!(due_at(&skip, last, now), found(&late, late[5], true));
    let mut ticks = vec!["2026-11-21T03:01:20Z"];
    ticks.extend(late);
    assert_eq!(due_at(&often, last, now), found(&ticks, late[5], true));
    let last = "2026-11-21T03:01:10Z";
    assert_eq!(due_at(&often, last, now), found(&ticks, late[5], false));
    // Jitter decides of each tick what is late.
    let spread = often.jitter(30 * SECOND).missed(Missed::Skip);
    let found = due(&spread, "n", time("2026-11-21T03:00:00Z"), time(now)).expect("due");
    let sent_at: Vec<_> = found
        .ticks
        .iter()
        .map(|tick| spread.sent_at("n", *tick))
        .collect();
    assert!(found.ticks.len() > 3, "{found:?}");
    assert!(
        sent_at
            .iter()
            .all(|sent| *sent >= time("2026-11-21T03:01:25Z")),
        "{sent_at:?}"
    );
}

#[test]
fn all_are_the_last_thousand_at_most() {
    let often = every(SECOND).missed(Missed::RunAll);
    let (last, now) = (time("2025-11-21T03:00:00Z"), time("2026-11-21T03:00:00.5Z"));
    let found = due(&often, "n", last, now).expect("due");
    assert_eq!((found.ticks.len(), found.skipped), (MOST, true));
    assert_eq!(found.ticks[0], time("2026-11-21T02:43:21Z"));
    assert_eq!(found.ticks[MOST - 1], time("2026-11-21T03:00:00Z"));
    assert_eq!(found.last, found.ticks[MOST - 1]);
    // And so they are if they came in a minute.
    let busy = every(SECOND / 100);
    let found = due(
        &busy,
        "n",
        time("2026-11-21T03:00:00Z"),
        time("2026-11-21T03:00:30Z"),
    );
    let found = found.expect("due");
    assert_eq!((found.ticks.len(), found.skipped), (MOST, true));
}

#[test]
fn a_moment_that_has_passed_is_up_to_the_policy_too() {
    let moment = "2026-11-21T03:00:00Z";
    let once = at(time(moment).into());
    let (epoch, now) = ("1970-01-01T00:00:00Z", "2026-11-21T09:00:00Z");
    assert_eq!(due_at(&once, epoch, now), found(&[moment], moment, false));
    let skip = once.clone().missed(Missed::Skip);
    assert_eq!(due_at(&skip, epoch, now), found(&[], moment, true));
    assert_eq!(due_at(&once, moment, now), None, "it was sent");
    assert_eq!(due_at(&once, epoch, "2026-11-21T02:00:00Z"), None);
}

#[test]
fn jitter_delays_a_tick_and_not_its_id() {
    let hourly = every(HOUR).jitter(30 * MINUTE);
    let last = time("2026-11-21T03:00:00Z");
    let tick = time("2026-11-21T04:00:00Z");
    let sent = next(&hourly, "n", last).expect("a tick");
    assert!(sent > tick && sent < tick + SignedDuration::from_mins(30));
    let before = sent - SignedDuration::from_nanos(1);
    assert_eq!(due(&hourly, "n", last, before), None);
    assert_eq!(due(&hourly, "n", last, sent).expect("due").ticks, [tick]);
    // After a long outage only what is due for sure.
    let once = due(&hourly, "n", last, time("2026-11-22T12:00:00Z")).expect("due");
    assert_eq!(once.ticks, [time("2026-11-22T11:00:00Z")]);
    assert_eq!(id("n", tick), "n@2026-11-21T04:00:00Z");
}

#[test]
fn the_latest_tick_is_found_wherever_it_is() {
    let now = time("2026-11-21T03:00:00.000000001Z");
    for interval in [SECOND, 7 * SECOND, MINUTE, HOUR, DAY, 365 * DAY] {
        let schedule = every(interval);
        for back in [SECOND, MINUTE, 17 * MINUTE, DAY, 400 * DAY, 9999 * DAY] {
            let last = now - SignedDuration::try_from(back).expect("short");
            let mut expected = None;
            let nanos = i128::try_from(interval.as_nanos()).expect("short");
            let tick = now.as_nanosecond().div_euclid(nanos) * nanos;
            if tick > last.as_nanosecond() {
                expected = Timestamp::from_nanosecond(tick).ok();
            }
            assert_eq!(
                latest(&schedule, last, now),
                expected,
                "{interval:?} {back:?}"
            );
        }
    }
}

#[cfg(feature = "cron")]
#[test]
fn years_of_missed_minutes_are_found_at_once() {
    let january = crate::cron("* * * 1 *").expect("an expression");
    let (last, now) = (time("2006-01-01T00:00:00Z"), time("2026-11-21T03:00:00Z"));
    let found = due(&january, "n", last, now).expect("due");
    assert_eq!(found.ticks, [time("2026-01-31T23:59:00Z")]);
    let all = january.missed(Missed::RunAll);
    let found = due(&all, "n", last, now).expect("due");
    assert_eq!(
        (found.ticks.len(), found.last),
        (MOST, time("2026-01-31T23:59:00Z"))
    );
}

#[test]
fn a_clock_that_was_set_back_far_begins_anew() {
    let now = time("2026-11-21T03:00:00Z");
    let hours = SignedDuration::from_hours;
    assert_eq!(
        begin(now + hours(2), now),
        now + hours(2),
        "wait until it is there again"
    );
    assert_eq!(begin(now + hours(4), now), now);
    assert_eq!(begin(now - hours(4), now), now - hours(4));
}
