//! The SQL of joins, on a connection whose transaction the caller holds.

use rusqlite::{Connection, OptionalExtension, Result, params};

use super::outgoing::{Outgoing, Parking};
use super::store::Packed;
use crate::broker::Route;
use crate::message::Message;

/// Joins forgotten at a time, so that no one transaction takes long.
const PRUNED_AT_ONCE: i64 = 500;

/// How far a join is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) wanted: u32,
    pub(super) there: u32,
}

/// Opens a join, unless it is open or has fired.
pub(super) fn open(db: &Connection, parking: &Parking, now: i64) -> Result<()> {
    let opened = db
        .prepare_cached(
            "INSERT INTO open_join (name, wanted, used_at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        )?
        .execute(params![parking.join, parking.parts, now])?;
    if opened == 1 {
        let body = &parking.body;
        db.prepare_cached(
            "INSERT INTO join_body (name, queue, priority, delay, envelope, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            parking.join,
            parking.queue,
            body.priority,
            parking.delay,
            body.envelope,
            body.body
        ])?;
    }
    Ok(())
}

/// Keeps a part and says how far its join is; `None` if there is no such join.
pub(super) fn put(
    db: &Connection,
    join: &str,
    part: &Outgoing,
    now: i64,
) -> Result<Option<Progress>> {
    let new = db
        .prepare_cached(
            "INSERT INTO join_part (name, part, envelope, body)
             SELECT name, ?2, ?3, ?4 FROM open_join WHERE name = ?1 ON CONFLICT DO NOTHING",
        )?
        .execute(params![join, part.part, part.envelope, part.body])?;
    progress(db, join, new, now)
}

/// How far a join is with `new` parts more; `None` if there is no such join.
pub(super) fn progress(
    db: &Connection,
    join: &str,
    new: usize,
    now: i64,
) -> Result<Option<Progress>> {
    let new = i64::try_from(new).unwrap_or_default();
    db.prepare_cached(
        "UPDATE open_join SET there = there + ?2, used_at = ?3 WHERE name = ?1 RETURNING wanted, there",
    )?
    // Stepped to its end, which a single-row query is not: only then has it been carried out.
    .query_map(params![join, new, now], |row| {
        Ok(Progress {
            wanted: row.get(0)?,
            there: row.get(1)?,
        })
    })?
    .collect::<Result<Vec<_>>>()
    .map(|rows| rows.into_iter().next())
}

/// Takes a join's body out, with the queue that it goes to; `None` if it has gone.
pub(super) fn take_body(
    db: &Connection,
    join: &str,
    now: i64,
) -> Result<Option<(String, Outgoing)>> {
    let found = db
        .prepare_cached(
            "SELECT queue, priority, delay, envelope, body FROM join_body WHERE name = ?1",
        )?
        .query_row([join], |row| {
            let (queue, delay): (String, i64) = (row.get(0)?, row.get(2)?);
            let body = Outgoing {
                route: Route::Queue(queue.clone()),
                part: String::new(),
                headers: Default::default(),
                priority: row.get(1)?,
                // `now` has been rounded down.
                due: (delay > 0).then(|| now.saturating_add(delay).saturating_add(1)),
                envelope: row.get(3)?,
                body: row.get::<_, Vec<u8>>(4)?.into(),
            };
            Ok((queue, body))
        })
        .optional()?;
    if found.is_some() {
        db.prepare_cached("DELETE FROM join_body WHERE name = ?1")?
            .execute([join])?;
    }
    Ok(found)
}

/// The parts of a join, until their bodies have more than `most` bytes; `None` if there is no such join.
pub(super) fn parts(db: &Connection, join: &str, most: usize) -> Result<Option<Vec<Message>>> {
    let mut select = db.prepare_cached(
        "SELECT join_part.envelope, join_part.body
         FROM open_join LEFT JOIN join_part USING (name) WHERE open_join.name = ?1",
    )?;
    let (mut rows, mut parts, mut size) = (select.query([join])?, None, 0_usize);
    while size <= most
        && let Some(row) = rows.next()?
    {
        let parts = parts.get_or_insert_with(Vec::new);
        if let Some(envelope) = row.get::<_, Option<String>>(0)?.map(String::into_bytes) {
            let part = Packed {
                envelope,
                body: Some(row.get(1)?),
            };
            let part = part.message();
            size = size.saturating_add(part.body.len());
            parts.push(part);
        }
    }
    Ok(parts)
}

/// Forgets a join with all that is in it.
pub(super) fn close(db: &Connection, join: &str) -> Result<()> {
    db.prepare_cached("DELETE FROM open_join WHERE name = ?1")?
        .execute([join])?;
    Ok(())
}

/// Forgets joins that nobody has used since `unused_since`.
pub(super) fn prune(db: &Connection, unused_since: i64) -> Result<()> {
    db.prepare_cached(
        "DELETE FROM open_join WHERE name IN
         (SELECT name FROM open_join WHERE used_at < ?1 LIMIT ?2)",
    )?
    .execute([unused_since, PRUNED_AT_ONCE])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::sqlite::schema;

    fn parking(join: &str) -> Parking {
        Parking {
            join: join.to_owned(),
            parts: 2,
            queue: "q".into(),
            delay: 10,
            body: Outgoing::of(Route::Queue("q".into()), Message::default()).expect("JSON"),
        }
    }

    fn part(id: &str) -> Outgoing {
        let route = Route::Join {
            join: "j".into(),
            parts: 2,
            fire: false,
        };
        let message = Message {
            id: id.to_owned(),
            ..Message::default()
        };
        Outgoing::of(route, message).expect("JSON")
    }

    #[test]
    fn each_part_counts_once_and_the_body_goes_once() {
        let db = schema::in_memory();
        assert_eq!(put(&db, "j", &part("a"), 1).expect("run"), None);
        for _ in 0..2 {
            open(&db, &parking("j"), 1).expect("opened");
        }
        for (id, there) in [("a", 1), ("a", 1), ("b", 2)] {
            let progress = put(&db, "j", &part(id), 1).expect("run");
            assert_eq!(progress, Some(Progress { wanted: 2, there }));
        }
        let (queue, body) = take_body(&db, "j", 1000).expect("run").expect("a body");
        assert_eq!((queue.as_str(), body.due), ("q", Some(1011)));
        open(&db, &parking("j"), 1).expect("no error");
        assert!(take_body(&db, "j", 1000).expect("run").is_none());
        assert_eq!(
            parts(&db, "j", usize::MAX)
                .expect("run")
                .map(|parts| parts.len()),
            Some(2)
        );
    }

    #[test]
    fn a_join_goes_with_all_that_is_in_it_when_nobody_uses_it() {
        let db = schema::in_memory();
        open(&db, &parking("j"), 1).expect("opened");
        put(&db, "j", &part("a"), 5).expect("put");
        prune(&db, 5).expect("pruned");
        assert_eq!(
            parts(&db, "j", usize::MAX)
                .expect("run")
                .map(|parts| parts.len()),
            Some(1)
        );
        prune(&db, 6).expect("pruned");
        assert_eq!(parts(&db, "j", usize::MAX).expect("run"), None);
        for table in ["join_body", "join_part"] {
            let count = format!("SELECT count(*) FROM {table}");
            let left: i64 = db.query_row(&count, [], |row| row.get(0)).expect("a count");
            assert_eq!(left, 0, "{table}");
        }
    }
}
