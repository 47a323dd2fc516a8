//! The scheduler that is active: sends what is due, then writes down what was sent.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::Code;
use super::ledger::{Last, Ledger};
use super::progress::Progress;
use super::schedule::Schedule;
use super::schedules::timestamp;
use super::table::{Definition, Row, Table};
use super::template::Template;
use super::tick;
use crate::app::App;
use crate::broker::Lease;
use crate::error::{Error, Result};

/// How long it sleeps at most, so that it notices when the clock is set.
const NAP: Duration = Duration::from_secs(20);
/// How long after a failure the writing of progress is tried again, or an entry: that then waits longer each
/// time, up to 32 times as long.
const AGAIN: Duration = Duration::from_secs(1);
/// How long it waits at its start for the entries that were set at run time: longer than it may take to find that they
/// cannot be changed, and then to read them.
const TABLE_LIMIT: Duration = Duration::from_secs(25);
/// How long a scheduler that stops waits for what is being sent.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// How being active came to its end.
pub(super) enum End {
    Stopped,
    Lost,
}

/// An entry that is in force.
struct Entry {
    name: String,
    schedule: Schedule,
    template: Arc<Template>,
    row: Row,
    /// From where on its next tick was looked for, and when that is to be sent.
    next: Option<(Timestamp, Option<Timestamp>)>,
    sending: bool,
    /// Not before this, after a failure; and how many there were.
    again: Option<Instant>,
    failures: u32,
}

/// What became of an entry's ticks.
struct Sent {
    name: String,
    /// The last tick that is done with.
    last: Option<Timestamp>,
    error: Option<Error>,
}

/// The active scheduler.
pub(super) struct Leader {
    app: App,
    lease: Box<dyn Lease>,
    code: Arc<Code>,
    entries: Vec<Entry>,
    /// Whether they are all that there are: before the table was read, any may be in it.
    is_resolved: bool,
    progress: Progress,
    sending: JoinSet<Sent>,
    tell: watch::Sender<Last>,
    table: watch::Receiver<Option<Arc<Table>>>,
    /// Ends with the leader.
    _ledger: JoinSet<()>,
    /// When progress may be written again, after a failure.
    write_again: Option<Instant>,
}

impl Leader {
    pub(super) fn new(app: &App, lease: Box<dyn Lease>, code: &Arc<Code>) -> Result<Self> {
        let progress = Progress::decode(lease.value())?;
        let (tell, last) = watch::channel(progress.last.clone());
        let (sender, table) = watch::channel(None);
        let definitions = code.iter().map(|(name, (schedule, template))| {
            let definition = Definition::of_code(schedule, template);
            (name.clone(), definition)
        });
        let ledger = Ledger {
            app: app.clone(),
            code: Arc::new(definitions.collect()),
            last,
            table: sender,
        };
        let mut task = JoinSet::new();
        task.spawn(ledger.run());
        Ok(Self {
            app: app.clone(),
            lease,
            code: code.clone(),
            entries: Vec::new(),
            is_resolved: false,
            progress,
            sending: JoinSet::new(),
            tell,
            table,
            _ledger: task,
            write_again: None,
        })
    }

    /// Works until `stop` resolves, or the lease is lost.
    pub(super) async fn run<F: Future<Output = ()>>(mut self, mut stop: Pin<&mut F>) -> End {
        let lost = self.lease.lost().clone();
        {
            let mut table = self.table.clone();
            tokio::select! {
                biased;
                () = lost.stale() => return End::Lost,
                () = &mut stop => return self.stop().await,
                read = timeout(TABLE_LIMIT, table.changed()) => if read.is_err() {
                    tracing::warn!("begins without the schedules that were set at run time: they cannot be read");
                }
            }
        }
        self.resolve();
        loop {
            let wake = self.send_due();
            if self.progress.dirty && self.may_write() && !self.write().await {
                return End::Lost;
            }
            tokio::select! {
                biased;
                () = lost.stale() => return End::Lost,
                () = &mut stop => return self.stop().await,
                Some(sent) = self.sending.join_next() => {
                    self.note(sent);
                    // What else is done goes down with it.
                    while let Some(sent) = self.sending.try_join_next() {
                        self.note(sent);
                    }
                }
                Ok(()) = self.table.changed() => self.resolve(),
                () = sleep(wake) => {}
            }
        }
    }

    /// Puts together what the code has and what was set at run time.
    fn resolve(&mut self) {
        let table = self.table.borrow_and_update().clone();
        self.is_resolved = table.is_some();
        let table = table.unwrap_or_default();
        let mut before: HashMap<String, Entry> = std::mem::take(&mut self.entries)
            .into_iter()
            .map(|entry| (entry.name.clone(), entry))
            .collect();
        let names = self.code.keys().chain(table.entries.keys());
        let names: BTreeSet<&String> = names.collect();
        for name in names {
            let row = table.entries.get(name).cloned().unwrap_or_default();
            let (schedule, template) = match (&row.set, self.code.get(name)) {
                (Some(set), _) => match read(set) {
                    Ok((schedule, template)) => (schedule, Arc::new(template)),
                    Err(error) => {
                        tracing::error!(name, %error, "a schedule that was set cannot be read, and is left alone");
                        continue;
                    }
                },
                (None, Some((schedule, template))) => (schedule.clone(), template.clone()),
                // Another scheduler's code, or only a pause.
                (None, None) => continue,
            };
            let before = before.remove(name);
            self.entries.push(Entry {
                name: name.clone(),
                schedule,
                template,
                row,
                next: None,
                sending: before.as_ref().is_some_and(|before| before.sending),
                again: before.as_ref().and_then(|before| before.again),
                failures: before.map_or(0, |before| before.failures),
            });
        }
    }

    /// Begins to send what is due; returns how long there is nothing else to do.
    fn send_due(&mut self) -> Duration {
        let now = timestamp(self.app.now());
        let mut nap = NAP;
        if let Some(again) = self.write_again.filter(|_| self.progress.dirty) {
            nap = nap.min(again.saturating_duration_since(Instant::now()));
        }
        for entry in &mut self.entries {
            if entry.row.paused || entry.sending {
                continue;
            }
            if let Some(again) = entry.again {
                let left = again.saturating_duration_since(Instant::now());
                if !left.is_zero() {
                    nap = nap.min(left);
                    continue;
                }
            }
            let last = self.progress.last.get(&entry.name).copied();
            let base = entry.row.base(&entry.schedule, last).unwrap_or(now);
            let base = tick::begin(base, now);
            if entry.schedule.moment().is_some() {
                // Its last tick is its only one.
            } else if last.is_none() {
                self.progress.set(&entry.name, base);
            } else if last.is_some_and(|last| last > base) {
                tracing::warn!(
                    name = entry.name,
                    "the clock was set back: the schedule begins anew"
                );
                self.progress.set(&entry.name, base);
            }
            let next = match entry.next {
                Some((from, next)) if from == base => next,
                _ => tick::next(&entry.schedule, &entry.name, base),
            };
            entry.next = Some((base, next));
            match next {
                Some(next) if next > now => {
                    nap = nap.min(next.duration_since(now).unsigned_abs());
                }
                Some(_) => {
                    let due = tick::due(&entry.schedule, &entry.name, base, now);
                    let Some(due) = due else { continue };
                    if due.skipped {
                        tracing::warn!(
                            name = entry.name, since = %base, until = %due.last,
                            sent = due.ticks.len(), "ticks were missed, and not all are made up for"
                        );
                    }
                    if due.ticks.is_empty() {
                        self.progress.set(&entry.name, due.last);
                        nap = Duration::ZERO;
                        continue;
                    }
                    entry.sending = true;
                    let (app, name) = (self.app.clone(), entry.name.clone());
                    let template = entry.template.clone();
                    self.sending.spawn(async move {
                        let sent = send(&app, &name, &template, &due);
                        let sent = AssertUnwindSafe(sent).catch_unwind().await;
                        let (last, error) = sent.unwrap_or_else(|_| (None, Some(panicked())));
                        Sent { name, last, error }
                    });
                }
                None => {}
            }
        }
        // Tokio's clock has milliseconds.
        nap.max(Duration::from_millis(1))
    }

    fn note(&mut self, sent: Result<Sent, JoinError>) {
        let Ok(Sent { name, last, error }) = sent else {
            return;
        };
        if let Some(last) = last {
            self.progress.set(&name, last);
        }
        let entry = self.entries.iter_mut().find(|entry| entry.name == name);
        if let Some(entry) = entry {
            entry.sending = false;
            entry.failures = match error {
                Some(_) => entry.failures.saturating_add(1),
                None => 0,
            };
            let pause = AGAIN * (1 << entry.failures.saturating_sub(1).min(5));
            entry.again = error.as_ref().map(|_| Instant::now() + pause);
        }
        if let Some(error) = error {
            tracing::error!(name, %error, "a tick cannot be sent: it is tried again");
        }
    }

    fn may_write(&self) -> bool {
        self.write_again.is_none_or(|again| Instant::now() >= again)
    }

    /// Writes down what was sent; false if the lease is lost.
    async fn write(&mut self) -> bool {
        self.tell.send_replace(self.progress.last.clone());
        let now = timestamp(self.app.now());
        let names: HashSet<&str> = self.entries.iter().map(|entry| &*entry.name).collect();
        let in_force = |name: &str| !self.is_resolved || names.contains(name);
        let value = self.progress.encode(now, in_force);
        self.write_again = None;
        match self.lease.write(value).await {
            Ok(()) => self.progress.dirty = false,
            Err(Error::Stale { .. }) => return false,
            Err(error) => {
                // If we die now, our successor sends the same ids again.
                tracing::warn!(%error, "what was sent cannot be written down yet");
                self.write_again = Some(Instant::now() + AGAIN);
            }
        }
        true
    }

    /// Ends what is under way, and makes room for the next.
    async fn stop(mut self) -> End {
        let finish = async {
            while let Some(sent) = self.sending.join_next().await {
                self.note(sent);
            }
        };
        if timeout(STOP_LIMIT, finish).await.is_err() {
            tracing::warn!("stops while ticks are being sent: the next scheduler sends them again");
        }
        if self.progress.dirty {
            self.write().await;
        }
        self.lease.release().await;
        End::Stopped
    }
}

fn read(set: &Definition) -> Result<(Schedule, Template)> {
    let schedule = Schedule::from_json(&set.schedule)?;
    let call = set.call.as_ref();
    let call = call.ok_or_else(|| Error::invalid("stored call", &set.task, "it has no call"))?;
    Ok((schedule, Template::from_json(call)?))
}

/// Sends ticks; returns the last one that is done with, and what kept it from going on.
async fn send(
    app: &App,
    name: &str,
    template: &Template,
    due: &tick::Due,
) -> (Option<Timestamp>, Option<Error>) {
    let mut last = None;
    for tick in &due.ticks {
        tracing::debug!(name, %tick, "sending");
        if let Err(error) = template.send(app, name, *tick).await {
            return (last, Some(error));
        }
        last = Some(*tick);
    }
    (Some(due.last), None)
}

fn panicked() -> Error {
    Error::broker("sending a tick", "it panicked")
}
