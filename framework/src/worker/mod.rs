//! placeholder
use crate::{App, Error, Queue};
use std::future::Future;
/// placeholder
#[derive(Debug)]
pub struct Worker {}
/// placeholder
#[derive(Debug)]
pub struct RunningWorker {}
impl Worker {
    /// placeholder
    pub fn new(_: &App) -> Self {
        Self {}
    }
    /// placeholder
    pub fn queue(self, _: impl Into<Queue>, _: usize) -> Self {
        self
    }
    /// placeholder
    pub fn register<T: crate::Task>(self) -> Self {
        self
    }
    /// placeholder
    pub fn spawn(self) -> RunningWorker {
        RunningWorker {}
    }
}
impl RunningWorker {
    /// placeholder
    pub async fn stop(self) -> Result<(), Error> {
        Ok(())
    }
}
/// placeholder
pub fn shutdown_signal() -> impl Future<Output = ()> {
    async {}
}
