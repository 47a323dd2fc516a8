//! What a history must not show.

use std::collections::BTreeMap;
use std::time::Duration;

use super::child::MAX_DELIVERIES;
use super::fault::{Fault, Site};
use super::history::{Answer, Entry, Outcome};
use super::life::{Chronicle, Life};
use super::recovery::{Recovery, recovery};
use super::tasks::Kind;

/// How long after its end a fault explains that a call runs again: what the broker or a client has to notice
/// by its heartbeat, and a delivery that came just before.
const AFTERMATH: u64 = 10_000_000;
/// Whoever does nothing for so long, with calls waiting and nothing wrong any more, is deaf.
const DEAF: Duration = Duration::from_secs(15);

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// A confirmed call neither ran to its end nor became a dead letter with a reason.
    Lost,
    /// The caller of a confirmed call, alive until the end, got no answer.
    Unanswered,
    /// Something ran, or was answered, that nobody had sent.
    Phantom,
    /// It ran although its sender was told that it was not stored.
    RanThoughNotStored,
    /// The answer is not the right one.
    WrongAnswer,
    /// An attempt ran again, and no fault explains it.
    RepeatedForNoReason,
    /// It ran more often than a poisonous call may.
    RanTooOften,
    /// A call became a dead letter that had no reason to, or one that had did not.
    DeadLetter,
    /// Somebody did nothing after a fault was over.
    Deaf,
    /// Something was left in a queue at the end.
    NotDrained,
    /// A process ended by itself, or badly.
    ProcessEnded,
}

/// One thing that is wrong.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    /// The call, where it is about one.
    pub(crate) id: Option<String>,
    pub(crate) text: String,
}

/// What came of all faults of one kind.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) times: usize,
    /// Calls that were sent before a fault's end and were not done at its beginning.
    pub(crate) in_flight: usize,
    pub(crate) lost: usize,
    /// Calls of which an attempt ran again.
    pub(crate) repeated: usize,
    pub(crate) worst: Recovery,
}

/// What came of a storm.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) violations: Vec<Violation>,
    pub(crate) rows: Vec<(Fault, Row)>,
    pub(crate) calls: usize,
    pub(crate) outcomes: BTreeMap<Outcome, usize>,
    pub(crate) runs: usize,
    pub(crate) answers: usize,
    pub(crate) dead: usize,
    /// Calls that ran again because they were sent again.
    pub(crate) repeated_by_senders: usize,
}

/// Checks the whole history of a storm.
pub(crate) fn check(site: Site, entries: &[Entry]) -> Report {
    let chronicle = Chronicle::of(entries);
    let mut checker = Checker {
        site,
        chronicle: &chronicle,
        report: Report::default(),
        rows: vec![Row::default(); chronicle.incidents.len()],
    };
    for (id, life) in &chronicle.lives {
        checker.call(id, life);
    }
    checker.incidents();
    checker.end();
    checker.report
}

struct Checker<'a> {
    site: Site,
    chronicle: &'a Chronicle,
    report: Report,
    /// One for each incident.
    rows: Vec<Row>,
}

impl Checker<'_> {
    fn violation(&mut self, rule: Rule, id: Option<&str>, text: impl Into<String>) {
        self.report.violations.push(Violation {
            rule,
            id: id.map(str::to_owned),
            text: text.into(),
        });
    }

    fn call(&mut self, id: &str, life: &Life) {
        self.report.runs += life.starts.len();
        self.report.answers += life.replies.len();
        self.report.dead += life.dead.len();
        let Some((kind, n)) = life.call else {
            self.violation(Rule::Phantom, Some(id), "nobody has sent it");
            return;
        };
        self.report.calls += 1;
        for (_, outcome) in &life.outcomes {
            *self.report.outcomes.entry(*outcome).or_default() += 1;
        }
        self.in_flight(life);
        self.done(id, life, kind);
        self.answered(id, life, kind, n);
        self.repeated(id, life);
        if life.is_known_not_stored() && !life.starts.is_empty() {
            let text = "it ran, though its sender was told that it was not stored";
            self.violation(Rule::RanThoughNotStored, Some(id), text);
        }
    }

    fn in_flight(&mut self, life: &Life) {
        let Some((begin, end)) = life.span() else {
            return;
        };
        for (incident, row) in self.chronicle.incidents.iter().zip(&mut self.rows) {
            row.in_flight += usize::from(begin <= incident.end && end >= incident.begin);
        }
    }

    fn done(&mut self, id: &str, life: &Life, kind: Kind) {
        let is_dead = life.dead.iter().any(|reason| !reason.is_empty());
        if life.is_confirmed() && life.ends.is_empty() && !is_dead {
            self.violation(Rule::Lost, Some(id), "confirmed, and never run to its end");
            let sent = life.sends.first().map_or(0, |(at, _)| *at);
            let mut guilty = self.chronicle.incidents.iter();
            if let Some(guilty) = guilty.rposition(|i| i.begin <= sent + AFTERMATH) {
                self.rows[guilty].lost += 1;
            }
        }
        let wrong = match kind {
            Kind::Doomed => life.is_confirmed() && !is_dead,
            _ => !life.dead.is_empty(),
        };
        if wrong {
            let text = format!("{kind:?}: dead letters {:?}", life.dead);
            self.violation(Rule::DeadLetter, Some(id), text);
        }
    }

    fn answered(&mut self, id: &str, life: &Life, kind: Kind, n: u64) {
        let right = kind.answer(n);
        for (_, answer) in life.replies.iter().filter(|(_, answer)| *answer != right) {
            let (rule, text) = match answer {
                Answer::Nothing => (Rule::Unanswered, "no answer came".to_owned()),
                _ => (
                    Rule::WrongAnswer,
                    format!("{answer:?} instead of {right:?}"),
                ),
            };
            self.violation(rule, Some(id), text);
        }
        // Who was killed cannot note an answer.
        let mut senders = life.sends.iter().map(|(_, pid)| pid);
        let waited = senders.all(|pid| self.chronicle.finished.contains(pid));
        if waited && life.is_confirmed() && life.replies.is_empty() {
            let text = "its caller waited to the end, and got no answer";
            self.violation(Rule::Unanswered, Some(id), text);
        }
    }

    fn repeated(&mut self, id: &str, life: &Life) {
        let limit = (MAX_DELIVERIES as usize).saturating_mul(2);
        if life.starts.len() > limit {
            let text = format!("it ran {} times", life.starts.len());
            self.violation(Rule::RanTooOften, Some(id), text);
        }
        let mut last: BTreeMap<u32, u64> = BTreeMap::new();
        let mut guilty = Vec::new();
        for run in &life.starts {
            let Some(before) = last.insert(run.attempt, run.at) else {
                continue;
            };
            match self.explanation(before, run.at) {
                Some(incident) => guilty.push(incident),
                None if life.sends.len() > 1 => self.report.repeated_by_senders += 1,
                None => {
                    let text = format!(
                        "attempt {} ran again, and no fault explains it",
                        run.attempt
                    );
                    self.violation(Rule::RepeatedForNoReason, Some(id), text);
                }
            }
        }
        guilty.dedup();
        for incident in guilty {
            self.rows[incident].repeated += 1;
        }
    }

    /// The fault because of which something that ran at `before` runs again at `at`: the latest that can be.
    fn explanation(&self, before: u64, at: u64) -> Option<usize> {
        self.chronicle.incidents.iter().rposition(|incident| {
            incident.kind.may_repeat(self.site)
                && incident.begin <= at
                && incident.end.saturating_add(AFTERMATH) >= before
        })
    }

    fn incidents(&mut self) {
        let mut rows: Vec<(Fault, Row)> = Vec::new();
        for (number, incident) in self.chronicle.incidents.iter().enumerate() {
            let found = recovery(self.chronicle, number);
            for (what, time) in [("run", found.delivery), ("confirmed", found.confirm)] {
                if time.is_some_and(|time| time > DEAF) {
                    let name = incident.kind.name();
                    let text =
                        format!("after {name} (fault {number}), nothing was {what} for {time:.1?}");
                    self.violation(Rule::Deaf, None, text);
                }
            }
            let position = rows.iter().position(|(kind, _)| *kind == incident.kind);
            let position = position.unwrap_or_else(|| {
                rows.push((incident.kind, Row::default()));
                rows.len() - 1
            });
            let (sum, row) = (&mut rows[position].1, &self.rows[number]);
            sum.times += 1;
            sum.in_flight += row.in_flight;
            sum.lost += row.lost;
            sum.repeated += row.repeated;
            sum.worst.delivery = sum.worst.delivery.max(found.delivery);
            sum.worst.confirm = sum.worst.confirm.max(found.confirm);
        }
        rows.sort_by_key(|(kind, _)| Fault::ALL.iter().position(|other| other == kind));
        self.report.rows = rows;
    }

    fn end(&mut self) {
        for (queue, messages) in &self.chronicle.left {
            if *messages > 0 {
                let text = format!("{messages} messages were left in queue `{queue}`");
                self.violation(Rule::NotDrained, None, text);
            }
        }
        if self.chronicle.left.is_empty() {
            let text = "the history does not say what was left in the queue";
            self.violation(Rule::NotDrained, None, text);
        }
        for (pid, how) in &self.chronicle.ended {
            let text = format!("process {pid} ended: {how}");
            self.violation(Rule::ProcessEnded, None, text);
        }
    }
}
