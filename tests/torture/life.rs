//! A history sorted by who it is about: the lives of calls, and the faults.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::fault::Fault;
use super::history::{Answer, Entry, Event, Outcome};
use super::tasks::Kind;

/// All that is known of one call.
#[derive(Debug, Default)]
pub(crate) struct Life {
    /// What it is, where it was sent.
    pub(crate) call: Option<(Kind, u64)>,
    /// When and by whom it was sent.
    pub(crate) sends: Vec<(u64, u32)>,
    pub(crate) outcomes: Vec<(u64, Outcome)>,
    pub(crate) starts: Vec<Run>,
    pub(crate) ends: Vec<Run>,
    pub(crate) replies: Vec<(u64, Answer)>,
    /// Why it is a dead letter, as often as it is one.
    pub(crate) dead: Vec<String>,
}

/// A start or an end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Run {
    pub(crate) at: u64,
    pub(crate) pid: u32,
    pub(crate) attempt: u32,
}

impl Life {
    pub(crate) fn is_confirmed(&self) -> bool {
        let mut outcomes = self.outcomes.iter();
        outcomes.any(|(_, outcome)| *outcome == Outcome::Confirmed)
    }

    /// Whether every sending of it is known to have stored nothing.
    pub(crate) fn is_known_not_stored(&self) -> bool {
        let mut outcomes = self.outcomes.iter();
        self.outcomes.len() == self.sends.len()
            && outcomes.all(|(_, outcome)| outcome.is_definite_failure())
    }

    /// From the first sending to the last thing known of it.
    pub(crate) fn span(&self) -> Option<(u64, u64)> {
        let begin = self.sends.first()?.0;
        let runs = self.starts.iter().chain(&self.ends).map(|run| run.at);
        let told = self.outcomes.iter().map(|(at, _)| *at);
        let told = told.chain(self.replies.iter().map(|(at, _)| *at));
        Some((begin, runs.chain(told).max().unwrap_or(begin)))
    }
}

/// One fault.
#[derive(Debug)]
pub(crate) struct Incident {
    pub(crate) kind: Fault,
    pub(crate) begin: u64,
    pub(crate) end: u64,
    /// When the processes had again what they need.
    pub(crate) back: u64,
    pub(crate) victims: Vec<u32>,
    pub(crate) workers: Vec<u32>,
    pub(crate) producers: Vec<u32>,
}

/// The whole history, sorted.
#[derive(Debug, Default)]
pub(crate) struct Chronicle {
    pub(crate) lives: BTreeMap<String, Life>,
    pub(crate) incidents: Vec<Incident>,
    /// When each process began to run an attempt.
    pub(crate) started: HashMap<u32, Vec<u64>>,
    /// When each process had a call confirmed.
    pub(crate) confirmed: HashMap<u32, Vec<u64>>,
    /// Producers that came to their good end.
    pub(crate) finished: HashSet<u32>,
    /// Processes that ended by themselves, and how.
    pub(crate) ended: Vec<(u32, String)>,
    /// What was left in queues.
    pub(crate) left: Vec<(String, u64)>,
    /// The last time anything was sent.
    pub(crate) last_send: u64,
}

impl Chronicle {
    pub(crate) fn of(entries: &[Entry]) -> Self {
        let mut chronicle = Self::default();
        let mut ordered: Vec<&Entry> = entries.iter().collect();
        ordered.sort_by_key(|entry| entry.at);
        let end = ordered.last().map_or(0, |entry| entry.at);
        for entry in ordered {
            chronicle.add(entry, end);
        }
        chronicle
    }

    fn life(&mut self, id: &str) -> &mut Life {
        self.lives.entry(id.to_owned()).or_default()
    }

    fn add(&mut self, entry: &Entry, end: u64) {
        let (at, pid) = (entry.at, entry.pid);
        match &entry.event {
            Event::Ready => {}
            Event::Finished => drop(self.finished.insert(pid)),
            Event::Ended { victim, how } => self.ended.push((*victim, how.clone())),
            Event::Left { queue, messages } => self.left.push((queue.clone(), *messages)),
            Event::Send { id, kind, n } => {
                self.last_send = at;
                let life = self.life(id);
                life.call = Some((*kind, *n));
                life.sends.push((at, pid));
            }
            Event::Sent { id, outcome, .. } => {
                if *outcome == Outcome::Confirmed {
                    self.confirmed.entry(pid).or_default().push(at);
                }
                self.life(id).outcomes.push((at, *outcome));
            }
            Event::Start { id, attempt } => {
                self.started.entry(pid).or_default().push(at);
                let attempt = *attempt;
                self.life(id).starts.push(Run { at, pid, attempt });
            }
            Event::End { id, attempt, .. } => {
                let attempt = *attempt;
                self.life(id).ends.push(Run { at, pid, attempt });
            }
            Event::Reply { id, answer } => self.life(id).replies.push((at, answer.clone())),
            Event::Dead { id, reason } => self.life(id).dead.push(reason.clone()),
            Event::Begin { kind, victims, .. } => self.incidents.push(Incident {
                kind: *kind,
                begin: at,
                end,
                back: at,
                victims: victims.clone(),
                workers: Vec::new(),
                producers: Vec::new(),
            }),
            Event::Over {
                fault,
                back,
                workers,
                producers,
            } => {
                if let Some(incident) = self.incidents.get_mut(*fault) {
                    (incident.end, incident.back) = (at, *back);
                    incident.workers.clone_from(workers);
                    incident.producers.clone_from(producers);
                }
            }
        }
    }

    /// Until when the effects of the `number`th incident alone can be seen: the next fault, or the end of
    /// the traffic.
    pub(crate) fn until(&self, number: usize) -> u64 {
        let next = self.incidents.get(number + 1);
        next.map_or(self.last_send, |incident| incident.begin)
    }
}
