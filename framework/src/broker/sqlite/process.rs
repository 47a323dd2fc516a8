//! The SQL of the processes that share the file, and of their consumers, on a connection whose transaction the
//! caller holds.

use std::collections::BTreeSet;

use rusqlite::{Connection, Result, params};

use super::catalog;
use super::lease;
use crate::broker::is_reply_queue;

pub(super) fn add_process(db: &Connection, id: i64, port: u16, now: i64) -> Result<()> {
    db.prepare_cached("INSERT INTO process (id, port, pid, started_at) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![id, port, std::process::id(), now])?;
    Ok(())
}

/// Writes something into the process's row: SQLite would not write one that is as before.
pub(super) fn touch(db: &Connection, id: i64) -> Result<()> {
    db.prepare_cached(
        "UPDATE process SET started_at = started_at + 1 - 2 * (started_at % 2) WHERE id = ?1",
    )?
    .execute([id])?;
    Ok(())
}

pub(super) fn processes(db: &Connection) -> Result<Vec<i64>> {
    db.prepare_cached("SELECT id FROM process")?
        .query_map([], |row| row.get(0))?
        .collect()
}

/// Gives back all that a process holds and forgets it; `None` if someone else already has. Returns the
/// queues that got something back. `died` counts against the messages.
pub(super) fn remove_process(
    db: &Connection,
    id: i64,
    died: bool,
) -> Result<Option<BTreeSet<String>>> {
    if db
        .prepare_cached("DELETE FROM process WHERE id = ?1")?
        .execute([id])?
        == 0
    {
        return Ok(None);
    }
    let own: Vec<String> = db
        .prepare_cached("SELECT name FROM queue WHERE owner = ?1")?
        .query_map([id], |row| row.get(0))?
        .collect::<Result<_>>()?;
    for queue in &own {
        catalog::delete_queue(db, queue, false)?;
    }
    give_back(db, id, died).map(Some)
}

/// Who holds messages or leases and is no process any more.
pub(super) fn missing(db: &Connection) -> Result<Vec<i64>> {
    db.prepare_cached(
        "SELECT owner FROM (SELECT owner FROM message WHERE owner IS NOT NULL
         UNION SELECT owner FROM lease WHERE owner IS NOT NULL)
         WHERE owner NOT IN (SELECT id FROM process)",
    )?
    .query_map([], |row| row.get(0))?
    .collect()
}

/// Whether a process takes part, or others have taken it for dead.
pub(super) fn takes_part(db: &Connection, id: i64) -> Result<bool> {
    db.prepare_cached("SELECT 1 FROM process WHERE id = ?1")?
        .exists([id])
}

/// Gives back the messages and the leases that a process held. Returns the queues that got something back.
pub(super) fn give_back(db: &Connection, id: i64, died: bool) -> Result<BTreeSet<String>> {
    lease::free_all(db, id)?;
    // Left over of its exclusive queues that ended before their deliveries were settled.
    db.prepare_cached(
        "DELETE FROM message WHERE owner = ?1 AND queue NOT IN (SELECT name FROM queue)",
    )?
    .execute([id])?;
    let back = db
        .prepare_cached(
            "UPDATE message SET owner = NULL, losses = losses + ?2, redelivered = 1
             WHERE owner = ?1 RETURNING queue",
        )?
        .query_map(params![id, died], |row| row.get(0))?
        .collect::<Result<_>>()?;
    Ok(back)
}

pub(super) fn add_consumer(db: &Connection, me: i64, number: u64, queue: &str) -> Result<()> {
    db.prepare_cached(
        "INSERT INTO consumer (process, number, queue, hungry) VALUES (?1, ?2, ?3, 0)",
    )?
    .execute(params![me, number.cast_signed(), queue])?;
    Ok(())
}

pub(super) fn remove_consumer(db: &Connection, me: i64, number: u64) -> Result<()> {
    db.prepare_cached("DELETE FROM consumer WHERE process = ?1 AND number = ?2")?
        .execute(params![me, number.cast_signed()])?;
    Ok(())
}

/// Whether a queue has a consumer.
pub(super) fn is_consumed(db: &Connection, queue: &str) -> Result<bool> {
    db.prepare_cached("SELECT 1 FROM consumer WHERE queue = ?1")?
        .exists([queue])
}

/// Notes whether a consumer has free slots that its queue could not fill: such are to be woken.
pub(super) fn set_hungry(db: &Connection, me: i64, number: u64, hungry: bool) -> Result<()> {
    db.prepare_cached("UPDATE consumer SET hungry = ?3 WHERE process = ?1 AND number = ?2")?
        .execute(params![me, number.cast_signed(), hungry])?;
    Ok(())
}

/// The ports of other processes that wait for messages in a queue.
pub(super) fn waiting_ports(db: &Connection, me: i64, queue: &str) -> Result<Vec<u16>> {
    let sql = if is_reply_queue(queue) {
        "SELECT port FROM process WHERE id <> ?1 AND id =
         (SELECT owner FROM queue WHERE name = ?2 AND reply = 1)"
    } else {
        "SELECT port FROM process WHERE id <> ?1 AND id IN
         (SELECT process FROM consumer WHERE queue = ?2 AND hungry = 1)"
    };
    db.prepare_cached(sql)?
        .query_map(params![me, queue], |row| row.get(0))?
        .collect()
}

pub(super) fn other_ports(db: &Connection, me: i64) -> Result<Vec<u16>> {
    db.prepare_cached("SELECT port FROM process WHERE id <> ?1")?
        .query_map([me], |row| row.get(0))?
        .collect()
}
