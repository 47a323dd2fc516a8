//! What a failed attempt leads to: another one after a pause, or a failure that says why.

use garenne::{App, Context, MILLISECOND, TaskError, Worker, task};

/// Any error that can be displayed is retried, here after at most 10 ms, 20 ms, 40 ms, …
#[task(queue = "shaky", retries = 5, backoff = "10ms..1s")]
async fn shaky(ctx: &Context) -> Result<String, String> {
    match ctx.attempt() {
        attempt @ 1..=2 => Err(format!("attempt {attempt} failed")),
        attempt => Ok(format!("attempt {attempt} succeeded")),
    }
}

/// The task may also say when, or that there is no hope.
#[task(queue = "shaky", retries = 5)]
async fn report(ctx: &Context, day: String) -> Result<u64, TaskError> {
    let number = day.parse::<u64>().map_err(TaskError::permanent)?;
    if ctx.attempt() == 1 {
        return Err(TaskError::retry_in(20 * MILLISECOND).because("the data is not there yet"));
    }
    Ok(number)
}

#[task(queue = "shaky")]
async fn careless() {
    panic!("a bug");
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let app = App::from_env().await?;
    let worker = Worker::new(&app).queue("shaky", 2).spawn();

    println!("{}", shaky::call().send(&app).await?.await?);
    println!(
        "report: {}",
        report::call("31".into()).send(&app).await?.await?
    );

    let hopeless = report::call("January".into()).send(&app).await?.await;
    let failure = hopeless.expect_err("not a number");
    println!(
        "{} after {} attempt: {}",
        failure.kind, failure.attempts, failure.message
    );

    let used_up = shaky::call()
        .retries(1)
        .send(&app)
        .await?
        .await
        .expect_err("one retry is not enough");
    println!(
        "{} after {} attempts: {}",
        used_up.kind, used_up.attempts, used_up.message
    );

    let bug = careless::call()
        .send(&app)
        .await?
        .await
        .expect_err("a panic");
    println!("{}: {}; the worker lives on", bug.kind, bug.message);

    println!(
        "kept as dead letters: {}",
        app.depth("shaky.dead").await?.ready
    );
    app.delete("shaky.dead").await?;
    worker.stop().await?;
    Ok(())
}
