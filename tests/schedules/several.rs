//! Several schedulers: one is active, and another takes its place.

use std::time::Duration;

use garenne::{App, MILLISECOND, RunningScheduler, SECOND, Scheduler, every};

use crate::on_every_broker;
use crate::support::{self, eventually, within};
use crate::tasks::*;

const INTERVAL: Duration = Duration::from_millis(200);

fn start(app: &App) -> RunningScheduler {
    let call = tick::call("x".into());
    Scheduler::new(app).add("n", every(INTERVAL), call).spawn()
}

on_every_broker! {
    async fn one_of_several_is_active(app: App) {
        let mut ticks = Ticks::of(&app);
        let schedulers = [start(&app), start(&app), start(&app)];
        let ids = ticks.ids("n", 10).await;
        assert_eq!(assert_complete(&ids, INTERVAL), 0, "each was sent once");
        let active = schedulers.iter().filter(|scheduler| scheduler.is_active());
        assert_eq!(active.count(), 1);
        for scheduler in schedulers {
            within("stopping", scheduler.stop()).await.expect("stopped");
        }
        ticks.stop().await;
    }

    async fn when_the_active_one_stops_another_takes_its_place(app: App) {
        let mut ticks = Ticks::of(&app);
        let first = start(&app);
        assert!(within("its turn", first.active()).await);
        let second = start(&app);
        let mut ids = ticks.ids("n", 3).await;
        assert!(!second.is_active());
        within("stopping", first.stop()).await.expect("stopped");
        assert!(within("its turn", second.active()).await);
        ids.extend(ticks.ids("n", 5).await);
        within("stopping", second.stop()).await.expect("stopped");
        assert_eq!(assert_complete(&ids, INTERVAL), 0, "each was sent once");
        ticks.stop().await;
    }

    async fn when_the_active_one_crashes_no_tick_is_lost(app: App) {
        let mut ticks = Ticks::of(&app);
        let mut active = start(&app);
        assert!(within("its turn", active.active()).await);
        let mut ids = Vec::new();
        for _ in 0..4 {
            let next = start(&app);
            ids.extend(ticks.ids("n", 3).await);
            within("a crash", active.abort()).await;
            assert!(within("its turn", next.active()).await);
            active = next;
        }
        ids.extend(ticks.ids("n", 5).await);
        within("stopping", active.stop()).await.expect("stopped");
        // Some may have been sent and not noted: under the same id.
        assert!(assert_complete(&ids, INTERVAL) <= 4, "{ids:?}");
        ticks.stop().await;
    }

    async fn one_that_waits_can_be_stopped(app: App) {
        let first = start(&app);
        assert!(within("its turn", first.active()).await);
        let second = start(&app);
        tokio::time::sleep(200 * MILLISECOND).await;
        within("stopping", second.stop()).await.expect("stopped");
        let third = start(&app);
        within("stopping", first.stop()).await.expect("stopped");
        assert!(within("its turn", third.active()).await);
        within("stopping", third.stop()).await.expect("stopped");
    }

    async fn the_code_of_the_active_one_counts(app: App) {
        let code = |name: &str| Scheduler::new(&app).add(name, every(SECOND), tick::call("x".into())).spawn();
        let names = async || {
            let entries = app.schedules().list().await.expect("a list");
            entries.into_iter().map(|entry| entry.name).collect::<Vec<_>>()
        };
        let first = code("old");
        eventually("the first one's entry", async || names().await == ["old"]).await;
        let second = code("new");
        within("stopping", first.stop()).await.expect("stopped");
        eventually("the second one's entry", async || names().await == ["new"]).await;
        within("stopping", second.stop()).await.expect("stopped");
        assert_eq!(names().await, ["new"]);
    }
}
