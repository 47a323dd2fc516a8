//! Broadcasts through Celery's own exchanges, so that Python's workers and monitors take part. Each listener
//! has a queue of its own that goes with its connection.

use std::sync::Arc;
use std::time::Duration;

use lapin::ExchangeKind;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

use super::backoff::Backoff;
use super::connection::closed;
use super::live::{Live, Trouble, rpc};
use super::send::Core;
use super::subscribe::Stream;
use super::wire::{self, own, short, table};
use crate::broker::{Announcement, BACKLOG, Channel, ChannelKind, Listener};
use crate::error::{Error, Result};
use crate::message::Message;

/// How long an announcement may take, the connection's return included.
const ANNOUNCE_LIMIT: Duration = Duration::from_secs(2);
/// How long the first opening of a listener may take.
const LISTEN_LIMIT: Duration = Duration::from_secs(10);
/// How long a queue outlives its connection, were it not exclusive. As in Celery.
const CONTROL_EXPIRES_MS: i32 = 10_000;
const EVENT_EXPIRES_MS: i32 = 60_000;
/// How long a message waits for a listener that reads nothing. As in Celery.
const CONTROL_TTL_MS: i32 = 300_000;
const EVENT_TTL_MS: i32 = 5_000;
/// Exchanges remembered of one channel.
const DECLARED_LIMIT: usize = 16;
/// AMQP's reply code of an exchange that exists with other properties.
const DIFFERENT: u16 = 406;

/// Where announcements go out: one after the other, since lapin gives confirms to the wrong message when several
/// tasks publish on one channel.
#[derive(Default)]
pub(super) struct Announcer(Mutex<Option<Line>>);

/// An open channel in confirm mode, and the exchanges that are known to be there.
struct Line {
    live: Arc<Live>,
    channel: lapin::Channel,
    declared: Vec<Channel>,
}

/// Tells all who listen.
pub(super) async fn announce(
    core: Arc<Core>,
    announcer: Arc<Announcer>,
    announcement: Announcement,
) -> Result<()> {
    let unavailable = |reason| Error::Unavailable {
        what: "a broadcast".into(),
        waited: ANNOUNCE_LIMIT,
        reason,
    };
    if core.transport.is_closing() {
        return Err(closed());
    }
    if let Some(reason) = &*core.transport.publishing.blocked().borrow() {
        return Err(unavailable(reason.clone()));
    }
    let this = core.clone();
    let work = async move {
        let mut slot = announcer.0.lock().await;
        let mut retried = false;
        loop {
            // Taken out: who gives up in the middle leaves no channel behind that awaits a confirm.
            let known = slot.take().filter(Line::is_up);
            let is_old = known.is_some();
            let mut line = match known {
                Some(line) => line,
                None => Line::open(&this).await?,
            };
            match line.publish(&this, &announcement).await {
                Ok(()) => {
                    *slot = Some(line);
                    return Ok(());
                }
                // Somebody deleted the exchange, or the connection went.
                Err(_) if is_old && !retried => retried = true,
                Err(error) => return Err(error),
            }
        }
    };
    match timeout(ANNOUNCE_LIMIT, core.transport.run(work)).await {
        Ok(done) => done,
        Err(_) => Err(unavailable(core.transport.publishing.last_error())),
    }
}

impl Line {
    async fn open(core: &Core) -> Result<Self> {
        let live = core.transport.publishing.get().await?;
        let refused = |trouble: Trouble| trouble.refused("to open a channel for broadcasts");
        let channel = live.channel().await.map_err(refused)?;
        let confirms = rpc(channel.confirm_select(ConfirmSelectOptions::default()));
        live.guard(confirms).await.map_err(refused)?;
        Ok(Self {
            live,
            channel,
            declared: Vec::new(),
        })
    }

    fn is_up(&self) -> bool {
        self.live.is_up() && self.channel.status().connected()
    }

    async fn publish(&mut self, core: &Core, announcement: &Announcement) -> Result<()> {
        let Announcement {
            channel,
            key,
            message,
        } = announcement;
        if !self.declared.contains(channel) {
            declare(core, channel).await?;
            self.declared.truncate(DECLARED_LIMIT);
            self.declared.insert(0, channel.clone());
        }
        let exchange = short("exchange name", channel.name())?;
        let key = short("routing key", key)?;
        let (properties, body) = wire::properties_and_body(message.clone())?;
        let properties = properties.with_delivery_mode(1);
        let options = BasicPublishOptions::default();
        let publish = self
            .channel
            .basic_publish(exchange, key, options, &body, properties);
        // Nobody asks for its safety, but who exits then has said what it wanted to say.
        let confirmed = rpc(async { publish.await?.await });
        let refused = |trouble: Trouble| trouble.refused("a broadcast");
        self.live.guard(confirmed).await.map(drop).map_err(refused)
    }
}

/// Makes sure that the exchange is there; one that somebody has declared in another way is used as it is.
async fn declare(core: &Core, channel: &Channel) -> Result<()> {
    let name = short("exchange name", channel.name())?;
    let (kind, durable) = match channel.kind {
        ChannelKind::Control => (ExchangeKind::Fanout, false),
        ChannelKind::Reply => (ExchangeKind::Direct, false),
        ChannelKind::Event => (ExchangeKind::Topic, true),
    };
    let declared = core
        .topology
        .on_channel(|line| {
            let (name, kind) = (name.clone(), kind.clone());
            async move {
                let options = ExchangeDeclareOptions {
                    durable,
                    ..ExchangeDeclareOptions::default()
                };
                rpc(line.exchange_declare(name, kind, options, FieldTable::default())).await
            }
        })
        .await?;
    match declared {
        Err(trouble) if trouble.code == Some(DIFFERENT) => {
            tracing::warn!(exchange = %name, server_said = %trouble.text, "the exchange is used as it is");
            Ok(())
        }
        declared => {
            declared.map_err(|trouble| trouble.refused(format!("to declare exchange `{name}`")))
        }
    }
}

/// Listens to a channel, through losses of the connection.
pub(super) async fn listen(core: &Arc<Core>, channel: &Channel, name: &str) -> Result<Listener> {
    let (sender, messages) = mpsc::channel(BACKLOG);
    let ear = Ear {
        core: core.clone(),
        channel: channel.clone(),
        name: name.to_owned(),
        sender,
    };
    let open = core.transport.run(async move {
        let first = ear.first().await?;
        let core = ear.core.clone();
        core.transport.spawn(ear.listen(first));
        Ok(())
    });
    match timeout(LISTEN_LIMIT, open).await {
        Ok(opened) => opened.map(|()| Listener::new(messages)),
        Err(_) => Err(Error::Unavailable {
            what: format!("listening to `{}`", channel.name()),
            waited: LISTEN_LIMIT,
            reason: core.transport.consuming.last_error(),
        }),
    }
}

/// One listener's side at the broker.
struct Ear {
    core: Arc<Core>,
    channel: Channel,
    name: String,
    sender: mpsc::Sender<Message>,
}

impl Ear {
    async fn first(&self) -> Result<Stream> {
        let mut backoff = Backoff::default();
        loop {
            backoff.wait().await;
            match self.open().await {
                Err(error) if error.is_transient() => {
                    tracing::debug!(channel = self.channel.name(), %error, "cannot listen yet");
                }
                opened => return opened,
            }
        }
    }

    /// Resolves when nobody reads any more, or the broker is closed.
    async fn over(&self) {
        let mut closing = self.core.transport.closing();
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => {}
            () = self.sender.closed() => {}
        }
    }

    async fn listen(self, first: Stream) {
        let (mut stream, mut backoff) = (first, Backoff::default());
        loop {
            tokio::select! {
                () = self.over() => {
                    // The queue goes with its consumer.
                    let bye = rpc(stream.channel.close(200, own("bye")));
                    let _ = stream.live.guard(bye).await;
                    return;
                }
                next = stream.next() => if let Some(Ok(raw)) = next {
                    backoff.reset();
                    // Who is too far behind misses it.
                    let _ = self.sender.try_send(wire::message(&raw.properties, raw.data));
                    continue;
                },
            }
            stream = tokio::select! {
                () = self.over() => return,
                stream = self.reopen(&mut backoff) => stream,
            };
        }
    }

    async fn reopen(&self, backoff: &mut Backoff) -> Stream {
        let mut told = false;
        loop {
            backoff.wait().await;
            match self.open().await {
                Ok(stream) => return stream,
                // The server may take a while to notice that our former connection has gone.
                Err(error) if !told => {
                    told = true;
                    let channel = self.channel.name();
                    tracing::warn!(channel, name = self.name, %error, "cannot listen yet");
                }
                Err(_) => {}
            }
        }
    }

    async fn open(&self) -> Result<Stream> {
        if self.core.transport.is_closing() {
            return Err(closed());
        }
        declare(&self.core, &self.channel).await?;
        let what = || format!("to listen to `{}` as `{}`", self.channel.name(), self.name);
        let live = self.core.transport.consuming.get().await?;
        let refused = |trouble: Trouble| trouble.refused(what());
        let line = live.channel().await.map_err(refused)?;
        let exchange = short("exchange name", self.channel.name())?;
        // A queue's name as Celery makes it. Of several listeners to events, each has a name of its own.
        let (queue, key, expires, ttl) = match self.channel.kind {
            ChannelKind::Control | ChannelKind::Reply => {
                let queue = format!("{}.{}", self.name, self.channel.name());
                (
                    queue,
                    self.name.as_str(),
                    CONTROL_EXPIRES_MS,
                    CONTROL_TTL_MS,
                )
            }
            ChannelKind::Event => {
                let queue = format!("{}.{}", self.channel.name(), self.name);
                (queue, "#", EVENT_EXPIRES_MS, EVENT_TTL_MS)
            }
        };
        let queue = short("queue name", &queue)?;
        let key = short("routing key", key)?;
        let work = async {
            let options = QueueDeclareOptions {
                exclusive: true,
                auto_delete: true,
                ..QueueDeclareOptions::default()
            };
            let arguments = table([
                ("x-expires", AMQPValue::LongInt(expires)),
                ("x-message-ttl", AMQPValue::LongInt(ttl)),
            ]);
            rpc(line.queue_declare(queue.clone(), options, arguments)).await?;
            let (options, none) = (QueueBindOptions::default(), FieldTable::default());
            rpc(line.queue_bind(queue.clone(), exchange, key, options, none)).await?;
            let options = BasicConsumeOptions {
                no_ack: true,
                // On this connection the queue itself is nobody else's, but there may be several listeners.
                exclusive: true,
                ..BasicConsumeOptions::default()
            };
            rpc(line.basic_consume(queue, own(""), options, FieldTable::default())).await
        };
        let deliveries = live.guard(work).await.map_err(refused)?;
        Ok(Stream {
            channel: line,
            live,
            deliveries,
        })
    }
}
