//! What it is compared with: lapin by hand, with the same guarantees and nothing else. Messages are
//! persistent, mandatory and confirmed; replies are confirmed before the request is acknowledged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use futures_util::{StreamExt, TryStreamExt, stream};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, ConnectionProperties, Consumer};
use serde::de::IgnoredAny;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::caller::{Caller, GROUP, read_replies};
use crate::meter::{Drain, Sample, Stopwatch, latency};
use crate::post::{Letter, Post};
use crate::row::{AHEAD, IN_FLIGHT, Row, SENDERS, SLOTS, WINDOW};

const REPLY_PREFETCH: u16 = 512;
/// How long the server's answer to a goodbye is awaited.
const GOODBYE: Duration = Duration::from_secs(2);

/// A queue that is used by hand, and another for replies.
pub(crate) struct Raw {
    url: String,
    queue: ShortString,
    reply_queue: ShortString,
}

impl Raw {
    /// Declares its reply queue.
    pub(crate) async fn open(url: &str, queue: &str) -> Result<Self> {
        let this = Self {
            url: url.to_owned(),
            queue: queue.into(),
            reply_queue: format!("{queue}.reply").into(),
        };
        let mut arguments = FieldTable::default();
        arguments.insert(
            "x-queue-type".into(),
            AMQPValue::LongString("classic".into()),
        );
        let connected = this.connect().await?;
        let channel = connected.client.create_channel().await?;
        let (name, options) = (this.reply_queue.clone(), QueueDeclareOptions::durable());
        channel.queue_declare(name, options, arguments).await?;
        connected.close().await;
        Ok(this)
    }

    /// Connects. Where a channel is left with something on its way, lapin ends the connection at times, so that a row has
    /// connections of its own.
    pub(crate) async fn connect(&self) -> Result<Connected> {
        let connect = || Connection::connect(&self.url, ConnectionProperties::default());
        Ok(Connected {
            client: connect().await?,
            worker: connect().await?,
            queue: self.queue.clone(),
            reply_queue: self.reply_queue.clone(),
        })
    }

    /// Deletes its reply queue.
    pub(crate) async fn close(&self) -> Result<()> {
        let connected = self.connect().await?;
        let channel = connected.client.create_channel().await?;
        let (name, options) = (self.reply_queue.clone(), QueueDeleteOptions::default());
        channel.queue_delete(name, options).await?;
        connected.close().await;
        Ok(())
    }
}

/// A client and a worker, each with a connection of its own.
pub(crate) struct Connected {
    client: Connection,
    worker: Connection,
    queue: ShortString,
    reply_queue: ShortString,
}

impl Connected {
    /// Disconnects; one that has ended already is as good.
    pub(crate) async fn close(&self) {
        for connection in [&self.worker, &self.client] {
            let _ = timeout(GOODBYE, connection.close(200, "bye".into())).await;
        }
    }

    pub(crate) async fn measure(&self, row: Row, count: usize) -> Result<Sample> {
        let text: Arc<str> = row.text().into();
        match row {
            Row::PublishOne => self.publish(1, count, &text).await,
            Row::PublishMany => self.publish(SENDERS, count, &text).await,
            Row::PublishAll | Row::Publish10K | Row::Publish1M => {
                let channel = confirming(&self.client).await?;
                let watch = Stopwatch::start();
                self.send_all(&channel, count, &text).await?;
                Ok(watch.stop(count))
            }
            Row::ConsumeOne => self.consume(1, count, &text).await,
            Row::ConsumeMany | Row::Consume10K | Row::Consume1M => {
                self.consume(SLOTS, count, &text).await
            }
            Row::AheadOne => self.consume_ahead(1, count, &text).await,
            Row::AheadMany => self.consume_ahead(SLOTS, count, &text).await,
            Row::RpcOne => self.rpc(1, 1, count, &text).await,
            Row::RpcMany => self.rpc(SLOTS, IN_FLIGHT, count, &text).await,
            Row::EndToEnd => self.end_to_end(count, &text).await,
        }
    }

    async fn send_all(&self, channel: &Channel, count: usize, text: &str) -> Result<()> {
        let letters = (0..count).map(|number| Letter::request(&self.queue, number, text));
        crate::post::send_all(channel, letters).await
    }

    async fn publish(&self, senders: usize, count: usize, text: &Arc<str>) -> Result<Sample> {
        let post = Post::new(confirming(&self.client).await?, senders);
        let watch = Stopwatch::start();
        let sending = (0..senders).map(|_| {
            let (post, queue, text) = (post.clone(), self.queue.clone(), text.clone());
            tokio::spawn(async move {
                for number in 0..count / senders {
                    post.send(Letter::request(&queue, number, &text)).await?;
                }
                anyhow::Ok(())
            })
        });
        for sent in try_join_all(sending).await? {
            sent?;
        }
        Ok(watch.stop(count / senders * senders))
    }

    async fn consume(&self, slots: usize, count: usize, text: &str) -> Result<Sample> {
        self.send_all(&confirming(&self.client).await?, count, text)
            .await?;
        let drain = Arc::new(Drain::new(count));
        let server = self.serve(slots, drain.clone(), None).await?;
        let sample = drain.sample().await.context("no task was counted")?;
        server.stop().await?;
        Ok(sample)
    }

    /// One task does all, and acknowledges many at once.
    async fn consume_ahead(&self, slots: usize, count: usize, text: &str) -> Result<Sample> {
        self.send_all(&confirming(&self.client).await?, count, text)
            .await?;
        let drain = Arc::new(Drain::new(count));
        let channel = self.worker.create_channel().await?;
        let prefetch = u16::try_from(slots + AHEAD)?;
        let mut deliveries = consume(&channel, &self.queue, prefetch).await?;
        let options = BasicAckOptions { multiple: true };
        let mut unacked = 0;
        for _ in 0..count {
            let delivery = deliveries.next().await.context("the consumer ended")??;
            let _: (IgnoredAny, IgnoredAny, IgnoredAny) = serde_json::from_slice(&delivery.data)?;
            drain.hit();
            unacked += 1;
            if unacked == GROUP {
                unacked = 0;
                channel.basic_ack(delivery.delivery_tag, options).await?;
            }
        }
        let sample = drain.sample().await.context("no task was counted")?;
        channel.close(200, "bye".into()).await?;
        Ok(sample)
    }

    async fn serve(
        &self,
        slots: usize,
        drain: Arc<Drain>,
        replies: Option<Post>,
    ) -> Result<Server> {
        let channel = self.worker.create_channel().await?;
        let consumer = consume(&channel, &self.queue, u16::try_from(slots)?).await?;
        let job = Job {
            channel,
            drain,
            replies,
        };
        let (stop, stopped) = oneshot::channel();
        let task = match slots {
            1 => tokio::spawn(one_by_one(job, consumer, stopped)),
            _ => tokio::spawn(side_by_side(job, consumer, stopped)),
        };
        Ok(Server { stop, task })
    }

    async fn rpc(
        &self,
        slots: usize,
        in_flight: usize,
        count: usize,
        text: &Arc<str>,
    ) -> Result<Sample> {
        let answering = self.answering(slots, in_flight, text).await?;
        let watch = Stopwatch::start();
        let calling = (0..in_flight).map(|lane| {
            let caller = answering.caller.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                for number in 0..count / in_flight {
                    let sent = Instant::now();
                    caller.call(number * in_flight + lane).await?;
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
        answering.stop().await?;
        Ok(Sample {
            latency: latency(times),
            ..sample
        })
    }

    async fn end_to_end(&self, count: usize, text: &Arc<str>) -> Result<Sample> {
        let answering = self.answering(SLOTS, 1, text).await?;
        let watch = Stopwatch::start();
        let calls = stream::iter(0..count).map(|number| answering.caller.send(number));
        let sent: Vec<_> = calls.buffered(WINDOW).try_collect().await?;
        for (number, answered) in sent.into_iter().enumerate() {
            ensure!(answered.await? == number as u64, "somebody else's reply");
        }
        let sample = watch.stop(count);
        answering.stop().await?;
        Ok(sample)
    }

    /// A worker that answers, and who calls it from so many tasks.
    async fn answering(&self, slots: usize, callers: usize, text: &Arc<str>) -> Result<Answering> {
        let replies = Post::new(confirming(&self.worker).await?, slots);
        let drain = Arc::new(Drain::new(usize::MAX));
        let server = self.serve(slots, drain, Some(replies)).await?;
        let caller = Caller {
            post: Post::new(confirming(&self.client).await?, callers),
            queue: self.queue.clone(),
            reply_queue: self.reply_queue.clone(),
            text: text.clone(),
            waiting: Arc::default(),
        };
        let channel = self.client.create_channel().await?;
        let consumer = consume(&channel, &self.reply_queue, REPLY_PREFETCH).await?;
        let reading = tokio::spawn(read_replies(channel, consumer, caller.waiting.clone()));
        caller.call(usize::MAX).await?;
        Ok(Answering {
            server,
            caller,
            reading,
        })
    }
}

/// A worker that answers, and who calls it.
struct Answering {
    server: Server,
    caller: Caller,
    reading: JoinHandle<Result<()>>,
}

impl Answering {
    async fn stop(self) -> Result<()> {
        self.server.stop().await?;
        self.reading.abort();
        // Its channel goes with it, and what is unacknowledged comes back to whoever reads next.
        let _ = self.reading.await;
        Ok(())
    }
}

async fn confirming(connection: &Connection) -> Result<Channel> {
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    Ok(channel)
}

async fn consume(channel: &Channel, queue: &ShortString, prefetch: u16) -> Result<Consumer> {
    channel
        .basic_qos(prefetch, BasicQosOptions::default())
        .await?;
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    let queue = queue.clone();
    Ok(channel
        .basic_consume(queue, "".into(), options, arguments)
        .await?)
}

/// What is done with a delivery.
#[derive(Clone)]
struct Job {
    channel: Channel,
    drain: Arc<Drain>,
    replies: Option<Post>,
}

impl Job {
    async fn run(self, delivery: Delivery) -> Result<()> {
        let ((number, _text), _, _): ((u64, String), IgnoredAny, IgnoredAny) =
            serde_json::from_slice(&delivery.data)?;
        self.drain.hit();
        if let Some(post) = &self.replies {
            post.send(Letter::reply(&delivery.properties, number)?)
                .await?;
        }
        let options = BasicAckOptions::default();
        self.channel
            .basic_ack(delivery.delivery_tag, options)
            .await?;
        Ok(())
    }
}

/// A consumer in the background.
struct Server {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<()>>,
}

impl Server {
    async fn stop(self) -> Result<()> {
        let _ = self.stop.send(());
        self.task.await?
    }
}

async fn one_by_one(
    job: Job,
    mut deliveries: Consumer,
    mut stop: oneshot::Receiver<()>,
) -> Result<()> {
    loop {
        let delivery = tokio::select! {
            _ = &mut stop => return Ok(()),
            delivery = deliveries.next() => delivery.context("the consumer ended")??,
        };
        job.clone().run(delivery).await?;
    }
}

async fn side_by_side(
    job: Job,
    mut deliveries: Consumer,
    mut stop: oneshot::Receiver<()>,
) -> Result<()> {
    let mut slots = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stop => break,
            Some(done) = slots.join_next(), if !slots.is_empty() => done??,
            delivery = deliveries.next() => {
                let delivery = delivery.context("the consumer ended")??;
                slots.spawn(job.clone().run(delivery));
            }
        }
    }
    while let Some(done) = slots.join_next().await {
        done??;
    }
    Ok(())
}
