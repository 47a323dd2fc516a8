//! A storm from its beginning to the verdict.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use garenne::message::header;
use garenne::{App, Queue, SECOND};

use super::chance::Chance;
use super::check::check;
use super::child::within;
use super::conductor::Conductor;
use super::disk::Disk;
use super::fault::{Fault, Site};
use super::history::{Event, Tail};
use super::nodes::Nodes;
use super::process::Role;
use super::table;
use crate::script::script;
use crate::support::unique;

/// How long a storm rages, in minutes; without it, each fault happens once, and is short.
const MINUTES: &str = "GARENNE_TORTURE_MINUTES";
/// A number from which all chance comes.
const SEED: &str = "GARENNE_TORTURE_SEED";
const DEFAULT_SEED: u64 = 1;
/// Traffic before the first fault and after the last.
const CALM: Duration = Duration::from_secs(2);
/// Longer than a retry waits.
const QUIET: Duration = Duration::from_secs(2);
const DRAIN_LIMIT: Duration = Duration::from_secs(60);
/// How long the next dead letter is awaited.
const NO_MORE: Duration = Duration::from_secs(2);

#[test]
fn cluster() {
    storm(Site::Cluster);
}

#[test]
fn classic() {
    storm(Site::Classic);
}

#[test]
fn sqlite() {
    storm(Site::Sqlite);
}

fn storm(site: Site) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(rage(site));
}

async fn rage(site: Site) {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let minutes: Option<u64> = number(MINUTES);
    let seed = number(SEED).unwrap_or(DEFAULT_SEED);
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let folder = folder.join(unique(&format!("torture-{}-{seed}", site.name())));
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut conductor = Conductor::new(site, folder.clone(), Chance::new(seed), minutes.is_none());
    if !prepare(&mut conductor).await {
        return;
    }
    let begin = Instant::now();
    let limit = minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let raging = std::panic::AssertUnwindSafe(blow(&mut conductor, limit)).catch_unwind();
    if let Err(panic) = raging.await {
        eprintln!("seed {seed}; the histories are in {}", folder.display());
        std::panic::resume_unwind(panic);
    }
    let entries = Tail::new(&conductor.history_path()).read();
    let report = check(site, &entries);
    let text = table::print(site, seed, minutes, begin.elapsed(), &report);
    println!("{text}");
    std::fs::write(folder.join("report.md"), &text).expect("a report");
    if report.violations.is_empty() {
        // Only what is wrong is looked at again.
        if std::env::var_os("GARENNE_TORTURE_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&folder);
        }
        return;
    }
    println!("{}", table::violations(&report, &entries));
    panic!(
        "{} violations with seed {seed} at {}; the histories are in {}",
        report.violations.len(),
        site.name(),
        folder.display()
    );
}

/// Starts the broker; false where there is none.
async fn prepare(conductor: &mut Conductor) -> bool {
    let scratch = std::env::var_os("GARENNE_TEST_DIR").map(PathBuf::from);
    let scratch = scratch.unwrap_or_else(std::env::temp_dir);
    if conductor.site == Site::Sqlite {
        conductor.disk = Some(Disk::mount(scratch.join(unique("torture-disk"))));
        return true;
    }
    let Some(script) = script() else { return false };
    let folder = scratch.join(unique("rabbitmq"));
    conductor.nodes = Some(Nodes::start(script, folder, conductor.site).await);
    true
}

/// Starts the processes, harms them, heals everything, and waits until all is done.
async fn blow(conductor: &mut Conductor, limit: Option<Duration>) {
    conductor.start_all().await;
    tokio::time::sleep(CALM).await;
    let start = Instant::now();
    loop {
        let mut faults = possible(conductor, limit.is_none());
        conductor.chance.shuffle(&mut faults);
        for fault in faults {
            conductor.inflict(fault).await;
            if limit.is_some_and(|limit| start.elapsed() >= limit) {
                break;
            }
        }
        if limit.is_none_or(|limit| start.elapsed() >= limit) {
            break;
        }
    }
    tokio::time::sleep(CALM).await;
    settle(conductor).await;
}

/// Every kind of fault that can happen; in a short storm, a cluster meets only its own.
fn possible(conductor: &Conductor, short: bool) -> Vec<Fault> {
    let site = conductor.site;
    let can_fill = conductor.disk.as_ref().is_some_and(Disk::can_be_filled);
    let all = Fault::ALL.iter().copied();
    all.filter(|fault| fault.is_at(site))
        .filter(|fault| *fault != Fault::DiskFull || can_fill)
        .filter(|fault| !short || site != Site::Cluster || is_clusters_own(*fault))
        .collect()
}

fn is_clusters_own(fault: Fault) -> bool {
    !fault.is_at(Site::Classic) || matches!(fault, Fault::NodePausedLong | Fault::WorkerKilled)
}

/// The storm is over: every call is to be answered now, and nothing to be left.
async fn settle(conductor: &mut Conductor) {
    conductor.stop_all(Role::Producer).await;
    let app = App::connect(conductor.direct_url().await).await;
    let app = app.expect("a healed broker");
    conductor.drained(&app, QUIET, DRAIN_LIMIT).await;
    conductor.stop_all(Role::Worker).await;
    // What a worker held without settling it is in its queue again.
    let depth = within(10 * SECOND, "the depth", app.depth(&conductor.queue)).await;
    conductor.note(Event::Left {
        queue: conductor.queue.clone(),
        messages: depth.expect("the queue").ready,
    });
    let dead = Queue::new(Queue::new(&conductor.queue).dead_letter_name());
    let mut letters = app.broker().consume(&dead, 100).await.expect("a queue");
    while let Ok(letter) = tokio::time::timeout(NO_MORE, letters.next()).await {
        let letter = letter.expect("open").expect("a delivery");
        let reason = letter.message.text(header::REASON).unwrap_or_default();
        conductor.note(Event::Dead {
            id: letter.message.id.clone(),
            reason: reason.to_owned(),
        });
        letter.ack(None).await.expect("settled");
    }
    app.close().await;
}
