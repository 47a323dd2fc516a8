//! `apalis-amqp`: acknowledges after the work; does not ask for confirms.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use apalis::prelude::*;
use apalis_amqp::{AmqpBackend, Config};
use futures_util::future::try_join_all;
use garenne_bench_peers::{Client, TEXT, ran, serve, told};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Job {
    number: u64,
    text: String,
}

impl Job {
    /// Persistent, which it would not be by itself.
    fn task(number: usize) -> Task<Self> {
        let job = Self {
            number: number as u64,
            text: TEXT.to_owned(),
        };
        let mode = HashMap::from([("delivery_mode".to_owned(), "2".to_owned())]);
        TaskBuilder::new(job)
            .with_metadata(MetadataStore::from_map(mode))
            .build()
    }
}

async fn noop(_job: Job) -> Result<(), BoxDynError> {
    ran();
    Ok(())
}

struct Theirs(AmqpBackend<Job>);

impl Client for Theirs {
    async fn one(&mut self, count: usize) -> Result<()> {
        for number in 0..count {
            self.0.push_task(Job::task(number)).await?;
        }
        Ok(())
    }

    async fn many(&mut self, count: usize) -> Result<()> {
        let senders = (0..32).map(|sender| {
            let mut backend = self.0.clone();
            tokio::spawn(async move {
                for number in (sender..count).step_by(32) {
                    backend.push_task(Job::task(number)).await?;
                }
                anyhow::Ok(())
            })
        });
        for sent in try_join_all(senders).await? {
            sent?;
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let queue = told("PEERS_QUEUE")?;
    let config = Config::default().queue(queue.as_str());
    let mut backend = AmqpBackend::<Job>::new_from_addr(told("PEERS_URL")?)?;
    if arguments.first().context("client or worker?")? == "client" {
        return serve(Theirs(backend.with_config(config))).await;
    }
    let slots: u16 = arguments.get(1).context("how many slots?")?.parse()?;
    backend = backend.with_config(config.prefetch_count(slots));
    // A backend that never pushed panics when a worker starts on it: one job more than the driver counts.
    backend.push_task(Job::task(0)).await?;
    let worker = WorkerBuilder::new("peers")
        .backend(backend)
        .concurrency(slots.into())
        .build(noop);
    Ok(worker.run().await?)
}
