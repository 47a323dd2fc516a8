//! The tasks of all fault tests, and the journal in which they tell what they did.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use garenne::{App, Context, Queue, Worker, task};
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

/// Notes `n`, takes its time, and returns `n`.
#[task]
pub(crate) async fn nap(journal: &Journal, n: u64, millis: u64) -> u64 {
    journal.note(&n.to_string());
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

/// Notes its process, and ends it.
#[task]
pub(crate) async fn aborts(journal: &Journal) {
    journal.note(&std::process::id().to_string());
    std::process::abort();
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
