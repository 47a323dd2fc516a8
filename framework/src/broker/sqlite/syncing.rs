//! Which commits wait for the disk: those that confirm or settle something. A power cut ends every process of the
//! machine, and what a dead process had merely taken goes back to its queue; so taking need not be remembered.

use rusqlite::{Connection, Result};

use super::command::{Job, Request};

/// How the writer's commits are synced.
#[derive(Debug)]
pub(super) struct Syncing {
    /// Whether what is confirmed is to survive a power cut.
    wanted: bool,
    /// Whether the connection's commits wait for the disk at present.
    on: bool,
}

impl Syncing {
    /// Sets a new connection up so that what it confirms survives a power cut, or not.
    pub(super) fn new(db: &Connection, wanted: bool) -> Result<Self> {
        set(db, wanted)?;
        Ok(Self { wanted, on: wanted })
    }

    /// Has the transaction that carries out `jobs`, to be begun next, wait for the disk if it has to. The log is one
    /// file: a commit that waits also has all before it on the disk.
    pub(super) fn prepare(&mut self, db: &Connection, jobs: &[Job]) -> Result<()> {
        let needed = self.wanted && jobs.iter().any(|job| must_last(&job.request));
        if needed != self.on {
            set(db, needed)?;
            self.on = needed;
        }
        Ok(())
    }
}

/// Whether somebody relies on a request's outcome after a power cut.
fn must_last(request: &Request) -> bool {
    !matches!(
        request,
        Request::Release(_) | Request::Allow { .. } | Request::Announce { .. }
    )
}

fn set(db: &Connection, full: bool) -> Result<()> {
    db.pragma_update(None, "synchronous", if full { "full" } else { "normal" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Queue;
    use crate::broker::sqlite::command::Claim;

    #[test]
    fn only_what_is_confirmed_or_settled_waits_for_the_disk() {
        let db = Connection::open_in_memory().expect("memory is there");
        let level = || -> i64 {
            db.pragma_query_value(None, "synchronous", |row| row.get(0))
                .expect("it is known")
        };
        let claim = Claim { seq: 1, number: 1 };
        let release = || Job::silent(Request::Release(claim));
        let declare = || Job::silent(Request::Declare(Queue::new("q")));
        let (normal, full) = (1, 2);

        let mut syncing = Syncing::new(&db, true).expect("set");
        assert_eq!(level(), full);
        for (jobs, expected) in [
            (vec![], normal),
            (vec![release()], normal),
            (vec![release(), declare()], full),
            (vec![declare()], full),
            (vec![], normal),
        ] {
            syncing.prepare(&db, &jobs).expect("set");
            assert_eq!(level(), expected);
        }

        let mut syncing = Syncing::new(&db, false).expect("set");
        syncing.prepare(&db, &[declare()]).expect("set");
        assert_eq!(level(), normal, "the URL asked for no more");
    }
}
