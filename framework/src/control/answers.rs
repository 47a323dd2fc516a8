//! What workers answer, as far as Python's and ours have it in common.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Debug, Deserialize)]
pub(super) struct Pong {
    #[serde(rename = "ok")]
    _pong: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Said {
    pub(super) ok: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Scheduled {
    pub(super) request: ActiveCall,
}

/// A call that a worker has.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct ActiveCall {
    /// The call's id.
    pub id: String,
    /// The task's name.
    #[serde(rename = "name", default)]
    pub task: String,
    /// Its positional arguments.
    #[serde(default)]
    pub args: Value,
    /// Its keyword arguments.
    #[serde(default)]
    pub kwargs: Value,
    /// When the attempt began, in seconds since 1970; nothing if it has not.
    #[serde(default)]
    pub time_start: Option<f64>,
    /// Whether the broker has been told already that it is done.
    #[serde(default)]
    pub acknowledged: bool,
    /// How it came: exchange, routing key, priority.
    #[serde(default)]
    pub delivery_info: Map<String, Value>,
}

/// What a worker has of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum CallState {
    /// It runs.
    Active,
    /// It was taken, and does not run yet.
    Reserved,
    /// It waits for its time.
    Scheduled,
    /// It waits in a Python worker for a free process.
    Ready,
}

/// How a worker is.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "Map<String, Value>")]
#[non_exhaustive]
pub struct Stats {
    /// Its process.
    pub pid: u32,
    /// How long it has worked, in seconds.
    pub uptime: u64,
    /// Attempts begun since then, by task.
    pub total: BTreeMap<String, u64>,
    /// How many calls it runs at a time.
    pub slots: u64,
    /// All that it said.
    pub all: Map<String, Value>,
}

impl From<Map<String, Value>> for Stats {
    fn from(all: Map<String, Value>) -> Self {
        let number = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or_default();
        let total = all.get("total").and_then(Value::as_object);
        let pool = all.get("pool");
        Self {
            pid: u32::try_from(number(all.get("pid"))).unwrap_or_default(),
            uptime: number(all.get("uptime")),
            total: total
                .into_iter()
                .flatten()
                .map(|(task, count)| (task.clone(), number(Some(count))))
                .collect(),
            slots: number(pool.and_then(|pool| pool.get("max-concurrency"))),
            all,
        }
    }
}

/// A queue that a worker takes from.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct ActiveQueue {
    /// Its name.
    pub name: String,
    /// The key by which it is reached.
    #[serde(default)]
    pub routing_key: Option<String>,
    /// How many of its calls a worker of ours runs at a time.
    #[serde(default)]
    pub concurrency: Option<u64>,
}
