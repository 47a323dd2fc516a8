//! How many calls wait in the queue.

use anyhow::Result;

use crate::Plan;
use crate::crew::Crew;
use crate::figures::{CPU, Figures, MEMORY, Metric, RATE, SENT};
use crate::site::{Site, call};
use crate::worker::Spec;

pub(crate) const METRICS: &[Metric] = &[RATE, SENT, CPU, MEMORY];
const QUEUE: &str = "growth-depth";
/// Calls that are run at each depth, and then sent again.
const TAKEN: usize = 5000;

/// One worker takes from the queue's head, and its tail gets as many again.
pub(crate) async fn measure(site: &Site, plan: Plan, figures: &mut Figures) -> Result<()> {
    for depth in plan.steps(&[1_000, 10_000, 100_000, 1_000_000]) {
        site.app.declare(QUEUE).await?;
        for round in 0..=2 * plan.rounds {
            let missing = depth.saturating_sub(site.waiting(QUEUE).await?);
            let sent = site.fill((0..missing).map(|_| call(QUEUE, 40))).await?;
            // The first time it is filled from an earlier depth to this one.
            if round == 0 {
                continue;
            }
            if missing > 0 {
                figures.add(site.broker, depth, SENT, sent);
            }
            let taken = TAKEN.min(depth);
            let mut spec = Spec::new(&site.url, QUEUE, 32);
            spec.limit = taken as u64;
            let mut worker = Crew::start(&spec, 1).await?;
            worker.go().await?;
            let drained = worker.drained(taken).await?;
            worker.stop().await?;
            figures.add(site.broker, depth, RATE, drained.rate);
            figures.add(site.broker, depth, CPU, drained.cpu);
            figures.add(site.broker, depth, MEMORY, drained.memory);
        }
    }
    site.delete(QUEUE).await
}
