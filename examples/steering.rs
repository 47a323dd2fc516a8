//! Watching and steering workers while they work: events, and remote control.
//!
//! `steering worker NAME` runs a worker to try Celery's tools on (with RabbitMQ): `celery -b URL status`,
//! `celery -b URL inspect active`, `celery -b URL events`, `celery -b URL flower`.

use garenne::{App, EventKind, MINUTE, Rate, SECOND, Worker, task};

#[task(queue = "steering")]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task(queue = "steering")]
async fn nap(seconds: f64) {
    tokio::time::sleep(SECOND.mul_f64(seconds)).await;
}

#[task(queue = "steering")]
async fn fail(text: String) -> Result<(), String> {
    Err(text)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let app = App::from_env().await?;
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("worker") {
        let name = args.next().unwrap_or_else(|| "steered".into());
        let worker = Worker::new(&app).name(name).queue("steering", 2);
        worker.run(garenne::shutdown_signal()).await?;
        return Ok(());
    }

    let node = format!("steered-{}@here", std::process::id());
    let worker = Worker::new(&app).name(&node).queue("steering", 2).spawn();
    worker.ready().await;
    let control = app.control().to([&node]).timeout(5 * SECOND);

    // Events of calls are told once somebody has asked for them.
    let mut events = app.events().await?;
    println!("{:?}", control.enable_events().await?[&node]);
    let five = add::call(2, 3).send(&app).await?;
    while let Some(event) = events.next().await {
        if event.id() == Some(five.id()) {
            println!("{}", event.name());
            if matches!(event.kind, EventKind::TaskSucceeded { .. }) {
                break;
            }
        }
    }

    // More slots, and a limit to how fast they are used.
    println!("{:?}", control.pool_grow(2).await?[&node]);
    println!(
        "{:?}",
        control.rate_limit("add", Rate::per(600, MINUTE)).await?[&node]
    );

    // What runs is told, and can be ended.
    let long = nap::call(3600.0).send(&app).await?;
    while control.active().await?[&node]
        .as_ref()
        .is_ok_and(Vec::is_empty)
    {}
    println!("{}", control.terminate(long.id()).await?[&node].is_ok());
    println!("{:?}", long.result().await.map_err(|failure| failure.kind));

    control.shutdown().await?;
    worker.stop().await?;
    app.close().await;
    Ok(())
}
