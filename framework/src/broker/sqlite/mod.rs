//! The embedded broker: one SQLite file shared by all processes of a machine. This file is its public
//! face; one thread in each process does the writing (`engine.rs`).
//!
//! What waits longer than it should cost nothing: processes wake each other by datagrams on 127.0.0.1, and
//! a dead one is known by a lock that the operating system drops with it, in `<file>-locks/`. The file
//! must be on a local disk: locks on network filesystems cannot be relied on.

mod audience;
mod batch;
mod browse;
mod carry_out;
mod catalog;
mod command;
mod consume;
mod engine;
mod fault;
mod handout;
mod harvest;
mod joins;
mod lease;
mod liveness;
mod news;
mod opened;
mod outgoing;
mod owed;
mod process;
mod publish;
mod schema;
mod store;
mod syncing;
mod transaction;
mod turn;
mod wake;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use self::audience::Heard;
use self::command::{Command, Handle, Request};
use self::consume::Claimed;
use self::engine::Engine;
use self::fault::Fault;
use self::opened::OpenedFile;
use self::outgoing::{Outgoing, Parking, due, millis};
use self::store::Packed;
use self::syncing::Syncing;
use super::url::BrokerUrl;
use super::{
    Announcement, BACKLOG, BoxFuture, Broker, Browse, Cancellations, Channel, Consumer, Depth,
    Exchange, Incoming, Join, Lease, Listener, MOST_AHEAD, Publish, Queue, Replies, Subscription,
    in_sum,
};
use crate::error::{Error, Result};
use crate::message::Message;

/// Replies and cancellations that wait in memory for their reader.
const CHANNEL: usize = 1024;
/// The most that one consumer holds unsettled.
const MOST_SLOTS: usize = 1 << 20;

/// A broker in a SQLite file.
///
/// A message delayed on its way to an exchange is routed when it is published, not when it is due.
/// Dropping the broker closes it: unsettled deliveries go back to their queues.
pub struct SqliteBroker {
    handle: Handle,
    /// Numbers consumers and holders of leases.
    consumers: AtomicU64,
    heard: Heard,
    reader: Reader,
}

/// Reads beside the writer thread, so that counting or reading a long queue keeps nobody waiting.
#[derive(Clone)]
struct Reader {
    path: Arc<PathBuf>,
    file: OpenedFile,
    db: Arc<Mutex<Option<Connection>>>,
}

impl Reader {
    fn new(path: PathBuf, db: Connection) -> Self {
        Self {
            file: OpenedFile::new(&path),
            path: Arc::new(path),
            db: Arc::new(Mutex::new(Some(db))),
        }
    }

    /// Runs `work`, which is `what` was asked for, on the connection.
    async fn read<T: Send + 'static>(
        &self,
        what: String,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (this, asked) = (self.clone(), what.clone());
        let read = tokio::task::spawn_blocking(move || {
            let db = this.db.lock().unwrap_or_else(PoisonError::into_inner);
            let db = db.as_ref().ok_or(Error::Closed { what: "the broker" })?;
            if this.file.is_displaced() {
                return Err(Fault::displaced(&this.path).error(asked));
            }
            work(db).map_err(|e| Fault::new(&this.path, &e).error(asked))
        });
        read.await.map_err(|e| Error::broker(what, e))?
    }

    fn close(&self) {
        // A panic while it was locked leaves the connection as usable as it was.
        drop(
            self.db
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }
}

impl SqliteBroker {
    /// Opens the file that `url` names, creating it where it does not exist.
    ///
    /// # Errors
    /// [`Error::Connect`] with the reason, for example that the file is something else than a database of
    /// ours; such a file is never changed.
    pub async fn open(url: &BrokerUrl) -> Result<Self> {
        let refused = {
            let url = url.to_string();
            move |reason: String| Error::Connect { url, reason }
        };
        let path = url.addresses.first().cloned().unwrap_or_default();
        if path.is_empty() || path.starts_with(":memory:") || path.starts_with("file:") {
            return Err(refused(
                "sqlite:// takes the path of a file; use memory:// to keep nothing".into(),
            ));
        }
        let durable = url.durable_commits;
        let opened = tokio::task::spawn_blocking(move || start(Path::new(&path), durable)).await;
        match opened {
            Ok(Ok(broker)) => Ok(broker),
            Ok(Err(reason)) => Err(refused(reason)),
            Err(error) => Err(refused(error.to_string())),
        }
    }
}

/// Opens the file and starts the writer thread.
fn start(path: &Path, durable: bool) -> Result<SqliteBroker, String> {
    let db = schema::open(path)?;
    // Absolute, so that a program may change its working directory.
    let path = std::fs::canonicalize(path).map_err(|e| format!("`{}`: {e}", path.display()))?;
    let reader =
        schema::open_reader(&path).map_err(|e| Fault::new(&path, &e).reason().to_owned())?;
    let (handle, inbox) = Handle::new();
    let heard = Heard::default();
    let syncing =
        Syncing::new(&db, durable).map_err(|e| Fault::new(&path, &e).reason().to_owned())?;
    let engine = Engine::new(
        db,
        syncing,
        path.clone(),
        handle.clone(),
        inbox,
        heard.clone(),
    )?;
    std::thread::Builder::new()
        .name("garenne-sqlite".into())
        .spawn(move || engine.run())
        .map_err(|e| format!("no thread can be started: {e}"))?;
    Ok(SqliteBroker {
        handle,
        consumers: AtomicU64::new(0),
        heard,
        reader: Reader::new(path, reader),
    })
}

impl SqliteBroker {
    /// Asks for something that has no result of its own.
    fn ask(&self, request: Request) -> BoxFuture<'static, Result<()>> {
        let handle = self.handle.clone();
        Box::pin(async move { handle.call(request).await.map(drop) })
    }
}

impl Broker for SqliteBroker {
    fn declare<'a>(&'a self, queue: &'a Queue) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            queue.validate()?;
            self.ask(Request::Declare(queue.clone())).await
        })
    }

    fn declare_exchange<'a>(&'a self, exchange: &'a Exchange) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            exchange.validate()?;
            self.ask(Request::DeclareExchange(exchange.clone())).await
        })
    }

    fn publish(&self, publish: Publish) -> BoxFuture<'static, Result<()>> {
        let handle = self.handle.clone();
        let deadline = publish.deadline;
        let outgoing = Outgoing::new(publish, SystemTime::now());
        Box::pin(async move { handle.publish(outgoing?, deadline).await.0 })
    }

    fn publish_to<'a>(&'a self, queue: &'a Queue, publish: Publish) -> BoxFuture<'a, Result<()>> {
        let (began, deadline) = (Instant::now(), publish.deadline);
        let outgoing = Outgoing::new(publish, SystemTime::now());
        Box::pin(async move {
            match self.handle.publish(outgoing?, deadline).await {
                // Boxed: few queues are missing, and each message would have room for that.
                (Err(Error::Unroutable { .. }), Some(outgoing)) => {
                    let route = outgoing.route.clone();
                    let again = async move {
                        self.declare(queue).await?;
                        self.handle.publish(outgoing, deadline).await.0
                    };
                    Box::pin(in_sum(deadline, began, &route, again)).await
                }
                (outcome, _) => outcome,
            }
        })
    }

    fn consume<'a>(&'a self, queue: &'a Queue, slots: usize) -> BoxFuture<'a, Result<Consumer>> {
        Box::pin(async move {
            let number = self.consumers.fetch_add(1, Ordering::Relaxed);
            let slots = slots.clamp(1, MOST_SLOTS);
            // One place more, for the error that ends the consumer.
            let (sender, deliveries) = mpsc::channel(slots + MOST_AHEAD + 1);
            let handle = self.handle.clone();
            // Made before the answer, so that a caller who gives up leaves no consumer behind.
            let deliveries = Incoming::made_of(deliveries, |claimed: Result<Claimed>| {
                claimed.map(Claimed::delivery)
            });
            let consumer = Consumer::new(deliveries, move || {
                handle.post(Request::Unsubscribe(number));
            });
            let request = Request::Subscribe {
                number,
                queue: queue.clone(),
                slots,
                deliveries: sender,
            };
            self.handle.call(request).await?;
            let handle = self.handle.clone();
            let subscription = Subscription::always().allowed_by(move |unsettled| {
                let slots = unsettled.min(slots + MOST_AHEAD);
                handle.post(Request::Allow { number, slots });
            });
            Ok(consumer.subscribed(subscription))
        })
    }

    fn browse<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Box<dyn Browse>>> {
        Box::pin(browse::start(self, queue))
    }

    fn replies(&self) -> BoxFuture<'_, Result<Replies>> {
        Box::pin(async move {
            let address = format!("garenne.reply.{}", uuid::Uuid::new_v4().simple());
            let (sender, messages) = mpsc::channel(CHANNEL);
            let request = Request::Replies {
                address: address.clone(),
                messages: sender,
            };
            self.handle.call(request).await?;
            let messages = Incoming::made_of(messages, Packed::message);
            Ok(Replies { address, messages })
        })
    }

    fn cancel_delayed<'a>(&'a self, id: &'a str, due_in: Duration) -> BoxFuture<'a, Result<()>> {
        let due = due(due_in, SystemTime::now()).unwrap_or(0);
        self.ask(Request::Cancel(id.to_owned(), due))
    }

    fn cancellations(&self) -> BoxFuture<'_, Result<Cancellations>> {
        Box::pin(async move {
            let (sender, later) = mpsc::channel(CHANNEL);
            let known = self.handle.call(Request::Cancellations(sender)).await?;
            Ok(Cancellations { known, later })
        })
    }

    fn listen<'a>(
        &'a self,
        channel: &'a Channel,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Listener>> {
        Box::pin(async move {
            let (sender, messages) = mpsc::channel(BACKLOG);
            let request = Request::Listen {
                number: self.consumers.fetch_add(1, Ordering::Relaxed),
                channel: channel.clone(),
                name: name.to_owned(),
                sender,
            };
            self.handle.call(request).await?;
            Ok(Listener::new(messages))
        })
    }

    fn announce(&self, announcement: Announcement) -> BoxFuture<'static, Result<()>> {
        let handle = self.handle.clone();
        Box::pin(async move {
            let message = announcement.message;
            let envelope = serde_json::to_string(&message)
                .map_err(|e| Error::broker("encoding a broadcast", e))?;
            let request = Request::Announce {
                channel: announcement.channel.name(),
                key: announcement.key,
                envelope,
                body: message.body,
            };
            handle.call(request).await.map(drop)
        })
    }

    fn may_be_heard(&self, channel: &Channel) -> bool {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.contains(&channel.name())
    }

    fn open_join(&self, join: Join) -> BoxFuture<'static, Result<()>> {
        let (handle, parking) = (self.handle.clone(), Parking::new(join));
        Box::pin(async move {
            handle
                .call(Request::OpenJoin(Box::new(parking?)))
                .await
                .map(drop)
        })
    }

    fn check_join<'a>(
        &'a self,
        join: &'a str,
        parts: u32,
        fire: bool,
    ) -> BoxFuture<'a, Result<()>> {
        self.ask(Request::CheckJoin {
            join: join.to_owned(),
            parts,
            fire,
        })
    }

    fn parts<'a>(
        &'a self,
        join: &'a str,
        most: usize,
    ) -> BoxFuture<'a, Result<Option<Vec<Message>>>> {
        let (what, name) = (format!("the parts of join `{join}`"), join.to_owned());
        Box::pin(
            self.reader
                .read(what, move |db| joins::parts(db, &name, most)),
        )
    }

    fn close_join<'a>(&'a self, join: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            // Without its join, a body whose settlement fails after all would not be run again.
            self.ask(Request::Flush).await?;
            self.ask(Request::CloseJoin(join.to_owned())).await
        })
    }

    fn depth<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Depth>> {
        Box::pin(async move {
            let name = queue.to_owned();
            let what = format!("the depth of queue `{queue}`");
            let counted = self
                .reader
                .read(what.clone(), move |db| {
                    store::depth(db, &name, millis(SystemTime::now()))
                })
                .await?;
            let [ready, consumers, delayed] = counted.ok_or_else(|| Error::Refused {
                what,
                reason: "there is no such queue".into(),
            })?;
            Ok(Depth::new(ready, consumers).with_delayed(delayed))
        })
    }

    fn delayed(&self) -> BoxFuture<'_, Result<u64>> {
        let now = millis(SystemTime::now());
        let count = move |db: &Connection| store::delayed(db, now);
        Box::pin(
            self.reader
                .read("the number of delayed messages".into(), count),
        )
    }

    fn delete<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<()>> {
        self.ask(Request::Delete(queue.to_owned()))
    }

    fn lease<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Box<dyn Lease>>> {
        Box::pin(lease::acquire(self, name))
    }

    fn read_lease<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Vec<u8>>>> {
        Box::pin(lease::read(&self.reader, name))
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // A broker that is closed carries out nothing more.
            let _ = self.handle.call(Request::Flush).await;
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let (closed, done) = oneshot::channel();
            self.reader.close();
            self.handle.send(Command::Close(closed));
            // An error means that it was closed before.
            let _ = done.await;
        })
    }
}

impl Drop for SqliteBroker {
    fn drop(&mut self) {
        self.reader.close();
        self.handle.send(Command::Close(oneshot::channel().0));
    }
}
