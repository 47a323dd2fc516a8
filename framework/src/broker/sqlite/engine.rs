//! The one thread that writes to the file: gathers requests, carries them out in one transaction (so that
//! they share one fsync, `carry_out.rs`), and hands out what it claimed. Its SQL is in `batch.rs` and `store.rs`.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::audience::Heard;
use super::batch::Identity;
use super::command::{Command, Handle, Job, Request};
use super::consume::{Member, Members};
use super::fault::Fault;
use super::liveness::{LockDirectory, ProcessLock};
use super::opened::OpenedFile;
use super::outgoing::millis;
use super::owed::Owed;
use super::process;
use super::store::Packed;
use super::syncing::Syncing;
use super::transaction::WriteTransaction;
use super::turn::Turn;
use super::wake::Waker;

/// Requests carried out in one transaction.
const BATCH: usize = 512;
/// How often another process's lock is tried, and news looked for that no datagram told of.
const TICK: Duration = Duration::from_millis(150);
/// How often old dead letters are looked for.
pub(super) const PRUNE_PERIOD: Duration = Duration::from_secs(600);
/// How long claiming pauses after it failed.
pub(super) const CLAIM_PAUSE: Duration = Duration::from_millis(250);
/// How soon a channel that was full is tried again.
const ROOM_PAUSE: Duration = Duration::from_millis(5);

/// The reply queue of this process.
pub(super) struct ReplyQueue {
    pub(super) address: String,
    pub(super) messages: mpsc::Sender<Packed>,
    /// Whether replies wait that there was no room for, or that another process stored.
    pub(super) waiting: bool,
}

/// The writer thread's state.
pub(super) struct Engine {
    pub(super) db: Connection,
    pub(super) syncing: Syncing,
    pub(super) path: PathBuf,
    pub(super) file: OpenedFile,
    pub(super) me: Identity,
    pub(super) locks: LockDirectory,
    pub(super) lock: ProcessLock,
    pub(super) waker: Waker,
    pub(super) inbox: Receiver<Command>,
    pub(super) handle: Handle,
    pub(super) members: Members,
    pub(super) replies: Option<ReplyQueue>,
    pub(super) cancellations: Vec<mpsc::Sender<String>>,
    pub(super) cancelled_seen: i64,
    pub(super) cancelled_waiting: bool,
    pub(super) owed: Owed,
    /// Becomes true when the deliveries handed out are void.
    pub(super) ended: watch::Sender<bool>,
    pub(super) data_version: i64,
    pub(super) heard: Heard,
    pub(super) next_tick: Instant,
    /// How often the other processes were looked after.
    pub(super) ticks: usize,
    pub(super) next_prune: Instant,
    pub(super) claim_again: Instant,
    /// Whether the disk was full, and the log may still stand in its own way.
    pub(super) cramped: bool,
    pub(super) turn: Turn,
}

impl Engine {
    /// Registers this process in the database, which makes it known to the others.
    ///
    /// # Errors
    /// A sentence for a person.
    pub(super) fn new(
        db: Connection,
        syncing: Syncing,
        path: PathBuf,
        handle: Handle,
        inbox: Receiver<Command>,
        heard: Heard,
    ) -> Result<Self, String> {
        let locks = LockDirectory::beside(&path);
        let id = new_id();
        let lock = locks
            .enter(id)
            .map_err(|e| format!("the locks beside `{}` cannot be used: {e}", path.display()))?;
        let waker = Waker::start(&handle);
        let port = waker.port();
        let explain = |e: rusqlite::Error| Fault::new(&path, &e).reason().to_owned();
        process::add_process(&db, id, port, millis(SystemTime::now())).map_err(explain)?;
        locks.sweep(
            &process::processes(&db).map_err(explain)?,
            SystemTime::now(),
        );
        let now = Instant::now();
        Ok(Self {
            db,
            syncing,
            file: OpenedFile::new(&path),
            path,
            me: Identity { id, port },
            locks,
            lock,
            waker,
            inbox,
            handle,
            members: Members::default(),
            replies: None,
            cancellations: Vec::new(),
            cancelled_seen: 0,
            cancelled_waiting: false,
            owed: Owed::default(),
            ended: watch::channel(false).0,
            data_version: 0,
            heard,
            next_tick: now,
            ticks: 0,
            next_prune: now,
            claim_again: now,
            cramped: false,
            turn: Turn::default(),
        })
    }

    /// Serves until it is told to close.
    pub(super) fn run(mut self) {
        loop {
            let (mut jobs, news, close) = self.gather();
            let now = Instant::now();
            if now >= self.next_tick {
                self.next_tick = now + TICK;
                self.tick(&mut jobs);
            }
            if news || self.is_due() {
                self.look();
            }
            if news {
                self.hear();
            }
            if self.syncing.falls_due(now) {
                jobs.push(Job::silent(Request::Sync));
            }
            jobs.retain(Job::take);
            if close.is_some() || self.owed.due().is_some_and(|due| due <= now) {
                let owed = self.owed.take();
                if !owed.is_empty() {
                    self.carry_out(owed, false);
                }
            }
            if !jobs.is_empty() || (self.wants_claim() && now >= self.claim_again) {
                let started = Instant::now();
                self.carry_out(jobs, true);
                self.turn.worked(started.elapsed());
            }
            if let Some(closed) = close {
                self.close(closed);
                return;
            }
        }
    }

    /// Waits for commands or for a time at which something is to be done.
    fn gather(&mut self) -> (Vec<Job>, bool, Option<oneshot::Sender<()>>) {
        let (mut jobs, mut news, mut close) = (Vec::new(), false, None);
        if let Some(rest) = self.turn.rest() {
            std::thread::sleep(rest);
        }
        let started = Instant::now();
        let mut next = match self.inbox.recv_timeout(self.patience(started)) {
            Ok(command) => Some(command),
            Err(RecvTimeoutError::Timeout) => None,
            // Cannot be, since this thread holds a handle itself; without one there is nobody to serve.
            Err(RecvTimeoutError::Disconnected) => Some(Command::Close(oneshot::channel().0)),
        };
        self.turn.waited(started.elapsed());
        while let Some(command) = next {
            let is_job = matches!(command, Command::Do(_));
            match command {
                Command::Do(job) => jobs.push(job),
                Command::Wake => {
                    self.waker.heard();
                    news = true;
                }
                Command::Close(closed) => {
                    close = Some(closed);
                    break;
                }
            }
            next = match jobs.len() < BATCH {
                true => self.more(is_job),
                false => None,
            };
        }
        (jobs, news, close)
    }

    /// A command that has come. Where `hopeful`, others are let on first: those that were told of the last commit are
    /// about to ask again, and what comes at once shares the next one.
    fn more(&self, hopeful: bool) -> Option<Command> {
        let command = self.inbox.try_recv().ok();
        if command.is_none() && hopeful {
            std::thread::yield_now();
            return self.inbox.try_recv().ok();
        }
        command
    }

    /// How long there is nothing to do but to wait for commands.
    fn patience(&self, now: Instant) -> Duration {
        let mut until = self.next_tick;
        until = until.min(self.owed.due().unwrap_or(until));
        until = until.min(self.syncing.due().unwrap_or(until));
        if self.wants_claim() {
            until = until.min(self.claim_again);
        }
        if self.replies.as_ref().is_some_and(|replies| replies.waiting) || self.cancelled_waiting {
            until = until.min(now + ROOM_PAUSE);
        }
        let patience = until.saturating_duration_since(now);
        match self.next_due() {
            Some(due) => {
                let since_epoch = SystemTime::now()
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or_default();
                let due = Duration::from_millis(due.max(0).unsigned_abs());
                patience.min(due.saturating_sub(since_epoch))
            }
            None => patience,
        }
    }

    fn next_due(&self) -> Option<i64> {
        self.members
            .consumers
            .values()
            .filter(|member| member.free() > 0 && !member.check)
            .filter_map(|member| member.next_due)
            .min()
    }

    fn is_due(&self) -> bool {
        self.next_due()
            .is_some_and(|due| due <= millis(SystemTime::now()))
    }

    /// Whether a transaction is wanted though nobody asked for one.
    fn wants_claim(&self) -> bool {
        let hungry = |member: &Member| member.check && member.free() > 0;
        self.members.consumers.values().any(hungry)
            || self
                .replies
                .as_ref()
                .is_some_and(|replies| replies.waiting && replies.messages.capacity() > 0)
            || (self.cancelled_waiting && self.cancel_room() > 0)
    }

    pub(super) fn cancel_room(&self) -> usize {
        let room = |sender: &mpsc::Sender<String>| sender.capacity();
        self.cancellations.iter().map(room).min().unwrap_or(0)
    }

    pub(super) fn complain(&self, what: &str, error: &rusqlite::Error) {
        let fault = Fault::new(&self.path, error);
        tracing::error!("{what}: {}", fault.reason());
    }

    /// Gives everything back and leaves. Dropping the inbox then tells waiting callers.
    fn close(mut self, closed: oneshot::Sender<()>) {
        self.ended.send_replace(true);
        if let Err(error) = self.leave() {
            self.complain("giving deliveries back at the end", &error);
        }
        let Self { db, lock, path, .. } = self;
        if let Err((_, error)) = db.close() {
            tracing::warn!(path = %path.display(), %error, "closing the file");
        }
        // Last of all: without it, others take over what could not be given back.
        drop(lock);
        let _ = closed.send(());
    }

    fn leave(&mut self) -> rusqlite::Result<()> {
        // What was settled last is on the disk, too, when this returns.
        self.syncing.insist(&self.db)?;
        let tx = WriteTransaction::begin(&self.db)?;
        let back = process::remove_process(&self.db, self.me.id, false)?;
        let mut ports = Vec::new();
        for queue in back.iter().flatten() {
            ports.extend(process::waiting_ports(&self.db, self.me.id, queue)?);
        }
        tx.commit()?;
        for port in ports {
            self.waker.wake(port);
        }
        Ok(())
    }
}

/// An id that no process before us had, so that no late settlement is taken for another's.
pub(super) fn new_id() -> i64 {
    let (high, _) = uuid::Uuid::new_v4().as_u64_pair();
    high.cast_signed()
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
