//! A call made before any worker is up waits in the durable queue.
//!
//! On one machine: `cargo run --example hello`. On RabbitMQ: the same with
//! `GARENNE_BROKER=amqp://guest:guest@localhost:5672/%2f`.

use garenne::{App, Worker, task};

#[task]
async fn hello(name: String) -> String {
    format!("hello, {name}")
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let app = App::from_env().await?;

    let greeting = hello::call("world".into())
        .queue("greetings")
        .send(&app)
        .await?;
    println!("sent; {} call waits", app.depth("greetings").await?.ready);

    let worker = Worker::new(&app).queue("greetings", 1).spawn();
    println!("a worker is up: {}", greeting.await?);
    worker.stop().await?;
    Ok(())
}
