//! The table, in Markdown.

use std::time::Duration;

use crate::cell::cell;
use crate::meter::Sample;
use crate::row::Row;
use crate::spread::spread;

/// All measurements of one row, in the order of rounds.
#[derive(Default)]
pub(crate) struct Samples {
    pub(crate) raw: Vec<Sample>,
    pub(crate) ours: Vec<Sample>,
}

fn rates(samples: &[Sample]) -> String {
    cell(samples.iter().map(|sample| sample.rate), 0)
}

/// Microseconds for each task: of this process and, behind a `+`, of the broker.
fn cpu(samples: &[Sample]) -> String {
    let median = |of: fn(&Sample) -> Option<f64>| spread(samples.iter().filter_map(of));
    let ours = median(|sample| sample.cpu);
    let ours = ours.map_or("–".into(), |[median, ..]| format!("{median:.0}"));
    match median(|sample| sample.broker) {
        Some([broker, ..]) => format!("{ours} + {broker:.0}"),
        None => ours,
    }
}

/// Ours to raw, each round on its own: what disturbs a round disturbs both.
fn ratio(samples: &Samples) -> String {
    let pairs = samples.ours.iter().zip(&samples.raw);
    cell(pairs.map(|(ours, raw)| ours.rate / raw.rate), 2)
}

fn latency(samples: &[Sample], of: fn((Duration, Duration)) -> Duration) -> String {
    let times = samples.iter().filter_map(|sample| sample.latency);
    cell(times.map(|time| of(time).as_secs_f64() * 1e3), 2)
}

/// Prints the rates and the CPU time of each row, then the latencies of those that have them.
pub(crate) fn print(title: &str, rows: &[(Row, Samples)]) {
    println!("\n### {title}\n");
    println!("| | raw /s | ours /s | ours/raw | raw CPU µs | ours CPU µs |");
    println!("|---|---|---|---|---|---|");
    for (row, samples) in rows {
        let (raw, ours) = (&samples.raw, &samples.ours);
        let (name, ratio) = (row.name(), ratio(samples));
        let (raw_rate, our_rate) = (rates(raw), rates(ours));
        let (raw_cpu, our_cpu) = (cpu(raw), cpu(ours));
        println!("| {name} | {raw_rate} | {our_rate} | {ratio} | {raw_cpu} | {our_cpu} |");
    }
    let timed = |(_, samples): &&(Row, Samples)| {
        let mut ours = samples.ours.iter();
        ours.any(|sample| sample.latency.is_some())
    };
    for (number, (row, samples)) in rows.iter().filter(timed).enumerate() {
        if number == 0 {
            println!("\n| round trip, ms | p50 | p99 |\n|---|---|---|");
        }
        for (side, samples) in [("raw", &samples.raw), ("ours", &samples.ours)] {
            println!(
                "| {}, {side} | {} | {} |",
                row.name(),
                latency(samples, |(p50, _)| p50),
                latency(samples, |(_, p99)| p99)
            );
        }
    }
}
