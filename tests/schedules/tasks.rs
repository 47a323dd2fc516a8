//! What the schedules call, and a worker that tells of it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use garenne::{App, Context, RunningWorker, Worker, task};
use tokio::sync::mpsc;

use crate::support::within;

/// Where calls are noted: id and text.
pub(crate) struct Log(mpsc::UnboundedSender<(String, String)>);

#[task]
pub(crate) async fn tick(log: &Log, ctx: &Context, text: String) {
    log.0.send((ctx.id().to_owned(), text)).ok();
}

/// The calls that came.
pub(crate) struct Ticks {
    worker: RunningWorker,
    calls: mpsc::UnboundedReceiver<(String, String)>,
}

impl Ticks {
    /// A worker of the queue `default`.
    pub(crate) fn of(app: &App) -> Self {
        Self::on(app, "default")
    }

    /// A worker of this queue.
    pub(crate) fn on(app: &App, queue: &str) -> Self {
        let (send, calls) = mpsc::unbounded_channel();
        // Paused time passes the slower, the more timers there are.
        let worker = Worker::new(app).deaf_after(None).queue(queue, 8);
        let worker = worker.state(Log(send)).spawn();
        Self { worker, calls }
    }

    /// The next call's id and text.
    pub(crate) async fn next(&mut self) -> (String, String) {
        let next = self.calls.recv();
        within("a tick", next).await.expect("a running worker")
    }

    /// The ids of the next calls of an entry; others are passed over.
    pub(crate) async fn ids(&mut self, name: &str, count: usize) -> Vec<String> {
        let mut ids = Vec::new();
        while ids.len() < count {
            let (id, _) = self.next().await;
            if id.split('@').next() == Some(name) {
                ids.push(id);
            }
        }
        ids
    }

    /// What has come so far.
    pub(crate) fn so_far(&mut self) -> Vec<(String, String)> {
        std::iter::from_fn(|| self.calls.try_recv().ok()).collect()
    }

    pub(crate) async fn stop(self) {
        within("the worker's end", self.worker.stop())
            .await
            .expect("stopped");
    }
}

/// When a tick was due, by its id.
pub(crate) fn moment(id: &str) -> Duration {
    let (_, time) = id.split_once('@').expect("name@time");
    let time: SystemTime = time.parse::<jiff::Timestamp>().expect("a time").into();
    time.duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970")
}

/// That the ticks are those of an interval without a gap, each once; how many were sent again.
#[track_caller]
pub(crate) fn assert_complete(ids: &[String], interval: Duration) -> usize {
    let mut seen: BTreeMap<Duration, usize> = BTreeMap::new();
    for id in ids {
        *seen.entry(moment(id)).or_default() += 1;
    }
    let times: Vec<&Duration> = seen.keys().collect();
    for pair in times.windows(2) {
        assert_eq!(*pair[1] - *pair[0], interval, "no tick is missing: {ids:?}");
    }
    ids.len() - seen.len()
}
