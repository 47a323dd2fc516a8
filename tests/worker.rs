//! Calls and workers, the same on every broker.

#[path = "worker/ahead.rs"]
mod ahead;
#[path = "worker/alone.rs"]
mod alone;
#[path = "worker/calling.rs"]
mod calling;
#[path = "worker/children.rs"]
mod children;
#[path = "worker/dead_letters.rs"]
mod dead_letters;
#[path = "worker/failing.rs"]
mod failing;
#[path = "worker/following.rs"]
mod following;
#[path = "worker/health.rs"]
mod health;
#[path = "worker/progress.rs"]
mod progress;
#[path = "worker/routing.rs"]
mod routing;
#[path = "worker/shards.rs"]
mod shards;
mod support;
#[path = "worker/tasks.rs"]
mod tasks;
#[path = "worker/timing.rs"]
mod timing;
