//! The measured worker: a process of its own, so that its memory and its processor time are its own, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use garenne::{App, Queue, Worker, task};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};

use crate::numbered;

/// Calls that a worker runs before it is measured: its first ones are slower.
const WARM_UP: usize = 300;

/// What a worker's process is to be.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) url: String,
    pub(crate) queues: Vec<String>,
    /// Of each queue.
    pub(crate) slots: usize,
    /// Tasks that are registered besides those of this program.
    pub(crate) tasks: usize,
    /// Calls that are run; those that come later stay in their slots until the worker ends.
    pub(crate) limit: u64,
}

impl Spec {
    /// A worker that takes from one queue.
    pub(crate) fn new(url: &str, queue: &str, slots: usize) -> Self {
        Self {
            url: url.to_owned(),
            queues: vec![queue.to_owned()],
            slots,
            tasks: 0,
            limit: u64::MAX,
        }
    }
}

/// How many calls have run, and when the first and the last of them were done, in microseconds of the epoch.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    limit: u64,
    done: AtomicU64,
    first: AtomicU64,
    last: AtomicU64,
}

impl Meter {
    async fn hit(&self) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = since.map_or(0, |since| since.as_micros() as u64);
        let number = self.done.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            self.first.store(now, Ordering::Relaxed);
        }
        if number < self.limit {
            self.last.fetch_max(now, Ordering::Relaxed);
        } else {
            std::future::pending::<()>().await;
        }
    }

    fn told(&self) -> String {
        let [done, first, last] =
            [&self.done, &self.first, &self.last].map(|number| number.load(Ordering::Relaxed));
        format!("{} {first} {last}", done.min(self.limit))
    }
}

/// Does nothing, or waits for some milliseconds.
#[task(name = "growth.noop")]
pub(crate) async fn noop(meter: &Arc<Meter>, wait: u64, _text: String) -> u64 {
    if wait > 0 {
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
    meter.hit().await;
    wait
}

/// Connects and runs some calls on a queue of its own.
async fn warm_up(app: &App) -> Result<()> {
    let queue = Queue::exclusive();
    let meter = Arc::new(Meter {
        limit: u64::MAX,
        ..Meter::default()
    });
    let worker = Worker::new(app)
        .queue(queue.clone(), 16)
        .state(meter.clone())
        .spawn();
    if !worker.ready().await {
        bail!("the worker did not start: {:?}", worker.stop().await);
    }
    let call = move |_| {
        noop::call(0, String::new())
            .queue(queue.clone())
            .ignore_result()
    };
    for sent in app.send_all((0..WARM_UP).map(call)).await {
        let _ = sent?;
    }
    while meter.done.load(Ordering::Relaxed) < WARM_UP as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    worker.stop().await?;
    Ok(())
}

/// The process: says when it is warm; at the first line of its input it begins to consume and says how many
/// microseconds that took; at each further line it tells what it has done; it stops at the end of its input.
pub(crate) async fn work(spec: &str) -> Result<()> {
    let spec: Spec = serde_json::from_str(spec)?;
    let app = App::connect(&spec.url).await?;
    warm_up(&app).await?;
    println!("warm");
    let mut lines = BufReader::new(stdin()).lines();
    lines.next_line().await?.context("its input has ended")?;
    let since = Instant::now();
    let meter = Arc::new(Meter {
        limit: spec.limit,
        ..Meter::default()
    });
    let worker = Worker::new(&app)
        .state(meter.clone())
        .grace(Duration::from_millis(200));
    let mut worker = numbered::register(worker, spec.tasks);
    for queue in &spec.queues {
        worker = worker.queue(queue.as_str(), spec.slots);
    }
    let worker = worker.spawn();
    if !worker.ready().await {
        bail!("the worker did not start: {:?}", worker.stop().await);
    }
    println!("{}", since.elapsed().as_micros());
    while lines.next_line().await?.is_some() {
        println!("{}", meter.told());
    }
    worker.stop().await?;
    app.close().await;
    Ok(())
}
