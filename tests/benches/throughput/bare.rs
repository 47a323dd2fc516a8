//! What the embedded broker is compared with: the statements that the work needs, by hand, from one thread, on a file
//! with one table, each commit synced. What comes together shares a commit, and what was done is deleted in the commit
//! that takes the next. With the same headers, their text is stored and read as well, the table has our indexes, and what
//! is not confirmed to anybody is synced every ten milliseconds.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rusqlite::{Connection, TransactionBehavior, params};
use serde::de::IgnoredAny;

use crate::meter::{Sample, Stopwatch, latency};
use crate::post::{Letter, SAME_HEADERS, envelope, read_reply};
use crate::row::{AHEAD, IN_FLIGHT, Row, SENDERS, SLOTS, WINDOW};

const TABLE: &str = "
CREATE TABLE job (
    seq INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    owner INTEGER,
    id TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX job_ready ON job (queue, seq) WHERE owner IS NULL;
";
/// With the columns and indexes of ours that any message needs.
const TABLE_AS_OURS: &str = "
CREATE TABLE job (
    seq INTEGER PRIMARY KEY,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL DEFAULT 0,
    owner INTEGER,
    due INTEGER,
    id TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX job_ready ON job (queue, priority DESC, seq) WHERE owner IS NULL AND due IS NULL;
CREATE INDEX job_due ON job (queue, due) WHERE due IS NOT NULL;
CREATE INDEX job_owner ON job (owner) WHERE owner IS NOT NULL;
";
const TAKE: &str = "
UPDATE job SET owner = 1 WHERE seq IN
(SELECT seq FROM job WHERE queue = ?1 AND owner IS NULL ORDER BY seq LIMIT ?2)
RETURNING seq, id, body";
const TAKE_AS_OURS: &str = "
UPDATE job SET owner = 1 WHERE seq IN
(SELECT seq FROM job WHERE queue = ?1 AND owner IS NULL AND due IS NULL ORDER BY priority DESC, seq LIMIT ?2)
RETURNING seq, id, body";
/// How long ours leaves unsynced what nobody is told of.
const SOON: Duration = Duration::from_millis(10);
const CALLS: &str = "calls";
const REPLIES: &str = "replies";

/// A file and one connection to it.
pub(crate) struct Bare(Mutex<Connection>);

/// A job that was taken: its place, its id and its body.
type Job = (i64, String, Vec<u8>);

impl Bare {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let db = Connection::open(path)?;
        db.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
        db.pragma_update(None, "synchronous", "full")?;
        db.execute_batch(if *SAME_HEADERS { TABLE_AS_OURS } else { TABLE })?;
        Ok(Self(Mutex::new(db)))
    }

    pub(crate) fn measure(&self, row: Row, count: usize) -> Result<Sample> {
        let mut work = Work {
            db: self.0.lock().unwrap_or_else(PoisonError::into_inner),
            text: row.text(),
            synced: Instant::now(),
        };
        match row {
            Row::PublishOne => work.publish(1, count),
            Row::PublishMany => work.publish(SENDERS, count),
            Row::PublishAll | Row::Publish10K | Row::Publish1M => work.publish(WINDOW, count),
            Row::ConsumeOne => work.consume(1, count),
            Row::ConsumeMany | Row::Consume10K | Row::Consume1M => work.consume(SLOTS, count),
            Row::AheadOne => work.consume(1 + AHEAD, count),
            Row::AheadMany => work.consume(SLOTS + AHEAD, count),
            Row::RpcOne => work.rpc(1, count),
            Row::RpcMany => work.rpc(IN_FLIGHT, count),
            Row::EndToEnd => work.rpc(WINDOW, count),
        }
    }
}

struct Work<'a> {
    db: MutexGuard<'a, Connection>,
    text: String,
    synced: Instant,
}

impl Work<'_> {
    /// A transaction whose outcome somebody is told.
    fn confirm<T>(&mut self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.sync(true)?;
        self.commit(work)
    }

    fn transact<T>(&mut self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.sync(self.synced.elapsed() > SOON)?;
        self.commit(work)
    }

    fn sync(&mut self, now: bool) -> Result<()> {
        if now {
            self.synced = Instant::now();
        }
        if *SAME_HEADERS {
            let level = if now { "full" } else { "normal" };
            self.db.pragma_update(None, "synchronous", level)?;
        }
        Ok(())
    }

    fn commit<T>(&mut self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let tx = self
            .db
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done = work(&tx)?;
        tx.commit()?;
        Ok(done)
    }

    fn put(&mut self, numbers: std::ops::Range<usize>) -> Result<()> {
        let text = self.text.clone();
        let letters = numbers.map(|number| Letter::request(&CALLS.into(), number, &text));
        let about = |letter: Letter| match *SAME_HEADERS {
            true => (envelope(letter.id()), letter.body),
            false => (letter.id().to_owned(), letter.body),
        };
        let letters: Vec<_> = letters.map(about).collect();
        self.confirm(|db| {
            letters
                .iter()
                .try_for_each(|(about, body)| insert(db, CALLS, about, body))
        })
    }

    fn fill(&mut self, group: usize, count: usize) -> Result<()> {
        for from in (0..count).step_by(group) {
            self.put(from..count.min(from + group))?;
        }
        Ok(())
    }

    fn publish(&mut self, group: usize, count: usize) -> Result<Sample> {
        let watch = Stopwatch::start();
        self.fill(group, count)?;
        let sample = watch.stop(count);
        self.transact(|db| Ok(db.execute("DELETE FROM job", [])?))?;
        Ok(sample)
    }

    fn consume(&mut self, group: usize, count: usize) -> Result<Sample> {
        self.fill(WINDOW, count)?;
        let watch = Stopwatch::start();
        let mut done: Vec<i64> = Vec::new();
        let mut seen = 0;
        loop {
            let jobs = self.transact(|db| {
                delete(db, &done)?;
                take(db, CALLS, group)
            })?;
            if jobs.is_empty() {
                break;
            }
            seen += jobs.len();
            done.clear();
            for (seq, about, body) in jobs {
                id(about)?;
                let _: (IgnoredAny, IgnoredAny, IgnoredAny) = serde_json::from_slice(&body)?;
                done.push(seq);
            }
        }
        ensure!(seen == count, "{seen} of {count} jobs came");
        Ok(watch.stop(count))
    }

    /// A group of calls is sent, taken, answered, and its answers are taken.
    fn rpc(&mut self, group: usize, count: usize) -> Result<Sample> {
        let watch = Stopwatch::start();
        let mut times = Vec::<Duration>::new();
        for from in (0..count).step_by(group) {
            let sent = Instant::now();
            self.put(from..count.min(from + group))?;
            let jobs = self.transact(|db| take(db, CALLS, group))?;
            let mut replies = Vec::with_capacity(jobs.len());
            for (seq, about, body) in jobs {
                let id = id(about)?;
                let ((number, _text), _, _): ((u64, String), IgnoredAny, IgnoredAny) =
                    serde_json::from_slice(&body)?;
                replies.push((seq, Letter::answer(&id, number)?, id));
            }
            self.transact(|db| {
                for (seq, reply, id) in &replies {
                    insert(db, REPLIES, id, reply)?;
                    delete(db, &[*seq])?;
                }
                Ok(())
            })?;
            let answers = self.transact(|db| {
                let answers = take(db, REPLIES, group)?;
                let seqs: Vec<_> = answers.iter().map(|(seq, ..)| *seq).collect();
                delete(db, &seqs)?;
                Ok(answers)
            })?;
            for (_, _, body) in answers {
                read_reply(&body)?;
                times.push(sent.elapsed());
            }
        }
        ensure!(
            times.len() == count,
            "{} of {count} answers came",
            times.len()
        );
        Ok(Sample {
            latency: latency(times),
            ..watch.stop(count)
        })
    }
}

fn insert(db: &Connection, queue: &str, id: &str, body: &[u8]) -> Result<()> {
    db.prepare_cached("INSERT INTO job (queue, id, body) VALUES (?1, ?2, ?3)")?
        .execute(params![queue, id, body])?;
    Ok(())
}

fn delete(db: &Connection, seqs: &[i64]) -> Result<()> {
    let mut delete = db.prepare_cached("DELETE FROM job WHERE seq = ?1")?;
    for seq in seqs {
        delete.execute([seq])?;
    }
    Ok(())
}

/// The id of a job, of which `about` tells.
fn id(about: String) -> Result<String> {
    if !*SAME_HEADERS {
        return Ok(about);
    }
    let mut envelope: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&about)?;
    match envelope.remove("id") {
        Some(serde_json::Value::String(id)) => Ok(id),
        _ => bail!("a job without an id"),
    }
}

fn take(db: &Connection, queue: &str, limit: usize) -> Result<Vec<Job>> {
    let mut take = db.prepare_cached(if *SAME_HEADERS { TAKE_AS_OURS } else { TAKE })?;
    let jobs = take.query_map(params![queue, i64::try_from(limit)?], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    })?;
    Ok(jobs.collect::<rusqlite::Result<_>>()?)
}
