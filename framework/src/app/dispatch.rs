//! The way of a message into the broker: it is checked, what it needs is declared, and it is published.

use std::sync::Arc;
use std::time::Duration;

use super::App;
use crate::broker::{Exchange, Publish, Queue, Route};
use crate::error::{Error, Result};
use crate::message::{Arguments, BODY_DEPTH_LIMIT, Message, format_time, is_deeper};
use crate::waiters::Waiting;

/// What an app is given to send: a message, and what must be there before it.
pub(crate) struct Outgoing {
    pub(crate) message: Message,
    pub(crate) route: Route,
    pub(crate) queue: Queue,
    pub(crate) exchange: Option<Exchange>,
    pub(crate) delay: Duration,
    pub(crate) wants_reply: bool,
}

impl Outgoing {
    /// Says in headers what Celery's workers would not find elsewhere: the call with these `arguments` may go to one.
    pub(crate) fn spell_out(&mut self, arguments: &Arguments) {
        self.message.spell_out(arguments);
        if !self.wants_reply {
            // A worker of ours has nobody to send one to; one of Celery's would keep it.
            self.message.set("ignore_result", true);
        }
    }
}

impl App {
    /// Sends a message; returns the wait for its reply, if it wants one.
    pub(crate) async fn send(&self, outgoing: Box<Outgoing>) -> Result<Option<Arc<Waiting>>> {
        let deadline = self.send_timeout();
        let route = outgoing.route.clone();
        // Everything on the way has a deadline of its own; this one is for their sum.
        tokio::time::timeout(deadline + crate::SECOND, self.publish(outgoing))
            .await
            .unwrap_or_else(|_| {
                Err(Error::Unconfirmed {
                    route: route.to_string(),
                    waited: deadline,
                })
            })
    }

    /// What it is given stays in its box until the broker takes it: the future of each call under way has room for
    /// all that it holds at any time.
    async fn publish(&self, mut outgoing: Box<Outgoing>) -> Result<Option<Arc<Waiting>>> {
        self.check(&mut outgoing.message)?;
        let mut waiting = None;
        if outgoing.wants_reply {
            outgoing.message.reply_to = Some(self.reply_address().await?.to_owned());
            waiting = Some(self.await_reply(&outgoing.message.id)?);
        }
        match &outgoing.exchange {
            Some(exchange) => {
                self.declare_exchange(&exchange.prefixed(self.prefix()))
                    .await?;
                let publish = self.physical(outgoing.route, outgoing.message, outgoing.delay);
                self.inner.broker.publish(publish).await?;
            }
            None => {
                let queue = outgoing.queue.prefixed(self.prefix());
                self.declare_queue(&queue).await?;
                let publish = self.physical(outgoing.route, outgoing.message, outgoing.delay);
                self.inner.broker.publish_to(&queue, publish).await?;
            }
        }
        #[cfg(feature = "redis")]
        self.follow(waiting.as_deref());
        Ok(waiting)
    }

    /// Makes the message what its origin wants it to be, and refuses it where it is out of bounds.
    pub(crate) fn check(&self, message: &mut Message) -> Result<()> {
        if let Some(origin) = &self.origin {
            message.descend_from(origin);
        }
        message.hide_far_expiry(self.now());
        check_deadline(message)?;
        let (size, limit) = (message.body.len(), self.max_message_size());
        if size > limit {
            let task = message.text("task").unwrap_or_default().to_owned();
            return Err(Error::TooLarge { task, size, limit });
        }
        if is_deeper(&message.body, BODY_DEPTH_LIMIT) {
            let reason = format!(
                "its arguments are nested more than {BODY_DEPTH_LIMIT} deep: no worker could read them"
            );
            return Err(Error::invalid("call", &message.id, reason));
        }
        message
            .check_headers()
            .map_err(|unreadable| Error::invalid("call", &message.id, unreadable.0))
    }

    /// Awaits the reply to the call `id` from now on.
    pub(crate) fn await_reply(&self, id: &str) -> Result<Arc<Waiting>> {
        self.inner.waiters.add(id)
    }

    /// Makes sure that a queue which is known by its name on the broker exists.
    pub(crate) async fn declare_route(&self, route: &Route) -> Result<()> {
        match route {
            Route::Queue(name) => self.declare_queue(&Queue::new(name)).await,
            _ => Ok(()),
        }
    }

    /// The same for a queue of workers that do not know ours: it is not made where only they know how. See
    /// [`Queue::of_others`].
    pub(crate) async fn find_route(&self, route: &Route) -> Result<()> {
        match route {
            Route::Queue(name) => self.declare_queue(&Queue::new(name).of_others()).await,
            _ => Ok(()),
        }
    }

    /// As [`declare_route`](Self::declare_route), for a queue that is not there though it was declared.
    pub(crate) async fn declare_anew(&self, route: &Route) -> Result<()> {
        self.forget_route(route);
        self.declare_route(route).await
    }

    /// As [`find_route`](Self::find_route), for a queue that is not there though it was found.
    pub(crate) async fn find_anew(&self, route: &Route) -> Result<()> {
        self.forget_route(route);
        self.find_route(route).await
    }

    fn forget_route(&self, route: &Route) {
        if let Route::Queue(name) = route {
            self.inner.declared.forget(name);
        }
    }

    /// The message as the broker gets it.
    fn physical(&self, route: Route, message: Message, delay: Duration) -> Publish {
        Publish {
            route: self.physical_route(route),
            message,
            delay,
            deadline: self.send_timeout(),
        }
    }

    fn physical_route(&self, route: Route) -> Route {
        match route {
            Route::Queue(mut name) => {
                name.insert_str(0, self.prefix());
                Route::Queue(name)
            }
            Route::Exchange {
                exchange,
                routing_key,
            } => Route::Exchange {
                exchange: format!("{}{exchange}", self.prefix()),
                routing_key,
            },
            // Their names are the wire's already.
            route @ (Route::Reply(_) | Route::Join { .. }) => route,
        }
    }

    pub(super) async fn declare_queue(&self, queue: &Queue) -> Result<()> {
        if queue.bindings.is_empty() && self.inner.declared.contains(queue.name()) {
            return Ok(());
        }
        self.inner.broker.declare(queue).await?;
        self.inner.declared.remember(queue.name());
        Ok(())
    }

    async fn declare_exchange(&self, exchange: &Exchange) -> Result<()> {
        // The kind is part of the key, so that a second kind under one name gets its warning.
        let key = format!("{}:{}", exchange.kind().as_str(), exchange.name());
        if !self.inner.declared.contains(&key) {
            self.inner.broker.declare_exchange(exchange).await?;
            self.inner.declared.remember(&key);
        }
        Ok(())
    }
}

/// Refuses a call that could never run, since it is due only after its deadline.
fn check_deadline(message: &Message) -> Result<()> {
    match (message.eta(), message.deadline()) {
        (Some(eta), Some(deadline)) if eta >= deadline => {
            let reason = format!(
                "the call is not due before {}, so it could never run (inside a task it inherits the deadline of the task's own call)",
                format_time(eta)
            );
            Err(Error::invalid("deadline", format_time(deadline), reason))
        }
        _ => Ok(()),
    }
}
