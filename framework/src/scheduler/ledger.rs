//! Keeps the active scheduler and the table of entries in the broker together: reads what others change there, and
//! notes there what the code has and which ticks were the last. On its own, so that no tick waits for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::schedules::lease_name;
use super::table::{Definition, Table};
use crate::app::App;
use crate::error::Result;

/// How often the table is read.
const PERIOD: Duration = Duration::from_secs(1);

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
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut complaint = String::new();
        let mut known = None;
        let mut noted = false;
        loop {
            ticks.tick().await;
            let note = !noted || self.last.has_changed().unwrap_or(false);
            let read = match note {
                true => self.note().await,
                false => self.read().await,
            };
            match read {
                Ok((value, table)) => {
                    noted = true;
                    complaint.clear();
                    if known.as_ref() != Some(&value) {
                        known = Some(value);
                        self.table.send_replace(Some(Arc::new(table)));
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    if error != complaint {
                        tracing::warn!(
                            error,
                            "the schedules that were set at run time are as they were"
                        );
                        complaint = error;
                    }
                }
            }
        }
    }

    async fn read(&self) -> Result<(Vec<u8>, Table)> {
        let name = lease_name(&self.app, "schedules");
        let value = self.app.broker().read_lease(&name).await?;
        let table = Table::decode(value.as_deref())?;
        Ok((value.unwrap_or_default(), table))
    }

    async fn note(&mut self) -> Result<(Vec<u8>, Table)> {
        let last = self.last.borrow_and_update().clone();
        let code = self.code.clone();
        let schedules = self.app.schedules();
        let noted = schedules.update(|table, now| {
            table.note(&code, &last, now);
            Ok(())
        });
        let (mut table, ()) = noted.await.inspect_err(|_| self.last.mark_changed())?;
        Ok((table.encode()?, table))
    }
}
