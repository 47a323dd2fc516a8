//! Workflows, the same on every broker.

#[path = "workflows/chains.rs"]
mod chains;
#[path = "workflows/chords.rs"]
mod chords;
#[path = "workflows/failing.rs"]
mod failing;
#[path = "workflows/groups.rs"]
mod groups;
#[path = "workflows/joins.rs"]
mod joins;
mod support;
#[path = "workflows/tasks.rs"]
mod tasks;
