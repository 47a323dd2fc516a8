//! How many bytes of arguments a call has.

use anyhow::Result;

use crate::Plan;
use crate::crew::Crew;
use crate::figures::{CPU, Figures, MEMORY, Metric, RATE, RPC, SENT, rate};
use crate::site::{Site, call};
use crate::worker::Spec;

const BYTES: Metric = rate("taken, MB/s");
pub(crate) const METRICS: &[Metric] = &[RATE, BYTES, SENT, RPC, CPU, MEMORY];
const QUEUE: &str = "growth-payload";
/// Of all calls of a step.
const MOST_BYTES: usize = 100_000_000;

pub(crate) async fn measure(site: &Site, plan: Plan, figures: &mut Figures) -> Result<()> {
    site.app.declare(QUEUE).await?;
    for _ in 0..plan.rounds {
        for bytes in plan.steps(&[100, 1_000, 10_000, 100_000, 1_000_000]) {
            let count = (MOST_BYTES / bytes).min(5000) / plan.divisor;
            let sent = site.fill((0..count).map(|_| call(QUEUE, bytes))).await?;
            let spec = Spec::new(&site.url, QUEUE, 32);
            let mut worker = Crew::start(&spec, 1).await?;
            worker.go().await?;
            let drained = worker.drained(count).await?;
            let calls = (0..50).map(|_| call(QUEUE, bytes));
            let round_trip = site.round_trip(calls).await?;
            worker.stop().await?;
            let mut add = |metric, value| figures.add(site.broker, bytes, metric, value);
            add(RATE, drained.rate);
            add(BYTES, drained.rate * bytes as f64 / 1e6);
            add(SENT, sent);
            add(RPC, round_trip);
            add(CPU, drained.cpu);
            add(MEMORY, drained.memory);
        }
    }
    site.delete(QUEUE).await
}
