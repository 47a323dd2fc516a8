//! Entries that are set, changed, paused and removed while a scheduler runs, and while none does.

use std::time::SystemTime;

use garenne::{
    App, DAY, HOUR, MILLISECOND, MINUTE, Queue, SECOND, ScheduleEntry, Scheduler, at, every,
};

use crate::on_every_broker;
use crate::support::{self, eventually, within};
use crate::tasks::*;

async fn entry(app: &App, name: &str) -> Option<ScheduleEntry> {
    let entries = within("a list", app.schedules().list())
        .await
        .expect("a list");
    entries.into_iter().find(|entry| entry.name == name)
}

on_every_broker! {
    async fn entries_are_kept_while_no_scheduler_runs(app: App) {
        let schedules = app.schedules();
        assert_eq!(schedules.list().await.expect("a list"), []);
        assert!(!schedules.remove("a").await.expect("removed"));
        schedules.set("a", every(HOUR).jitter(MINUTE), tick::call("x".into())).await.expect("set");
        schedules.set("b", at(SystemTime::now() + DAY), tick::call("x".into())).await.expect("set");
        schedules.pause("b").await.expect("paused");
        let found = entry(&app, "a").await.expect("there");
        assert_eq!((found.schedule.as_str(), found.task.as_str()), ("every 3600s", "tick"));
        assert_eq!((found.paused, found.in_code, found.last), (false, false, None));
        let next = found.next.expect("a next tick").duration_since(SystemTime::now());
        assert!(next.expect("in future") <= HOUR + MINUTE);
        let found = entry(&app, "b").await.expect("there");
        assert_eq!((found.paused, found.next), (true, None));
        assert!(schedules.remove("a").await.expect("removed"));
        assert_eq!(entry(&app, "a").await, None);
        for unknown in [schedules.pause("a").await, schedules.resume("a").await] {
            assert!(unknown.expect_err("unknown").to_string().contains("`a`"));
        }
    }

    async fn a_running_scheduler_takes_changes_up(app: App) {
        let mut ticks = Ticks::of(&app);
        let scheduler = Scheduler::new(&app).spawn();
        assert!(within("its turn", scheduler.active()).await);
        let schedules = app.schedules();
        schedules.set("n", every(100 * MILLISECOND), tick::call("one".into())).await.expect("set");
        assert_eq!(ticks.next().await.1, "one");
        schedules.set("n", every(100 * MILLISECOND), tick::call("two".into())).await.expect("set");
        while ticks.next().await.1 != "two" {}
        eventually("its last tick", async || entry(&app, "n").await.is_some_and(|n| n.last.is_some())).await;

        schedules.pause("n").await.expect("paused");
        let mut silent = false;
        while !silent {
            tokio::time::sleep(700 * MILLISECOND).await;
            silent = ticks.so_far().is_empty();
        }
        let resumed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        schedules.resume("n").await.expect("resumed");
        let id = ticks.ids("n", 1).await.remove(0);
        assert!(moment(&id) > resumed, "those of the pause are not made up for: {id}");

        assert!(schedules.remove("n").await.expect("removed"));
        let mut silent = false;
        while !silent {
            tokio::time::sleep(700 * MILLISECOND).await;
            silent = ticks.so_far().is_empty();
        }
        assert_eq!(schedules.list().await.expect("a list"), []);
        within("stopping", scheduler.stop()).await.expect("stopped");
        ticks.stop().await;
    }

    async fn an_entry_in_the_code_can_be_paused_and_replaced(app: App) {
        let mut ticks = Ticks::of(&app);
        let schedules = app.schedules();
        let start = || Scheduler::new(&app).add("n", every(100 * MILLISECOND), tick::call("code".into())).spawn();
        let scheduler = start();
        assert_eq!(ticks.next().await.1, "code");
        eventually("its entry", async || entry(&app, "n").await.is_some_and(|n| n.in_code)).await;
        schedules.set("n", every(150 * MILLISECOND), tick::call("set".into())).await.expect("set");
        while ticks.next().await.1 != "set" {}
        assert!(!entry(&app, "n").await.expect("there").in_code);
        assert!(schedules.remove("n").await.expect("removed"));
        while ticks.next().await.1 != "code" {}

        schedules.pause("n").await.expect("paused");
        within("stopping", scheduler.stop()).await.expect("stopped");
        let scheduler = start();
        within("its turn", scheduler.active()).await;
        ticks.so_far();
        tokio::time::sleep(SECOND).await;
        assert_eq!(ticks.so_far(), [], "the pause survives");
        schedules.resume("n").await.expect("resumed");
        assert_eq!(ticks.next().await.1, "code");
        within("stopping", scheduler.stop()).await.expect("stopped");
        ticks.stop().await;
    }

    async fn an_entry_sends_the_call_as_it_was_set(app: App) {
        let mut ticks = Ticks::of(&app);
        let wrong = Queue::new("schedules.elsewhere").max_priority(4);
        let elsewhere = tick::call("elsewhere".into()).queue(wrong).priority(3);
        let schedules = app.schedules();
        schedules.set("elsewhere", at(SystemTime::now()), elsewhere).await.expect("set");
        schedules.set("größe", at(SystemTime::now()), tick::call("ä\n\"".into())).await.expect("set");
        let scheduler = Scheduler::new(&app).spawn();
        let (id, text) = ticks.next().await;
        assert!(id.starts_with("größe@") && text == "ä\n\"", "{id} {text}");
        eventually("the other call", async || {
            app.depth("schedules.elsewhere").await.is_ok_and(|depth| depth.ready == 1)
        }).await;
        within("stopping", scheduler.stop()).await.expect("stopped");
        app.delete("schedules.elsewhere").await.expect("deleted");
        ticks.stop().await;
    }

    async fn changes_of_many_at_once_are_all_kept(app: App) {
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..12 {
            let schedules = app.schedules();
            tasks.spawn(async move {
                schedules.set(format!("n{n:02}"), every(HOUR), tick::call("x".into())).await
            });
        }
        while let Some(set) = within("a change", tasks.join_next()).await {
            set.expect("no panic").expect("set");
        }
        let entries = app.schedules().list().await.expect("a list");
        assert_eq!(entries.len(), 12, "{entries:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_table_is_read_though_nothing_can_be_noted_in_it() {
    let app = App::builder("memory://").max_message_size(2000);
    let app = app.connect().await.expect("memory");
    let (schedules, mut ticks) = (app.schedules(), Ticks::of(&app));
    let set = async |name: &str, every_so_often, argument: &str| {
        let call = tick::call(argument.into());
        schedules.set(name, every(every_so_often), call).await
    };
    let quick = 100 * MILLISECOND;
    set("quick", quick, "a long text").await.expect("set");
    let mut n = 0;
    while set(&format!("n{n}"), HOUR, "").await.is_ok() {
        n += 1;
    }
    let scheduler = Scheduler::new(&app).spawn();
    assert!(within("its turn", scheduler.active()).await);
    // By then it wants to note when each entry was due last, which has no room.
    for _ in 0..20 {
        assert_eq!(within("a tick", ticks.next()).await.1, "a long text");
    }
    set("quick", quick, "short").await.expect("changed");
    let changed = async { while ticks.next().await.1 != "short" {} };
    within("a tick of what was changed", changed).await;
    scheduler.stop().await.expect("stopped");
    app.close().await;
}

#[tokio::test]
async fn what_cannot_be_set_is_refused() {
    let app = App::builder("memory://")
        .max_message_size(2000)
        .connect()
        .await
        .expect("memory");
    let schedules = app.schedules();
    let call = || tick::call("x".into());
    assert!(schedules.set("", every(HOUR), call()).await.is_err());
    assert!(
        schedules
            .set("a", every(std::time::Duration::ZERO), call())
            .await
            .is_err()
    );
    assert!(
        schedules
            .set("a", every(HOUR), call().id("mine"))
            .await
            .is_err()
    );
    let mut set = 0;
    let full = loop {
        match schedules.set(format!("n{set}"), every(HOUR), call()).await {
            Ok(()) => set += 1,
            Err(error) => break error.to_string(),
        }
    };
    assert!(
        set > 3 && full.contains("max_message_size"),
        "{set}: {full}"
    );
    assert_eq!(schedules.list().await.expect("a list").len(), set);
}
