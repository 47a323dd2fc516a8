//! How long those whom a fault has harmed did nothing once it was over.

use std::collections::HashMap;
use std::time::Duration;

use super::life::{Chronicle, Incident};

/// The longest waits after one fault; `None` where nobody was harmed, or nothing can be said.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Recovery {
    /// Until a worker began to run a call; of a worker that was killed, until what it held began to run
    /// elsewhere.
    pub(crate) delivery: Option<Duration>,
    /// Until a producer had a call confirmed.
    pub(crate) confirm: Option<Duration>,
}

/// What is to be said of the `number`th incident.
pub(crate) fn recovery(chronicle: &Chronicle, number: usize) -> Recovery {
    let incident = &chronicle.incidents[number];
    let until = chronicle.until(number);
    let longest = |moments: &HashMap<u32, Vec<u64>>, pids: &[u32]| {
        let silences = pids.iter().map(|pid| {
            let moments = moments.get(pid).map_or(&[][..], Vec::as_slice);
            silence(moments, incident.back, until)
        });
        silences.max().map(Duration::from_micros)
    };
    Recovery {
        delivery: longest(&chronicle.started, &incident.workers)
            .or_else(|| taken_over(chronicle, incident)),
        confirm: longest(&chronicle.confirmed, &incident.producers),
    }
}

/// The longest time between two of `moments`, from `begin` to `until`.
fn silence(moments: &[u64], begin: u64, until: u64) -> u64 {
    let between = moments
        .iter()
        .copied()
        .filter(|at| (begin..=until).contains(at));
    let (mut longest, mut last) = (0, begin);
    for at in between.chain([until]) {
        longest = longest.max(at.saturating_sub(last));
        last = at;
    }
    longest
}

/// How long the calls waited that a killed worker held.
fn taken_over(chronicle: &Chronicle, incident: &Incident) -> Option<Duration> {
    let mut longest = None;
    for life in chronicle.lives.values() {
        for held in &life.starts {
            let of_victim = incident.victims.contains(&held.pid) && held.at <= incident.back;
            let mut ends = life.ends.iter();
            if !of_victim || ends.any(|end| (end.pid, end.attempt) == (held.pid, held.attempt)) {
                continue;
            }
            let again = life.starts.iter().filter(|run| run.at > held.at);
            if let Some(again) = again.map(|run| run.at).min() {
                longest = longest.max(Some(again.saturating_sub(incident.back)));
            }
        }
    }
    longest.map(Duration::from_micros)
}
