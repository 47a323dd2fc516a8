//! Declares queues and exchanges, remembers them so that they can be declared again, and puts up with
//! what others have declared before us.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lapin::options::{
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, ExchangeKind};

use super::live::{Live, Trouble, rpc};
use super::server::Server;
use super::transport::Transport;
use super::wire::{self, own, short, table, text};
use super::{arguments, delay};
use crate::broker::{self, Binding, Depth, Exchange, HeaderMatch, Queue, QueueType};
use crate::error::{Error, Result};

/// Reaches every queue that we declare by its own name, so that a producer needs no permission on the
/// default exchange, which reaches all queues of the vhost.
pub(super) const EXCHANGE: &str = "garenne";

/// A queue that this broker has declared.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) queue: Queue,
    /// `None` where it already was there with other arguments.
    pub(super) queue_type: Option<QueueType>,
    /// Whether the server's consumer timeout holds for it, as far as we know.
    pub(super) times_out: bool,
}

/// What a queue is after its declaration.
enum Found {
    AsAsked,
    /// It was made without our consumer timeout.
    TimesOut,
    Different,
}

/// How many connections may end under one request.
const ATTEMPTS: u32 = 3;

#[derive(Default)]
struct Memory {
    base: bool,
    queues: HashMap<String, Known>,
    exchanges: HashMap<String, Exchange>,
    /// Queues that are reached through the default exchange only.
    direct: HashSet<String>,
}

/// What this broker has declared.
pub(super) struct Topology {
    transport: Arc<Transport>,
    pub(super) default_type: QueueType,
    memory: Mutex<Memory>,
    pub(super) server: tokio::sync::OnceCell<Server>,
    pub(super) ladder: delay::Ladder,
}

impl Topology {
    pub(super) fn new(transport: Arc<Transport>, default_type: QueueType) -> Self {
        Self {
            transport,
            default_type,
            memory: Mutex::default(),
            server: tokio::sync::OnceCell::new(),
            ladder: delay::Ladder::default(),
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn known(&self, name: &str) -> Option<Known> {
        self.memory().queues.get(name).cloned()
    }

    pub(super) fn known_exchange(&self, name: &str) -> Option<Exchange> {
        self.memory().exchanges.get(name).cloned()
    }

    /// The exchange through which a queue is reached.
    pub(super) fn exchange_of(&self, queue: &str) -> &'static str {
        match self.memory().direct.contains(queue) {
            true => "",
            false => EXCHANGE,
        }
    }

    pub(super) fn reach_directly(&self, queue: &str) {
        self.memory().direct.insert(queue.to_owned());
    }

    /// Forgets that anything but queues has been declared, because something of it is missing.
    pub(super) fn doubt(&self) {
        self.memory().base = false;
        self.ladder.doubt();
    }

    /// Runs `work` on a channel of its own, since any refusal closes the channel. What fails because its
    /// connection ends, which others may have caused, is asked again: all that we ask is idempotent.
    pub(super) async fn on_channel<T, F: Future<Output = Result<T, Trouble>>>(
        &self,
        work: impl Fn(Channel) -> F,
    ) -> Result<Result<T, Trouble>> {
        let mut left = ATTEMPTS;
        loop {
            left -= 1;
            // The consuming connection: a blocked one answers nothing.
            let live: Arc<Live> = self.transport.consuming.get().await?;
            let done = match live.channel().await {
                Ok(channel) => {
                    let done = live.guard(work(channel.clone())).await;
                    if channel.status().connected() {
                        let _ = live.guard(rpc(channel.close(200, own("done")))).await;
                    }
                    done
                }
                Err(trouble) => Err(trouble),
            };
            if done.is_ok() || live.is_up() || left == 0 {
                return Ok(done);
            }
        }
    }

    /// Our own exchanges.
    pub(super) async fn base(&self) -> Result<()> {
        if self.memory().base {
            return Ok(());
        }
        self.exchange(&Exchange::direct(EXCHANGE), FieldTable::default())
            .await?;
        let unrouted = table([("alternate-exchange", text(delay::UNROUTED))]);
        self.exchange(&Exchange::direct(delay::DUE_QUEUES), unrouted)
            .await?;
        self.memory().base = true;
        Ok(())
    }

    /// Declares an exchange of the user's.
    pub(super) async fn declare_exchange(&self, exchange: &Exchange) -> Result<()> {
        exchange.validate()?;
        self.exchange(exchange, FieldTable::default()).await?;
        let name = exchange.name().to_owned();
        self.memory().exchanges.insert(name, exchange.clone());
        Ok(())
    }

    pub(super) async fn exchange(&self, exchange: &Exchange, arguments: FieldTable) -> Result<()> {
        let name = exchange.name().to_owned();
        let kind = ExchangeKind::Custom(exchange.kind().as_str().to_owned());
        let declared = self
            .on_channel(|channel| {
                declare_exchange(
                    channel,
                    name.clone(),
                    kind.clone(),
                    false,
                    arguments.clone(),
                )
            })
            .await?;
        let Err(trouble) = declared else {
            return Ok(());
        };
        if !matches!(trouble.code, Some(403 | 406)) {
            return Err(trouble.refused(format!("to declare exchange `{name}`")));
        }
        let found = self
            .on_channel(|channel| {
                let kind = ExchangeKind::Direct;
                declare_exchange(channel, name.clone(), kind, true, FieldTable::default())
            })
            .await?;
        match found {
            // A passive check needs permissions, too: if they are lacking, the first use tells.
            Err(found) if found.code != Some(403) => {
                Err(trouble.refused(format!("to declare exchange `{name}`")))
            }
            _ => {
                if trouble.code == Some(406) {
                    tracing::warn!(exchange = %name, server_said = %trouble.text, "the exchange is used as it is");
                }
                Ok(())
            }
        }
    }

    /// Declares a queue, its dead-letter queue and its bindings.
    pub(super) async fn declare(&self, queue: &Queue) -> Result<Known> {
        queue.validate()?;
        self.base().await?;
        if queue.must_exist
            && let Err(trouble) = self.find(queue.name()).await?
            && trouble.is_missing()
        {
            let reason = "it does not exist, and this task's workers, which this program does not have, know how \
                          to make it: start one first, or make it as workers with Garenne do, with `app.declare(…)`";
            return Err(Error::invalid("queue", queue.name(), reason));
        }
        let queue_type = self.type_of(queue).await?;
        if queue.dead_letters {
            let dead = queue.dead_letters().queue_type(queue_type);
            // It comes first: what dies without it is lost.
            self.one(&dead, queue_type).await?;
        }
        self.one(queue, queue_type).await
    }

    async fn one(&self, queue: &Queue, queue_type: QueueType) -> Result<Known> {
        let name = queue.name();
        let found = self.declare_queue(queue, queue_type).await?;
        for exchange in [EXCHANGE, delay::DUE_QUEUES] {
            let bound = self
                .bind(name, exchange, name, FieldTable::default())
                .await?;
            if let Err(trouble) = bound {
                if trouble.code != Some(403) {
                    return Err(trouble.refused(format!("to bind queue `{name}`")));
                }
                // Others may have bound it; if not, the first publish finds another way.
                tracing::debug!(queue = %name, exchange, server_said = %trouble.text, "not bound");
            }
        }
        for binding in &queue.bindings {
            self.bind_to(name, binding).await?;
        }
        let known = Known {
            queue: queue.clone(),
            queue_type: (!matches!(found, Found::Different)).then_some(queue_type),
            times_out: queue_type != QueueType::Quorum || !matches!(found, Found::AsAsked),
        };
        self.memory().queues.insert(name.to_owned(), known.clone());
        Ok(known)
    }

    async fn declare_queue(&self, queue: &Queue, queue_type: QueueType) -> Result<Found> {
        let name = queue.name();
        let mut arguments = arguments::of(queue, queue_type);
        let Err(mut trouble) = self.try_queue(name, arguments.clone()).await? else {
            return Ok(Found::AsAsked);
        };
        if trouble.code == Some(406) && arguments::drop_timeouts(&mut arguments) {
            match self.try_queue(name, arguments).await? {
                Ok(()) => return Ok(Found::TimesOut),
                Err(said) => trouble = said,
            }
        }
        if matches!(trouble.code, Some(403 | 406)) && self.find(name).await?.is_ok() {
            if trouble.code == Some(406) && self.known(name).is_none() {
                tracing::warn!(queue = %name, server_said = %trouble.text, "the queue is used as it is");
            }
            return Ok(Found::Different);
        }
        Err(trouble.refused(format!("to declare queue `{name}`")))
    }

    pub(super) async fn try_queue(
        &self,
        name: &str,
        arguments: FieldTable,
    ) -> Result<Result<(), Trouble>> {
        self.on_channel(|channel| {
            let arguments = arguments.clone();
            async move {
                let options = QueueDeclareOptions::durable();
                let declared = channel.queue_declare(own(name), options, arguments);
                rpc(declared).await.map(|_| ())
            }
        })
        .await
    }

    /// The type of a dead-letter queue, if it is as we declare one.
    pub(super) async fn type_of_dead(&self, name: &str) -> Result<Option<QueueType>> {
        let queue = Queue {
            dead_letters: false,
            ..Queue::new(name)
        };
        for queue_type in [QueueType::Quorum, QueueType::Classic] {
            let arguments = arguments::of(&queue, queue_type);
            if self.try_queue(name, arguments).await?.is_ok() {
                return Ok(Some(queue_type));
            }
        }
        Ok(None)
    }

    /// Looks whether there is a queue.
    pub(super) async fn find(&self, name: &str) -> Result<Result<lapin::Queue, Trouble>> {
        let name = short("queue name", name)?;
        self.on_channel(|channel| {
            let name = name.clone();
            async move {
                let options = QueueDeclareOptions::durable().passive();
                rpc(channel.queue_declare(name, options, FieldTable::default())).await
            }
        })
        .await
    }

    /// Binds a queue.
    pub(super) async fn bind(
        &self,
        queue: &str,
        exchange: &str,
        key: &str,
        arguments: FieldTable,
    ) -> Result<Result<(), Trouble>> {
        let queue = short("queue name", queue)?;
        let exchange = short("exchange name", exchange)?;
        let key = short("routing key", key)?;
        self.on_channel(|channel| {
            let (queue, exchange, key) = (queue.clone(), exchange.clone(), key.clone());
            let arguments = arguments.clone();
            async move {
                let options = QueueBindOptions::default();
                rpc(channel.queue_bind(queue, exchange, key, options, arguments)).await
            }
        })
        .await
    }

    async fn bind_to(&self, queue: &str, binding: &Binding) -> Result<()> {
        self.declare_exchange(&binding.exchange).await?;
        broker::queue::validate_routing_key(&binding.routing_key)?;
        let mut arguments = wire::headers(binding.headers.clone())?;
        if binding.exchange.kind() == broker::ExchangeKind::Headers {
            let how = match binding.header_match {
                HeaderMatch::All => "all",
                HeaderMatch::Any => "any",
            };
            arguments.insert(own("x-match"), text(how));
        }
        let exchange = binding.exchange.name();
        self.bind(queue, exchange, &binding.routing_key, arguments)
            .await?
            .map_err(|trouble| {
                trouble.refused(format!("to bind queue `{queue}` to exchange `{exchange}`"))
            })
    }

    async fn type_of(&self, queue: &Queue) -> Result<QueueType> {
        Ok(match queue.queue_type {
            _ if queue.exclusive => QueueType::Classic,
            Some(queue_type) => queue_type,
            None if queue.max_priority.is_some() => {
                match self.server().await?.ranks_quorum_queues() {
                    true => QueueType::Quorum,
                    false => QueueType::Classic,
                }
            }
            None => self.default_type,
        })
    }

    pub(super) async fn depth(&self, name: &str) -> Result<Depth> {
        let found = self.find(name).await?;
        let queue =
            found.map_err(|trouble| trouble.refused(format!("to look at queue `{name}`")))?;
        Ok(Depth::new(
            u64::from(queue.message_count()),
            u64::from(queue.consumer_count()),
        ))
    }

    pub(super) async fn delete(&self, name: &str) -> Result<()> {
        {
            let mut memory = self.memory();
            memory.queues.remove(name);
            memory.direct.remove(name);
        }
        self.ladder.forget(name);
        let queue = short("queue name", name)?;
        let deleted = self
            .on_channel(|channel| {
                let queue = queue.clone();
                async move { rpc(channel.queue_delete(queue, QueueDeleteOptions::default())).await }
            })
            .await?;
        match deleted {
            Err(trouble) if trouble.code != Some(404) => {
                Err(trouble.refused(format!("to delete queue `{name}`")))
            }
            _ => Ok(()),
        }
    }

    /// Declares again what a publish missed; whether there was anything to declare.
    pub(super) async fn mend(&self, queue: &str) -> Result<bool> {
        self.doubt();
        match self.known(queue) {
            Some(known) => self.declare(&known.queue).await.map(|_| true),
            None => self.base().await.map(|()| false),
        }
    }

    /// Declares the queue that a consumer's dead letters go to.
    pub(super) async fn mend_dead_letters(&self, queue: &Queue) -> Result<()> {
        let queue_type = self.type_of(queue).await?;
        let dead = queue.dead_letters().queue_type(queue_type);
        self.one(&dead, queue_type).await.map(|_| ())
    }
}

/// Declares a durable exchange, or looks whether there is one.
pub(super) async fn declare_exchange(
    channel: Channel,
    name: String,
    kind: ExchangeKind,
    passive: bool,
    arguments: FieldTable,
) -> Result<(), Trouble> {
    let options = ExchangeDeclareOptions {
        passive,
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let name = own(&name);
    rpc(channel.exchange_declare(name, kind, options, arguments)).await
}
