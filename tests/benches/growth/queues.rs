//! How many queues one worker takes from.

use std::time::Duration;

use anyhow::Result;
use futures_util::stream::{self, StreamExt as _};

use crate::Plan;
use crate::crew::Crew;
use crate::figures::{CPU, Figures, IDLE, MEMORY, Metric, RATE, RPC, START};
use crate::site::{Site, call};
use crate::worker::Spec;

pub(crate) const METRICS: &[Metric] = &[RATE, RPC, START, CPU, IDLE, MEMORY];
/// Calls in all queues together.
const CALLS: usize = 10_000;
/// Slots of all queues together, where there are no more queues than that.
const SLOTS: usize = 32;
/// Long enough for the worker to look whether it is deaf.
const REST: Duration = Duration::from_secs(7);

fn name(number: usize) -> String {
    format!("growth-queue-{number}")
}

/// Some of them at a time.
async fn at_once<E: Into<anyhow::Error>>(
    work: impl Iterator<Item = impl Future<Output = Result<(), E>>>,
) -> Result<()> {
    let mut work = stream::iter(work).buffer_unordered(32);
    while let Some(done) = work.next().await {
        done.map_err(Into::into)?;
    }
    Ok(())
}

pub(crate) async fn measure(site: &Site, plan: Plan, figures: &mut Figures) -> Result<()> {
    let steps: Vec<_> = plan.steps(&[1, 10, 100, 1000]).collect();
    let most = steps.last().copied().unwrap_or(1);
    let declaring = (0..most).map(|number| site.app.declare(name(number)));
    at_once(declaring).await?;
    for round in 0..plan.rounds {
        for &queues in &steps {
            let calls = CALLS / plan.divisor;
            let calls = (0..calls.max(queues)).map(|n| call(&name(n % queues), 40));
            let count = calls.len();
            site.fill(calls).await?;
            let mut spec = Spec::new(&site.url, "", SLOTS.div_ceil(queues));
            spec.queues = (0..queues).map(name).collect();
            let mut worker = Crew::start(&spec, 1).await?;
            let start = worker.go().await?;
            let drained = worker.drained(count).await?;
            let calls = (0..100).map(|n| call(&name(n * 7 % queues), 40));
            let round_trip = site.round_trip(calls).await?;
            if round == 0 {
                figures.add(site.broker, queues, IDLE, worker.at_rest(REST).await);
            }
            worker.stop().await?;
            figures.add(site.broker, queues, RATE, drained.rate);
            figures.add(site.broker, queues, RPC, round_trip);
            figures.add(site.broker, queues, START, start.as_secs_f64() * 1e3);
            figures.add(site.broker, queues, CPU, drained.cpu);
            figures.add(site.broker, queues, MEMORY, drained.memory);
        }
    }
    at_once((0..most).map(async |number| site.delete(&name(number)).await)).await
}
