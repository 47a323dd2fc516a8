//! Publishing with lapin by hand.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::row::{WINDOW, is_set};

/// Whether raw's messages carry the same headers as those of the measured side; on SQLite, whether its table and its syncs
/// are the same, too.
pub(crate) static SAME_HEADERS: LazyLock<bool> =
    LazyLock::new(|| is_set("GARENNE_BENCH_SAME_HEADERS"));

/// The third part of a request's body, as Celery wants it.
#[derive(Serialize)]
struct Embed {
    callbacks: (),
    errbacks: (),
    chain: (),
    chord: (),
}

/// A reply's body, as Celery wants it.
#[derive(Serialize, Deserialize)]
struct ReplyBody {
    task_id: String,
    status: String,
    result: u64,
    traceback: Option<String>,
    children: Vec<String>,
}

/// A message and where it goes.
pub(crate) struct Letter {
    queue: ShortString,
    properties: BasicProperties,
    pub(crate) body: Vec<u8>,
}

impl Letter {
    /// Asks for a task.
    pub(crate) fn request(queue: &ShortString, number: usize, text: &str) -> Self {
        let embed = Embed {
            callbacks: (),
            errbacks: (),
            chain: (),
            chord: (),
        };
        let body = ((number as u64, text), BTreeMap::<String, ()>::new(), embed);
        let id = uuid::Uuid::new_v4().to_string();
        Self {
            queue: queue.clone(),
            properties: match *SAME_HEADERS {
                true => properties(id.as_str().into()).with_headers(headers(&id)),
                false => properties(id.into()),
            },
            body: serde_json::to_vec(&body).unwrap_or_default(),
        }
    }

    pub(crate) fn reply_to(mut self, queue: &ShortString) -> Self {
        let id = self.properties.message_id().clone().unwrap_or_default();
        self.properties = self
            .properties
            .with_reply_to(queue.clone())
            .with_correlation_id(id);
        self
    }

    pub(crate) fn id(&self) -> &str {
        let id = self.properties.message_id().as_ref();
        id.map_or("", ShortString::as_str)
    }

    /// The body of an answer to the request `id`.
    pub(crate) fn answer(id: &str, result: u64) -> Result<Vec<u8>> {
        let body = ReplyBody {
            task_id: id.to_owned(),
            status: "SUCCESS".into(),
            result,
            traceback: None,
            children: Vec::new(),
        };
        Ok(serde_json::to_vec(&body)?)
    }

    /// Answers a request.
    pub(crate) fn reply(request: &BasicProperties, result: u64) -> Result<Self> {
        let (queue, id) = request
            .reply_to()
            .clone()
            .zip(request.correlation_id().clone())
            .context("nobody wants a reply")?;
        Ok(Self {
            queue,
            body: Self::answer(id.as_str(), result)?,
            properties: properties(id.clone()).with_correlation_id(id),
        })
    }
}

/// What the measured side sends with a call.
fn texts(id: &str) -> [(&'static str, &str); 2] {
    [("task", "throughput::ours::noop"), ("id", id)]
}

/// The same in JSON, with a message's other properties.
pub(crate) fn envelope(id: &str) -> String {
    let headers: serde_json::Map<_, _> = texts(id)
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let envelope = serde_json::json!({
        "id": id, "content_type": "application/json", "headers": headers,
    });
    envelope.to_string()
}

fn headers(id: &str) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in texts(id) {
        table.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    table
}

fn properties(id: ShortString) -> BasicProperties {
    BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_message_id(id)
}

/// The number that a reply brings.
pub(crate) fn read_reply(body: &[u8]) -> Result<u64> {
    let reply: ReplyBody = serde_json::from_slice(body)?;
    Ok(reply.result)
}

async fn confirmed(channel: &Channel, letter: Letter) -> Result<()> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let Letter {
        queue,
        properties,
        body,
    } = letter;
    let confirm = channel
        .basic_publish("".into(), queue, options, &body, properties)
        .await?;
    let stored = matches!(confirm.await?, Confirmation::Ack(None));
    ensure!(stored, "a message was not stored");
    Ok(())
}

/// Publishes all with a window of confirms outstanding.
pub(crate) async fn send_all(
    channel: &Channel,
    mut letters: impl Iterator<Item = Letter>,
) -> Result<()> {
    let mut under_way = FuturesUnordered::new();
    loop {
        while under_way.len() < WINDOW
            && let Some(letter) = letters.next()
        {
            under_way.push(confirmed(channel, letter));
        }
        match under_way.next().await {
            Some(sent) => sent?,
            None => return Ok(()),
        }
    }
}

type Order = (Letter, oneshot::Sender<Result<()>>);

/// A way to publish from one task, or from many at a time through the task that owns the channel.
#[derive(Clone)]
pub(crate) enum Post {
    Own(Channel),
    Shared(mpsc::Sender<Order>),
}

impl Post {
    pub(crate) fn new(channel: Channel, senders: usize) -> Self {
        if senders == 1 {
            return Self::Own(channel);
        }
        let (sender, orders) = mpsc::channel(WINDOW);
        tokio::spawn(own(channel, orders));
        Self::Shared(sender)
    }

    /// Resolves when the broker has the letter.
    pub(crate) async fn send(&self, letter: Letter) -> Result<()> {
        match self {
            Self::Own(channel) => confirmed(channel, letter).await,
            Self::Shared(sender) => {
                let (done, sent) = oneshot::channel();
                let _ = sender.send((letter, done)).await;
                sent.await.context("the publishing task ended")?
            }
        }
    }
}

async fn own(channel: Channel, mut orders: mpsc::Receiver<Order>) {
    let mut under_way = FuturesUnordered::new();
    let channel = &channel;
    loop {
        tokio::select! {
            biased;
            Some(()) = under_way.next(), if !under_way.is_empty() => {}
            order = orders.recv(), if under_way.len() < WINDOW => {
                let Some((letter, done)) = order else { break };
                under_way.push(async move {
                    let _ = done.send(confirmed(channel, letter).await);
                });
            }
        }
    }
}
