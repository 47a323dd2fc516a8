//! How many tasks a worker knows.

use anyhow::Result;
use garenne::Call;

use crate::crew::Crew;
use crate::figures::{CPU, Figures, MEMORY, Metric, RATE, START};
use crate::site::Site;
use crate::worker::Spec;
use crate::{Plan, numbered};

pub(crate) const METRICS: &[Metric] = &[RATE, START, CPU, MEMORY];
const QUEUE: &str = "growth-tasks";
const CALLS: usize = 10_000;

/// The calls are of all tasks in turn.
pub(crate) async fn measure(site: &Site, plan: Plan, figures: &mut Figures) -> Result<()> {
    site.app.declare(QUEUE).await?;
    for _ in 0..plan.rounds {
        for tasks in plan.steps(&[1, 10, 100, 1000]) {
            let text = "x".repeat(40);
            let call = |n| {
                let call = Call::<u64>::named(numbered::name(n % tasks)).queue(QUEUE);
                call.arg(0)?.arg(&text)
            };
            let count = CALLS / plan.divisor;
            let calls: Vec<_> = (0..count).map(call).collect::<Result<_, _>>()?;
            site.fill(calls.into_iter()).await?;
            let mut spec = Spec::new(&site.url, QUEUE, 32);
            spec.tasks = tasks;
            let mut worker = Crew::start(&spec, 1).await?;
            let start = worker.go().await?;
            let drained = worker.drained(count).await?;
            worker.stop().await?;
            figures.add(site.broker, tasks, RATE, drained.rate);
            figures.add(site.broker, tasks, START, start.as_secs_f64() * 1e3);
            figures.add(site.broker, tasks, CPU, drained.cpu);
            figures.add(site.broker, tasks, MEMORY, drained.memory);
        }
    }
    site.delete(QUEUE).await
}
