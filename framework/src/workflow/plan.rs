//! The part of a workflow that can be sent at once: its joins, and the calls that begin it. It travels as an
//! argument where it lies in the middle of a workflow. Pure.

use serde::{Deserialize, Serialize};

use crate::message::Signature;

/// What is to be sent at once.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Opened before any call is sent.
    pub(crate) joins: Vec<PlannedJoin>,
    /// Sent then, each with the input in front of its arguments, unless it wants none.
    pub(crate) calls: Vec<Signature>,
}

/// A join to be opened.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PlannedJoin {
    pub(crate) name: String,
    pub(crate) parts: u32,
    pub(crate) body: Signature,
}
