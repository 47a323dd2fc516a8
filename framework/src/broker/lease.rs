//! A named value that one holder at a time holds, kept by the broker: what elects a leader and keeps its
//! progress, without another store.

use super::{BoxFuture, Stale};
use crate::error::Result;

/// A durable named value, held by one holder at a time.
///
/// Dropped, or when its process dies, it goes to the next who waits for it; its value stays. Who holds it
/// should stop working on the strength of it when it is [lost](Self::lost): another may hold it by then.
///
/// On RabbitMQ the value is the body of one message in a queue of the lease's name, which has a single active
/// consumer: its holder. On SQLite it is a row, freed with the process that holds it.
pub trait Lease: Send + Sync {
    /// The value last written, by whoever held it; `None` if nobody ever wrote one.
    fn value(&self) -> Option<&[u8]>;

    /// Replaces the value; durable when this returns.
    ///
    /// # Errors
    /// [`Error::Stale`](crate::Error::Stale) where the lease is lost; whether the value was written is not
    /// known then. After all other errors it is still held, and the value may be written again.
    fn write(&mut self, value: Vec<u8>) -> BoxFuture<'_, Result<()>>;

    /// Whether and when it is lost: its connection ended, or its broker was closed.
    fn lost(&self) -> &Stale;

    /// Gives it to the next; free when this returns.
    fn release(self: Box<Self>) -> BoxFuture<'static, ()>;
}
