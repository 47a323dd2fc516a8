//! One publish in flight: lapin's future for it, which is large, in memory that the next one uses again.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Confirmation};

use super::publish::Request;

/// How a publish ended.
pub(super) type Outcome = lapin::Result<Confirmation>;

/// Memory for one publish at a time.
pub(super) trait Flight: Send {
    /// Begins a publish. Nothing happens before it is polled.
    fn begin(&mut self, channel: Arc<Channel>, request: Arc<Request>, properties: BasicProperties);

    /// Polls what was begun; pending where nothing was.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome>;

    /// Drops what is left of it.
    fn end(&mut self);
}

/// Memory for a publish, which has none yet.
pub(super) fn flight() -> Box<dyn Flight> {
    Box::new(Reused {
        publish,
        future: Box::pin(None),
    })
}

struct Reused<F> {
    /// The only one who can name the future's type.
    publish: fn(Arc<Channel>, Arc<Request>, BasicProperties) -> F,
    future: Pin<Box<Option<F>>>,
}

impl<F: Future<Output = Outcome> + Send> Flight for Reused<F> {
    fn begin(&mut self, channel: Arc<Channel>, request: Arc<Request>, properties: BasicProperties) {
        self.future
            .set(Some((self.publish)(channel, request, properties)));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Some(future) = self.future.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        let polled = future.poll(cx);
        if polled.is_ready() {
            self.end();
        }
        polled
    }

    fn end(&mut self) {
        self.future.set(None);
    }
}

async fn publish(
    channel: Arc<Channel>,
    request: Arc<Request>,
    properties: BasicProperties,
) -> Outcome {
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let (exchange, key) = (request.exchange.clone(), request.routing_key.clone());
    channel
        .basic_publish(exchange, key, options, &request.body, properties)
        .await?
        .await
}
