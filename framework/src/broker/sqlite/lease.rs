//! Leases of the file: a row each, freed with the process that holds it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Result as SqlResult, params};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::command::{Handle, Request};
use super::{Reader, SqliteBroker};
use crate::broker::{BoxFuture, Lease, Stale};
use crate::error::{Error, Result};

/// How often who waits for a lease looks whether it is free.
const LOOK: Duration = Duration::from_millis(100);

/// Made where it is missing: files of the same version may be older than leases.
pub(super) const TABLE: &str = "
CREATE TABLE IF NOT EXISTS lease (
    name TEXT PRIMARY KEY,
    value BLOB,
    owner INTEGER,
    holder INTEGER
) STRICT, WITHOUT ROWID;
";

/// Takes a lease that is free; whether it was.
pub(super) fn take(db: &Connection, me: i64, name: &str, holder: u64) -> SqlResult<bool> {
    db.prepare_cached("INSERT OR IGNORE INTO lease (name) VALUES (?1)")?
        .execute([name])?;
    let taken = db
        .prepare_cached(
            "UPDATE lease SET owner = ?2, holder = ?3 WHERE name = ?1 AND owner IS NULL",
        )?
        .execute(params![name, me, holder.cast_signed()])?;
    Ok(taken > 0)
}

/// Writes the value of a lease, if `holder` still holds it; whether it does.
pub(super) fn write(
    db: &Connection,
    me: i64,
    name: &str,
    holder: u64,
    value: &[u8],
) -> SqlResult<bool> {
    let written = db
        .prepare_cached(
            "UPDATE lease SET value = ?4 WHERE name = ?1 AND owner = ?2 AND holder = ?3",
        )?
        .execute(params![name, me, holder.cast_signed(), value])?;
    Ok(written > 0)
}

/// Frees a lease, if `holder` holds it.
pub(super) fn free(db: &Connection, me: i64, name: &str, holder: u64) -> SqlResult<()> {
    db.prepare_cached(
        "UPDATE lease SET owner = NULL WHERE name = ?1 AND owner = ?2 AND holder = ?3",
    )?
    .execute(params![name, me, holder.cast_signed()])?;
    Ok(())
}

/// Frees all that a process held.
pub(super) fn free_all(db: &Connection, owner: i64) -> SqlResult<()> {
    db.prepare_cached("UPDATE lease SET owner = NULL WHERE owner = ?1")?
        .execute([owner])?;
    Ok(())
}

/// Whether somebody holds the lease.
fn is_held(db: &Connection, name: &str) -> SqlResult<bool> {
    let held = db
        .prepare_cached("SELECT owner IS NOT NULL FROM lease WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    Ok(held.unwrap_or(false))
}

fn value(db: &Connection, name: &str) -> SqlResult<Option<Vec<u8>>> {
    let value = db
        .prepare_cached("SELECT value FROM lease WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    Ok(value.flatten())
}

/// The value, whoever holds the lease.
pub(super) async fn read(reader: &Reader, name: &str) -> Result<Option<Vec<u8>>> {
    let owned = name.to_owned();
    reader.read(what(name), move |db| value(db, &owned)).await
}

/// Waits until the lease is free, and holds it.
pub(super) async fn acquire(broker: &SqliteBroker, name: &str) -> Result<Box<dyn Lease>> {
    loop {
        let owned = name.to_owned();
        let looked = broker
            .reader
            .read(what(name), move |db| is_held(db, &owned));
        if !looked.await? {
            // Made before the answer, so that a caller who gives up leaves nothing held.
            let mut held = Held {
                handle: broker.handle.clone(),
                name: name.to_owned(),
                holder: broker.consumers.fetch_add(1, Ordering::Relaxed),
                value: None,
                lost: Stale::never(),
                armed: true,
            };
            let (granted, grant) = oneshot::channel();
            let request = Request::TakeLease {
                name: name.to_owned(),
                holder: held.holder,
                granted,
            };
            broker.handle.call(request).await?;
            // No grant means that another was faster.
            if let Ok(lost) = grant.await {
                held.lost = lost;
                held.value = read(&broker.reader, name).await?;
                return Ok(Box::new(held));
            }
            held.armed = false;
        }
        sleep(LOOK).await;
    }
}

fn what(name: &str) -> String {
    format!("the lease `{name}`")
}

struct Held {
    handle: Handle,
    name: String,
    holder: u64,
    value: Option<Vec<u8>>,
    lost: Stale,
    /// Whether dropping it must free the lease.
    armed: bool,
}

impl Held {
    fn free(&mut self) -> Option<Request> {
        std::mem::take(&mut self.armed).then(|| Request::FreeLease {
            name: self.name.clone(),
            holder: self.holder,
        })
    }
}

impl Lease for Held {
    fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    fn write(&mut self, value: Vec<u8>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let request = Request::WriteLease {
                name: self.name.clone(),
                holder: self.holder,
                value: value.clone(),
            };
            match self.handle.call(request).await {
                Ok(_) => {
                    self.value = Some(value);
                    Ok(())
                }
                Err(Error::Closed { .. }) => Err(Error::Stale {
                    queue: self.name.clone(),
                }),
                Err(error) => Err(error),
            }
        })
    }

    fn lost(&self) -> &Stale {
        &self.lost
    }

    fn release(mut self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if let Some(request) = self.free()
                && self.handle.call(request).await.is_err()
            {
                // Whoever waited has given up, so that nobody would do it. A closed broker has freed it.
                self.armed = true;
            }
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(request) = self.free() {
            self.handle.post(request);
        }
    }
}
