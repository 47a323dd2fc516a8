//! A broker, and the client that fills its queues and awaits results.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use garenne::{App, Call, Queue};
use tokio::time::timeout;

use crate::worker::noop;

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where it is measured.
pub(crate) struct Site {
    pub(crate) broker: &'static str,
    pub(crate) url: String,
    pub(crate) app: App,
}

/// A call of the task that does nothing, with so many bytes of text.
pub(crate) fn call(queue: &str, bytes: usize) -> Call<u64> {
    noop::call(0, "x".repeat(bytes)).queue(queue)
}

/// The middle one of some times, in milliseconds.
pub(crate) fn middle(mut times: Vec<Duration>) -> Result<f64> {
    times.sort_unstable();
    let middle = times.get(times.len() / 2).context("no call was made")?;
    Ok(middle.as_secs_f64() * 1e3)
}

impl Site {
    pub(crate) async fn open(broker: &'static str, url: String) -> Result<Self> {
        // A million messages may keep a broker busy with its disk for a while.
        let app = App::builder(&url).send_timeout(2 * PATIENCE).connect();
        Ok(Self {
            broker,
            app: app.await?,
            url,
        })
    }

    /// Sends calls whose results nobody awaits; how many a second.
    pub(crate) async fn fill(&self, calls: impl Iterator<Item = Call<u64>> + Send) -> Result<f64> {
        let since = Instant::now();
        let mut sending = self.app.send_all(calls.map(Call::ignore_result));
        let mut sent = 0;
        while let Some(confirmed) = sending.next().await {
            let _ = confirmed?;
            sent += 1;
        }
        Ok(f64::from(sent) / since.elapsed().as_secs_f64())
    }

    /// The median of round trips, one at a time, in milliseconds.
    pub(crate) async fn round_trip(&self, calls: impl Iterator<Item = Call<u64>>) -> Result<f64> {
        let mut times = Vec::new();
        for call in calls {
            let since = Instant::now();
            let answered = timeout(PATIENCE, call.send(&self.app).await?).await;
            answered.context("a call was not answered")??;
            times.push(since.elapsed());
        }
        middle(times)
    }

    /// How many calls wait in a queue.
    pub(crate) async fn waiting(&self, queue: &str) -> Result<usize> {
        Ok(usize::try_from(self.app.depth(queue).await?.ready)?)
    }

    /// Deletes a queue and its dead letters.
    pub(crate) async fn delete(&self, queue: &str) -> Result<()> {
        self.app.delete(queue).await?;
        self.app
            .delete(&Queue::new(queue).dead_letter_name())
            .await?;
        Ok(())
    }
}
