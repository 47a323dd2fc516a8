//! Entries that are added, changed, paused and removed while schedulers run, or while none does.

use std::fmt;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tokio::time::timeout;

use super::schedule::Schedule;
use super::table::{Definition, Row, Table, validate_name};
use super::template::Template;
use super::tick;
use crate::app::App;
use crate::call::Call;
use crate::error::{Error, Result};

/// How long to wait for others who change entries.
const TURN_LIMIT: Duration = Duration::from_secs(10);
/// How often a change is tried whose lease is lost meanwhile.
const ATTEMPTS: u32 = 3;

/// An app's schedules, to be looked at and changed at run time: [`App::schedules`].
///
/// They are kept in the broker, so they survive restarts, and it does not matter whether a
/// [`Scheduler`](crate::Scheduler) runs at the moment. One that runs takes a change up within two seconds.
///
/// ```standalone_crate
/// use garenne::{App, HOUR, Scheduler, every, task};
///
/// #[task]
/// async fn refresh(feed: String) {}
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let app = App::in_memory();
/// let schedules = app.schedules();
/// schedules.set("feed-7", every(HOUR), refresh::call("https://example.com".into())).await?;
/// schedules.pause("feed-7").await?;
/// for entry in schedules.list().await? {
///     println!("{}: {} {}, paused: {}", entry.name, entry.task, entry.schedule, entry.paused);
/// }
/// schedules.resume("feed-7").await?;
/// assert!(schedules.remove("feed-7").await?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "it does nothing by itself: call one of its methods"]
pub struct Schedules {
    app: App,
}

/// One of an app's schedules, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScheduleEntry {
    /// Its name.
    pub name: String,
    /// When it is sent, in words: `every 30s`, `cron 0 3 * * * Europe/Paris`.
    pub schedule: String,
    /// The task that is called.
    pub task: String,
    /// Whether it was paused.
    pub paused: bool,
    /// Whether the active scheduler has it in its code, and nothing else was set at run time.
    pub in_code: bool,
    /// Its last tick. A second or two old.
    pub last: Option<SystemTime>,
    /// Its next tick by this machine's clock, jitter included; `None` while it is paused, and where there is none
    /// any more.
    pub next: Option<SystemTime>,
}

impl App {
    /// The schedules that are kept in the broker: to be looked at, added, changed, paused and removed.
    pub fn schedules(&self) -> Schedules {
        Schedules { app: self.clone() }
    }
}

impl Schedules {
    /// Sends `call` by this schedule from now on; an entry of this name is changed.
    ///
    /// One that schedulers have in their code, too, is replaced until it is [removed](Self::remove). Set again as it
    /// is, an entry goes on as if nothing had been done.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name, a schedule or a call that cannot be; what a broker says; and where all entries
    /// together are larger than the app's `max_message_size`, or more than ten thousand.
    pub async fn set<T>(
        &self,
        name: impl Into<String>,
        schedule: impl Into<Schedule>,
        call: Call<T>,
    ) -> Result<()> {
        let (name, schedule) = (name.into(), schedule.into());
        validate_name(&name)?;
        schedule.validate()?;
        let definition = Definition::to_set(&schedule, &Template::new(call)?)?;
        self.update(|table, now| table.set(&name, definition.clone(), now))
            .await
            .map(drop)
    }

    /// Sends nothing more of an entry until it is resumed.
    ///
    /// # Errors
    /// [`Error::Invalid`] where there is no such entry; what a broker says.
    pub async fn pause(&self, name: &str) -> Result<()> {
        self.update(|table, _| table.pause(name)).await.map(drop)
    }

    /// Goes on with an entry that was paused, with its next tick: those during the pause are not made up for.
    ///
    /// # Errors
    /// As for [`pause`](Self::pause).
    pub async fn resume(&self, name: &str) -> Result<()> {
        self.update(|table, now| table.resume(name, now))
            .await
            .map(drop)
    }

    /// Removes what was set at run time; whether there was something. What schedulers have in their code under this
    /// name is in force then, and can only be paused.
    ///
    /// # Errors
    /// What a broker says.
    pub async fn remove(&self, name: &str) -> Result<bool> {
        let (_, was_set) = self.update(|table, _| Ok(table.remove(name))).await?;
        Ok(was_set)
    }

    /// All entries, by name: those that were set, and those in the code of the scheduler that is or was active last.
    ///
    /// # Errors
    /// What a broker says.
    pub async fn list(&self) -> Result<Vec<ScheduleEntry>> {
        let now = timestamp(self.app.now());
        let value = self.app.broker().read_lease(&self.lease()).await?;
        let table = Table::decode(value.as_deref())?;
        let rows = table.entries.iter();
        Ok(rows
            .filter_map(|(name, row)| ScheduleEntry::new(name, row, now))
            .collect())
    }

    fn lease(&self) -> String {
        lease_name(&self.app, "schedules")
    }

    /// Changes the table, alone. The change may be made several times.
    pub(super) async fn update<T>(
        &self,
        change: impl Fn(&mut Table, Timestamp) -> Result<T>,
    ) -> Result<(Table, T)> {
        let mut left = ATTEMPTS;
        loop {
            left -= 1;
            let name = self.lease();
            let turn = timeout(TURN_LIMIT, self.app.broker().lease(&name)).await;
            let mut lease = turn.map_err(|_| Error::Unavailable {
                what: "the schedules' change".into(),
                waited: TURN_LIMIT,
                reason: "another process holds them, and does not get on".into(),
            })??;
            let mut table = Table::decode(lease.value())?;
            let changed = change(&mut table, timestamp(self.app.now()))?;
            let value = table.encode()?;
            let limit = self.app.max_message_size();
            if value.len() > limit {
                return Err(Error::Refused {
                    what: "the schedules' change".into(),
                    reason: format!(
                        "all entries together have {} bytes, more than the limit of {limit}: store large arguments \
                         elsewhere, or raise `max_message_size`",
                        value.len()
                    ),
                });
            }
            if lease.value() == Some(&value) {
                lease.release().await;
                return Ok((table, changed));
            }
            match lease.write(value).await {
                Ok(()) => {
                    lease.release().await;
                    return Ok((table, changed));
                }
                Err(Error::Stale { .. }) if left > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl ScheduleEntry {
    fn new(name: &str, row: &Row, now: Timestamp) -> Option<Self> {
        let definition = row.definition()?;
        let schedule = Schedule::from_json(&definition.schedule);
        let last = row.last();
        let next = schedule.as_ref().ok().filter(|_| !row.paused);
        let next = next.and_then(|schedule| {
            let base = row.base(schedule, last);
            // What is late already is not shown: a scheduler may be about to send it.
            let base = match schedule.moment() {
                Some(_) => base.unwrap_or(now),
                None => base.unwrap_or(now).max(now),
            };
            tick::next(schedule, name, base)
        });
        Some(Self {
            name: name.to_owned(),
            schedule: match &schedule {
                Ok(schedule) => schedule.to_string(),
                Err(_) => definition.schedule.to_string(),
            },
            task: definition.task.clone(),
            paused: row.paused,
            in_code: row.set.is_none(),
            last: last.map(SystemTime::from),
            next: next.map(SystemTime::from),
        })
    }
}

/// What an app's lease is called in the broker.
pub(super) fn lease_name(app: &App, name: &str) -> String {
    format!("{}garenne.lease.{name}", app.prefix())
}

/// The calendar's moment.
pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl fmt::Display for ScheduleEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.name, self.task, self.schedule)
    }
}
