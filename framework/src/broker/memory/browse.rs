//! Looks at a memory queue: a place in it is remembered, and nothing is taken.

use std::sync::Arc;

use tokio::time::Instant;

use super::Shared;
use super::queue::Place;
use crate::broker::{BoxFuture, Browse, Delivery, Publish, Settle, Stale, Unstored, Until};
use crate::error::{Error, Result};

/// Starts at the queue's head.
pub(super) fn start(shared: &Arc<Shared>, queue: &str) -> Result<Box<dyn Browse>> {
    let mut state = shared.lock();
    let found = state.open()?.queues.get(queue);
    let found = found.ok_or_else(|| missing(queue))?;
    Ok(Box::new(Look {
        shared: shared.clone(),
        queue: queue.to_owned(),
        incarnation: found.incarnation,
        behind: None,
    }))
}

fn missing(queue: &str) -> Error {
    Error::Refused {
        what: format!("a look at queue `{queue}`"),
        reason: "there is no such queue".into(),
    }
}

struct Look {
    shared: Arc<Shared>,
    queue: String,
    incarnation: u64,
    behind: Option<Place>,
}

impl Look {
    fn page(&mut self, limit: usize) -> Result<Vec<Delivery>> {
        let mut state = self.shared.lock();
        let queue = state.open()?.queues.get_mut(&self.queue);
        let queue = queue.filter(|queue| queue.incarnation == self.incarnation);
        let queue = queue.ok_or_else(|| missing(&self.queue))?;
        let found = queue.behind(self.behind, limit, Instant::now());
        if let Some((place, _)) = found.last() {
            self.behind = Some(*place);
        }
        let shown = found.into_iter().map(|(place, stored)| {
            let settle = Shown {
                shared: self.shared.clone(),
                queue: self.queue.clone(),
                incarnation: self.incarnation,
                place,
            };
            let stale = Stale::new(self.shared.ended.subscribe());
            stored.delivery(&self.queue, stale, Box::new(settle))
        });
        Ok(shown.collect())
    }
}

impl Browse for Look {
    fn next(&mut self, limit: usize) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        Box::pin(async move { self.page(limit) })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// A message that was shown, and is where it was.
struct Shown {
    shared: Arc<Shared>,
    queue: String,
    incarnation: u64,
    place: Place,
}

impl Settle for Shown {
    fn ack(&mut self, first: Vec<Publish>, _: Until) -> BoxFuture<'_, Result<(), Unstored>> {
        Box::pin(async move {
            let mut state = self.shared.lock();
            let there = state.queues.get(&self.queue).is_some_and(|queue| {
                queue.incarnation == self.incarnation && queue.has(self.place)
            });
            if state.closed || !there {
                let queue = self.queue.clone();
                return Err(Error::Stale { queue }.into());
            }
            state.publish(first, Instant::now())?;
            if let Some(queue) = state.queues.get_mut(&self.queue) {
                queue.remove(self.place);
            }
            Ok(())
        })
    }

    fn release(self: Box<Self>) -> BoxFuture<'static, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}
