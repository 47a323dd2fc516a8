//! Calls that are sent at times, by one of several schedulers; and entries that change while they run.

use std::time::SystemTime;

use garenne::{
    App, Context, HOUR, MILLISECOND, Scheduler, Worker, at, cron, every, shutdown_signal, task,
};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

struct Screen(UnboundedSender<String>);

#[task(queue = "scheduled")]
async fn beat(screen: &Screen, ctx: &Context, what: String) {
    // The same however often it is sent: `heart@2026-11-21T03:00:00Z`.
    let name = ctx.id().split('@').next().unwrap_or_default();
    screen.0.send(format!("{name}: {what}")).ok();
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let app = App::from_env().await?;
    let (screen, mut lines) = unbounded_channel();
    let worker = Worker::new(&app)
        .queue("scheduled", 4)
        .state(Screen(screen))
        .spawn();

    // Two of them, as on two machines: one is active, the other takes its place when it is gone.
    let scheduler = || -> Result<Scheduler, garenne::Error> {
        Ok(Scheduler::new(&app)
            .add("heart", every(200 * MILLISECOND), beat::call("boom".into()))
            .add(
                "nightly",
                cron("0 3 * * *")?.timezone("Europe/Paris")?,
                beat::call("report".into()),
            ))
    };
    let first = scheduler()?.spawn();
    first.active().await;
    let second = scheduler()?.spawn();
    for _ in 0..2 {
        println!("{}", lines.recv().await.unwrap_or_default());
    }
    println!("the first is active: {}", first.is_active());
    first.stop().await?;
    println!("the second takes its place: {}", second.active().await);

    // Kept in the broker, whether a scheduler runs or not.
    let schedules = app.schedules();
    schedules
        .set("once", at(SystemTime::now()), beat::call("launch".into()))
        .await?;
    while lines.recv().await.as_deref() != Some("once: launch") {}
    println!("once: launch");
    schedules
        .set("feed", every(HOUR), beat::call("refresh".into()))
        .await?;
    schedules.pause("feed").await?;
    schedules.remove("once").await?;
    for entry in schedules.list().await? {
        println!("{entry}{}", if entry.paused { " (paused)" } else { "" });
    }

    // A program of its own would be `scheduler()?.run(shutdown_signal()).await?`.
    drop(shutdown_signal());
    second.stop().await?;
    schedules.remove("feed").await?;
    worker.stop().await?;
    Ok(())
}
