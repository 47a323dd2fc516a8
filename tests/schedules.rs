//! Schedulers, the same on every broker; and a day of schedules in memory, with paused time.

#[path = "schedules/running.rs"]
mod running;
#[path = "schedules/runtime.rs"]
mod runtime;
#[path = "schedules/several.rs"]
mod several;
mod support;
#[path = "schedules/tasks.rs"]
mod tasks;
#[path = "schedules/time.rs"]
mod time;
