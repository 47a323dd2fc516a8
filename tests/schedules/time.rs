//! Time that is paused: a day of schedules is over at once.

use std::collections::BTreeMap;
use std::time::Instant;

use garenne::{App, DAY, HOUR, MINUTE, SECOND, Scheduler, cron, every};

use crate::tasks::*;

#[tokio::test(start_paused = true)]
async fn a_day_of_schedules_is_over_at_once() {
    let start = Instant::now();
    let app = App::in_memory();
    let mut ticks = Ticks::of(&app);
    let call = || tick::call("x".into());
    let scheduler = Scheduler::new(&app)
        .add("hourly", every(HOUR), call())
        .add(
            "quarterly",
            cron("*/15 * * * *").expect("an expression"),
            call(),
        )
        .add("daily", cron("0 3 * * *").expect("an expression"), call())
        .add("scattered", every(HOUR).jitter(10 * MINUTE), call())
        .spawn();
    assert!(scheduler.active().await);
    tokio::time::sleep(DAY).await;
    scheduler.stop().await.expect("stopped");
    let mut ids: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (id, _) in ticks.so_far() {
        let name = id.split('@').next().unwrap_or_default().to_owned();
        ids.entry(name).or_default().push(id);
    }
    for (name, interval, count) in [
        ("hourly", HOUR, 24..=24),
        ("quarterly", 15 * MINUTE, 96..=96),
        ("daily", DAY, 1..=1),
        ("scattered", HOUR, 23..=25),
    ] {
        let ids = &ids[name];
        assert!(count.contains(&ids.len()), "{name}: {ids:?}");
        assert_eq!(assert_complete(ids, interval), 0);
    }
    println!("a day took {:?}", start.elapsed());
    assert!(start.elapsed() < 20 * SECOND);
    ticks.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_made_up_for_as_the_entry_says() {
    use garenne::Missed;
    let app = App::in_memory();
    let mut ticks = Ticks::of(&app);
    let call = || tick::call("x".into());
    let start = || {
        Scheduler::new(&app)
            .add("skip", every(HOUR).missed(Missed::Skip), call())
            .add("once", every(HOUR), call())
            .add("all", every(HOUR).missed(Missed::RunAll), call())
            .spawn()
    };
    let first = start();
    assert!(first.active().await);
    tokio::time::sleep(MINUTE).await;
    first.stop().await.expect("stopped");
    // Away from the full hour, where a tick would be no more than late.
    let past = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let past = past.expect("after 1970").as_secs() % 3600;
    tokio::time::sleep(10 * HOUR + (3600 + 1800 - past as u32) * SECOND).await;
    ticks.so_far();
    let second = start();
    assert!(second.active().await);
    tokio::time::sleep(MINUTE).await;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (id, _) in ticks.so_far() {
        *counts
            .entry(id.split('@').next().unwrap_or_default().to_owned())
            .or_default() += 1;
    }
    assert_eq!(counts.get("skip"), None);
    assert_eq!(counts.get("once"), Some(&1));
    assert!((10..=12).contains(&counts["all"]), "{counts:?}");
    second.stop().await.expect("stopped");
    ticks.stop().await;
}
