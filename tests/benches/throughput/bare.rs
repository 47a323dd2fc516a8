//! What the embedded broker is compared with: the statements that the work needs, by hand, from one thread, on a file
//! with one table, synced as ours is. What comes together shares a commit, and what was done is deleted in the commit
//! that takes the next.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rusqlite::{Connection, TransactionBehavior, params};
use serde::de::IgnoredAny;

use crate::meter::{Sample, Stopwatch, latency};
use crate::post::{Letter, read_reply};
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
        db.execute_batch(TABLE)?;
        Ok(Self(Mutex::new(db)))
    }

    pub(crate) fn measure(&self, row: Row, count: usize) -> Result<Sample> {
        let mut work = Work {
            db: self.0.lock().unwrap_or_else(PoisonError::into_inner),
            text: row.text(),
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
}

impl Work<'_> {
    fn transact<T>(&mut self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
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
        let letters: Vec<_> = letters.collect();
        self.transact(|db| {
            letters
                .iter()
                .try_for_each(|letter| insert(db, CALLS, letter.id(), &letter.body))
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
            for (seq, _, body) in jobs {
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
            for (seq, id, body) in jobs {
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

fn take(db: &Connection, queue: &str, limit: usize) -> Result<Vec<Job>> {
    let sql = "UPDATE job SET owner = 1 WHERE seq IN
               (SELECT seq FROM job WHERE queue = ?1 AND owner IS NULL ORDER BY seq LIMIT ?2)
               RETURNING seq, id, body";
    let mut take = db.prepare_cached(sql)?;
    let jobs = take.query_map(params![queue, i64::try_from(limit)?], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    })?;
    Ok(jobs.collect::<rusqlite::Result<_>>()?)
}
