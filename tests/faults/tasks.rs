//! The tasks of all fault tests, and the journal in which they tell what they did.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use garenne::{App, Context, Queue, Worker, task};
use serde::{Deserialize, Serialize};
use tokio::sync::Barrier;

/// What the panics that are wanted say.
pub(crate) const PLANNED: &str = "a planned panic";
/// How many calls of [`meet`] wait for each other.
pub(crate) const MEETING: usize = 4;

/// A file to which the tasks of all processes append lines.
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    pub(crate) fn open(path: &Path) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Self {
            path: path.to_owned(),
            file: file.expect("the journal opens"),
        }
    }

    /// Appends a line in one write, which no other process interrupts.
    fn note(&self, line: &str) {
        let line = format!("{line}\n");
        (&self.file)
            .write_all(line.as_bytes())
            .expect("the journal takes a line");
    }

    fn lines(&self) -> Vec<String> {
        lines(&self.path)
    }
}

/// What is written in the journal at `path`.
pub(crate) fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    complete.lines().map(str::to_owned).collect()
}

/// Nanoseconds since 1970, the same clock in all processes.
pub(crate) fn now() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_nanos()
}

/// Where the calls of one test meet.
pub(crate) struct Meeting(Barrier);

/// A worker of all tasks here.
pub(crate) fn worker(app: &App, queue: impl Into<Queue>, slots: usize, journal: &Path) -> Worker {
    Worker::new(app)
        .queue(queue, slots)
        .state(Journal::open(journal))
        .state(Meeting(Barrier::new(MEETING)))
}

/// Notes its id, which scheduler sent it, and when it came.
#[task]
pub(crate) async fn beat(journal: &Journal, ctx: &Context, sender: u32) {
    journal.note(&format!("{} {sender} {}", ctx.id(), now()));
}

#[task]
pub(crate) async fn echo(n: u64) -> u64 {
    n
}

/// Notes `start`, takes its time, and notes when its delivery becomes `void`, and `valid` again. Returns how
/// often it became void.
#[task]
pub(crate) async fn endures(journal: &Journal, ctx: &Context, millis: u64) -> u64 {
    journal.note("start");
    let end = tokio::time::sleep(Duration::from_millis(millis));
    tokio::pin!(end);
    let mut voids = 0;
    loop {
        tokio::select! {
            () = &mut end => return voids,
            () = ctx.stale() => {}
        }
        journal.note("void");
        voids += 1;
        while ctx.is_stale() {
            tokio::select! {
                () = &mut end => return voids,
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
        journal.note("valid");
    }
}

/// Notes `n time`, and returns `n`.
#[task]
pub(crate) async fn arrives(journal: &Journal, n: u64) -> u64 {
    journal.note(&format!("{n} {}", now()));
    n
}

/// Takes its time; returns whether its delivery was good all the while.
#[task]
pub(crate) async fn steady(ctx: &Context, millis: u64) -> bool {
    tokio::select! {
        () = ctx.stale() => false,
        () = tokio::time::sleep(Duration::from_millis(millis)) => true,
    }
}

/// Takes its time, and returns `n`.
#[task]
pub(crate) async fn lasts(n: u64, millis: u64) -> u64 {
    tokio::time::sleep(Duration::from_millis(millis)).await;
    n
}

/// Notes `n`, takes its time, and returns `n`.
#[task]
pub(crate) async fn nap(journal: &Journal, n: u64, millis: u64) -> u64 {
    journal.note(&n.to_string());
    tokio::time::sleep(Duration::from_millis(millis)).await;
    n
}

/// Notes `n attempt`, takes its time, and returns `n`.
#[task]
pub(crate) async fn marks(journal: &Journal, ctx: &Context, n: u64, millis: u64) -> u64 {
    journal.note(&format!("{n} {}", ctx.attempt()));
    tokio::time::sleep(Duration::from_millis(millis)).await;
    n
}

/// Notes `process attempt time`; the first time it runs, it never ends. Returns its process and attempt.
#[task]
pub(crate) async fn hangs_once(journal: &Journal, ctx: &Context) -> (u32, u32) {
    let (process, attempt) = (std::process::id(), ctx.attempt());
    journal.note(&format!("{process} {attempt} {}", now()));
    if journal.lines().len() == 1 {
        std::future::pending::<()>().await;
    }
    (process, attempt)
}

/// Notes `start`, waits until its delivery is void and notes that, takes its time, and returns `n`. Where
/// the journal has a line already, it notes `again` and returns at once.
#[task]
pub(crate) async fn outlives(journal: &Journal, ctx: &Context, n: u64, millis: u64) -> u64 {
    if !journal.lines().is_empty() {
        journal.note("again");
        return n;
    }
    journal.note("start");
    ctx.stale().await;
    journal.note("stale");
    tokio::time::sleep(Duration::from_millis(millis)).await;
    n
}

/// Notes its attempt; the first one fails.
#[task(retries = 1, backoff = "1ms..1ms")]
pub(crate) async fn fails_once(journal: &Journal, ctx: &Context) -> Result<u32, String> {
    journal.note(&ctx.attempt().to_string());
    match ctx.attempt() {
        1 => Err("the first attempt fails".to_owned()),
        attempt => Ok(attempt),
    }
}

/// Notes its process, and ends it in that way.
#[task]
pub(crate) async fn dies(journal: &Journal, how: Death) {
    journal.note(&std::process::id().to_string());
    match how {
        Death::Abort => std::process::abort(),
        Death::StackOverflow => drop(std::hint::black_box(deeper(0))),
        // The child's limit of memory turns the allocation down.
        Death::OutOfMemory => drop(std::hint::black_box(hoard())),
        // Linux's OOM killer sends SIGKILL.
        Death::Killed => super::child::signal(std::process::id(), "KILL"),
    }
    // The signal is on its way.
    std::thread::park();
}

/// How a task ends its process.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Death {
    Abort,
    StackOverflow,
    OutOfMemory,
    Killed,
}

#[allow(unconditional_recursion, reason = "it is to overflow the stack")]
fn deeper(depth: u64) -> u64 {
    let block = std::hint::black_box([depth; 1024]);
    deeper(depth + 1) + block[depth as usize % 1024]
}

fn hoard() -> Vec<Vec<u8>> {
    let mut kept = Vec::new();
    for _ in 0..1_000 {
        kept.push(vec![1; 64 << 20]);
    }
    kept
}

#[task]
pub(crate) async fn panics() {
    panic!("{PLANNED}");
}

/// Returns when as many calls run as there are [`MEETING`].
#[task]
pub(crate) async fn meet(meeting: &Meeting) {
    meeting.0.wait().await;
}

/// Notes `n`, and spins on a thread of its own; it asks nobody whether it should go on.
#[task]
pub(crate) fn spins(journal: &Journal, n: u64, millis: u64) -> u64 {
    journal.note(&n.to_string());
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(millis) {
        std::thread::sleep(Duration::from_millis(1));
    }
    n
}

/// Opens as many files as it may, notes that, and keeps them for a while; returns how many.
#[task]
pub(crate) async fn opens(journal: &Journal, millis: u64) -> usize {
    let files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    journal.note("all files are taken");
    tokio::time::sleep(Duration::from_millis(millis)).await;
    files.len()
}

/// Keeps its runtime's thread busy; returns whether its delivery is still good after that.
#[task]
pub(crate) async fn hogs(journal: &Journal, ctx: &Context, n: u64, millis: u64) -> bool {
    journal.note(&n.to_string());
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(millis) {
        std::hint::spin_loop();
    }
    !ctx.is_stale()
}

/// A member of a chord.
#[task]
pub(crate) async fn bring(chord: u64, n: u64) -> u64 {
    tokio::time::sleep(Duration::from_millis(1)).await;
    chord * 1_000 + n
}

/// The body of a chord of [`bring`]: notes `chord id process right`.
#[task]
pub(crate) async fn gather(values: Vec<u64>, journal: &Journal, ctx: &Context, chord: u64) -> u64 {
    let expected: Vec<u64> = (0..50).map(|n| chord * 1_000 + n).collect();
    let (id, process) = (ctx.id(), std::process::id());
    journal.note(&format!("{chord} {id} {process} {}", values == expected));
    tokio::time::sleep(Duration::from_millis(1)).await;
    chord
}
