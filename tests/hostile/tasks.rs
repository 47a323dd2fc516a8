//! The tasks that hostile calls name, and their worker.

use garenne::{App, TaskError, Worker, task};
use serde_json::Value;

/// Takes only what the functions below take, one or more at a time.
pub(crate) fn worker(app: &App, queue: &str) -> Worker {
    Worker::new(app).queue(queue, 2)
}

#[task]
pub(crate) async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task]
pub(crate) async fn echo(value: Value) -> Value {
    value
}

/// Fails with `size` bytes of text that no terminal should show.
#[task]
pub(crate) async fn fail(size: usize) -> Result<(), TaskError> {
    Err("\u{1b}[2J\r\n".repeat(size / 6).into())
}

/// Returns `size` bytes.
#[task]
pub(crate) async fn grow(size: usize) -> String {
    "x".repeat(size)
}
