//! What failed for good is kept: look at it, mend the cause, run it again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use garenne::{App, Dead, Worker, task};

/// The shop's computer, which is down at first.
#[derive(Clone, Default)]
struct Computer(Arc<AtomicBool>);

#[task(queue = "orders", retries = 1, backoff = "10ms..1s")]
async fn order(computer: &Computer, customer: String, apples: u32) -> Result<String, String> {
    match computer.0.load(Ordering::SeqCst) {
        true => Ok(format!("{apples} apples for {customer}")),
        false => Err("the shop's computer is down".into()),
    }
}

#[task(queue = "orders")]
async fn complain() {
    panic!("a bug");
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let app = App::from_env().await?;
    let computer = Computer::default();
    let worker = Worker::new(&app)
        .queue("orders", 2)
        .state(computer.clone())
        .spawn();
    for customer in ["ann", "bob"] {
        let sent = order::call(customer.into(), 3).send(&app).await?;
        println!(
            "{customer}: {}",
            sent.await.expect_err("it is down").message
        );
    }
    let bug = complain::call().send(&app).await?.await.expect_err("a bug");

    let dead = app.dead_letters("orders");
    for letter in dead.list(Dead::all().task("order")).await? {
        let errors: Vec<_> = letter.errors.iter().map(|past| &*past.error).collect();
        println!(
            "order({}) {}: {errors:?}",
            letter.arguments(),
            letter.reason
        );
    }
    if let Some(letter) = dead.show(&bug.id).await? {
        println!("{} {}: {}", letter.task, letter.reason, letter.error);
    }

    // The computer works again: so the same calls succeed.
    computer.0.store(true, Ordering::SeqCst);
    println!(
        "retried: {}",
        dead.retry(Dead::all().reason("failed")).await?
    );
    println!("discarded: {}", dead.discard(Dead::all().id(bug.id)).await?);
    println!("left: {}", dead.count().await?);

    worker.stop().await?;
    Ok(())
}
