//! For your tests: an app in memory, a look at what was sent, time that passes at once, and faults on demand.
//!
//! [`App::in_memory`](crate::App::in_memory) behaves as the other brokers do, and follows tokio's clock. With
//! `#[tokio::test(start_paused = true)]` (tokio's feature `test-util`, among your dev-dependencies) an hour of
//! retries or a day of schedules is over in milliseconds, and runs the same each time. Nothing here needs a feature
//! of Garenne's, and nothing of it runs in an app on another broker.
//!
//! 1. What does the code send? [`assert_sent`] and [`refute_sent`], or [`sent`] for all of it.
//!
//! ```standalone_crate
//! use garenne::testing::{assert_sent, refute_sent};
//! use garenne::{App, Error, task};
//!
//! #[task]
//! async fn welcome(address: String) {}
//!
//! async fn sign_up(app: &App, address: &str) -> Result<(), Error> {
//!     let _ = welcome::call(address.into()).send(app).await?;
//!     Ok(())
//! }
//!
//! // #[tokio::test]
//! async fn who_signs_up_is_welcomed() {
//!     let app = App::in_memory();
//!     sign_up(&app, "ann@example.com").await.unwrap();
//!     assert_sent(&app, &welcome::call("ann@example.com".into()));
//!     refute_sent(&app, &welcome::call("bob@example.com".into()));
//! }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() { who_signs_up_is_welcomed().await }
//! ```
//!
//! 2. Is it retried as it should be? [`drain`] runs all that is there, retries and later calls included, and says
//!    what happened.
//!
//! ```standalone_crate
//! use garenne::testing::{Outcome, drain};
//! use garenne::{App, Context, MINUTE, TaskError, task};
//!
//! #[task(retries = 9)]
//! async fn fetch(ctx: &Context, url: String) -> Result<String, TaskError> {
//!     match ctx.attempt() {
//!         1..=3 => Err(TaskError::retry_in(20 * MINUTE).because("503")),
//!         _ => Ok(format!("the page at {url}")),
//!     }
//! }
//!
//! // #[tokio::test(start_paused = true)]
//! async fn a_page_is_fetched_in_the_end() {
//!     let app = App::in_memory();
//!     let handle = fetch::call("example.com".into()).send(&app).await.unwrap();
//!     let start = tokio::time::Instant::now();
//!     let happened = drain(&app).await; // takes milliseconds
//!     assert!(start.elapsed() >= 60 * MINUTE);
//!     assert_eq!(happened.len(), 4);
//!     assert!(matches!(&happened[0].outcome, Outcome::Retried { after, .. } if *after == 20 * MINUTE));
//!     assert_eq!(handle.await.unwrap(), "the page at example.com");
//! }
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() { a_page_is_fetched_in_the_end().await }
//! ```
//!
//! 3. Is a task idempotent? [`redeliver`] has each delivery of a task come twice, as it may after a lost connection.
//!    [`drain_with`] lends what tasks borrow.
//!
//! ```standalone_crate
//! use std::collections::BTreeSet;
//! use std::sync::{Arc, Mutex};
//!
//! use garenne::testing::{drain_with, redeliver};
//! use garenne::{App, Context, Worker, task};
//!
//! #[derive(Clone, Default)]
//! struct Ledger(Arc<Mutex<BTreeSet<String>>>);
//!
//! #[task]
//! async fn charge(ledger: &Ledger, ctx: &Context, amount: u32) {
//!     // The call's id is the same in every delivery, so one charge stays one.
//!     ledger.0.lock().unwrap().insert(format!("{}: {amount}", ctx.id()));
//! }
//!
//! // #[tokio::test(start_paused = true)]
//! async fn nobody_is_charged_twice() {
//!     let (app, ledger) = (App::in_memory(), Ledger::default());
//!     redeliver::<charge>(&app);
//!     let _ = charge::call(100).send(&app).await.unwrap();
//!     let happened = drain_with(Worker::new(&app).state(ledger.clone())).await;
//!     assert_eq!(happened.len(), 2, "it ran twice");
//!     assert_eq!(ledger.0.lock().unwrap().len(), 1);
//! }
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() { nobody_is_charged_twice().await }
//! ```
//!
//! 4. What if the worker dies? [`crash_after`] kills it when a task has run, before anything is acknowledged.
//!
//! ```standalone_crate
//! use garenne::testing::{Outcome, crash_after, drain};
//! use garenne::{App, FailureKind, task};
//!
//! #[task]
//! async fn convert(file: String) -> String {
//!     file.replace(".png", ".webp")
//! }
//!
//! // #[tokio::test(start_paused = true)]
//! async fn a_dead_worker_loses_nothing() {
//!     let app = App::in_memory();
//!     crash_after::<convert>(&app, 2);
//!     let handle = convert::call("cat.png".into()).send(&app).await.unwrap();
//!     let happened = drain(&app).await;
//!     let crashes = happened.iter().filter(|ran| ran.outcome == Outcome::Crashed);
//!     assert_eq!(crashes.count(), 2);
//!     assert_eq!(handle.await.unwrap(), "cat.webp");
//!
//!     // What kills all its workers is set aside.
//!     crash_after::<convert>(&app, u32::MAX);
//!     let handle = convert::call("bomb.png".into()).send(&app).await.unwrap();
//!     drain(&app).await;
//!     assert_eq!(handle.await.unwrap_err().kind, FailureKind::Rejected);
//! }
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() { a_dead_worker_loses_nothing().await }
//! ```
//!
//! 5. Does it work with real workers, at the right times? Spawn them as ever: time is all that is special.
//!
//! ```standalone_crate
//! use garenne::testing::{assert_sent, sent};
//! use garenne::{App, Context, DAY, Error, HOUR, Worker, task};
//!
//! #[task]
//! async fn remind(ctx: &Context, invoice: u32) -> Result<(), Error> {
//!     // Again tomorrow, three times in all.
//!     let times = ctx.header("times").and_then(|times| times.as_u64()).unwrap_or(1);
//!     if times < 3 {
//!         let again = remind::call(invoice).countdown(DAY).header("times", times + 1);
//!         let _ = again.send(ctx.app()).await?;
//!     }
//!     Ok(())
//! }
//!
//! // #[tokio::test(start_paused = true)]
//! async fn reminders_go_out_for_three_days() {
//!     let app = App::in_memory();
//!     let worker = Worker::new(&app).queue("default", 4).spawn();
//!     let _ = remind::call(7).countdown(HOUR).send(&app).await.unwrap();
//!     tokio::time::sleep(30 * DAY).await;
//!     assert_eq!(sent(&app).len(), 3);
//!     assert_sent(&app, &remind::call(7).countdown(DAY).header("times", 3));
//!     worker.stop().await.unwrap();
//! }
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() { reminders_go_out_for_three_days().await }
//! ```

mod drain;
mod sent;

pub use crate::worker::{Outcome, Ran};
pub use drain::{drain, drain_with};
pub use sent::{Sent, assert_sent, refute_sent, sent};

use crate::app::App;
use crate::rehearsal::{Fault, Rehearsal};
use crate::task::Task;

/// From now on each delivery of task `T` comes twice: the task runs, its acknowledgement is lost, and the same
/// message is delivered again, to a worker that knows nothing of the first time.
///
/// Who awaits the call gets the second result. Retries are deliveries of their own, and come twice, too.
///
/// # Panics
/// Where the app is not in memory.
#[track_caller]
pub fn redeliver<T: Task>(app: &App) {
    rehearsal(app).inject(T::DEFINITION.name, Fault::FirstDeliveries);
}

/// The next `times` times that task `T` has run, its worker dies, before it has replied or acknowledged: the call
/// is delivered again, and counts as a delivery that killed its worker
/// ([`Worker::max_deliveries`](crate::Worker::max_deliveries)). A call that is acknowledged early is lost.
///
/// # Panics
/// Where the app is not in memory.
#[track_caller]
pub fn crash_after<T: Task>(app: &App, times: u32) {
    rehearsal(app).inject(T::DEFINITION.name, Fault::Times(times));
}

#[track_caller]
fn rehearsal(app: &App) -> &Rehearsal {
    let Some(rehearsal) = app.rehearsal() else {
        panic!("this needs an app in memory: make it with `App::in_memory()`");
    };
    rehearsal
}
