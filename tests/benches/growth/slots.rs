//! How many calls one worker runs at a time.

use anyhow::Result;

use crate::Plan;
use crate::crew::{Crew, Drained};
use crate::figures::{CPU, Figures, Guide, MEMORY, Metric, RATE};
use crate::site::{Site, call};
use crate::worker::{Spec, noop};

/// Tasks that wait, at best one after the other in each slot.
const WAITING: Metric = Metric {
    name: "tasks of 10 ms/s",
    guide: Guide::Best(|slots| slots * 1000.0 / WAIT as f64),
};
pub(crate) const METRICS: &[Metric] = &[RATE, WAITING, CPU, MEMORY];
const QUEUE: &str = "growth-slots";
/// In milliseconds.
const WAIT: u64 = 10;

/// What a worker with so many slots does with calls that take so many milliseconds.
async fn drain(site: &Site, slots: usize, wait: u64, count: usize) -> Result<Drained> {
    let waiting = || noop::call(wait, String::new()).queue(QUEUE);
    let calls = (0..count).map(|_| {
        if wait == 0 {
            call(QUEUE, 40)
        } else {
            waiting()
        }
    });
    site.fill(calls).await?;
    let spec = Spec::new(&site.url, QUEUE, slots);
    let mut worker = Crew::start(&spec, 1).await?;
    worker.go().await?;
    let drained = worker.drained(count).await?;
    worker.stop().await?;
    Ok(drained)
}

pub(crate) async fn measure(site: &Site, plan: Plan, figures: &mut Figures) -> Result<()> {
    site.app.declare(QUEUE).await?;
    for _ in 0..plan.rounds {
        for slots in plan.steps(&[1, 3, 10, 30, 100, 300, 1000]) {
            let count = (2000 * slots).min(10_000) / plan.divisor;
            let idle = drain(site, slots, 0, count).await?;
            let count = (100 * slots).clamp(100, 20_000);
            let waiting = drain(site, slots, WAIT, count).await?;
            figures.add(site.broker, slots, RATE, idle.rate);
            figures.add(site.broker, slots, WAITING, waiting.rate);
            figures.add(site.broker, slots, CPU, idle.cpu);
            figures.add(site.broker, slots, MEMORY, waiting.memory);
        }
    }
    site.delete(QUEUE).await
}
