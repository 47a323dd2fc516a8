use serde_json::json;

use super::*;
use crate::call::Call;
use crate::{DAY, SECOND, every};

fn time(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn definition(schedule: &Schedule) -> Definition {
    let template = Template::new(Call::<()>::named("t")).expect("a call");
    Definition::to_set(schedule, &template).expect("encoded")
}

fn none_defined() -> BTreeMap<String, Definition> {
    BTreeMap::new()
}

fn again(table: &mut Table) -> Table {
    let value = table.encode().expect("encoded");
    Table::decode(Some(&value)).expect("readable")
}

#[test]
fn a_table_is_read_as_it_was_written() {
    let now = time("2026-11-21T03:00:00Z");
    let mut table = Table::default();
    table
        .set("a", definition(&every(SECOND)), now)
        .expect("set");
    table.set("b", definition(&every(DAY)), now).expect("set");
    table.pause("b").expect("there");
    let mut read = again(&mut table);
    assert_eq!(
        read.encode().expect("encoded"),
        table.encode().expect("encoded")
    );
    assert!(read.entries["b"].paused && !read.entries["a"].paused);
    assert!(Table::decode(None).expect("empty").entries.is_empty());
    assert!(Table::decode(Some(b"[")).is_err());
    let newer = Table::decode(Some(br#"{"format":2,"entries":{}}"#));
    assert!(
        newer
            .expect_err("newer")
            .to_string()
            .contains("newer version")
    );
}

#[test]
fn setting_an_entry_again_as_it_is_changes_nothing() {
    let (now, later) = (time("2026-11-21T03:00:00Z"), time("2026-11-21T04:00:00Z"));
    let mut table = Table::default();
    table
        .set("a", definition(&every(SECOND)), now)
        .expect("set");
    table
        .set("a", definition(&every(SECOND)), later)
        .expect("set");
    assert_eq!(table.entries["a"].since(), Some(now));
    table.set("a", definition(&every(DAY)), later).expect("set");
    assert_eq!(table.entries["a"].since(), Some(later));
}

#[test]
fn ticks_of_a_pause_and_of_an_earlier_life_do_not_count() {
    let hour = |hour: i64| time("2026-11-21T00:00:00Z") + SignedDuration::from_hours(hour);
    let schedule = every(SECOND);
    let mut table = Table::default();
    table.set("a", definition(&schedule), hour(3)).expect("set");
    assert_eq!(table.entries["a"].base(&schedule, None), Some(hour(3)));
    assert_eq!(
        table.entries["a"].base(&schedule, Some(hour(1))),
        Some(hour(3))
    );
    assert_eq!(
        table.entries["a"].base(&schedule, Some(hour(4))),
        Some(hour(4))
    );
    table.resume("a", hour(5)).expect("there");
    assert_eq!(table.entries["a"].resumed(), None, "it was not paused");
    table.pause("a").expect("there");
    table.resume("a", hour(6)).expect("there");
    assert_eq!(
        table.entries["a"].base(&schedule, Some(hour(4))),
        Some(hour(6))
    );
    assert_eq!(Row::default().base(&schedule, None), None);
    let once = crate::at(hour(2).into());
    assert_eq!(
        Row::default().base(&once, None),
        Some(Timestamp::UNIX_EPOCH)
    );
    assert!(table.pause("b").is_err() && table.resume("b", hour(7)).is_err());
}

#[test]
fn what_was_set_goes_before_the_code_until_it_is_removed() {
    let now = time("2026-11-21T03:00:00Z");
    let mut table = Table::default();
    let code = BTreeMap::from([("a".to_owned(), definition(&every(SECOND)))]);
    table.note(&code, &BTreeMap::new(), now);
    table.set("a", definition(&every(DAY)), now).expect("set");
    let shown = |table: &Table| table.entries["a"].definition().map(|d| d.schedule.clone());
    assert_eq!(shown(&table), Some(json!({"every": 86400.0})));
    assert!(table.remove("a"));
    assert_eq!(shown(&table), Some(json!({"every": 1.0})));
    assert!(!table.remove("a") && !table.remove("b"));
    // Another scheduler's code does not have it: only its pause is remembered.
    table.pause("a").expect("there");
    table.note(&BTreeMap::new(), &BTreeMap::new(), now);
    assert!(table.entries["a"].paused && table.entries["a"].definition().is_none());
    table.resume("a", now).expect("there");
    table.note(&BTreeMap::new(), &BTreeMap::new(), now);
    assert!(table.entries.is_empty());
}

#[test]
fn a_single_tick_is_forgotten_an_hour_after_it_was_sent() {
    let now = time("2026-11-21T03:00:00Z");
    let mut table = Table::default();
    table
        .set("a", definition(&crate::at(now.into())), now)
        .expect("set");
    let sent = BTreeMap::from([("a".to_owned(), now)]);
    let none = BTreeMap::new();
    table.note(&BTreeMap::new(), &none, now + 10 * KEPT);
    assert_eq!(table.entries.len(), 1, "it was not sent");
    table.note(&BTreeMap::new(), &sent, now + KEPT);
    assert_eq!(table.entries.len(), 1, "it is shown for a while");
    table.note(
        &BTreeMap::new(),
        &none,
        now + KEPT + SignedDuration::from_secs(1),
    );
    assert!(table.entries.is_empty());
}

#[test]
fn a_moment_that_is_set_at_every_start_is_sent_once() {
    let moment = time("2026-11-21T03:00:00Z");
    let once = crate::at(moment.into());
    let none = BTreeMap::new();
    let set_at = |table: &mut Table, hours: i64| {
        let now = moment + SignedDuration::from_hours(hours);
        table.set("a", definition(&once), now).expect("set");
        table.entries["a"].clone()
    };
    let mut table = Table::default();
    let row = set_at(&mut table, -1);
    assert!(row.base(&once, None) < Some(moment), "it will be sent");
    let sent = BTreeMap::from([("a".to_owned(), moment)]);
    let later = moment + KEPT * 2;
    table.note(&none_defined(), &sent, later);
    assert!(table.entries.is_empty(), "and it is forgotten");
    for hours in [3, 6 * 24] {
        let row = set_at(&mut table, hours);
        assert_eq!(row.base(&once, Some(moment)), Some(moment), "it was sent");
        assert!(table.remove("a"));
    }
    let row = set_at(&mut table, 7 * 24 + 1);
    assert!(
        row.base(&once, None) > Some(moment),
        "it may have been sent"
    );
    table.note(
        &none_defined(),
        &none,
        moment + SignedDuration::from_hours(7 * 24 + 1),
    );
    assert!(table.entries.is_empty());
    // What another schedule of this name sent later says nothing.
    let row = set_at(&mut table, 1);
    assert!(row.base(&once, Some(moment + KEPT)) < Some(moment));
}

#[test]
fn a_moment_that_passed_in_a_pause_is_forgotten() {
    let moment = time("2026-11-21T03:00:00Z");
    let none = BTreeMap::new();
    let mut table = Table::default();
    let row = definition(&crate::at(moment.into()));
    table.set("a", row, moment - KEPT).expect("set");
    table.pause("a").expect("there");
    table.note(&none_defined(), &none, moment + KEPT * 2);
    assert_eq!(table.entries.len(), 1);
    table.resume("a", moment + KEPT * 2).expect("there");
    table.note(&none_defined(), &none, moment + KEPT * 2);
    assert!(table.entries.is_empty());
}

#[test]
fn there_are_bounds() {
    let now = time("2026-11-21T03:00:00Z");
    let mut table = Table::default();
    let row = definition(&every(SECOND));
    for n in 0..MOST_ENTRIES {
        table.set(&n.to_string(), row.clone(), now).expect("set");
    }
    let full = table.set("one more", row.clone(), now);
    assert!(
        full.expect_err("full")
            .to_string()
            .contains("10000 entries")
    );
    table.set("7", row.clone(), now).expect("it is there");
    for name in ["", "a\nb", &"x".repeat(NAME_LIMIT + 1)] {
        assert!(table.set(name, row.clone(), now).is_err(), "{name:?}");
    }
}
