//! The way of a message into the broker: it is checked, what it needs is declared, and it is published.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::App;
use crate::broker::{Exchange, Publish, Queue, Route, in_sum};
use crate::error::{Error, Result};
use crate::message::{Arguments, BODY_DEPTH_LIMIT, Message, format_time, is_deeper};
use crate::waiters::Waiting;

/// What an app is given to send: a message, and what must be there before it.
pub(crate) struct Outgoing {
    pub(crate) message: Message,
    pub(crate) queue: Queue,
    /// The exchange that it goes through instead, and its routing key.
    pub(crate) exchange: Option<(Exchange, String)>,
    pub(crate) delay: Duration,
    pub(crate) wants_reply: bool,
}

impl Outgoing {
    /// Makes the names those of an app whose names all begin with `prefix`.
    fn put_prefix(&mut self, prefix: &str) {
        self.queue.put_prefix(prefix);
        if let Some((exchange, _)) = &mut self.exchange {
            exchange.put_prefix(prefix);
        }
    }

    /// Where it goes.
    fn route(&self) -> Route {
        Route::through(self.exchange.as_ref(), &self.queue)
    }

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
    pub(crate) async fn send(&self, mut outgoing: Box<Outgoing>) -> Result<Option<Arc<Waiting>>> {
        self.check(&mut outgoing.message)?;
        outgoing.put_prefix(self.prefix());
        if self.is_ready_for(&outgoing) {
            // The broker keeps the deadline: no timer has to be set for each call.
            return self.hand_over(outgoing).await;
        }
        let (began, route) = (Instant::now(), outgoing.route());
        let all = async {
            self.make_ready_for(&outgoing).await?;
            self.hand_over(outgoing).await
        };
        Box::pin(in_sum(self.send_timeout(), began, &route, all)).await
    }

    /// Whether all that has to be there before it is, as far as is known.
    fn is_ready_for(&self, outgoing: &Outgoing) -> bool {
        let has_address = !outgoing.wants_reply || self.inner.reply_address.initialized();
        has_address && outgoing.exchange.is_none() && self.is_declared(&outgoing.queue)
    }

    async fn make_ready_for(&self, outgoing: &Outgoing) -> Result<()> {
        if outgoing.wants_reply {
            self.reply_address().await?;
        }
        match &outgoing.exchange {
            Some((exchange, _)) => self.declare_exchange(exchange).await,
            None => self.declare_queue(&outgoing.queue).await,
        }
    }

    /// Hands the broker a message for which all is ready. It stays in its box until the broker takes it: the future of
    /// each call under way has room for all that it holds at any time.
    async fn hand_over(&self, mut outgoing: Box<Outgoing>) -> Result<Option<Arc<Waiting>>> {
        let mut waiting = None;
        if outgoing.wants_reply {
            outgoing.message.reply_to = Some(self.reply_address().await?.to_owned());
            waiting = Some(self.await_reply(&outgoing.message.id)?);
        }
        let publish = Publish {
            route: outgoing.route(),
            message: outgoing.message,
            delay: outgoing.delay,
            deadline: self.send_timeout(),
        };
        let publishing = match outgoing.exchange {
            Some(_) => self.inner.broker.publish(publish),
            None => self.inner.broker.publish_to(&outgoing.queue, publish),
        };
        publishing.await?;
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

    fn is_declared(&self, queue: &Queue) -> bool {
        queue.bindings.is_empty() && self.inner.declared.contains(queue.name())
    }

    pub(super) async fn declare_queue(&self, queue: &Queue) -> Result<()> {
        if self.is_declared(queue) {
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
