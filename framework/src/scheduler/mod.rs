//! A scheduler: sends calls at times. Any number of them may run; one is active, and the others wait to take its
//! place.

#[cfg(feature = "cron")]
mod cron;
mod lead;
mod ledger;
mod progress;
mod schedule;
mod schedules;
mod table;
mod template;
mod tick;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::app::App;
use crate::call::Call;
use crate::error::{Error, Result};
use lead::{End, Leader};
#[cfg(feature = "cron")]
pub use schedule::cron;
pub use schedule::{Missed, Schedule, at, every};
pub use schedules::{ScheduleEntry, Schedules};
use template::Template;

/// How long a broker may refuse what it allowed before that is taken for its last word.
const REFUSED_LIMIT: Duration = Duration::from_secs(60);
/// How long to wait before the next attempt to be the active one.
const AGAIN: Duration = Duration::from_millis(500);

/// The entries that are in the code, by name.
type Code = BTreeMap<String, (Schedule, Arc<Template>)>;

/// Sends calls at times: what [`add`](Self::add) says, and what was set at run time with
/// [`App::schedules`](crate::App::schedules).
///
/// Run as many as you like, in workers' processes or in ones of their own: exactly one is active. When it stops the
/// next takes its place at once, when its process dies within a second or two, when its machine vanishes as soon as
/// the broker has noticed (RabbitMQ's heartbeats). What each entry's last tick was is kept in the broker, so none is
/// lost: ticks that a takeover delays are made up for, and those of a longer outage as [`Missed`] says. They should
/// all have the same entries: those of the active one count.
///
/// A call that a schedule sends has the id `name@time`, for example `nightly@2026-11-21T02:00:00Z`: the time of its
/// tick in UTC, without the jitter. A scheduler that dies after sending and before noting it leaves a tick that its
/// successor sends again, **under the same id**, by which a task can tell ([`Context::id`](crate::Context::id)).
/// Nobody awaits such a call: it sends no reply.
///
/// ```standalone_crate
/// use garenne::{App, Scheduler, SECOND, cron, every, task};
///
/// #[task]
/// async fn ping() {}
///
/// #[task]
/// async fn report(day: String) {}
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let app = App::in_memory();
/// # let shutdown = async {};
/// Scheduler::new(&app)
///     .add("heartbeat", every(30 * SECOND), ping::call())
///     .add("nightly", cron("0 3 * * *")?.timezone("Europe/Paris")?, report::call("yesterday".into()))
///     .run(shutdown) // usually `garenne::shutdown_signal()`
///     .await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a scheduler does nothing until `.run(…).await` or `.spawn()`"]
pub struct Scheduler {
    app: App,
    entries: Vec<(String, Schedule, Result<Template>)>,
}

impl Scheduler {
    /// A scheduler for this app's broker.
    pub fn new(app: &App) -> Self {
        Self {
            app: app.clone(),
            entries: Vec::new(),
        }
    }

    /// Sends `call` by this schedule. The name is the entry's in the broker: under another one, it begins anew.
    pub fn add<T>(
        mut self,
        name: impl Into<String>,
        schedule: impl Into<Schedule>,
        call: Call<T>,
    ) -> Self {
        let template = Template::new(call);
        self.entries.push((name.into(), schedule.into(), template));
        self
    }

    /// Sends what is due, or waits for its turn to do so, until `shutdown` resolves; then lets the next one take its
    /// place.
    ///
    /// # Errors
    /// At the start, [`Error::Invalid`] for a name, a schedule or a call that cannot be; and what a broker says that
    /// waiting does not mend.
    pub async fn run<F>(self, shutdown: F) -> Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.serve(pin!(shutdown), &watch::channel(false).0).await
    }

    /// Works in the background until told to stop.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn(self) -> RunningScheduler {
        let (stop, stopped) = oneshot::channel::<()>();
        let (active, is_active) = watch::channel(false);
        let task = tokio::spawn(async move {
            // A dropped `RunningScheduler` leaves the scheduler to itself.
            let shutdown = async {
                if stopped.await.is_err() {
                    std::future::pending().await
                }
            };
            let ended = self.serve(pin!(shutdown), &active).await;
            ended.inspect_err(|error| tracing::error!("the scheduler ended: {error}"))
        });
        RunningScheduler {
            stop: Some(stop),
            active: is_active,
            task,
        }
    }

    /// What is in the code, if all of it can be.
    fn code(entries: Vec<(String, Schedule, Result<Template>)>) -> Result<Code> {
        let mut code = Code::new();
        for (name, schedule, template) in entries {
            table::validate_name(&name)?;
            schedule.validate()?;
            let entry = (schedule, Arc::new(template?));
            if code.insert(name.clone(), entry).is_some() {
                return Err(Error::invalid(
                    "schedule name",
                    name,
                    "it is added twice: give each entry a name of its own",
                ));
            }
        }
        if code.len() > table::MOST_ENTRIES {
            let reason = format!("more than {} entries are too many", table::MOST_ENTRIES);
            return Err(Error::invalid("scheduler", code.len().to_string(), reason));
        }
        Ok(code)
    }

    async fn serve<F: Future<Output = ()>>(
        self,
        mut stop: Pin<&mut F>,
        active: &watch::Sender<bool>,
    ) -> Result<()> {
        let app = self.app;
        let code = Arc::new(Self::code(self.entries)?);
        let name = schedules::lease_name(&app, "scheduler");
        let mut refused: Option<Instant> = None;
        let mut was_active = false;
        loop {
            let lease = tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                lease = app.broker().lease(&name) => lease,
            };
            match lease.and_then(|lease| Leader::new(&app, lease, &code)) {
                Ok(leader) => {
                    refused = None;
                    was_active = true;
                    active.send_replace(true);
                    tracing::info!(entries = code.len(), "this scheduler is the active one");
                    let end = leader.run(stop.as_mut()).await;
                    active.send_replace(false);
                    match end {
                        End::Stopped => return Ok(()),
                        End::Lost => {
                            tracing::warn!("this scheduler is not the active one any more")
                        }
                    }
                }
                Err(error @ Error::Closed { .. }) => return Err(error),
                Err(error) if error.is_transient() => refused = None,
                Err(error) => {
                    let since = *refused.get_or_insert_with(Instant::now);
                    // What never worked is told at once.
                    if !was_active || since.elapsed() > REFUSED_LIMIT {
                        return Err(error);
                    }
                    tracing::warn!(%error, "cannot wait to be the active scheduler yet");
                }
            }
            tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                () = sleep(AGAIN) => {}
            }
        }
    }
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.entries.iter().map(|(name, ..)| name);
        f.debug_struct("Scheduler")
            .field("entries", &names.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// A scheduler in the background. Dropped, it goes on by itself.
#[must_use = "keep it to stop the scheduler; dropped, the scheduler goes on by itself"]
pub struct RunningScheduler {
    stop: Option<oneshot::Sender<()>>,
    active: watch::Receiver<bool>,
    task: JoinHandle<Result<()>>,
}

impl RunningScheduler {
    /// Whether it is the active one at the moment.
    #[must_use]
    pub fn is_active(&self) -> bool {
        *self.active.borrow()
    }

    /// Resolves when it is the active one: `true`; or when it has ended: `false`. Why it has,
    /// [`stop`](Self::stop) tells.
    pub async fn active(&self) -> bool {
        self.active.clone().wait_for(|active| *active).await.is_ok()
    }

    /// Ends it at once, as a crash would.
    pub async fn abort(mut self) {
        self.task.abort();
        // Nothing but the news that it was aborted.
        let _ = (&mut self.task).await;
    }

    /// Stops it as [`Scheduler::run`] does when its shutdown resolves.
    ///
    /// # Errors
    /// What [`Scheduler::run`] would have returned.
    pub async fn stop(mut self) -> Result<()> {
        // A closed channel means that the scheduler has ended already.
        self.stop.take().map(|stop| stop.send(()));
        (&mut self.task)
            .await
            .unwrap_or_else(|panic| Err(Error::broker("the scheduler", panic)))
    }
}

impl Drop for RunningScheduler {
    fn drop(&mut self) {
        // Forgotten rather than dropped, the sender never tells the scheduler to stop.
        std::mem::forget(self.stop.take());
    }
}

impl fmt::Debug for RunningScheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningScheduler").finish_non_exhaustive()
    }
}
