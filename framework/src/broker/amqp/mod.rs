//! placeholder
use crate::broker::*;
use crate::error::Result;
/// placeholder
pub struct AmqpBroker;
impl AmqpBroker {
    /// placeholder
    pub async fn connect(_url: &url::BrokerUrl, _name: &str) -> Result<Self> {
        unimplemented!()
    }
}
impl Broker for AmqpBroker {
    fn declare<'a>(&'a self, _: &'a Queue) -> BoxFuture<'a, Result<()>> {
        unimplemented!()
    }
    fn declare_exchange<'a>(&'a self, _: &'a Exchange) -> BoxFuture<'a, Result<()>> {
        unimplemented!()
    }
    fn publish(&self, _: Publish) -> BoxFuture<'static, Result<()>> {
        unimplemented!()
    }
    fn consume<'a>(&'a self, _: &'a Queue, _: usize) -> BoxFuture<'a, Result<Consumer>> {
        unimplemented!()
    }
    fn replies(&self) -> BoxFuture<'_, Result<Replies>> {
        unimplemented!()
    }
    fn cancel<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<()>> {
        unimplemented!()
    }
    fn cancellations(&self) -> BoxFuture<'_, Result<Cancellations>> {
        unimplemented!()
    }
    fn depth<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Depth>> {
        unimplemented!()
    }
    fn delete<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<()>> {
        unimplemented!()
    }
    fn close(&self) -> BoxFuture<'_, ()> {
        unimplemented!()
    }
}
