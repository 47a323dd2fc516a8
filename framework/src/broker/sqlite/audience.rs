//! Broadcasts among the processes that share the file: who listens to what, and the latest announcements. They are
//! stored only where somebody listens, and deleted after some seconds.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, Result, params};
use tokio::sync::mpsc;

use super::command::{Job, Request};
use super::engine::Engine;
use crate::broker::{Channel, ChannelKind};
use crate::message::Message;

/// How long an announcement is kept for those who listen, in milliseconds: every process looks several times a second.
const KEPT: i64 = 10_000;
/// Announcements read at a time.
const READ_AT_ONCE: i64 = 256;

/// Names of the channels that somebody listens to, in whatever process.
pub(super) type Heard = Arc<Mutex<HashSet<String>>>;

/// One who listens, in this process.
pub(super) struct Ear {
    pub(super) channel: Channel,
    pub(super) name: String,
    pub(super) sender: mpsc::Sender<Message>,
}

/// Those who listen in this process.
#[derive(Default)]
pub(super) struct Audience {
    pub(super) ears: BTreeMap<u64, Ear>,
    /// The last announcement that was handed out.
    seen: i64,
    /// Whether this process has announced something itself since it looked.
    pub(super) news: bool,
}

impl Engine {
    /// Notes that somebody listens from now on.
    pub(super) fn listens(&mut self, number: u64, ear: Ear) {
        if self.members.audience.ears.is_empty() {
            match last(&self.db) {
                Ok(last) => self.members.audience.seen = last,
                Err(error) => self.complain("looking for announcements", &error),
            }
        }
        self.members.audience.ears.insert(number, ear);
    }

    /// Hands out what was announced, by whatever process.
    pub(super) fn hear(&mut self) {
        self.members.audience.news = false;
        if let Err(error) = self.try_hear() {
            self.complain("looking for announcements", &error);
        }
    }

    fn try_hear(&mut self) -> Result<()> {
        let channels = channels(&self.db)?;
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = channels;
        let audience = &mut self.members.audience;
        while !audience.ears.is_empty() {
            let rows = after(&self.db, audience.seen)?;
            let Some((last, ..)) = rows.last() else {
                break;
            };
            audience.seen = *last;
            for (_, channel, key, message) in rows {
                for ear in audience.ears.values() {
                    let is_for_it = ear.channel.kind != ChannelKind::Reply || ear.name == key;
                    if is_for_it && ear.channel.name() == channel {
                        // Who is too far behind misses it.
                        let _ = ear.sender.try_send(message.clone());
                    }
                }
            }
        }
        Ok(())
    }

    /// Has those taken off who do not listen any more.
    pub(super) fn tend_audience(&self, jobs: &mut Vec<Job>) {
        let ears = self.members.audience.ears.iter();
        let gone = ears.filter(|(_, ear)| ear.sender.is_closed());
        jobs.extend(gone.map(|(number, _)| Job::silent(Request::Unlisten(*number))));
    }
}

/// Adds one who listens; false if it is to be the only one of its name and is not.
pub(super) fn add_listener(
    db: &Connection,
    me: i64,
    number: u64,
    channel: &Channel,
    name: &str,
) -> Result<bool> {
    let channel_name = channel.name();
    let taken = channel.kind == ChannelKind::Control
        && db
            .prepare_cached(
                "SELECT 1 FROM listener WHERE channel = ?1 AND name = ?2
                 AND NOT (process = ?3 AND number = ?4)",
            )?
            .exists(params![channel_name, name, me, number.cast_signed()])?;
    if !taken {
        db.prepare_cached(
            "INSERT OR REPLACE INTO listener (process, number, channel, name) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![me, number.cast_signed(), channel_name, name])?;
    }
    Ok(!taken)
}

pub(super) fn remove_listener(db: &Connection, me: i64, number: u64) -> Result<()> {
    db.prepare_cached("DELETE FROM listener WHERE process = ?1 AND number = ?2")?
        .execute(params![me, number.cast_signed()])?;
    Ok(())
}

/// Stores an announcement if somebody listens, and forgets old ones. Returns the ports of other processes in which
/// somebody does.
pub(super) fn announce(
    db: &Connection,
    me: i64,
    now: i64,
    (channel, key): (&str, &str),
    (envelope, body): (&str, &[u8]),
) -> Result<Vec<u16>> {
    let stored = db
        .prepare_cached(
            "INSERT INTO announcement (channel, key, at, envelope, body) SELECT ?1, ?2, ?3, ?4, ?5
             WHERE EXISTS (SELECT 1 FROM listener WHERE channel = ?1)",
        )?
        .execute(params![channel, key, now, envelope, body])?;
    if stored == 0 {
        return Ok(Vec::new());
    }
    forget(db, now)?;
    db.prepare_cached(
        "SELECT DISTINCT port FROM process JOIN listener ON process = id WHERE channel = ?1 AND id <> ?2",
    )?
    .query_map(params![channel, me], |row| row.get(0))?
    .collect()
}

/// Forgets what everybody has had the time to hear.
pub(super) fn forget(db: &Connection, now: i64) -> Result<()> {
    db.prepare_cached("DELETE FROM announcement WHERE at < ?1")?
        .execute([now - KEPT])?;
    Ok(())
}

fn last(db: &Connection) -> Result<i64> {
    db.prepare_cached(
        "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'announcement'",
    )?
    .query_row([], |row| row.get(0))
}

fn channels(db: &Connection) -> Result<HashSet<String>> {
    db.prepare_cached("SELECT DISTINCT channel FROM listener")?
        .query_map([], |row| row.get(0))?
        .collect()
}

fn after(db: &Connection, seen: i64) -> Result<Vec<(i64, String, String, Message)>> {
    db.prepare_cached(
        "SELECT seq, channel, key, envelope, body FROM announcement WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    )?
    .query_map([seen, READ_AT_ONCE], |row| {
        let envelope: String = row.get(3)?;
        let mut message: Message = serde_json::from_str(&envelope).unwrap_or_default();
        message.body = row.get::<_, Vec<u8>>(4)?.into();
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, message))
    })?
    .collect()
}
