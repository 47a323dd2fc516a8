//! A crate with a task, as an application's crate of tasks would be.

use garenne::task;

/// Greets.
#[task(name = "linked.greet")]
pub async fn greet(name: String) -> String {
    format!("hello from another crate, {name}")
}
