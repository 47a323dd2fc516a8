//! A call is awaited like any future; many are under way at once, and their replies come out of order.

use garenne::{App, Worker, task};
use tokio::task::JoinSet;

/// A plain function: it runs on a thread of its own, and keeps no other task waiting.
#[task(queue = "rpc")]
fn fib(n: u32) -> u64 {
    if n < 2 {
        u64::from(n)
    } else {
        fib(n - 1) + fib(n - 2)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let app = App::from_env().await?;
    let worker = Worker::new(&app).queue("rpc", 4).spawn();

    println!("fib(30) = {}", fib::call(30).send(&app).await?.await?);

    let mut replies = JoinSet::new();
    for n in [36, 5, 1, 20, 10, 15] {
        let handle = fib::call(n).send(&app).await?;
        replies.spawn(async move { (n, handle.await) });
    }
    let mut order = Vec::new();
    let mut results = Vec::new();
    while let Some(reply) = replies.join_next().await {
        let (n, result) = reply?;
        order.push(n);
        results.push((n, result?));
    }
    println!("asked first, answered last: {}", order.last() == Some(&36));
    results.sort_unstable();
    for (n, result) in results {
        println!("fib({n}) = {result}");
    }
    worker.stop().await?;
    Ok(())
}
