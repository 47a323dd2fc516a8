//! The conductor: starts the processes of a storm, sees to it that they run, and tells them to end.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::chance::Chance;
use super::child::within;
use super::disk::Disk;
use super::fault::{Fault, Site};
use super::history::{Event, History, Outcome, Tail, now};
use super::nodes::Nodes;
use super::process::{Link, Orders, Process, Role};
use super::producer::ANSWER_PATIENCE;
use super::tasks::Kind;
use crate::support::unique;

/// Small, so that a peer that is mute is given up soon.
const OPTIONS: &str = "heartbeat=2";
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// How long the conductor waits until all that a fault has harmed work again; then it goes on, and the
/// checker finds who was deaf.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(20);
const STOP_PATIENCE: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(20);
const WORKERS: usize = 2;
const PRODUCERS: usize = 2;

pub(crate) struct Conductor {
    // Dropped in this order: nothing works on what is gone already.
    processes: Vec<Process>,
    pub(crate) nodes: Option<Nodes>,
    pub(crate) disk: Option<Disk>,
    pub(crate) site: Site,
    pub(crate) queue: String,
    pub(crate) chance: Chance,
    run: String,
    folder: PathBuf,
    history: History,
    tail: Tail,
    started: usize,
    faults: usize,
    /// Whether faults last as short as they can.
    pub(crate) brief: bool,
}

/// What a fault has left behind.
pub(crate) struct Aftermath {
    /// When everything was there again that the processes need.
    pub(crate) back: u64,
    /// Who was harmed and is expected to work from then on.
    pub(crate) pids: Vec<u32>,
}

impl Conductor {
    pub(crate) fn new(site: Site, folder: PathBuf, chance: Chance, brief: bool) -> Self {
        let path = folder.join("history.jsonl");
        Self {
            processes: Vec::new(),
            nodes: None,
            disk: None,
            site,
            queue: unique("torture"),
            chance,
            run: unique("call"),
            history: History::open(&path),
            tail: Tail::new(&path),
            folder,
            started: 0,
            faults: 0,
            brief,
        }
    }

    pub(crate) fn history_path(&self) -> PathBuf {
        self.folder.join("history.jsonl")
    }

    pub(crate) fn note(&self, event: Event) {
        self.history.note(event);
    }

    /// Where the broker is, no proxy between.
    pub(crate) async fn direct_url(&self) -> String {
        match (&self.nodes, &self.disk) {
            (Some(nodes), _) => {
                let url = |address| format!("amqp://guest:guest@{address}/%2f?{}", self.options());
                nodes
                    .addresses()
                    .iter()
                    .map(url)
                    .collect::<Vec<_>>()
                    .join(";")
            }
            (None, Some(disk)) => format!("sqlite://{}", disk.database().display()),
            (None, None) => unreachable!("a storm has a broker"),
        }
    }

    fn options(&self) -> String {
        match self.site {
            Site::Classic => format!("{OPTIONS}&queue_type=classic"),
            _ => OPTIONS.into(),
        }
    }

    /// Starts all processes and returns when each kind of call has been answered.
    pub(crate) async fn start_all(&mut self) {
        for role in [[Role::Worker; WORKERS], [Role::Producer; PRODUCERS]].concat() {
            self.start(role).await;
        }
        let mut open = vec![Kind::Quick, Kind::Long, Kind::Flaky, Kind::Doomed];
        let mut kinds = std::collections::HashMap::new();
        let deadline = Instant::now() + READY_PATIENCE;
        while !open.is_empty() {
            assert!(Instant::now() < deadline, "no answer to {open:?}");
            for entry in self.tail.read() {
                match entry.event {
                    Event::Send { id, kind, .. } => drop(kinds.insert(id, kind)),
                    Event::Reply { id, .. } => open.retain(|kind| kinds.get(&id) != Some(kind)),
                    _ => {}
                }
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Starts a process and waits until it works; returns its place among the processes.
    pub(crate) async fn start(&mut self, role: Role) -> usize {
        let number = self.started;
        self.started += 1;
        let (link, url) = match &self.nodes {
            Some(nodes) => {
                let link = Link::to(&nodes.addresses()).await;
                let url = link.url(number, &self.options());
                (link, url)
            }
            None => (Link::default(), self.direct_url().await),
        };
        let orders = Orders {
            role,
            number,
            run: self.run.clone(),
            url,
            queue: self.queue.clone(),
            history: self.history_path(),
        };
        let process = Process::start(&orders, link, &self.folder);
        let pid = process.pid;
        self.processes.push(process);
        let ready = self.await_events(READY_PATIENCE, |entry_pid, event| {
            entry_pid == pid && matches!(event, Event::Ready)
        });
        assert!(ready.await, "{role:?} {number} was not ready in time");
        self.processes.len() - 1
    }

    /// Reads the history until an event is met; false if it did not come in time.
    async fn await_events(
        &mut self,
        patience: Duration,
        mut met: impl FnMut(u32, &Event) -> bool,
    ) -> bool {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if self
                .tail
                .read()
                .iter()
                .any(|entry| met(entry.pid, &entry.event))
            {
                return true;
            }
            tokio::time::sleep(TICK).await;
        }
        false
    }

    /// Carries out one fault, and waits until what it harmed works again.
    pub(crate) async fn inflict(&mut self, kind: Fault) {
        let fault = self.faults;
        self.faults += 1;
        eprintln!("{}: {}. {}", self.site.name(), fault + 1, kind.name());
        let aftermath = self.strike(fault, kind).await;
        let pids_of = |role| {
            let those = self.processes.iter().filter(|process| process.role == role);
            let pids = those.map(|process| process.pid);
            pids.filter(|pid| aftermath.pids.contains(pid)).collect()
        };
        let (workers, producers): (Vec<u32>, Vec<u32>) =
            (pids_of(Role::Worker), pids_of(Role::Producer));
        self.note(Event::Over {
            fault,
            back: aftermath.back,
            workers: workers.clone(),
            producers: producers.clone(),
        });
        self.bury().await;
        let back = aftermath.back;
        let mut open: Vec<u32> = [workers, producers].concat();
        let start = Instant::now();
        while !open.is_empty() && start.elapsed() < RECOVERY_PATIENCE {
            for entry in self.tail.read() {
                let works = match entry.event {
                    Event::Start { .. } => true,
                    Event::Sent { outcome, .. } => outcome == Outcome::Confirmed,
                    _ => false,
                };
                if works && entry.at >= back {
                    open.retain(|pid| *pid != entry.pid);
                }
            }
            tokio::time::sleep(TICK).await;
        }
        let pause = match self.brief {
            true => Duration::from_millis(600),
            false => self.chance.millis(1_500..4_000),
        };
        tokio::time::sleep(pause).await;
    }

    /// Notes that a fault begins.
    pub(crate) fn begin(&self, fault: usize, kind: Fault, victims: &[u32]) {
        self.note(Event::Begin {
            fault,
            kind,
            victims: victims.to_vec(),
        });
    }

    /// Notes processes that have ended though nobody killed them, and starts others in their place.
    async fn bury(&mut self) {
        let mut roles = Vec::new();
        self.processes.retain_mut(|process| {
            let Some(status) = process.ended() else {
                return true;
            };
            self.history.note(Event::Ended {
                victim: process.pid,
                how: status.to_string(),
            });
            roles.push(process.role);
            false
        });
        for role in roles {
            self.start(role).await;
        }
    }

    pub(crate) fn all(&self) -> &[Process] {
        &self.processes
    }

    /// One of the processes of a role, by chance.
    pub(crate) fn pick(&mut self, role: Role) -> usize {
        let those: Vec<usize> = (0..self.processes.len())
            .filter(|i| self.processes[*i].role == role)
            .collect();
        those[self.chance.below(those.len())]
    }

    /// Ends a process and starts another in its place; returns when it was killed.
    pub(crate) async fn replace(&mut self, index: usize, signal: &str) -> u64 {
        let mut process = self.processes.remove(index);
        if signal == "KILL" {
            process.kill().await;
        } else {
            process.signal(signal).await;
            self.end(&mut process, STOP_PATIENCE).await;
        }
        let at = now();
        self.start(process.role).await;
        at
    }

    /// Awaits the good end of a process that was told to stop.
    async fn end(&self, process: &mut Process, patience: Duration) {
        let how = match tokio::time::timeout(patience, process.end()).await {
            Ok(status) if status.success() => return,
            Ok(status) => status.to_string(),
            Err(_) => format!("it did not stop within {patience:?}"),
        };
        self.note(Event::Ended {
            victim: process.pid,
            how,
        });
    }

    /// Stops all processes of a role.
    pub(crate) async fn stop_all(&mut self, role: Role) {
        self.bury().await;
        let (mut stopping, others) = std::mem::take(&mut self.processes)
            .into_iter()
            .partition::<Vec<_>, _>(|process| process.role == role);
        self.processes = others;
        for process in &stopping {
            process.signal("TERM").await;
        }
        let patience = STOP_PATIENCE + ANSWER_PATIENCE;
        for process in &mut stopping {
            self.end(process, patience).await;
        }
    }

    /// Until the queue has been empty for so long.
    pub(crate) async fn drained(&self, app: &garenne::App, quiet: Duration, limit: Duration) {
        let start = Instant::now();
        let mut empty_since = Instant::now();
        while empty_since.elapsed() < quiet && start.elapsed() < limit {
            let depth = within(limit, "asking for the depth", app.depth(&self.queue)).await;
            if depth.expect("the queue").ready > 0 {
                empty_since = Instant::now();
            }
            tokio::time::sleep(5 * TICK).await;
        }
    }
}
