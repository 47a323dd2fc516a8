//! Looking at what waits in a queue without taking it.

use super::{BoxFuture, Delivery};
use crate::error::Result;

/// A look at the messages that are ready in a queue, in the order of their delivery.
///
/// What is shown is settled one by one, as deliveries are, or left alone: unlike a consumer's, a delivery
/// that is dropped or released keeps its place and its age. Somebody else may be faster: settling is
/// [`Error::Stale`](crate::Error::Stale) then, and nothing was done. What was settled is sure to stay so when
/// `next` or `close` has returned.
///
/// On RabbitMQ nobody else is given what was shown, until the look is closed or dropped; on its quorum queues
/// before 4.3 that counts as a delivery.
pub trait Browse: Send {
    /// The next messages, at most `limit`; fewer only at the queue's end, or where the look has fetched some
    /// before.
    ///
    /// # Errors
    /// Where the queue does not exist any more, or the broker cannot be asked.
    fn next(&mut self, limit: usize) -> BoxFuture<'_, Result<Vec<Delivery>>>;

    /// Ends the look; what was not settled is ready again when this returns.
    ///
    /// # Errors
    /// Where the connection has ended: what was settled last may be in the queue again then.
    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>>;
}
