//! The reply queue: durable and expiring rather than exclusive, so that replies which come while the
//! connection is away are there when it is back; and replicated as other queues are, so that they come
//! while a node of the cluster is down: a classic queue is gone as long as its node is, and what is sent to
//! it meanwhile is dropped like a reply to somebody who has left.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::backoff::Backoff;
use super::live::rpc;
use super::send::Core;
use super::server;
use super::subscribe::{self, Stream};
use super::wire::{self, own, table, text};
use crate::broker::{QueueType, Replies};
use crate::error::{Error, Result};
use crate::message::Message;

const PREFETCH: u16 = 512;
/// Replies acknowledged together: each on its own would cost as much as the reply.
const GROUP: usize = 64;
/// How long a smaller group waits for more.
const GROUP_WAIT: Duration = Duration::from_millis(50);
/// How long the first opening is tried again.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
const EXPIRES_MS: i32 = 3_600_000;

/// Opens the reply queue.
pub(super) async fn start(core: &Arc<Core>) -> Result<Replies> {
    let address = format!("garenne.reply.{}", uuid::Uuid::new_v4());
    let (sender, messages) = mpsc::channel(PREFETCH.into());
    let (this, queue) = (core.clone(), address.clone());
    let opening = async move { open_surely(&this, &queue).await };
    let first = core.transport.run(opening).await?;
    let (task, queue) = (core.clone(), address.clone());
    core.transport.spawn_at_callers(async move {
        let mut closing = task.transport.closing();
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => {}
            () = follow(&task, &queue, first, sender) => {}
        }
        let this = task.clone();
        let delete = async move { this.topology.delete(&queue).await };
        let _ = task.transport.run(delete).await;
    });
    Ok(Replies {
        address,
        messages: messages.into(),
    })
}

/// Opens it on as many connections as may end under it for a while.
async fn open_surely(core: &Core, queue: &str) -> Result<Stream> {
    let (start, mut backoff) = (Instant::now(), Backoff::default());
    loop {
        backoff.wait().await;
        match open(core, queue).await {
            Err(error) if error.is_transient() && start.elapsed() < OPEN_LIMIT => {
                tracing::debug!(queue, %error, "opening the reply queue again");
            }
            done => return done,
        }
    }
}

async fn open(core: &Core, queue: &str) -> Result<Stream> {
    let expires = ("x-expires", AMQPValue::LongInt(EXPIRES_MS));
    let arguments = match core.reply_type {
        QueueType::Quorum => table([
            ("x-queue-type", text("quorum")),
            expires,
            server::of_lost_nodes(),
        ]),
        QueueType::Classic => table([("x-queue-type", text("classic")), expires]),
    };
    let name = own(queue);
    core.topology
        .on_channel(|channel| {
            let (name, arguments) = (name.clone(), arguments.clone());
            async move {
                let options = QueueDeclareOptions::durable();
                rpc(channel.queue_declare(name, options, arguments)).await
            }
        })
        .await?
        .map_err(|trouble| trouble.refused(format!("to declare queue `{queue}`")))?;
    subscribe::open(
        &core.transport.consuming,
        queue,
        PREFETCH,
        FieldTable::default(),
    )
    .await
}

async fn follow(core: &Arc<Core>, queue: &str, first: Stream, sender: mpsc::Sender<Message>) {
    let mut stream = first;
    let mut backoff = Backoff::default();
    loop {
        if forward(&mut stream, &sender).await.is_err() {
            return;
        }
        tracing::warn!(queue, "the reply queue's channel ended: opening another");
        stream = loop {
            backoff.wait().await;
            let (this, name) = (core.clone(), queue.to_owned());
            let opening = async move { open(&this, &name).await };
            match core.transport.run(opening).await {
                Ok(stream) => break stream,
                Err(Error::Closed { .. }) => return,
                Err(error) => tracing::warn!(queue, %error, "no replies yet"),
            }
        };
        backoff.reset();
    }
}

/// Forwards replies until the channel ends, or fails if nobody wants them any more.
async fn forward(stream: &mut Stream, sender: &mpsc::Sender<Message>) -> Result<(), ()> {
    let (mut last, mut unacked) = (0, 0);
    // Set once for many replies: whenever a timer is set for sooner than all others, tokio wakes a thread.
    let due = sleep(GROUP_WAIT);
    tokio::pin!(due);
    let mut is_set = false;
    let live = stream.live.clone();
    let ended = live.ended();
    tokio::pin!(ended);
    loop {
        let next = tokio::select! {
            biased;
            next = stream.deliveries.next() => next,
            () = &mut ended => None,
            () = &mut due, if is_set => {
                is_set = false;
                if unacked > 0 {
                    ack(stream, last).await;
                    unacked = 0;
                }
                continue;
            }
        };
        let Some(Ok(raw)) = next else {
            return Ok(());
        };
        last = raw.delivery_tag;
        let message = wire::message(&raw.properties, raw.data);
        sender.send(message).await.map_err(|_| ())?;
        unacked += 1;
        if unacked == GROUP {
            ack(stream, last).await;
            unacked = 0;
        } else if !is_set {
            due.as_mut().reset(Instant::now() + GROUP_WAIT);
            is_set = true;
        }
    }
}

/// A lost acknowledgement brings the replies again, which whoever awaited them knows already.
async fn ack(stream: &Stream, last: u64) {
    let options = BasicAckOptions { multiple: true };
    let ack = stream.channel.basic_ack(last, options);
    let _ = stream.live.guard(rpc(ack)).await;
}
