//! Feeds the checker bad histories, and sees each violation found; and a good one, in which it finds none.

use super::chance::scramble;
use super::check::{Report, Rule, check};
use super::fault::{Fault, Site};
use super::history::{Answer, Entry, Event, Outcome};
use super::tasks::Kind;

const SECOND: u64 = 1_000_000;
const PRODUCER: u32 = 1;
const WORKER: u32 = 2;
const OTHER: u32 = 3;
const CONDUCTOR: u32 = 9;

/// A history in the making: `at` seconds.
struct Story(Vec<Entry>);

impl Story {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn add(mut self, at: f64, pid: u32, event: Event) -> Self {
        let at = (at * SECOND as f64) as u64;
        self.0.push(Entry { at, pid, event });
        self
    }

    fn send(self, at: f64, id: &str, outcome: Outcome) -> Self {
        self.send_kind(at, id, Kind::Quick, outcome)
    }

    fn send_kind(self, at: f64, id: &str, kind: Kind, outcome: Outcome) -> Self {
        let (n, id) = (5, id.to_owned());
        let send = Event::Send {
            id: id.clone(),
            kind,
            n,
        };
        let error = None;
        self.add(at, PRODUCER, send)
            .add(at + 0.01, PRODUCER, Event::Sent { id, outcome, error })
    }

    fn start(self, at: f64, id: &str, pid: u32, attempt: u32) -> Self {
        let id = id.to_owned();
        self.add(at, pid, Event::Start { id, attempt })
    }

    fn run(self, at: f64, id: &str, pid: u32, attempt: u32) -> Self {
        let end = Event::End {
            id: id.to_owned(),
            attempt,
            stale: false,
        };
        self.start(at, id, pid, attempt).add(at + 0.01, pid, end)
    }

    fn reply(self, at: f64, id: &str, answer: Answer) -> Self {
        let id = id.to_owned();
        self.add(at, PRODUCER, Event::Reply { id, answer })
    }

    fn right(self, at: f64, id: &str) -> Self {
        self.reply(at, id, Answer::Value(scramble(5)))
    }

    fn dead(self, id: &str, reason: &str) -> Self {
        let (id, reason) = (id.to_owned(), reason.to_owned());
        self.add(99.0, CONDUCTOR, Event::Dead { id, reason })
    }

    /// A fault that harms `WORKER` and `PRODUCER`.
    fn fault(self, kind: Fault, begin: f64, end: f64) -> Self {
        let fault = self.faults();
        let begins = Event::Begin {
            fault,
            kind,
            victims: vec![],
        };
        let over = Event::Over {
            fault,
            back: (end * SECOND as f64) as u64,
            workers: vec![WORKER],
            producers: vec![PRODUCER],
        };
        self.add(begin, CONDUCTOR, begins).add(end, CONDUCTOR, over)
    }

    fn faults(&self) -> usize {
        let begun = |entry: &&Entry| matches!(entry.event, Event::Begin { .. });
        self.0.iter().filter(begun).count()
    }

    /// The end: the producer has its answers, so many messages are left.
    fn left(self, messages: u64) -> Vec<Entry> {
        let queue = "q".to_owned();
        self.add(98.0, PRODUCER, Event::Finished)
            .add(98.0, CONDUCTOR, Event::Left { queue, messages })
            .0
    }
}

fn checked(story: Story) -> Report {
    check(Site::Classic, &story.left(0))
}

fn rules(report: &Report) -> Vec<Rule> {
    report.violations.iter().map(|found| found.rule).collect()
}

#[test]
fn a_good_history_has_no_violation() {
    let story = Story::new()
        .send(1.0, "a", Outcome::Confirmed)
        .run(1.1, "a", WORKER, 1)
        .right(1.2, "a")
        .send_kind(1.0, "flaky", Kind::Flaky, Outcome::Confirmed)
        .run(1.1, "flaky", WORKER, 1)
        .run(1.5, "flaky", OTHER, 2)
        .right(1.6, "flaky")
        .send_kind(1.0, "doomed", Kind::Doomed, Outcome::Confirmed)
        .run(1.1, "doomed", WORKER, 1)
        .reply(1.2, "doomed", Answer::Failure("Failed".into()))
        .dead("doomed", "failed")
        .send(1.0, "refused", Outcome::Unavailable)
        .send(1.0, "unknown", Outcome::Unconfirmed)
        .send(1.0, "unknown, and ran", Outcome::Unconfirmed)
        .run(1.1, "unknown, and ran", WORKER, 1);
    let report = checked(story);
    assert_eq!(rules(&report), [], "{:?}", report.violations);
    assert_eq!((report.calls, report.runs, report.answers), (6, 5, 3));
}

#[test]
fn a_confirmed_call_that_never_ran_is_lost() {
    let story = Story::new()
        .fault(Fault::NodeKilled, 0.5, 2.0)
        .send(1.0, "a", Outcome::Confirmed);
    let report = checked(story);
    assert_eq!(rules(&report), [Rule::Lost, Rule::Unanswered]);
    assert_eq!(report.rows[0].1.lost, 1);
}

#[test]
fn one_that_began_and_never_ended_is_lost_too() {
    let story = Story::new()
        .send(1.0, "a", Outcome::Confirmed)
        .start(1.1, "a", WORKER, 1);
    assert_eq!(rules(&checked(story)), [Rule::Lost, Rule::Unanswered]);
}

#[test]
fn a_dead_letter_without_a_reason_does_not_count() {
    let story = Story::new()
        .send_kind(1.0, "a", Kind::Doomed, Outcome::Confirmed)
        .reply(1.1, "a", Answer::Failure("Failed".into()))
        .dead("a", "");
    assert_eq!(rules(&checked(story)), [Rule::Lost, Rule::DeadLetter]);
}

#[test]
fn a_good_call_among_the_dead_letters_is_wrong() {
    let story = Story::new()
        .send(1.0, "a", Outcome::Confirmed)
        .run(1.1, "a", WORKER, 1)
        .right(1.2, "a")
        .dead("a", "poison");
    assert_eq!(rules(&checked(story)), [Rule::DeadLetter]);
}

#[test]
fn a_caller_that_lives_gets_its_answer() {
    let story = |story: Story| {
        story
            .send(1.0, "a", Outcome::Confirmed)
            .run(1.1, "a", WORKER, 1)
    };
    assert_eq!(rules(&checked(story(Story::new()))), [Rule::Unanswered]);
    let nothing = story(Story::new()).reply(60.0, "a", Answer::Nothing);
    assert_eq!(rules(&checked(nothing)), [Rule::Unanswered]);
    // One that was killed is owed nothing.
    let left = Event::Left {
        queue: "q".into(),
        messages: 0,
    };
    let killed = story(Story::new()).add(98.0, CONDUCTOR, left);
    assert_eq!(rules(&check(Site::Classic, &killed.0)), []);
}

#[test]
fn what_nobody_sent_is_a_phantom() {
    let story = Story::new().run(1.0, "ghost", WORKER, 1);
    assert_eq!(rules(&checked(story)), [Rule::Phantom]);
}

#[test]
fn what_was_not_stored_does_not_run() {
    for outcome in [
        Outcome::Refused,
        Outcome::Unroutable,
        Outcome::Blocked,
        Outcome::Unavailable,
    ] {
        let story = Story::new()
            .send(1.0, "a", outcome)
            .run(1.1, "a", WORKER, 1);
        assert_eq!(rules(&checked(story)), [Rule::RanThoughNotStored]);
    }
}

#[test]
fn a_wrong_answer_is_found_and_so_are_unequal_ones() {
    let story = Story::new()
        .send(1.0, "a", Outcome::Confirmed)
        .run(1.1, "a", WORKER, 1)
        .right(1.2, "a")
        .reply(1.3, "a", Answer::Value(7));
    assert_eq!(rules(&checked(story)), [Rule::WrongAnswer]);
}

/// A call that runs at 1 s, and again at 1.5 s elsewhere.
fn twice(story: Story) -> Story {
    story
        .send(0.9, "a", Outcome::Confirmed)
        .run(1.0, "a", WORKER, 1)
        .run(1.5, "a", OTHER, 1)
        .right(1.6, "a")
}

#[test]
fn what_runs_twice_needs_a_fault_at_that_time() {
    let no_fault = twice(Story::new());
    assert_eq!(rules(&checked(no_fault)), [Rule::RepeatedForNoReason]);
    let later = twice(Story::new()).fault(Fault::Cut, 1.6, 1.7);
    assert!(rules(&checked(later)).contains(&Rule::RepeatedForNoReason));
    let harmless = twice(Story::new()).fault(Fault::WorkerStopped, 1.1, 1.4);
    assert!(rules(&checked(harmless)).contains(&Rule::RepeatedForNoReason));
    let explained = checked(twice(Story::new()).fault(Fault::Cut, 1.1, 1.4));
    assert_eq!(rules(&explained), []);
    assert_eq!(explained.rows[0].1.repeated, 1);
}

#[test]
fn what_was_sent_again_may_run_again() {
    let story = Story::new().send(0.5, "a", Outcome::Unconfirmed);
    let report = checked(twice(story));
    assert_eq!(rules(&report), []);
    assert_eq!(report.repeated_by_senders, 1);
}

#[test]
fn no_call_runs_without_end() {
    let mut story = Story::new()
        .fault(Fault::Cut, 0.5, 60.0)
        .send(1.0, "a", Outcome::Confirmed);
    for n in 0..40 {
        story = story.run(2.0 + f64::from(n), "a", WORKER, 1);
    }
    let report = checked(story.right(50.0, "a"));
    assert_eq!(rules(&report), [Rule::RanTooOften]);
}

/// A call in each second but those in which nobody works.
fn traffic(mut story: Story, silent: std::ops::Range<u32>) -> Story {
    for n in 0..60 {
        let (id, at) = (format!("call {n}"), f64::from(n));
        if silent.contains(&n) {
            story = story.send(at, &id, Outcome::Unavailable);
        } else {
            story = story
                .send(at, &id, Outcome::Confirmed)
                .run(at + 0.1, &id, WORKER, 1)
                .right(at + 0.2, &id);
        }
    }
    story
}

#[test]
fn recovery_is_the_longest_silence_after_the_return() {
    let story = traffic(Story::new().fault(Fault::NodeKilled, 9.5, 12.5), 10..15);
    let report = checked(story);
    assert_eq!(rules(&report), [], "{:?}", report.violations);
    let worst = report.rows[0].1.worst;
    assert_eq!(worst.delivery.map(|time| time.as_millis()), Some(2_600));
    assert_eq!(worst.confirm.map(|time| time.as_millis()), Some(2_510));
}

#[test]
fn who_stays_silent_is_deaf() {
    let story = traffic(Story::new().fault(Fault::NodeKilled, 9.5, 12.5), 10..40);
    assert_eq!(rules(&checked(story)), [Rule::Deaf, Rule::Deaf]);
}

#[test]
fn a_queue_that_is_not_empty_and_a_process_that_died_are_wrong() {
    let left = Story::new().left(3);
    assert_eq!(rules(&check(Site::Sqlite, &left)), [Rule::NotDrained]);
    let unsaid = Story::new().send(1.0, "a", Outcome::Refused).0;
    assert_eq!(rules(&check(Site::Sqlite, &unsaid)), [Rule::NotDrained]);
    let how = "signal: 6 (SIGABRT)".to_owned();
    let victim = WORKER;
    let ended = Story::new().add(1.0, CONDUCTOR, Event::Ended { victim, how });
    assert_eq!(rules(&checked(ended)), [Rule::ProcessEnded]);
}

#[test]
fn what_a_killed_worker_held_is_timed_until_it_runs_elsewhere() {
    let killed = Event::Begin {
        fault: 0,
        kind: Fault::WorkerKilled,
        victims: vec![WORKER],
    };
    let over = Event::Over {
        fault: 0,
        back: 2 * SECOND,
        workers: vec![],
        producers: vec![],
    };
    let story = Story::new()
        .send(1.0, "a", Outcome::Confirmed)
        .start(1.1, "a", WORKER, 1)
        .add(1.9, CONDUCTOR, killed)
        .add(2.5, CONDUCTOR, over)
        .run(2.25, "a", OTHER, 1)
        .right(2.3, "a");
    let report = checked(story);
    assert_eq!(rules(&report), [], "{:?}", report.violations);
    let row = &report.rows[0].1;
    assert_eq!(row.repeated, 1);
    assert_eq!(row.worst.delivery.map(|t| t.as_millis()), Some(250));
}
