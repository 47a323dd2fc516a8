//! The SQLite broker against what only it can meet: several processes on one file, kill -9, a full disk,
//! a file that is something else. What every broker must do is said elsewhere.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "sqlite/child.rs"]
mod child;
#[path = "sqlite/damage.rs"]
mod damage;
#[path = "sqlite/disk.rs"]
mod disk;
#[path = "sqlite/files.rs"]
mod files;
#[path = "sqlite/killed.rs"]
mod killed;
#[path = "sqlite/locks.rs"]
mod locks;
#[path = "sqlite/place.rs"]
mod place;
#[path = "sqlite/processes.rs"]
mod processes;
#[path = "sqlite/settling.rs"]
mod settling;
