//! How many workers' processes take from one queue.

use std::time::Duration;

use anyhow::Result;

use crate::Plan;
use crate::crew::Crew;
use crate::figures::{Figures, IDLE, MEMORY, Metric, RATE, RPC, cost};
use crate::site::{Site, call};
use crate::worker::Spec;

/// What a call costs them while all of them wait for it.
const WOKEN: Metric = cost("all workers' CPU, µs a round trip");
pub(crate) const METRICS: &[Metric] = &[RATE, RPC, WOKEN, IDLE, MEMORY];
const QUEUE: &str = "growth-workers";
const CALLS: usize = 10_000;
const SLOTS: usize = 8;
const ROUND_TRIPS: usize = 50;
const REST: Duration = Duration::from_secs(1);

pub(crate) async fn measure(site: &Site, plan: Plan, figures: &mut Figures) -> Result<()> {
    site.app.declare(QUEUE).await?;
    for _ in 0..plan.rounds {
        for workers in plan.steps(&[1, 2, 4, 8, 16, 32, 64]) {
            let count = CALLS / plan.divisor;
            let spec = Spec::new(&site.url, QUEUE, SLOTS);
            let mut crew = Crew::start(&spec, workers).await?;
            site.fill((0..count).map(|_| call(QUEUE, 40))).await?;
            crew.go().await?;
            let drained = crew.drained(count).await?;
            tokio::time::sleep(REST).await;
            let idle = crew.at_rest(2 * REST).await;
            let began = crew.cpu();
            let calls = (0..ROUND_TRIPS).map(|_| call(QUEUE, 40));
            let round_trip = site.round_trip(calls).await?;
            let used = crew.cpu().saturating_sub(began).as_secs_f64() * 1e6;
            crew.stop().await?;
            let mut add = |metric, value| figures.add(site.broker, workers, metric, value);
            add(RATE, drained.rate);
            add(RPC, round_trip);
            add(WOKEN, used / ROUND_TRIPS as f64);
            add(IDLE, idle);
            add(MEMORY, drained.memory);
        }
    }
    site.delete(QUEUE).await
}
