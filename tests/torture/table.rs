//! A report in Markdown.

use std::fmt::Write;
use std::time::Duration;

use super::check::Report;
use super::fault::Site;
use super::history::{Entry, Event};

/// Violations that are shown in full.
const SHOWN: usize = 10;

pub(crate) fn print(
    site: Site,
    seed: u64,
    minutes: Option<u64>,
    took: Duration,
    report: &Report,
) -> String {
    let minutes = minutes.map_or(String::new(), |minutes| format!(" --minutes {minutes}"));
    let mut text = format!("\n## {}\n\n", site.title());
    let place = site.name();
    let command = format!("tests/run torture{minutes} --seed {seed} --place {place}");
    let _ = writeln!(text, "`{command}`, {:.0} s in all.\n", took.as_secs_f64());
    text += "| fault | times | calls in flight | lost | run twice | next call run after | next confirm after |\n";
    text += "|---|---:|---:|---:|---:|---:|---:|\n";
    for (fault, row) in &report.rows {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            fault.name(),
            row.times,
            row.in_flight,
            row.lost,
            row.repeated,
            seconds(row.worst.delivery),
            seconds(row.worst.confirm)
        );
    }
    let outcomes = report.outcomes.iter();
    let outcomes: Vec<String> = outcomes
        .map(|(outcome, count)| format!("{count} {outcome:?}").to_lowercase())
        .collect();
    let _ = writeln!(
        text,
        "\n{} calls, sendings {}; {} attempts run, {} answers, {} dead letters; {} run again because \
         they were sent again; {} violations.",
        report.calls,
        outcomes.join(", "),
        report.runs,
        report.answers,
        report.dead,
        report.repeated_by_senders,
        report.violations.len()
    );
    text
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or("–".into(), |time| format!("{:.2} s", time.as_secs_f64()))
}

/// Each violation, with the whole history of the call.
pub(crate) fn violations(report: &Report, entries: &[Entry]) -> String {
    let mut text = String::new();
    for violation in report.violations.iter().take(SHOWN) {
        let id = violation.id.as_deref().unwrap_or_default();
        let _ = writeln!(text, "{:?}: {id} {}", violation.rule, violation.text);
        for entry in entries {
            let event = serde_json::to_string(&entry.event).unwrap_or_default();
            let is_fault = matches!(entry.event, Event::Begin { .. } | Event::Over { .. });
            let about = !id.is_empty() && event.contains(&format!("\"{id}\""));
            if about || (!id.is_empty() && is_fault) {
                let _ = writeln!(text, "    {} {} {event}", entry.at, entry.pid);
            }
        }
    }
    text
}
