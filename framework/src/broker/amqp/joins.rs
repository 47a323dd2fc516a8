//! Joins on RabbitMQ.

use std::sync::Arc;

use super::send::Core;
use crate::broker::{Join, is_join};
use crate::error::{Error, Result};
use crate::message::Message;

fn missing(join: &str) -> Error {
    Error::Refused {
        what: format!("join `{join}`"),
        reason: "this broker has no joins yet".into(),
    }
}

/// Opens a join.
pub(super) async fn open(_core: Arc<Core>, join: Join) -> Result<()> {
    let _ = join.queue()?;
    Err(missing(&join.name))
}

/// Fires a join that is complete.
pub(super) async fn check(_core: &Core, join: &str, _parts: u32, _fire: bool) -> Result<()> {
    if is_join(join) {
        Err(missing(join))
    } else {
        Ok(())
    }
}

/// The parts that are there.
pub(super) async fn parts(_core: &Core, join: &str) -> Result<Option<Vec<Message>>> {
    if is_join(join) {
        Err(missing(join))
    } else {
        Ok(None)
    }
}

/// Forgets a join.
pub(super) async fn close(_core: &Core, _join: &str) -> Result<()> {
    Ok(())
}
