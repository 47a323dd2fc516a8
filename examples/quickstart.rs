//! The main job on the embedded broker: worker processes, and a client that calls tasks and awaits their
//! typed results. Run it with `cargo run --example quickstart`; on RabbitMQ with
//! `GARENNE_BROKER=amqp://guest:guest@localhost:5672/%2f cargo run --example quickstart`.

use std::io::{IsTerminal, Write};
use std::process::{Child, Command};
use std::time::Duration;

use garenne::{App, Context, TaskError, Worker, task};
use tokio::task::JoinSet;

/// An `async fn` runs on the worker's runtime.
#[task(queue = "quickstart")]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

/// A plain `fn` runs on a thread of its own. It says which process it ran in.
#[task(queue = "quickstart")]
fn count_primes(below: u32) -> (u32, usize) {
    let prime = |n: &u32| {
        (2..)
            .take_while(|d| d * d <= *n)
            .all(|d| !n.is_multiple_of(d))
    };
    (std::process::id(), (2..below).filter(prime).count())
}

/// Errors are retried, after a pause with jitter.
#[task(queue = "quickstart", retries = 5, backoff = "50ms..1s")]
async fn unsteady(ctx: &Context) -> Result<u32, String> {
    if ctx.attempt() < 3 {
        Err("the network hiccups".into())
    } else {
        Ok(ctx.attempt())
    }
}

#[task(queue = "quickstart")]
async fn refuse(name: String) -> Result<(), TaskError> {
    Err(TaskError::permanent(format!("no account is named {name}")))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let app = App::from_env().await?;
    if std::env::args().nth(1).as_deref() == Some("worker") {
        Worker::new(&app)
            .queue("quickstart", 2)
            .run(garenne::shutdown_signal())
            .await?;
        return Ok(());
    }
    let mut workers = start_workers()?;
    let outcome = client(&app).await;
    for worker in &mut workers {
        worker.kill()?; // without ceremony: what it holds would go to another worker
        worker.wait()?;
    }
    outcome
}

/// Two worker processes: this very program, told to work.
fn start_workers() -> anyhow::Result<Vec<Child>> {
    let program = std::env::current_exe()?;
    let start = |_| Ok(Command::new(&program).arg("worker").spawn()?);
    (0..2).map(start).collect()
}

async fn client(app: &App) -> anyhow::Result<()> {
    println!("2 + 3 = {}", add::call(2, 3).send(app).await?.await?);

    const CALLS: usize = 300;
    let mut replies = JoinSet::new();
    for sent in app
        .send_all((0..CALLS).map(|_| count_primes::call(30_000)))
        .await
    {
        replies.spawn(sent?.result());
    }
    let mut by_process = std::collections::BTreeMap::<u32, usize>::new();
    let mut primes = 0;
    while let Some(reply) = replies.join_next().await {
        let (process, count) = reply??;
        *by_process.entry(process).or_default() += 1;
        primes = count;
        show_progress(CALLS - replies.len(), CALLS);
    }
    println!(
        "{CALLS} calls found {primes} primes below 30,000 each, in {} processes",
        by_process.len()
    );
    for (process, calls) in by_process {
        println!("  worker process {process}: {calls} calls");
    }

    println!(
        "a retry that recovers: succeeded in attempt {}",
        unsteady::call().send(app).await?.await?
    );

    let failure = refuse::call("Nobody".into())
        .send(app)
        .await?
        .await
        .expect_err("there is none");
    println!("a failure with its reason: {failure}");
    app.delete("quickstart.dead").await?;

    if std::env::var_os("GARENNE_BROKER").is_none() {
        println!("\nThe same on RabbitMQ, on as many machines as you like:");
        println!(
            "  GARENNE_BROKER=amqp://guest:guest@localhost:5672/%2f cargo run --example quickstart"
        );
    }
    Ok(())
}

fn show_progress(done: usize, all: usize) {
    let mut out = std::io::stdout();
    if out.is_terminal() {
        let bar = "█".repeat(done * 40 / all);
        let end = if done == all { "\n" } else { "" };
        write!(out, "\r[{bar:·<40}] {done}/{all}{end}").ok();
        out.flush().ok();
        std::thread::sleep(Duration::from_millis(1)); // so that eyes can follow
    }
}
