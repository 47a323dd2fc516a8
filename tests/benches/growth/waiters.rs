//! How many results one client awaits at the same time.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};
use tokio::time::sleep;

use crate::Plan;
use crate::crew::{Crew, Process, usage};
use crate::figures::{Figures, Metric, RPC, cost, rate};
use crate::site::{Site, call};
use crate::worker::Spec;

const RESULTS: Metric = rate("results/s");
const CPU: Metric = cost("client's CPU, µs a result");
const IDLE: Metric = cost("idle client's CPU, ms a second");
const MEMORY: Metric = cost("client's memory, MiB");
pub(crate) const METRICS: &[Metric] = &[RPC, RESULTS, CPU, IDLE, MEMORY];
/// Tells a process of this program that it is the client.
pub(crate) const CLIENT: &str = "GARENNE_BENCH_GROWTH_CLIENT";
/// Calls to it are answered at once.
const LIVE: &str = "growth-live";
/// Calls to it wait until a worker is let loose on it.
const PARKED: &str = "growth-parked";
const REST: Duration = Duration::from_secs(1);

#[derive(Serialize, Deserialize)]
struct Client {
    url: String,
    waiters: usize,
}

/// The client's process: awaits results that do not come yet; says the median of round trips beside them, in
/// milliseconds; at a line of its input begins to count results, and says how many a second there were.
pub(crate) async fn run(spec: &str) -> Result<()> {
    let Client { url, waiters } = serde_json::from_str(spec)?;
    let site = Site::open("", url).await?;
    site.round_trip((0..100).map(|_| call(LIVE, 40))).await?;
    let mut sending = site.app.send_all((0..waiters).map(|_| call(PARKED, 40)));
    let mut results = FuturesUnordered::new();
    while let Some(sent) = sending.next().await {
        results.push(sent?.into_future());
    }
    // Each is polled, and so waits.
    let collecting = tokio::spawn(async move {
        let mut times = Vec::new();
        while let Some(result) = results.next().await {
            result?;
            times.push(Instant::now());
        }
        anyhow::Ok(times)
    });
    let round_trip = site.round_trip((0..200).map(|_| call(LIVE, 40))).await?;
    println!("{round_trip}");
    let mut lines = BufReader::new(stdin()).lines();
    lines.next_line().await?.context("its input has ended")?;
    let times = collecting.await??;
    let took = times.first().zip(times.last());
    let took = took.map_or(Duration::ZERO, |(first, last)| *last - *first);
    println!("{}", (waiters - 1) as f64 / took.as_secs_f64().max(1e-6));
    lines.next_line().await?;
    site.app.close().await;
    Ok(())
}

pub(crate) async fn measure(site: &Site, plan: Plan, figures: &mut Figures) -> Result<()> {
    for queue in [LIVE, PARKED] {
        site.app.declare(queue).await?;
    }
    let mut answering = Crew::start(&Spec::new(&site.url, LIVE, 32), 1).await?;
    answering.go().await?;
    for _ in 0..plan.rounds {
        for waiters in plan.steps(&[1, 10, 100, 1_000, 10_000]) {
            let mut later = Crew::start(&Spec::new(&site.url, PARKED, 32), 1).await?;
            let client = Client {
                url: site.url.clone(),
                waiters,
            };
            let mut client = Process::start(CLIENT, &serde_json::to_string(&client)?)?;
            let round_trip = client.line().await?.parse()?;
            let began = usage(client.pid);
            sleep(REST).await;
            let rested = usage(client.pid);
            later.go().await?;
            client.tell().await?;
            let rate = client.line().await?.parse()?;
            let used = usage(client.pid).cpu.saturating_sub(rested.cpu);
            client.stop().await?;
            later.stop().await?;
            let mut add = |metric, value| figures.add(site.broker, waiters, metric, value);
            let idle = rested.cpu.saturating_sub(began.cpu).as_secs_f64();
            add(RPC, round_trip);
            add(IDLE, idle * 1e3 / REST.as_secs_f64());
            add(MEMORY, rested.memory);
            // Of a few it says nothing.
            if waiters >= 100 {
                add(RESULTS, rate);
                add(CPU, used.as_secs_f64() * 1e6 / waiters as f64);
            }
        }
    }
    answering.stop().await?;
    for queue in [LIVE, PARKED] {
        site.delete(queue).await?;
    }
    Ok(())
}
