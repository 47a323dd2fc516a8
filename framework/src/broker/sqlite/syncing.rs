//! Which commits wait for the disk. A power cut ends every process of the machine, and what a dead process had merely
//! taken goes back to its queue; so taking need not be remembered. What was settled a moment before runs again, as does
//! what was about to be settled: such commits are synced together, soon after. All else is on the disk when its caller is
//! told.

use std::time::{Duration, Instant};

use rusqlite::{Connection, Result};

use super::command::{Job, Request};

/// How long a settlement may wait until it is on the disk.
const SOON: Duration = Duration::from_millis(10);
/// How much longer after a sync that failed.
const PAUSE: Duration = Duration::from_millis(240);

/// How much somebody relies on a request's outcome after a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    Never,
    Soon,
    Now,
}

/// How the writer's commits are synced.
#[derive(Debug)]
pub(super) struct Syncing {
    /// Whether what is confirmed is to survive a power cut.
    wanted: bool,
    /// Whether the connection's commits wait for the disk at present.
    on: bool,
    /// Since when something is committed that is to be on the disk soon.
    owed: Option<Instant>,
}

impl Syncing {
    /// Sets a new connection up so that what it confirms survives a power cut, or not.
    pub(super) fn new(db: &Connection, wanted: bool) -> Result<Self> {
        set(db, wanted)?;
        Ok(Self {
            wanted,
            on: wanted,
            owed: None,
        })
    }

    /// Has the transaction that carries out `jobs`, to be begun next, wait for the disk if it has to.
    pub(super) fn prepare(&mut self, db: &Connection, jobs: &[Job]) -> Result<()> {
        self.switch(db, urgency(jobs) == Urgency::Now)
    }

    /// Has whatever is committed next wait for the disk.
    pub(super) fn insist(&mut self, db: &Connection) -> Result<()> {
        self.switch(db, true)
    }

    fn switch(&mut self, db: &Connection, on: bool) -> Result<()> {
        let on = on && self.wanted;
        if on != self.on {
            set(db, on)?;
            self.on = on;
        }
        Ok(())
    }

    /// The transaction that carried out `jobs` is committed. The log is one file: a commit that waited for the disk has
    /// brought all before it there.
    pub(super) fn committed(&mut self, jobs: &[Job], now: Instant) {
        if self.on {
            self.owed = None;
        } else if self.wanted && urgency(jobs) == Urgency::Soon {
            self.owed.get_or_insert(now);
        }
    }

    /// When a [`Request::Sync`] is due, if nothing that is synced comes before.
    pub(super) fn due(&self) -> Option<Instant> {
        self.owed.map(|since| since + SOON)
    }

    /// Whether it is time for a [`Request::Sync`]. If that fails, it is due again after a pause.
    pub(super) fn falls_due(&mut self, now: Instant) -> bool {
        let is_due = self.due().is_some_and(|due| due <= now);
        if is_due {
            self.owed = Some(now + PAUSE);
        }
        is_due
    }
}

fn urgency(jobs: &[Job]) -> Urgency {
    let urgencies = jobs.iter().map(|job| match job.request {
        Request::Release(_) | Request::Allow { .. } | Request::Announce { .. } | Request::Flush => {
            Urgency::Never
        }
        Request::Settle { .. } => Urgency::Soon,
        _ => Urgency::Now,
    });
    urgencies.max().unwrap_or(Urgency::Never)
}

fn set(db: &Connection, full: bool) -> Result<()> {
    db.pragma_update(None, "synchronous", if full { "full" } else { "normal" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Queue;
    use crate::broker::sqlite::command::Claim;
    use crate::broker::sqlite::{process, schema};

    const CLAIM: Claim = Claim { seq: 1, number: 1 };

    fn level(db: &Connection) -> &'static str {
        match db.pragma_query_value(None, "synchronous", |row| row.get::<_, i64>(0)) {
            Ok(1) => "normal",
            Ok(2) => "full",
            other => panic!("{other:?}"),
        }
    }

    fn release() -> Job {
        Job::silent(Request::Release(CLAIM))
    }

    fn settle() -> Job {
        Job::silent(Request::Settle {
            claim: CLAIM,
            queue: "q".into(),
            first: Vec::new(),
        })
    }

    fn declare() -> Job {
        Job::silent(Request::Declare(Queue::new("q")))
    }

    #[test]
    fn only_what_is_confirmed_waits_for_the_disk() {
        let db = Connection::open_in_memory().expect("memory is there");
        let mut syncing = Syncing::new(&db, true).expect("set");
        assert_eq!(level(&db), "full");
        for (jobs, expected) in [
            (vec![], "normal"),
            (vec![release(), settle()], "normal"),
            (vec![settle(), declare(), release()], "full"),
            (vec![declare()], "full"),
            (vec![], "normal"),
        ] {
            syncing.prepare(&db, &jobs).expect("set");
            assert_eq!(level(&db), expected);
        }
        syncing.insist(&db).expect("set");
        assert_eq!(level(&db), "full");

        let mut syncing = Syncing::new(&db, false).expect("set");
        syncing.prepare(&db, &[declare()]).expect("set");
        assert_eq!(level(&db), "normal", "the URL asked for no more");
    }

    #[test]
    fn a_sync_has_something_to_write() {
        let name = format!("garenne-{}", uuid::Uuid::new_v4().simple());
        let place = std::env::temp_dir().join(name);
        let (path, log) = (place.join("queue.db"), place.join("queue.db-wal"));
        let db = schema::open(&path).expect("opened");
        process::add_process(&db, 1, 0, 0).expect("added");
        let length = || std::fs::metadata(&log).expect("a log").len();
        for _ in 0..2 {
            let before = length();
            process::touch(&db, 1).expect("written");
            assert!(length() > before);
        }
        drop(db);
        std::fs::remove_dir_all(place).expect("removed");
    }

    #[test]
    fn what_is_settled_is_on_the_disk_soon() {
        let db = Connection::open_in_memory().expect("memory is there");
        let mut syncing = Syncing::new(&db, true).expect("set");
        let start = Instant::now();
        let mut commit = |jobs: &[Job], at: Instant| {
            syncing.prepare(&db, jobs).expect("set");
            syncing.committed(jobs, at);
            syncing.due()
        };
        assert_eq!(commit(&[release()], start), None);
        assert_eq!(commit(&[settle()], start), Some(start + SOON));
        let later = start + SOON / 2;
        assert_eq!(commit(&[settle()], later), Some(start + SOON));
        assert_eq!(commit(&[], later), Some(start + SOON));
        assert_eq!(commit(&[declare()], later), None, "synced with another's");
        assert_eq!(commit(&[settle()], later), Some(later + SOON));
        assert!(!syncing.falls_due(later));
        assert!(syncing.falls_due(later + SOON));
        assert!(!syncing.falls_due(later + SOON + SOON), "not in a hot loop");
        assert!(syncing.falls_due(later + SOON + PAUSE + SOON));

        let mut never = Syncing::new(&db, false).expect("set");
        never.committed(&[settle()], start);
        assert_eq!(never.due(), None);
    }
}
