use super::*;

fn cron(expression: &str, zone: &str) -> Cron {
    let cron = Cron::parse(expression).expect(expression);
    cron.zone(zone).expect(zone)
}

/// The first matches after `from`.
fn ticks(cron: &Cron, from: &str, count: usize) -> Vec<String> {
    let mut time: Timestamp = from.parse().expect("a time");
    let mut found = Vec::new();
    while found.len() < count
        && let Some(next) = cron.after(time)
    {
        assert!(next > time, "{next} comes after {time}");
        found.push(next.to_string());
        time = next;
    }
    found
}

/// Expression, zone, where to begin, and the matches that follow, in UTC.
type Case = (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
);

fn check(cases: &[Case]) {
    for (expression, zone, from, expected) in cases {
        let found = ticks(&cron(expression, zone), from, expected.len());
        assert_eq!(&found, expected, "{expression} {zone} after {from}");
    }
}

#[test]
fn plain_days_match() {
    check(&[
        (
            "0 3 * * *",
            "UTC",
            "2026-11-21T03:00:00Z",
            &["2026-11-22T03:00:00Z"],
        ),
        (
            "0 3 * * *",
            "UTC",
            "2026-11-21T02:59:59.999Z",
            &["2026-11-21T03:00:00Z"],
        ),
        (
            "0 3 * * *",
            "Europe/Paris",
            "2026-11-21T00:00:00Z",
            &["2026-11-21T02:00:00Z", "2026-11-22T02:00:00Z"],
        ),
        (
            "0 3 * * *",
            "Europe/Paris",
            "2026-07-01T00:00:00Z",
            &["2026-07-01T01:00:00Z"],
        ),
        (
            "*/20 * * * *",
            "UTC",
            "2026-11-21T03:20:00Z",
            &["2026-11-21T03:40:00Z", "2026-11-21T04:00:00Z"],
        ),
        (
            "30 9-11/2 * * MON-FRI",
            "UTC",
            "2026-11-20T10:00:00Z",
            &["2026-11-20T11:30:00Z", "2026-11-23T09:30:00Z"],
        ),
        (
            "0 0 1,15 jan,JUL *",
            "UTC",
            "2026-01-15T00:00:00Z",
            &[
                "2026-07-01T00:00:00Z",
                "2026-07-15T00:00:00Z",
                "2027-01-01T00:00:00Z",
            ],
        ),
        (
            "0 0 * * 0",
            "UTC",
            "2026-11-21T00:00:00Z",
            &["2026-11-22T00:00:00Z"],
        ),
        (
            "0 0 * * 7",
            "UTC",
            "2026-11-21T00:00:00Z",
            &["2026-11-22T00:00:00Z"],
        ),
        (
            "0 0 13 * FRI",
            "UTC",
            "2026-11-06T12:00:00Z",
            &["2026-11-13T00:00:00Z", "2026-11-20T00:00:00Z"],
        ),
        (
            "  0   3 * * *  ",
            "UTC",
            "2026-11-21T03:00:00Z",
            &["2026-11-22T03:00:00Z"],
        ),
    ]);
}

#[test]
fn six_fields_begin_with_seconds() {
    check(&[
        (
            "*/20 * * * * *",
            "UTC",
            "2026-11-21T03:00:00Z",
            &[
                "2026-11-21T03:00:20Z",
                "2026-11-21T03:00:40Z",
                "2026-11-21T03:01:00Z",
            ],
        ),
        (
            "5,10 59 23 31 DEC *",
            "UTC",
            "2026-01-01T00:00:00Z",
            &[
                "2026-12-31T23:59:05Z",
                "2026-12-31T23:59:10Z",
                "2027-12-31T23:59:05Z",
            ],
        ),
        (
            "30 0 3 * * *",
            "UTC",
            "2026-11-21T03:00:30Z",
            &["2026-11-22T03:00:30Z"],
        ),
    ]);
}

#[test]
fn nicknames_stand_for_expressions() {
    check(&[
        (
            "@hourly",
            "UTC",
            "2026-11-21T03:00:00Z",
            &["2026-11-21T04:00:00Z"],
        ),
        (
            "@daily",
            "UTC",
            "2026-11-21T03:00:00Z",
            &["2026-11-22T00:00:00Z"],
        ),
        (
            "@Midnight",
            "UTC",
            "2026-11-21T03:00:00Z",
            &["2026-11-22T00:00:00Z"],
        ),
        (
            "@weekly",
            "UTC",
            "2026-11-21T03:00:00Z",
            &["2026-11-22T00:00:00Z"],
        ),
        (
            "@monthly",
            "UTC",
            "2026-11-21T03:00:00Z",
            &["2026-12-01T00:00:00Z"],
        ),
        (
            "@yearly",
            "UTC",
            "2026-11-21T03:00:00Z",
            &["2027-01-01T00:00:00Z"],
        ),
        (
            "@annually",
            "UTC",
            "2026-11-21T03:00:00Z",
            &["2027-01-01T00:00:00Z"],
        ),
    ]);
}

#[test]
fn the_last_day_of_every_month_is_found() {
    let month = cron("0 0 L * *", "UTC");
    let days = ticks(&month, "2027-12-30T00:00:00Z", 14);
    let days: Vec<&str> = days.iter().map(|day| &day[..10]).collect();
    assert_eq!(
        days,
        [
            "2027-12-31",
            "2028-01-31",
            "2028-02-29",
            "2028-03-31",
            "2028-04-30",
            "2028-05-31",
            "2028-06-30",
            "2028-07-31",
            "2028-08-31",
            "2028-09-30",
            "2028-10-31",
            "2028-11-30",
            "2028-12-31",
            "2029-01-31"
        ]
    );
    check(&[
        // The last Friday, in months of four and of five; the last working day; the 1st and the last.
        (
            "0 0 * * 5L",
            "UTC",
            "2026-10-01T00:00:00Z",
            &[
                "2026-10-30T00:00:00Z",
                "2026-11-27T00:00:00Z",
                "2026-12-25T00:00:00Z",
            ],
        ),
        (
            "0 0 * * SUNL",
            "UTC",
            "2026-11-01T00:00:00Z",
            &[
                "2026-11-29T00:00:00Z",
                "2026-12-27T00:00:00Z",
                "2027-01-31T00:00:00Z",
            ],
        ),
        (
            "0 0 LW * *",
            "UTC",
            "2026-10-01T00:00:00Z",
            &[
                "2026-10-30T00:00:00Z",
                "2026-11-30T00:00:00Z",
                "2026-12-31T00:00:00Z",
                "2027-01-29T00:00:00Z",
            ],
        ),
        (
            "0 0 1,l * *",
            "UTC",
            "2026-11-15T00:00:00Z",
            &[
                "2026-11-30T00:00:00Z",
                "2026-12-01T00:00:00Z",
                "2026-12-31T00:00:00Z",
            ],
        ),
        (
            "0 0 * * 5#2",
            "UTC",
            "2026-11-01T00:00:00Z",
            &["2026-11-13T00:00:00Z", "2026-12-11T00:00:00Z"],
        ),
        (
            "0 0 15W * *",
            "UTC",
            "2026-08-01T00:00:00Z",
            &["2026-08-14T00:00:00Z", "2026-09-15T00:00:00Z"],
        ),
    ]);
}

#[test]
fn leap_days_and_years_ends_are_found() {
    check(&[
        (
            "0 12 29 2 *",
            "UTC",
            "2026-01-01T00:00:00Z",
            &["2028-02-29T12:00:00Z", "2032-02-29T12:00:00Z"],
        ),
        (
            "0 12 29 2 *",
            "UTC",
            "2096-03-01T00:00:00Z",
            &["2104-02-29T12:00:00Z"],
        ),
        (
            "59 23 31 12 *",
            "UTC",
            "2026-12-31T23:59:00Z",
            &["2027-12-31T23:59:00Z"],
        ),
        (
            "0 0 1 1 *",
            "Pacific/Auckland",
            "2026-12-31T00:00:00Z",
            &["2026-12-31T11:00:00Z"],
        ),
        (
            "* * 29 2 *",
            "Europe/Paris",
            "2026-01-01T00:00:00Z",
            &["2028-02-28T23:00:00Z", "2028-02-28T23:01:00Z"],
        ),
    ]);
}

/// In Paris the clocks go from 02:00 to 03:00 on 2026-03-29 (at 01:00 UTC), and back from 03:00 to 02:00 on
/// 2026-10-25 (at 01:00 UTC).
#[test]
fn a_time_of_day_runs_once_though_clocks_are_changed() {
    check(&[
        // In the gap: right after it.
        (
            "30 2 * * *",
            "Europe/Paris",
            "2026-03-28T00:00:00Z",
            &[
                "2026-03-28T01:30:00Z",
                "2026-03-29T01:00:00Z",
                "2026-03-30T00:30:00Z",
            ],
        ),
        (
            "0 2 * * *",
            "Europe/Paris",
            "2026-03-28T12:00:00Z",
            &["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"],
        ),
        (
            "59 2 * * *",
            "Europe/Paris",
            "2026-03-28T12:00:00Z",
            &["2026-03-29T01:00:00Z", "2026-03-30T00:59:00Z"],
        ),
        // Several in the gap, and one right after it, are one.
        (
            "0,15,30 2,3 * * *",
            "Europe/Paris",
            "2026-03-29T00:00:00Z",
            &[
                "2026-03-29T01:00:00Z",
                "2026-03-29T01:15:00Z",
                "2026-03-29T01:30:00Z",
                "2026-03-30T00:00:00Z",
            ],
        ),
        // Before and after it nothing changes.
        (
            "59 1 * * *",
            "Europe/Paris",
            "2026-03-28T12:00:00Z",
            &["2026-03-29T00:59:00Z", "2026-03-29T23:59:00Z"],
        ),
        (
            "0 3 * * *",
            "Europe/Paris",
            "2026-03-28T12:00:00Z",
            &["2026-03-29T01:00:00Z", "2026-03-30T01:00:00Z"],
        ),
        // In the overlap: the first time.
        (
            "30 2 * * *",
            "Europe/Paris",
            "2026-10-24T12:00:00Z",
            &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
        ),
        (
            "0 2 * * *",
            "Europe/Paris",
            "2026-10-24T12:00:00Z",
            &["2026-10-25T00:00:00Z", "2026-10-26T01:00:00Z"],
        ),
        (
            "0 3 * * *",
            "Europe/Paris",
            "2026-10-24T12:00:00Z",
            &["2026-10-25T02:00:00Z", "2026-10-26T02:00:00Z"],
        ),
        // Begun within it, the first time is over.
        (
            "30 2 * * *",
            "Europe/Paris",
            "2026-10-25T00:30:00Z",
            &["2026-10-26T01:30:00Z"],
        ),
        (
            "30 2 * * *",
            "Europe/Paris",
            "2026-10-25T01:10:00Z",
            &["2026-10-26T01:30:00Z"],
        ),
        (
            "15,45 2 * * *",
            "Europe/Paris",
            "2026-10-25T00:20:00Z",
            &["2026-10-25T00:45:00Z", "2026-10-26T01:15:00Z"],
        ),
        // Only on a day whose time is skipped.
        (
            "30 2 29 3 *",
            "Europe/Paris",
            "2026-01-01T00:00:00Z",
            &["2026-03-29T01:00:00Z", "2027-03-29T00:30:00Z"],
        ),
        // With seconds, too: those of the gap are one.
        (
            "*/20 30 2 * * *",
            "Europe/Paris",
            "2026-03-29T00:00:00Z",
            &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
        ),
        // New York: 07:00 UTC in spring, 06:00 UTC in autumn.
        (
            "30 2 * * *",
            "America/New_York",
            "2026-03-08T00:00:00Z",
            &["2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"],
        ),
        (
            "30 1 * * *",
            "America/New_York",
            "2026-11-01T00:00:00Z",
            &["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"],
        ),
        // Clocks that change at midnight: the day begins at 01:00.
        (
            "0 0 * * *",
            "America/Havana",
            "2026-03-08T00:00:00Z",
            &["2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z"],
        ),
        // A change by half an hour: Lord Howe, at 15:30 UTC in spring, 15:00 UTC in autumn.
        (
            "15 2 * * *",
            "Australia/Lord_Howe",
            "2026-10-03T00:00:00Z",
            &["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"],
        ),
        (
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2026-04-04T00:00:00Z",
            &["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"],
        ),
        // Zones by half and quarter hours.
        (
            "0 6 * * *",
            "Asia/Kolkata",
            "2026-11-21T00:00:00Z",
            &["2026-11-21T00:30:00Z", "2026-11-22T00:30:00Z"],
        ),
        (
            "0 6 * * *",
            "Asia/Kathmandu",
            "2026-11-21T00:00:00Z",
            &["2026-11-21T00:15:00Z"],
        ),
        // A day that was skipped altogether: Samoa, 2011-12-30.
        (
            "0 12 30 12 *",
            "Pacific/Apia",
            "2011-12-01T00:00:00Z",
            &["2011-12-30T10:00:00Z", "2012-12-29T22:00:00Z"],
        ),
    ]);
}

#[test]
fn an_interval_goes_on_though_clocks_are_changed() {
    check(&[
        // Every hour, through the gap and the overlap.
        (
            "0 * * * *",
            "Europe/Paris",
            "2026-03-28T23:30:00Z",
            &[
                "2026-03-29T00:00:00Z",
                "2026-03-29T01:00:00Z",
                "2026-03-29T02:00:00Z",
            ],
        ),
        (
            "0 * * * *",
            "Europe/Paris",
            "2026-10-24T23:30:00Z",
            &[
                "2026-10-25T00:00:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T02:00:00Z",
            ],
        ),
        (
            "30 * * * *",
            "Europe/Paris",
            "2026-10-25T00:00:00Z",
            &[
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:30:00Z",
                "2026-10-25T02:30:00Z",
            ],
        ),
        // Every minute, on both edges.
        (
            "* * * * *",
            "Europe/Paris",
            "2026-03-29T00:58:30Z",
            &[
                "2026-03-29T00:59:00Z",
                "2026-03-29T01:00:00Z",
                "2026-03-29T01:01:00Z",
            ],
        ),
        (
            "* * * * *",
            "Europe/Paris",
            "2026-10-25T00:58:30Z",
            &[
                "2026-10-25T00:59:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T01:01:00Z",
            ],
        ),
        // Every second hour: one that is skipped is none, one that is repeated is two.
        (
            "0 */2 * * *",
            "Europe/Paris",
            "2026-03-28T22:30:00Z",
            &["2026-03-28T23:00:00Z", "2026-03-29T02:00:00Z"],
        ),
        (
            "0 */2 * * *",
            "Europe/Paris",
            "2026-10-24T23:30:00Z",
            &[
                "2026-10-25T00:00:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T03:00:00Z",
            ],
        ),
        // Minutes of one hour: not at all in the gap, twice in the overlap.
        (
            "*/30 2 * * *",
            "Europe/Paris",
            "2026-03-28T12:00:00Z",
            &["2026-03-30T00:00:00Z", "2026-03-30T00:30:00Z"],
        ),
        (
            "*/30 2 * * *",
            "Europe/Paris",
            "2026-10-24T12:00:00Z",
            &[
                "2026-10-25T00:00:00Z",
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T01:30:00Z",
                "2026-10-26T01:00:00Z",
            ],
        ),
        (
            "*/30 * * * *",
            "Australia/Lord_Howe",
            "2026-04-04T14:20:00Z",
            &[
                "2026-04-04T14:30:00Z",
                "2026-04-04T15:00:00Z",
                "2026-04-04T15:30:00Z",
            ],
        ),
        (
            "*/30 * * * * *",
            "Europe/Paris",
            "2026-03-29T00:59:40Z",
            &["2026-03-29T01:00:00Z", "2026-03-29T01:00:30Z"],
        ),
    ]);
}

#[test]
fn no_hour_of_a_year_is_lost_or_doubled() {
    for zone in [
        "Europe/Paris",
        "America/New_York",
        "Australia/Lord_Howe",
        "UTC",
    ] {
        let hourly = cron("0 * * * *", zone);
        let daily = cron("30 2 * * *", zone);
        let count = |cron: &Cron| {
            let end: Timestamp = "2027-01-01T00:00:00Z".parse().expect("a time");
            let mut time: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
            let mut count = 0;
            while let Some(next) = cron.after(time).filter(|next| *next <= end) {
                time = next;
                count += 1;
            }
            count
        };
        let hours = if zone == "Australia/Lord_Howe" {
            8759..=8761
        } else {
            8760..=8760
        };
        assert!(
            hours.contains(&count(&hourly)),
            "{zone}: {}",
            count(&hourly)
        );
        assert_eq!(count(&daily), 365, "{zone}");
    }
}

#[test]
fn what_is_no_expression_is_refused_with_a_reason() {
    for (expression, says) in [
        ("", "0 fields"),
        ("* * * *", "4 fields"),
        ("* * * * * * *", "7 fields"),
        ("60 * * * *", "0..=59; found 60"),
        ("60 0 0 * * *", "in the seconds"),
        ("0 24 * * *", "0..=23; found 24"),
        ("0 0 0 * *", "1..=31; found 0"),
        ("0 0 * 13 *", "1..=12"),
        ("0 0 * * 8", "0..=7"),
        ("5-1 * * * *", "ascending"),
        ("*/0 * * * *", "greater than 0"),
        ("a * * * *", "malformed expression at `a`"),
        ("0 0 30 2 *", "no such day"),
        ("0 0 31 4,6,9,11 *", "no such day"),
        ("@reboot", "@hourly"),
        ("@every 5m", "every(…)"),
        (&"* ".repeat(400), "more than 500 bytes"),
    ] {
        let error = Cron::parse(expression).expect_err(expression).to_string();
        assert!(error.contains(says), "{expression}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_zone_that_is_none_is_refused_by_name() {
    let cron = Cron::parse("@daily").expect("an expression");
    let error = cron.zone("Europe/Pariss").expect_err("no zone").to_string();
    assert!(
        error.contains("`Europe/Pariss`") && error.contains("names like"),
        "{error}"
    );
}
