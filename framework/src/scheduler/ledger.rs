//! Keeps the active scheduler and the table of entries in the broker together: reads what others change there, and
//! notes there what the code has and which ticks were the last. On its own, so that no tick waits for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::sleep;

use super::schedules::{lease_name, timestamp};
use super::table::{Definition, Table};
use crate::app::App;
use crate::error::Result;

/// How long to wait between two looks at the table.
const PAUSE: Duration = Duration::from_secs(1);

/// The lease's value.
type Value = Option<Vec<u8>>;

/// The last tick of each entry.
pub(super) type Last = BTreeMap<String, Timestamp>;

/// What the ledger works on.
pub(super) struct Ledger {
    pub(super) app: App,
    pub(super) code: Arc<BTreeMap<String, Definition>>,
    /// Written by the scheduler.
    pub(super) last: watch::Receiver<Last>,
    /// Read by the scheduler; `None` until it was read for the first time.
    pub(super) table: watch::Sender<Option<Arc<Table>>>,
}

impl Ledger {
    /// Reads and writes until it is dropped.
    pub(super) async fn run(mut self) {
        let mut complaint = String::new();
        let mut known: Option<Value> = None;
        loop {
            let note = known.is_none() || self.last.has_changed().unwrap_or(false);
            let noted = match note {
                true => Some(self.note().await),
                false => None,
            };
            let (read, trouble) = match noted {
                Some(Ok(noted)) => (Ok(noted), None),
                // What cannot be written counts all the same, and so does what others have changed.
                Some(Err(error)) => (self.read().await, Some(error)),
                None => (self.read().await, None),
            };
            let trouble = read.as_ref().err().or(trouble.as_ref());
            let trouble = trouble.map(ToString::to_string).unwrap_or_default();
            if !trouble.is_empty() && trouble != complaint {
                let error = &*trouble;
                tracing::warn!(
                    error,
                    "what was set at run time cannot be read, or noted on"
                );
            }
            complaint = trouble;
            match read {
                Ok((value, table)) => {
                    if known.as_ref() != Some(&value) {
                        known = Some(value);
                        self.table.send_replace(Some(Arc::new(table)));
                    }
                    let value = known.as_ref().and_then(Option::as_deref);
                    self.wait(value).await;
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    /// Waits until there may be something to read or to note.
    async fn wait(&mut self, known: Option<&[u8]>) {
        let name = lease_name(&self.app, "schedules");
        let broker = self.app.broker().clone();
        tokio::select! {
            () = broker.lease_changes(&name, known) => {}
            Ok(()) = self.last.changed() => {
                // Not all the time, since others want to change the table, too.
                sleep(PAUSE).await;
                self.last.mark_changed();
            }
        }
    }

    async fn read(&self) -> Result<(Value, Table)> {
        let name = lease_name(&self.app, "schedules");
        let value = self.app.broker().read_lease(&name).await?;
        let mut table = Table::decode(value.as_deref())?;
        table.note(&self.code, &self.last.borrow(), timestamp(self.app.now()));
        Ok((value, table))
    }

    async fn note(&mut self) -> Result<(Value, Table)> {
        let last = self.last.borrow_and_update().clone();
        let code = self.code.clone();
        let schedules = self.app.schedules();
        let noted = schedules.update(|table, now| {
            table.note(&code, &last, now);
            Ok(())
        });
        let (mut table, ()) = noted.await.inspect_err(|_| self.last.mark_changed())?;
        Ok((Some(table.encode()?), table))
    }
}
