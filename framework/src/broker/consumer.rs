//! A consumer: the stream of deliveries from one queue, and the subscription behind it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{Delivery, Incoming};
use crate::error::Result;

/// A stream of deliveries from one queue. Dropped, it stops, and what it holds goes back to the queue.
pub struct Consumer {
    deliveries: Incoming<Result<Delivery>>,
    subscription: Subscription,
    limit: Option<HoldLimit>,
    /// Dropping it tells the broker's side to stop.
    _stop: StopGuard,
}

/// A broker's limit on how long a delivery may be unsettled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldLimit {
    /// After this the broker takes the delivery back, unless its operator has set another limit.
    pub after: Duration,
    /// What to do so that calls may take longer.
    pub advice: String,
}

/// Runs its action when dropped.
struct StopGuard(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Drop for StopGuard {
    fn drop(&mut self) {
        if let Some(stop) = self.0.take() {
            stop();
        }
    }
}

impl Consumer {
    /// A consumer fed through `deliveries`; `stop` runs when it is dropped.
    pub fn new(
        deliveries: impl Into<Incoming<Result<Delivery>>>,
        stop: impl FnOnce() + Send + Sync + 'static,
    ) -> Self {
        Self {
            deliveries: deliveries.into(),
            subscription: Subscription::always(),
            limit: None,
            _stop: StopGuard(Some(Box::new(stop))),
        }
    }

    /// Says how the consumer is subscribed, where that can change.
    #[must_use]
    pub fn subscribed(self, subscription: Subscription) -> Self {
        Self {
            subscription,
            ..self
        }
    }

    /// How the consumer is subscribed.
    #[must_use]
    pub fn subscription(&self) -> &Subscription {
        &self.subscription
    }

    /// Says how long a delivery may be unsettled.
    #[must_use]
    pub fn limited(self, limit: Option<HoldLimit>) -> Self {
        Self { limit, ..self }
    }

    /// How long a delivery may be unsettled, where the broker is known to limit that.
    #[must_use]
    pub fn limit(&self) -> Option<&HoldLimit> {
        self.limit.as_ref()
    }

    /// The next delivery; `None` when the broker was closed.
    ///
    /// # Errors
    /// Only what waiting does not mend: no permission, a queue that cannot be declared. Losing the
    /// connection is none.
    pub async fn next(&mut self) -> Option<Result<Delivery>> {
        loop {
            match self.deliveries.recv().await {
                // It became void while it waited here, and is delivered again.
                Some(Ok(delivery)) if delivery.stale().is_stale() => {}
                next => return next,
            }
        }
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").finish_non_exhaustive()
    }
}

/// Deliveries that a consumer may be allowed to have beyond those that it was started with.
pub const MOST_AHEAD: usize = 256;

/// Whether a consumer is subscribed at the broker, a way to subscribe it anew, and one to let it have more.
#[derive(Clone)]
pub struct Subscription {
    outage: watch::Receiver<Option<String>>,
    renew: Option<Arc<dyn Fn(Renew) + Send + Sync>>,
    allow: Option<Arc<dyn Fn(usize) + Send + Sync>>,
}

/// What to make anew when a consumer gets nothing although it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renew {
    /// The subscription. What was delivered before stays valid.
    Consumer,
    /// The connection with all that is on it. What was delivered before is void.
    Connection,
}

impl Subscription {
    /// A subscription that follows `outage`, which is why nothing can be delivered, while that is so.
    /// `renew` asks for it to be made anew, and does not wait.
    pub fn renewed_by(
        outage: watch::Receiver<Option<String>>,
        renew: impl Fn(Renew) + Send + Sync + 'static,
    ) -> Self {
        Self {
            outage,
            renew: Some(Arc::new(renew)),
            allow: None,
        }
    }

    /// One that cannot be lost, nor made anew.
    #[must_use]
    pub fn always() -> Self {
        Self {
            outage: watch::channel(None).1,
            renew: None,
            allow: None,
        }
    }

    /// `allow` sets how many deliveries the consumer may have, and does not wait.
    #[must_use]
    pub fn allowed_by(self, allow: impl Fn(usize) + Send + Sync + 'static) -> Self {
        Self {
            allow: Some(Arc::new(allow)),
            ..self
        }
    }

    /// Lets the consumer have at most so many unsettled deliveries at a time from now on, and [`MOST_AHEAD`] more than
    /// it was started with at most. Those that it has stay valid.
    pub fn allow(&self, unsettled: usize) {
        if let Some(allow) = &self.allow {
            allow(unsettled);
        }
    }

    /// Why nothing can be delivered now; `None` while the consumer is subscribed.
    #[must_use]
    pub fn outage(&self) -> Option<String> {
        self.outage.borrow().clone()
    }

    /// Whether asking for a new one does something: an embedded broker has none that could be lost.
    #[must_use]
    pub fn can_be_renewed(&self) -> bool {
        self.renew.is_some()
    }

    /// Asks for a new subscription.
    pub fn renew(&self, what: Renew) {
        if let Some(renew) = &self.renew {
            renew(what);
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("outage", &self.outage())
            .finish_non_exhaustive()
    }
}
