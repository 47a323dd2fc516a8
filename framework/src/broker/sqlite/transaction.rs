//! A transaction that writes, begun and ended by statements that stay prepared.

use rusqlite::{Connection, Result};

/// A transaction that holds the file's write lock. Dropped before its commit, it is rolled back.
pub(super) struct WriteTransaction<'a>(&'a Connection);

impl<'a> WriteTransaction<'a> {
    /// Waits for the write lock as long as the connection's busy handler does.
    pub(super) fn begin(db: &'a Connection) -> Result<Self> {
        run(db, "BEGIN IMMEDIATE")?;
        Ok(Self(db))
    }

    pub(super) fn commit(self) -> Result<()> {
        run(self.0, "COMMIT")
    }
}

impl Drop for WriteTransaction<'_> {
    fn drop(&mut self) {
        // Some errors have rolled it back already.
        if !self.0.is_autocommit()
            && let Err(error) = run(self.0, "ROLLBACK")
        {
            tracing::error!(%error, "a transaction cannot be rolled back");
        }
    }
}

fn run(db: &Connection, sql: &str) -> Result<()> {
    db.prepare_cached(sql)?.execute([]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_kept_or_rolled_back() {
        let db = Connection::open_in_memory().expect("memory is there");
        db.execute_batch("CREATE TABLE t (n)").expect("made");
        let count = || -> i64 {
            db.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
                .expect("counted")
        };
        let insert = || db.execute("INSERT INTO t VALUES (1)", []).expect("stored");

        let tx = WriteTransaction::begin(&db).expect("begun");
        insert();
        tx.commit().expect("committed");
        assert_eq!(count(), 1);

        let tx = WriteTransaction::begin(&db).expect("begun");
        insert();
        drop(tx);
        assert!(db.is_autocommit());
        assert_eq!(count(), 1);
    }
}
