//! The measured side: calls and workers of the framework.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use garenne::{App, Call, Prefetch, Queue, RunningWorker, Worker, task};

use crate::meter::{Drain, Sample, Stopwatch, latency};
use crate::row::{IN_FLIGHT, Row, SENDERS, SLOTS};

#[task]
async fn noop(drain: &Arc<Drain>, number: u64, _text: String) -> u64 {
    drain.hit();
    number
}

/// A client and a worker, each with connections of its own.
pub(crate) struct Ours {
    client: App,
    worker: App,
    queue: Queue,
}

impl Ours {
    pub(crate) async fn connect(url: &str, queue: Queue) -> Result<Self> {
        Ok(Self {
            client: App::connect(url).await?,
            worker: App::connect(url).await?,
            queue,
        })
    }

    /// The queue's name on the broker.
    pub(crate) fn physical(&self) -> String {
        format!("{}{}", self.client.prefix(), self.queue.name())
    }

    /// Makes the queue anew, empty.
    pub(crate) async fn clear(&self) -> Result<()> {
        self.client.delete(self.queue.name()).await?;
        self.client.declare(self.queue.clone()).await?;
        Ok(())
    }

    /// Deletes the queues and disconnects.
    pub(crate) async fn close(&self) -> Result<()> {
        for queue in [self.queue.name(), &self.queue.dead_letter_name()] {
            self.client.delete(queue).await?;
        }
        self.worker.close().await;
        self.client.close().await;
        Ok(())
    }

    pub(crate) async fn measure(&self, row: Row, count: usize) -> Result<Sample> {
        let text = row.text();
        match row {
            Row::PublishOne => self.publish(1, count, &text).await,
            Row::PublishMany => self.publish(SENDERS, count, &text).await,
            Row::PublishAll | Row::Publish10K | Row::Publish1M => {
                let watch = Stopwatch::start();
                self.send_all(count, &text).await?;
                Ok(watch.stop(count))
            }
            Row::ConsumeOne => self.consume(1, Prefetch::Strict, count, &text).await,
            Row::ConsumeMany | Row::Consume10K | Row::Consume1M => {
                self.consume(SLOTS, Prefetch::Strict, count, &text).await
            }
            Row::AheadOne => self.consume(1, Prefetch::Adaptive, count, &text).await,
            Row::AheadMany => self.consume(SLOTS, Prefetch::Adaptive, count, &text).await,
            Row::RpcOne => self.rpc(1, 1, count, &text).await,
            Row::RpcMany => self.rpc(SLOTS, IN_FLIGHT, count, &text).await,
            Row::EndToEnd => self.end_to_end(count, &text).await,
        }
    }

    fn call(&self, number: usize, text: &str) -> Call<u64> {
        noop::call(number as u64, text.to_owned()).queue(self.queue.clone())
    }

    async fn send_all(&self, count: usize, text: &str) -> Result<()> {
        let calls = (0..count).map(|number| self.call(number, text).ignore_result());
        let mut sending = self.client.send_all(calls);
        while let Some(sent) = sending.next().await {
            let _ = sent?;
        }
        Ok(())
    }

    async fn publish(&self, senders: usize, count: usize, text: &str) -> Result<Sample> {
        let watch = Stopwatch::start();
        let sending = (0..senders).map(|_| {
            let calls: Vec<_> = (0..count / senders)
                .map(|number| self.call(number, text).ignore_result())
                .collect();
            let app = self.client.clone();
            tokio::spawn(async move {
                for call in calls {
                    let _ = call.send(&app).await?;
                }
                Ok::<_, garenne::Error>(())
            })
        });
        for sent in try_join_all(sending).await? {
            sent?;
        }
        Ok(watch.stop(count / senders * senders))
    }

    fn work(
        &self,
        slots: usize,
        prefetch: Prefetch,
        expected: usize,
    ) -> (RunningWorker, Arc<Drain>) {
        let drain = Arc::new(Drain::new(expected));
        let worker = Worker::new(&self.worker)
            .queue(self.queue.clone(), slots)
            .prefetch(prefetch)
            .state(drain.clone())
            .spawn();
        (worker, drain)
    }

    async fn consume(
        &self,
        slots: usize,
        prefetch: Prefetch,
        count: usize,
        text: &str,
    ) -> Result<Sample> {
        self.send_all(count, text).await?;
        let (worker, drain) = self.work(slots, prefetch, count);
        let sample = drain.sample().await.context("no task was counted")?;
        worker.stop().await?;
        Ok(sample)
    }

    /// A worker that answers, and an open reply queue.
    async fn answering(&self, slots: usize, text: &str) -> Result<RunningWorker> {
        let (worker, _) = self.work(slots, Prefetch::Strict, usize::MAX);
        worker.ready().await;
        self.call(0, text).send(&self.client).await?.await?;
        Ok(worker)
    }

    async fn end_to_end(&self, count: usize, text: &str) -> Result<Sample> {
        let worker = self.answering(SLOTS, text).await?;
        let watch = Stopwatch::start();
        let calls = (0..count).map(|number| self.call(number, text));
        let mut sending = self.client.send_all(calls);
        let mut handles = Vec::with_capacity(count);
        while let Some(sent) = sending.next().await {
            handles.push(sent?);
        }
        for (number, handle) in handles.into_iter().enumerate() {
            ensure!(handle.await? == number as u64, "somebody else's result");
        }
        let sample = watch.stop(count);
        worker.stop().await?;
        Ok(sample)
    }

    async fn rpc(
        &self,
        slots: usize,
        in_flight: usize,
        count: usize,
        text: &str,
    ) -> Result<Sample> {
        let worker = self.answering(slots, text).await?;
        let watch = Stopwatch::start();
        let calling = (0..in_flight).map(|_| {
            let calls: Vec<_> = (0..count / in_flight).map(|n| self.call(n, text)).collect();
            let app = self.client.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                for call in calls {
                    let sent = Instant::now();
                    call.send(&app).await?.await?;
                    times.push(sent.elapsed());
                }
                anyhow::Ok(times)
            })
        });
        let mut times = Vec::new();
        for answered in try_join_all(calling).await? {
            times.extend(answered?);
        }
        let sample = watch.stop(times.len());
        worker.stop().await?;
        Ok(Sample {
            latency: latency(times),
            ..sample
        })
    }
}
