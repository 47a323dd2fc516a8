//! Cancelled calls: a stream that every worker reads from its beginning, so that those who start later
//! know of them, too.

use std::sync::Arc;
use std::time::Duration;

use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::backoff::Backoff;
use super::live::{Trouble, rpc};
use super::send::{Core, Outgoing};
use super::subscribe::{self, Stream};
use super::topology::Topology;
use super::wire::{self, own, table, text};
use crate::broker::{Cancellations, Publish, Route};
use crate::error::{Error, Result};
use crate::message::Message;

const STREAM: &str = "garenne.cancelled";
/// Marks the end of what was cancelled before a reader came.
const MARKER: &str = "garenne-marker";
const OFFSET: &str = "x-stream-offset";
const PREFETCH: u16 = 1000;
/// Entries acknowledged together: each on its own would make a long history take long.
const GROUP: u16 = PREFETCH / 4;
const LATER: usize = 1024;
/// No call has a longer id, with what a worker writes before it.
const LONGEST_ID: usize = 300;
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a starting worker waits for what was cancelled before.
const HISTORY_DEADLINE: Duration = Duration::from_secs(5);

/// A longer pause for each attempt to read that failed, and how many of them at most.
const PAUSE: Duration = Duration::from_millis(250);
const MOST_PAUSES: u32 = 20;
/// A stream that the server fails over for so long is lost.
const LOST: Duration = Duration::from_secs(15);

/// How long the stream keeps an id, and the value that says so to the server.
const MEMORY: Duration = Duration::from_secs(24 * 3600);
const MAX_AGE: &str = "1D";
/// How long before its call is due an id is told again that would be forgotten by then.
const AHEAD: Duration = Duration::from_secs(3600);

/// Adds `id` to the stream. Where its call is due when that will have been forgotten, the id is also sent after
/// the call through the ladder of delays, to be added again shortly before.
pub(super) async fn cancel(core: &Core, id: &str, due_in: Duration) -> Result<()> {
    let message = Message {
        body: id.as_bytes().to_vec().into(),
        ..Message::default()
    };
    store(core, message.clone()).await?;
    let Some(delay) = reminder(due_in) else {
        return Ok(());
    };
    let again = Publish {
        route: Route::Queue(STREAM.into()),
        message,
        delay,
        deadline: DEADLINE,
    };
    core.send(&mut Outgoing::new(again)?).await
}

/// After how long a cancelled call that is due after `due_in` has to be told of again.
fn reminder(due_in: Duration) -> Option<Duration> {
    let delay = due_in.checked_sub(AHEAD)?;
    (due_in.saturating_add(AHEAD) > MEMORY).then_some(delay)
}

async fn store(core: &Core, message: Message) -> Result<()> {
    let publish = || Publish {
        // The default exchange, and no mending: the stream is not one of the task queues.
        route: Route::Exchange {
            exchange: String::new(),
            routing_key: STREAM.into(),
        },
        message: message.clone(),
        delay: Duration::ZERO,
        deadline: DEADLINE,
    };
    match core.send(&mut Outgoing::new(publish())?).await {
        Err(Error::Unroutable { .. }) => {
            let topology = core.topology.clone();
            core.transport
                .run(async move { declare(&topology).await })
                .await?;
            core.send(&mut Outgoing::new(publish())?).await
        }
        sent => sent,
    }
}

async fn declare(topology: &Topology) -> Result<()> {
    let arguments = table([
        ("x-queue-type", text("stream")),
        ("x-max-age", text(MAX_AGE)),
        // Old ids go a whole segment at a time.
        (
            "x-stream-max-segment-size-bytes",
            AMQPValue::LongInt(1_000_000),
        ),
    ]);
    let declared = topology.on_channel(|channel| {
        let arguments = arguments.clone();
        async move {
            let options = QueueDeclareOptions::durable();
            rpc(channel.queue_declare(own(STREAM), options, arguments)).await
        }
    });
    let refused = |trouble: Trouble| trouble.refused(format!("to declare stream `{STREAM}`"));
    declared.await?.map(drop).map_err(refused)
}

/// What a reader knows of the stream.
struct Reader {
    core: Arc<Core>,
    /// Where to go on; `None` is the beginning.
    next_offset: Option<i64>,
    stream: Option<Stream>,
    /// Entries of this stream that are not acknowledged.
    unacked: u16,
    backoff: Backoff,
    /// Attempts to open it that failed in a row, and since when.
    failures: u32,
    failing: Option<Instant>,
}

/// One entry of the stream.
enum Entry {
    Id(String),
    Marker(String),
}

/// Reads what has been cancelled, and goes on reading.
pub(super) async fn start(core: &Arc<Core>) -> Result<Cancellations> {
    let marker = uuid::Uuid::new_v4().to_string();
    let mut message = Message::default();
    message.set(MARKER, marker.as_str());
    let (sender, later) = mpsc::channel(LATER);
    let reader = || Reader {
        core: core.clone(),
        next_offset: None,
        stream: None,
        unacked: 0,
        backoff: Backoff::default(),
        failures: 0,
        failing: None,
    };
    if let Err(error) = store(core, message).await {
        if matches!(error, Error::Closed { .. }) {
            return Err(error);
        }
        if error.is_transient() {
            tracing::warn!(%error, "what was cancelled before is not known at once");
            core.transport.spawn(reader().follow(sender));
            return Ok(Cancellations {
                known: Vec::new(),
                later,
            });
        }
        tracing::warn!(%error, "cancelled calls will not be known");
        let transport = core.transport.clone();
        // An end of `later` would mean that the broker is closed.
        core.transport.spawn(async move {
            let _ = transport.closing().wait_for(|closing| *closing).await;
            drop(sender);
        });
        return Ok(Cancellations {
            known: Vec::new(),
            later,
        });
    }
    let mut reader = reader();
    let known = core
        .transport
        .run(async move {
            let mut known = Vec::new();
            let read = async {
                loop {
                    match reader.next().await {
                        Some(Entry::Id(id)) => known.push(id),
                        Some(Entry::Marker(found)) if found == marker => return,
                        Some(Entry::Marker(_)) => {}
                        None => return,
                    }
                }
            };
            if timeout(HISTORY_DEADLINE, read).await.is_err() {
                tracing::warn!("not all that was cancelled before is known yet");
            }
            let transport = reader.core.transport.clone();
            transport.spawn(reader.follow(sender));
            Ok(known)
        })
        .await?;
    Ok(Cancellations { known, later })
}

impl Reader {
    async fn follow(mut self, sender: mpsc::Sender<String>) {
        let mut closing = self.core.transport.closing();
        loop {
            let entry = tokio::select! {
                _ = closing.wait_for(|closing| *closing) => return,
                () = sender.closed() => return,
                entry = self.next() => entry,
            };
            match entry {
                None => return,
                Some(Entry::Marker(_)) => {}
                Some(Entry::Id(id)) => tokio::select! {
                    _ = closing.wait_for(|closing| *closing) => return,
                    sent = sender.send(id) => if sent.is_err() { return },
                },
            }
        }
    }

    /// The next entry, over however many connections; `None` when the broker is closed.
    async fn next(&mut self) -> Option<Entry> {
        loop {
            let Some(stream) = &mut self.stream else {
                self.backoff.wait().await;
                sleep(PAUSE * self.failures.min(MOST_PAUSES)).await;
                match self.open().await {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        self.unacked = 0;
                        (self.failures, self.failing) = (0, None);
                    }
                    Err(Error::Closed { .. }) => return None,
                    Err(error) => self.failed(&error).await,
                }
                continue;
            };
            let Some(Ok(raw)) = stream.next().await else {
                // It was not the connection: another stream may take its name, whose offsets begin anew.
                if stream.live.is_up() {
                    self.next_offset = None;
                }
                self.stream = None;
                continue;
            };
            self.backoff.reset();
            // On a stream it only asks for more.
            self.unacked += 1;
            if self.unacked >= GROUP {
                let options = BasicAckOptions { multiple: true };
                let ack = stream.channel.basic_ack(raw.delivery_tag, options);
                let _ = stream.live.guard(rpc(ack)).await;
                self.unacked = 0;
            }
            if let Some(offset) = offset(&raw) {
                // Another stream under the same name, or a chunk that begins before what was asked for: reading
                // again from the beginning does no harm.
                if self.next_offset.is_some_and(|next| offset < next) {
                    (self.stream, self.next_offset) = (None, None);
                    continue;
                }
                self.next_offset = Some(offset + 1);
            }
            if raw.data.len() > LONGEST_ID {
                continue;
            }
            let message = wire::message(&raw.properties, raw.data);
            return Some(match message.text(MARKER) {
                Some(marker) => Entry::Marker(marker.to_owned()),
                None => Entry::Id(String::from_utf8_lossy(&message.body).into_owned()),
            });
        }
    }

    async fn open(&self) -> Result<Stream> {
        let from = match self.next_offset {
            None => text("first"),
            Some(offset) => AMQPValue::LongLongInt(offset),
        };
        let arguments: FieldTable = table([(OFFSET, from)]);
        let transport = &self.core.transport;
        // RabbitMQ ends the whole connection of who consumes from a stream that it has lost.
        let connection = match self.failures {
            0 => &transport.consuming,
            _ => &transport.aside,
        };
        subscribe::open(connection, STREAM, PREFETCH, arguments).await
    }

    /// RabbitMQ 4.3 may lose a young stream when it is killed, and keep its name.
    async fn failed(&mut self, error: &Error) {
        tracing::debug!(%error, "cannot read what is cancelled yet");
        self.failures += 1;
        let since = *self.failing.get_or_insert_with(Instant::now);
        let is_lost = error.to_string().contains("INTERNAL_ERROR");
        if is_lost || matches!(error, Error::Refused { .. }) {
            // Whoever makes another, its offsets begin anew.
            self.next_offset = None;
        }
        if !is_lost || since.elapsed() < LOST {
            return;
        }
        tracing::warn!(
            stream = STREAM,
            %error,
            "it cannot be read any more, and is made anew: what was cancelled before is forgotten"
        );
        self.failing = None;
        if let Err(error) = self.renew().await {
            tracing::warn!(stream = STREAM, %error, "it cannot be made anew");
        }
    }

    async fn renew(&self) -> Result<()> {
        let refused = |trouble: Trouble| trouble.refused(format!("to delete stream `{STREAM}`"));
        let live = self.core.transport.aside.get().await?;
        let channel = live.channel().await.map_err(refused)?;
        let delete = channel.queue_delete(own(STREAM), QueueDeleteOptions::default());
        live.guard(rpc(delete)).await.map_err(refused)?;
        declare(&self.core.topology).await
    }
}

fn offset(raw: &Delivery) -> Option<i64> {
    match raw.properties.headers().as_ref()?.inner().get(OFFSET)? {
        AMQPValue::LongLongInt(offset) => Some(*offset),
        AMQPValue::LongInt(offset) => Some((*offset).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_forgotten_is_told_again_in_time() {
        let hour = Duration::from_secs(3600);
        for hours in [0, 1, 22, 23] {
            assert_eq!(reminder(hours * hour), None, "{hours} h");
        }
        assert_eq!(reminder(24 * hour), Some(23 * hour));
        assert_eq!(reminder(720 * hour), Some(719 * hour));
        assert_eq!(MAX_AGE, format!("{}D", MEMORY.as_secs() / 86_400));
    }
}
