//! How what a call costs grows: with the depth of its queue, the number of queues, workers, slots, bytes, awaited
//! results and tasks. A table and a chart for each of these axes.
//!
//! `GARENNE_TEST_AMQP=amqp://… cargo bench -p garenne --bench growth`; without the variable only SQLite is
//! measured. After `--`, a part of an axis's name chooses axes. Charts are written to `GARENNE_BENCH_PLOTS`, a folder
//! (`tmp/growth` in cargo's target folder unless said). `GARENNE_BENCH_SHORT=1` makes it a short round that only
//! shows that it works.
//!
//! The workers, and the client that awaits results, are processes of this program, so that their memory and their
//! processor time are their own.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

#[path = "asked.rs"]
mod asked;
#[path = "growth/crew.rs"]
mod crew;
#[path = "growth/depth.rs"]
mod depth;
#[path = "growth/figures.rs"]
mod figures;
#[path = "growth/numbered.rs"]
mod numbered;
#[path = "growth/payload.rs"]
mod payload;
#[path = "growth/plot.rs"]
mod plot;
#[path = "growth/queues.rs"]
mod queues;
#[path = "growth/site.rs"]
mod site;
#[path = "growth/slots.rs"]
mod slots;
#[path = "spread.rs"]
mod spread;
#[path = "../support/mod.rs"]
mod support;
#[path = "growth/tasks.rs"]
mod tasks;
#[path = "growth/waiters.rs"]
mod waiters;
#[path = "growth/worker.rs"]
mod worker;
#[path = "growth/workers.rs"]
mod workers;

use figures::Figures;
use site::Site;

/// How often, how much of it, and how far.
#[derive(Debug, Clone, Copy)]
struct Plan {
    rounds: usize,
    divisor: usize,
    /// Steps of each axis.
    steps: usize,
}

impl Plan {
    const LONG: Self = Self {
        rounds: 3,
        divisor: 1,
        steps: usize::MAX,
    };
    const SHORT: Self = Self {
        rounds: 1,
        divisor: 10,
        steps: 2,
    };

    fn steps(self, steps: &[usize]) -> impl Iterator<Item = usize> + '_ {
        let steps = steps.iter().copied().take(self.steps);
        steps.inspect(|step| eprint!(" {step}"))
    }
}

/// What grows.
#[derive(Debug, Clone, Copy)]
enum Axis {
    Depth,
    Queues,
    Workers,
    Slots,
    Payload,
    Waiters,
    Tasks,
}

impl Axis {
    const ALL: [Self; 7] = [
        Self::Depth,
        Self::Queues,
        Self::Workers,
        Self::Slots,
        Self::Payload,
        Self::Waiters,
        Self::Tasks,
    ];

    fn figures(self) -> Figures {
        match self {
            Self::Depth => Figures::new("depth", "calls waiting", depth::METRICS),
            Self::Queues => Figures::new("queues", "queues", queues::METRICS),
            Self::Workers => Figures::new("workers", "workers", workers::METRICS),
            Self::Slots => Figures::new("slots", "slots", slots::METRICS),
            Self::Payload => Figures::new("payload", "bytes", payload::METRICS),
            Self::Waiters => Figures::new("waiters", "awaited results", waiters::METRICS),
            Self::Tasks => Figures::new("tasks", "tasks", tasks::METRICS),
        }
    }

    async fn measure(self, site: &Site, plan: Plan, figures: &mut Figures) -> Result<()> {
        match self {
            Self::Depth => depth::measure(site, plan, figures).await,
            Self::Queues => queues::measure(site, plan, figures).await,
            Self::Workers => workers::measure(site, plan, figures).await,
            Self::Slots => slots::measure(site, plan, figures).await,
            Self::Payload => payload::measure(site, plan, figures).await,
            Self::Waiters => waiters::measure(site, plan, figures).await,
            Self::Tasks => tasks::measure(site, plan, figures).await,
        }
    }
}

/// Measures one axis on one broker.
async fn on(broker: &'static str, url: String, axis: Axis, figures: &mut Figures) -> Result<()> {
    let plan = match std::env::var_os("GARENNE_BENCH_SHORT") {
        Some(asked) if !asked.is_empty() => Plan::SHORT,
        _ => Plan::LONG,
    };
    let since = std::time::Instant::now();
    eprint!("{} on {broker}", figures.name);
    let site = Site::open(broker, url).await?;
    let measured = axis.measure(&site, plan, figures).await;
    site.app.close().await;
    eprintln!(": {:.0?}", since.elapsed());
    measured.with_context(|| format!("{} on {broker}", figures.name))
}

fn folder() -> PathBuf {
    let said = std::env::var_os("GARENNE_BENCH_PLOTS").filter(|folder| !folder.is_empty());
    said.map_or_else(
        || PathBuf::from(concat!(env!("CARGO_TARGET_TMPDIR"), "/growth")),
        PathBuf::from,
    )
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    if let Ok(spec) = std::env::var(crew::WORKER) {
        return worker::work(&spec).await;
    }
    if let Ok(spec) = std::env::var(waiters::CLIENT) {
        return waiters::run(&spec).await;
    }
    if !asked::is_asked() {
        return Ok(());
    }
    let mut arguments = std::env::args().skip(1);
    let filter = arguments.find(|argument| !argument.starts_with('-'));
    let filter = filter.unwrap_or_default();
    for axis in Axis::ALL {
        let mut figures = axis.figures();
        if !figures.name.contains(&filter) {
            continue;
        }
        if let Some(url) = support::rabbitmq() {
            on("RabbitMQ", url, axis, &mut figures).await?;
        }
        let file = support::TempFile::new("db");
        on("SQLite", file.url(), axis, &mut figures).await?;
        figures.print();
        plot::write(&folder(), &figures)?;
    }
    Ok(())
}
