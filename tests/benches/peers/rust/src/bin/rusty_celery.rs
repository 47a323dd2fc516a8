//! The crate `celery`: acknowledges after the work; cannot confirm what it publishes.

// What its macro makes is of an older Rust.
#![allow(non_local_definitions)]

use std::sync::Arc;

use anyhow::{Context as _, Result};
use celery::Celery;
use celery::prelude::*;
use futures_util::{StreamExt, TryStreamExt};
use garenne_bench_peers::{Client, TEXT, ran, serve, told};

#[celery::task(name = "peers.noop", acks_late = true)]
async fn noop(number: u64, _text: String) -> TaskResult<u64> {
    ran();
    Ok(number)
}

struct Theirs {
    app: Arc<Celery>,
    queue: String,
}

impl Theirs {
    async fn send(&self, number: usize) -> Result<()> {
        let signature = noop::new(number as u64, TEXT.to_owned()).with_queue(&self.queue);
        self.app.send_task(signature).await?;
        Ok(())
    }
}

impl Client for Theirs {
    async fn one(&mut self, count: usize) -> Result<()> {
        for number in 0..count {
            self.send(number).await?;
        }
        Ok(())
    }

    async fn many(&mut self, count: usize) -> Result<()> {
        let sends = futures_util::stream::iter(0..count).map(|number| self.send(number));
        sends.buffer_unordered(32).try_collect().await
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let queue = told("PEERS_QUEUE")?;
    let prefetch = arguments.get(1).map_or(Ok(10), |slots| slots.parse())?;
    let app = celery::app!(
        broker = AMQPBroker { told("PEERS_URL")? },
        tasks = [noop],
        task_routes = ["*" => &queue],
        default_queue = &queue,
        prefetch_count = prefetch,
    )
    .await?;
    match arguments.first().context("client or worker?")?.as_str() {
        "client" => serve(Theirs { app, queue }).await,
        _ => Ok(app.consume_from(&[&queue]).await?),
    }
}
