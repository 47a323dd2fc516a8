//! The SQL of messages: one function a statement or two, each on a connection whose transaction the caller holds.
//! Knows nothing of threads, channels or other processes' sockets.

use std::hash::{DefaultHasher, Hash, Hasher};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Result, Row, params};

use super::outgoing::Outgoing;
use crate::broker::{Delivery, Settle, Stale};
use crate::message::{Message, header};

/// Due messages made ready at a time, so that no one transaction takes long.
const PROMOTED_AT_ONCE: i64 = 1000;
/// Rows forgotten at a time, for the same reason.
const PRUNED_AT_ONCE: i64 = 5000;

/// A message as it is claimed.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) seq: i64,
    pub(super) priority: u8,
    pub(super) losses: u32,
    pub(super) redelivered: bool,
    pub(super) exchange: Option<String>,
    pub(super) routing_key: Option<String>,
    pub(super) packed: Packed,
}

/// A message as it is in the file. Who takes it reads it, so that the writer thread need not.
#[derive(Debug)]
pub(super) struct Packed {
    /// The message without its body, in JSON.
    pub(super) envelope: Vec<u8>,
    pub(super) body: Option<Vec<u8>>,
}

impl Packed {
    /// The message. One that cannot be read says so in a header: its worker then puts it to the dead letters as
    /// unreadable.
    pub(super) fn message(self) -> Message {
        let mut message: Message = serde_json::from_slice(&self.envelope).unwrap_or_else(|error| {
            malformed(format!("its envelope in the file cannot be read: {error}"))
        });
        match self.body {
            Some(body) => message.body = body.into(),
            None => message.set(header::MALFORMED, "its body is not in the file any more"),
        }
        message
    }
}

impl Taken {
    /// The delivery of this message from `queue`.
    pub(super) fn delivery(self, queue: &str, stale: Stale, settle: Box<dyn Settle>) -> Delivery {
        let message = self.packed.message();
        // A copy of a message says how often that one came back.
        let past = message.count(header::DELIVERIES).unwrap_or(0);
        let mut delivery = Delivery::new(queue, message, stale, settle);
        delivery.redelivered = self.redelivered;
        delivery.deliveries = self.losses.saturating_add(past).saturating_add(1);
        delivery.exchange = self.exchange.unwrap_or_default();
        if let Some(key) = self.routing_key {
            delivery.routing_key = key;
        }
        delivery
    }
}

/// Stores one copy of a message in a queue.
pub(super) fn insert(
    db: &Connection,
    queue: &str,
    priority: u8,
    prune_at: Option<i64>,
    exchange: Option<(&str, &str)>,
    outgoing: &Outgoing,
) -> Result<()> {
    db.prepare_cached(
        "INSERT INTO message (queue, priority, due, prune_at, exchange, routing_key, envelope, body)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        queue,
        priority,
        outgoing.due,
        prune_at,
        exchange.map(|(name, _)| name),
        exchange.map(|(_, key)| key),
        outgoing.envelope,
        outgoing.body,
    ])?;
    Ok(())
}

/// Makes ready what has become due in a queue.
pub(super) fn promote(db: &Connection, queue: &str, now: i64) -> Result<()> {
    db.prepare_cached(
        "UPDATE message SET due = NULL WHERE seq IN
         (SELECT seq FROM message WHERE queue = ?1 AND due IS NOT NULL AND due <= ?2
          ORDER BY due LIMIT ?3)",
    )?
    .execute(params![queue, now, PROMOTED_AT_ONCE])?;
    Ok(())
}

/// When the earliest delayed message of a queue is due.
pub(super) fn next_due(db: &Connection, queue: &str) -> Result<Option<i64>> {
    db.prepare_cached("SELECT min(due) FROM message WHERE queue = ?1 AND due IS NOT NULL")?
        .query_row([queue], |row| row.get(0))
}

pub(super) fn has_ready(db: &Connection, queue: &str) -> Result<bool> {
    db.prepare_cached(
        "SELECT 1 FROM message WHERE queue = ?1 AND owner IS NULL AND due IS NULL LIMIT 1",
    )?
    .exists([queue])
}

/// Takes the next `limit` ready messages of a queue for this process, in the order of their delivery.
pub(super) fn claim(db: &Connection, me: i64, queue: &str, limit: usize) -> Result<Vec<Taken>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut taken: Vec<Taken> = db
        .prepare_cached(
            "UPDATE message SET owner = ?1 WHERE seq IN
             (SELECT seq FROM message WHERE queue = ?2 AND owner IS NULL AND due IS NULL
              ORDER BY priority DESC, seq LIMIT ?3)
             RETURNING seq, priority, losses, redelivered, exchange, routing_key, envelope, body",
        )?
        .query_map(params![me, queue, limit], read)?
        .collect::<Result<_>>()?;
    check_index(db, queue, limit, taken.len())?;
    // The order of returned rows is not the subquery's.
    taken.sort_unstable_by_key(|taken| (std::cmp::Reverse(taken.priority), taken.seq));
    Ok(taken)
}

/// Takes the next replies out of a reply queue for good.
pub(super) fn take_replies(db: &Connection, queue: &str, limit: usize) -> Result<Vec<Packed>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut taken: Vec<Taken> = db
        .prepare_cached(
            "DELETE FROM message WHERE seq IN
             (SELECT seq FROM message WHERE queue = ?1 AND owner IS NULL AND due IS NULL
              ORDER BY priority DESC, seq LIMIT ?2)
             RETURNING seq, priority, losses, redelivered, exchange, routing_key, envelope, body",
        )?
        .query_map(params![queue, limit], read)?
        .collect::<Result<_>>()?;
    check_index(db, queue, limit, taken.len())?;
    taken.sort_unstable_by_key(|taken| (std::cmp::Reverse(taken.priority), taken.seq));
    Ok(taken.into_iter().map(|taken| taken.packed).collect())
}

/// An entry of a damaged index that leads to no message would be found again and again, and keep the
/// messages behind it from ever being taken.
fn check_index(db: &Connection, queue: &str, limit: i64, taken: usize) -> Result<()> {
    if i64::try_from(taken).unwrap_or(i64::MAX) < limit && has_ready(db, queue)? {
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT_INDEX),
            Some(format!(
                "the index of queue `{queue}` names messages that are not there"
            )),
        ));
    }
    Ok(())
}

/// Whatever another program, or a damaged disk, has put in the place of its values, it does not block the queue.
fn read(row: &Row<'_>) -> Result<Taken> {
    let bytes = |column| -> Result<Option<&[u8]>> {
        Ok(match row.get_ref(column)? {
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(bytes),
            _ => None,
        })
    };
    let text = |column| -> Result<Option<String>> {
        Ok(bytes(column)?.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
    };
    let number = |column| -> Result<i64> {
        Ok(match row.get_ref(column)? {
            ValueRef::Integer(number) => number.max(0),
            _ => 0,
        })
    };
    Ok(Taken {
        seq: row.get(0)?,
        priority: u8::try_from(number(1)?).unwrap_or(u8::MAX),
        losses: u32::try_from(number(2)?).unwrap_or(u32::MAX),
        redelivered: number(3)? != 0,
        exchange: text(4)?,
        routing_key: text(5)?,
        packed: Packed {
            envelope: bytes(6)?.unwrap_or_default().to_vec(),
            body: bytes(7)?.map(<[u8]>::to_vec),
        },
    })
}

fn malformed(text: String) -> Message {
    let mut message = Message::default();
    message.set(header::MALFORMED, text);
    message
}

/// Deletes a settled message; false if this process does not hold it any more.
pub(super) fn settle(db: &Connection, me: i64, seq: i64) -> Result<bool> {
    let deleted = db
        .prepare_cached("DELETE FROM message WHERE seq = ?1 AND owner = ?2")?
        .execute([seq, me])?;
    Ok(deleted == 1)
}

/// Where a reader stands in a queue: behind the message of this priority and number.
pub(super) type Cursor = (u8, i64);

/// The ready messages of a queue behind a place, at most `limit`, in the order of their delivery; each
/// with its fingerprint.
pub(super) fn look(
    db: &Connection,
    queue: &str,
    behind: Option<Cursor>,
    limit: usize,
) -> Result<Vec<(Taken, u64)>> {
    let limit_of = |limit: usize| i64::try_from(limit).unwrap_or(i64::MAX);
    let read = |row: &Row<'_>| Ok((read(row)?, fingerprint(row.get_ref(6)?, row.get_ref(7)?)));
    let (priority, seq) = behind.unwrap_or((u8::MAX, i64::MIN));
    // Two statements, since one with both conditions would read the queue from its beginning each time.
    let mut found: Vec<_> = db
        .prepare_cached(
            "SELECT seq, priority, losses, redelivered, exchange, routing_key, envelope, body
             FROM message WHERE queue = ?1 AND owner IS NULL AND due IS NULL
             AND priority = ?2 AND seq > ?3 ORDER BY seq LIMIT ?4",
        )?
        .query_map(params![queue, priority, seq, limit_of(limit)], read)?
        .collect::<Result<_>>()?;
    let left = limit.saturating_sub(found.len());
    if left > 0 {
        let lower = db
            .prepare_cached(
                "SELECT seq, priority, losses, redelivered, exchange, routing_key, envelope, body
                 FROM message WHERE queue = ?1 AND owner IS NULL AND due IS NULL
                 AND priority < ?2 ORDER BY priority DESC, seq LIMIT ?3",
            )?
            .query_map(params![queue, priority, limit_of(left)], read)?
            .collect::<Result<Vec<_>>>()?;
        found.extend(lower);
    }
    Ok(found)
}

/// Takes an unclaimed message off its queue; false if it is not there any more. Its number alone does not
/// name it: numbers of deleted messages are given again.
pub(super) fn take(db: &Connection, queue: &str, seq: i64, print: u64) -> Result<bool> {
    let found = db
        .prepare_cached(
            "SELECT envelope, body FROM message
             WHERE seq = ?1 AND queue = ?2 AND owner IS NULL AND due IS NULL",
        )?
        .query_row(params![seq, queue], |row| {
            Ok(fingerprint(row.get_ref(0)?, row.get_ref(1)?))
        })
        .optional()?;
    if found != Some(print) {
        return Ok(false);
    }
    discard(db, seq)?;
    Ok(true)
}

fn fingerprint(envelope: ValueRef<'_>, body: ValueRef<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for value in [envelope, body] {
        value.as_bytes().unwrap_or_default().hash(&mut hasher);
    }
    hasher.finish()
}

/// Gives a message back to its queue, whose name is returned, at no cost to it.
pub(super) fn release(db: &Connection, me: i64, seq: i64) -> Result<Option<String>> {
    db.prepare_cached(
        "UPDATE message SET owner = NULL, redelivered = 1 WHERE seq = ?1 AND owner = ?2 RETURNING queue",
    )?
    // Stepped to its end, which a single-row query is not: only then has it been carried out.
    .query_map([seq, me], |row| row.get(0))?
    .collect::<Result<Vec<_>>>()
    .map(|queues| queues.into_iter().next())
}

/// Deletes a message that nobody has claimed.
pub(super) fn discard(db: &Connection, seq: i64) -> Result<()> {
    db.prepare_cached("DELETE FROM message WHERE seq = ?1")?
        .execute([seq])?;
    Ok(())
}

/// Remembers that the call `id` is cancelled; it is due at `at`, or now.
pub(super) fn cancel(db: &Connection, id: &str, at: i64) -> Result<()> {
    db.prepare_cached(
        "INSERT INTO cancelled (id, at) VALUES (?1, ?2)
         ON CONFLICT (id) DO UPDATE SET at = max(at, excluded.at)",
    )?
    .execute(params![id, at])?;
    Ok(())
}

/// Cancelled ids after the place `after`, each with its own place.
pub(super) fn cancelled(db: &Connection, after: i64, limit: usize) -> Result<Vec<(i64, String)>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    db.prepare_cached("SELECT seq, id FROM cancelled WHERE seq > ?1 ORDER BY seq LIMIT ?2")?
        .query_map([after, limit], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// Forgets dead letters whose time is over, and calls cancelled before `cancelled_before`.
pub(super) fn prune(db: &Connection, now: i64, cancelled_before: i64) -> Result<()> {
    db.prepare_cached(
        "DELETE FROM message WHERE seq IN
         (SELECT seq FROM message WHERE prune_at IS NOT NULL AND prune_at <= ?1 AND owner IS NULL LIMIT ?2)",
    )?
    .execute([now, PRUNED_AT_ONCE])?;
    db.prepare_cached("DELETE FROM cancelled WHERE at < ?1")?
        .execute([cancelled_before])?;
    Ok(())
}

/// How many messages of all queues wait for their time.
pub(super) fn delayed(db: &Connection, now: i64) -> Result<u64> {
    db.prepare_cached("SELECT count(*) FROM message WHERE due IS NOT NULL AND due > ?1")?
        .query_row([now], |row| row.get(0).map(|n: i64| n.unsigned_abs()))
}

/// How many messages of a queue could be delivered now, its consumers, and how many messages wait for their
/// time; `None` without the queue.
pub(super) fn depth(db: &Connection, queue: &str, now: i64) -> Result<Option<[u64; 3]>> {
    db.prepare_cached(
        "SELECT (SELECT count(*) FROM message WHERE queue = ?1 AND owner IS NULL AND due IS NULL)
              + (SELECT count(*) FROM message WHERE queue = ?1 AND due IS NOT NULL AND due <= ?2),
                (SELECT count(*) FROM consumer WHERE queue = ?1),
                (SELECT count(*) FROM message WHERE queue = ?1 AND due IS NOT NULL AND due > ?2)
         FROM queue WHERE name = ?1",
    )?
    .query_row(params![queue, now], |row| {
        let count = |column| row.get(column).map(|n: i64| n.unsigned_abs());
        Ok([count(0)?, count(1)?, count(2)?])
    })
    .optional()
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
