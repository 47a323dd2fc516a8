//! The SQL of queues, exchanges and bindings, on a connection whose transaction the caller holds.

use rusqlite::{Connection, OptionalExtension, Result, params};

use crate::broker::{Binding, Exchange, ExchangeKind, HeaderMatch, Queue};

/// What a publish must know of a queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueueRow {
    pub(super) max_priority: Option<u8>,
    /// Whether it keeps dead letters, which are forgotten one day.
    pub(super) dead: bool,
}

/// Makes the queue unless it exists; what differs from the one that exists is returned in words.
pub(super) fn declare_queue(db: &Connection, me: i64, queue: &Queue) -> Result<Option<String>> {
    let made = db
        .prepare_cached(
            "INSERT INTO queue (name, max_priority, owner) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        )?
        .execute(params![queue.name(), queue.max_priority, queue.exclusive.then_some(me)])?;
    if queue.dead_letters {
        db.prepare_cached(
            "INSERT INTO queue (name, dead) VALUES (?1, 1)
             ON CONFLICT DO UPDATE SET dead = 1 WHERE dead = 0",
        )?
        .execute([queue.dead_letter_name()])?;
    }
    if made == 1 {
        return Ok(None);
    }
    let words = |limit: Option<u8>| limit.map_or("none".to_owned(), |limit| limit.to_string());
    let existing = find_queue(db, queue.name())?.and_then(|row| row.max_priority);
    Ok((existing != queue.max_priority).then(|| {
        format!(
            "its highest priority is {}, not {}",
            words(existing),
            words(queue.max_priority)
        )
    }))
}

pub(super) fn add_reply_queue(db: &Connection, me: i64, name: &str) -> Result<()> {
    // It is there where this process was taken for dead in the meantime.
    db.prepare_cached(
        "INSERT INTO queue (name, reply, owner) VALUES (?1, 1, ?2)
         ON CONFLICT DO UPDATE SET owner = excluded.owner",
    )?
    .execute(params![name, me])?;
    Ok(())
}

pub(super) fn find_queue(db: &Connection, name: &str) -> Result<Option<QueueRow>> {
    db.prepare_cached("SELECT max_priority, dead FROM queue WHERE name = ?1")?
        .query_row([name], |row| {
            Ok(QueueRow {
                max_priority: row.get(0)?,
                dead: row.get(1)?,
            })
        })
        .optional()
}

/// Deletes a queue and what waits in it; what is in consumers' hands only if not `keep_taken`.
pub(super) fn delete_queue(db: &Connection, name: &str, keep_taken: bool) -> Result<()> {
    // One statement for each index: no index has them all.
    db.prepare_cached("DELETE FROM message WHERE queue = ?1 AND owner IS NULL AND due IS NULL")?
        .execute([name])?;
    db.prepare_cached("DELETE FROM message WHERE queue = ?1 AND due IS NOT NULL")?
        .execute([name])?;
    if !keep_taken {
        db.prepare_cached(
            "DELETE FROM message INDEXED BY message_owner WHERE owner IS NOT NULL AND queue = ?1",
        )?
        .execute([name])?;
    }
    db.prepare_cached("DELETE FROM queue WHERE name = ?1")?
        .execute([name])?;
    Ok(())
}

/// Makes the exchange unless it exists; returns the kind that it has.
pub(super) fn declare_exchange(db: &Connection, exchange: &Exchange) -> Result<String> {
    db.prepare_cached("INSERT INTO exchange (name, kind) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
        .execute([exchange.name(), exchange.kind().as_str()])?;
    db.prepare_cached("SELECT kind FROM exchange WHERE name = ?1")?
        .query_row([exchange.name()], |row| row.get(0))
}

pub(super) fn bind(db: &Connection, queue: &str, binding: &Binding) -> Result<()> {
    let headers = serde_json::Value::Object(binding.headers.clone()).to_string();
    db.prepare_cached(
        "INSERT INTO binding (exchange, queue, routing_key, headers, every) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO NOTHING",
    )?
    .execute(params![
        binding.exchange.name(),
        queue,
        binding.routing_key,
        headers,
        binding.header_match == HeaderMatch::All
    ])?;
    Ok(())
}

/// The queues bound to an exchange, each with how; `None` if there is no such exchange.
pub(super) fn bindings(db: &Connection, exchange: &str) -> Result<Option<Vec<(String, Binding)>>> {
    let kind: Option<String> = db
        .prepare_cached("SELECT kind FROM exchange WHERE name = ?1")?
        .query_row([exchange], |row| row.get(0))
        .optional()?;
    let Some(kind) = kind else {
        return Ok(None);
    };
    let exchange = Exchange {
        name: exchange.to_owned(),
        kind: match kind.as_str() {
            "fanout" => ExchangeKind::Fanout,
            "topic" => ExchangeKind::Topic,
            "headers" => ExchangeKind::Headers,
            _ => ExchangeKind::Direct,
        },
    };
    db.prepare_cached("SELECT queue, routing_key, headers, every FROM binding WHERE exchange = ?1")?
        .query_map([exchange.name()], |row| {
            let headers: String = row.get(2)?;
            let binding = Binding {
                exchange: exchange.clone(),
                routing_key: row.get(1)?,
                headers: serde_json::from_str(&headers).unwrap_or_default(),
                header_match: if row.get(3)? {
                    HeaderMatch::All
                } else {
                    HeaderMatch::Any
                },
            };
            Ok((row.get(0)?, binding))
        })?
        .collect::<Result<_>>()
        .map(Some)
}
