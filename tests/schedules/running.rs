//! One scheduler, from its start to its end and on.

use std::collections::BTreeSet;
use std::time::SystemTime;

use garenne::{App, HOUR, MILLISECOND, Missed, Queue, SECOND, Scheduler, at, every};

use crate::on_every_broker;
use crate::support::{self, eventually, within};
use crate::tasks::*;

on_every_broker! {
    async fn each_tick_has_the_id_of_its_time(app: App) {
        let mut ticks = Ticks::of(&app);
        let interval = 250 * MILLISECOND;
        let scheduler = Scheduler::new(&app).add("a b", every(interval), tick::call("x".into())).spawn();
        let ids = ticks.ids("a b", 6).await;
        within("stopping", scheduler.stop()).await.expect("stopped");
        for id in &ids {
            assert_eq!(moment(id).as_millis() % interval.as_millis(), 0, "{id}");
        }
        assert_eq!(assert_complete(&ids, interval), 0, "each was sent once");
        ticks.stop().await;
    }

    async fn ticks_are_sent_at_their_time(app: App) {
        let mut ticks = Ticks::of(&app);
        let scheduler = Scheduler::new(&app).add("punctual", every(500 * MILLISECOND), tick::call("x".into())).spawn();
        ticks.ids("punctual", 1).await;
        for _ in 0..3 {
            let id = ticks.ids("punctual", 1).await.remove(0);
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
            assert!(now >= moment(&id), "{id} came early");
            // How late is for a benchmark: the machine may be busy.
            assert!(now < moment(&id) + 10 * SECOND, "{id} came late");
        }
        within("stopping", scheduler.stop()).await.expect("stopped");
        ticks.stop().await;
    }

    async fn what_a_restart_delays_is_made_up_for(app: App) {
        let mut ticks = Ticks::of(&app);
        let interval = 200 * MILLISECOND;
        let scheduler = || Scheduler::new(&app).add("n", every(interval), tick::call("x".into())).spawn();
        let first = scheduler();
        let mut ids = ticks.ids("n", 3).await;
        within("stopping", first.stop()).await.expect("stopped");
        ids.extend(ticks.so_far().into_iter().map(|(id, _)| id));
        tokio::time::sleep(SECOND).await;
        let second = scheduler();
        ids.extend(ticks.ids("n", 10).await);
        within("stopping", second.stop()).await.expect("stopped");
        assert_eq!(assert_complete(&ids, interval), 0, "each was sent once");
        ticks.stop().await;
    }

    async fn a_moment_comes_once_whatever_is_restarted(app: App) {
        let mut ticks = Ticks::of(&app);
        let past = SystemTime::now() - 24 * HOUR;
        let soon = SystemTime::now() + SECOND;
        let scheduler = || {
            Scheduler::new(&app)
                .add("past", at(past), tick::call("past".into()))
                .add("soon", at(soon), tick::call("soon".into()))
                .add("skipped", at(past).missed(Missed::Skip), tick::call("skipped".into()))
                .spawn()
        };
        let first = scheduler();
        assert_eq!(ticks.next().await.1, "past");
        assert_eq!(ticks.next().await.1, "soon");
        assert!(SystemTime::now() >= soon);
        within("stopping", first.stop()).await.expect("stopped");
        let second = scheduler();
        within("its turn", second.active()).await;
        tokio::time::sleep(SECOND).await;
        within("stopping", second.stop()).await.expect("stopped");
        assert_eq!(ticks.so_far(), []);
        ticks.stop().await;
    }

    async fn ticks_are_spread_over_the_shards_of_their_queue(app: App) {
        let queue = Queue::new("divided").shards(2);
        let (first, second) = (queue.name().to_owned(), queue.shard_names().nth(1).expect("two"));
        let call = tick::call("x".into()).queue(queue);
        let scheduler = Scheduler::new(&app).add("n", every(50 * MILLISECOND), call).spawn();
        for shard in [first, second] {
            let mut ticks = Ticks::on(&app, &shard);
            ticks.ids("n", 3).await;
            ticks.stop().await;
        }
        within("stopping", scheduler.stop()).await.expect("stopped");
    }

    async fn a_tick_that_cannot_be_sent_holds_up_no_other(app: App) {
        let mut ticks = Ticks::of(&app);
        // Nothing is bound to it.
        let nowhere = garenne::Exchange::topic("schedules.nowhere");
        let lost = tick::call("lost".into()).publish_to(&nowhere, "a.b");
        let scheduler = Scheduler::new(&app)
            .add("lost", every(200 * MILLISECOND), lost)
            .add("well", every(200 * MILLISECOND), tick::call("well".into()))
            .spawn();
        let ids = ticks.ids("well", 5).await;
        assert_eq!(assert_complete(&ids, 200 * MILLISECOND), 0);
        within("stopping", scheduler.stop()).await.expect("stopped");
        assert!(ticks.so_far().iter().all(|(_, text)| text == "well"));
        ticks.stop().await;
    }

    async fn many_entries_are_all_sent(app: App) {
        let mut ticks = Ticks::of(&app);
        let names: BTreeSet<String> = (0..200).map(|n| format!("entry-{n}")).collect();
        let soon = SystemTime::now() + SECOND;
        let mut scheduler = Scheduler::new(&app);
        for name in &names {
            scheduler = scheduler.add(name, at(soon), tick::call(name.clone()));
        }
        let scheduler = scheduler.spawn();
        let mut came = BTreeSet::new();
        for _ in 0..names.len() {
            came.insert(ticks.next().await.1);
        }
        assert_eq!(came, names);
        within("stopping", scheduler.stop()).await.expect("stopped");
        ticks.stop().await;
    }
}

#[tokio::test]
async fn what_cannot_be_is_refused_at_the_start() {
    let app = App::in_memory();
    let call = || tick::call("x".into());
    let say = async |scheduler: Scheduler| {
        let ended = within("the start", scheduler.run(std::future::pending())).await;
        ended.expect_err("refused").to_string()
    };
    let twice = Scheduler::new(&app)
        .add("a", every(SECOND), call())
        .add("a", every(HOUR), call());
    assert!(say(twice).await.contains("`a`: it is added twice"));
    let nameless = Scheduler::new(&app).add("", every(SECOND), call());
    assert!(say(nameless).await.contains("schedule name"));
    let never = Scheduler::new(&app).add("a", every(std::time::Duration::ZERO), call());
    assert!(say(never).await.contains("interval"));
    let with_id = Scheduler::new(&app).add("a", every(SECOND), call().id("mine"));
    assert!(say(with_id).await.contains("the id of its tick"));
}

#[tokio::test]
async fn a_closed_app_ends_its_scheduler() {
    let app = App::in_memory();
    let scheduler = Scheduler::new(&app)
        .add("a", every(HOUR), tick::call("x".into()))
        .spawn();
    assert!(within("its turn", scheduler.active()).await);
    let waiting = Scheduler::new(&app).spawn();
    app.close().await;
    eventually("its end", async || !scheduler.is_active()).await;
    assert!(!within("its end", scheduler.active()).await);
    assert!(within("its end", scheduler.stop()).await.is_err());
    assert!(!within("its end", waiting.active()).await);
    assert!(within("its end", waiting.stop()).await.is_err());
}
