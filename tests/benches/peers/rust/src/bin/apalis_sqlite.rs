//! `apalis-sqlite`, with the durability that Garenne has by default: its own setup would turn syncing off.

use std::task::Poll;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use apalis::prelude::*;
use apalis_sqlite::{Config, SqliteConnectOptions, SqlitePool, SqliteStorage};
use garenne_bench_peers::{Client, TEXT, ran, serve, timed, told};
use serde::{Deserialize, Serialize};
use tokio::time::{Interval, MissedTickBehavior};
use ulid::Ulid;

/// How often who waits looks again.
const POLL: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Job {
    number: u64,
    text: String,
}

impl Job {
    fn new(number: usize) -> Self {
        Self {
            number: number as u64,
            text: TEXT.to_owned(),
        }
    }
}

async fn noop(job: Job) -> Result<u64, BoxDynError> {
    ran();
    Ok(job.number)
}

/// Its own strategy of intervals never wakes again where a look takes longer than the interval.
struct Every(Interval);

impl PollStrategy for Every {
    fn poll_drive(
        &mut self,
        cx: &mut std::task::Context<'_>,
        _: &PollSnapshot,
    ) -> Poll<Option<()>> {
        let mut due = Poll::Pending;
        while self.0.poll_tick(cx).is_ready() {
            due = Poll::Ready(Some(()));
        }
        due
    }
}

struct Theirs(SqliteStorage<Job>);

impl Client for Theirs {
    async fn one(&mut self, count: usize) -> Result<()> {
        for number in 0..count {
            self.0.push(Job::new(number)).await?;
        }
        Ok(())
    }

    async fn many(&mut self, count: usize) -> Result<()> {
        self.0.push_bulk((0..count).map(Job::new).collect()).await?;
        Ok(())
    }

    async fn rpc(&mut self, count: usize, in_flight: usize) -> Result<Vec<Duration>> {
        timed(count, in_flight, |number| {
            let mut backend = self.0.clone();
            async move {
                let id = TaskId::from_string(Ulid::generate().to_string());
                let task = TaskBuilder::new(Job::new(number))
                    .task_id(id.clone())
                    .build();
                backend.push_task(task).await?;
                // `wait_for` would look every 500 ms.
                loop {
                    let done: Vec<TaskResult<u64>> = backend.check_status([id.clone()]).await?;
                    match done.into_iter().next().map(|done| done.result) {
                        Some(Ok(_)) => return Ok(()),
                        Some(Err(error)) => bail!("{error}"),
                        None => tokio::time::sleep(POLL).await,
                    }
                }
            }
        })
        .await
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let file = told("PEERS_URL")?;
    let options: SqliteConnectOptions = format!("sqlite://{file}?mode=rwc").parse()?;
    let first = SqlitePool::connect_with(options.clone()).await?;
    SqliteStorage::setup(&first).await?;
    first.close().await;
    let pool = SqlitePool::connect_with(options).await?;
    let slots: usize = arguments.get(1).map_or(Ok(1), |slots| slots.parse())?;
    let config = Config::default().queue("peers").batch_size(slots);
    let backend = SqliteStorage::<Job>::new(&pool).with_config(config);
    if arguments.first().context("client or worker?")? == "client" {
        return serve(Theirs(backend)).await;
    }
    let mut every = tokio::time::interval(POLL);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let backend = backend.poll_with_strategy(Every(every));
    let worker = WorkerBuilder::new(format!("peers-{}", std::process::id()))
        .backend(backend)
        .concurrency(slots)
        .build(noop);
    Ok(worker.run().await?)
}
