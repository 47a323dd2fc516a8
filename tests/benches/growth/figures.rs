//! What was measured along one axis, and its tables.

use std::collections::BTreeMap;

use crate::spread::spread;

/// What is measured at each step of an axis.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) guide: Guide,
}

/// What a metric's lines are to be compared with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Guide {
    Nothing,
    /// Growth in proportion, from the first step on: for what a step costs.
    Linear,
    /// What it would be at best.
    Best(fn(f64) -> f64),
}

pub(crate) const RATE: Metric = rate("tasks/s");
pub(crate) const CPU: Metric = cost("worker's CPU, µs a task");
pub(crate) const MEMORY: Metric = cost("worker's memory, MiB");
pub(crate) const RPC: Metric = cost("round trip p50, ms");
pub(crate) const SENT: Metric = rate("sent/s");
pub(crate) const START: Metric = cost("start, ms");
pub(crate) const IDLE: Metric = cost("idle worker's CPU, ms a second");

pub(crate) const fn rate(name: &'static str) -> Metric {
    let guide = Guide::Nothing;
    Metric { name, guide }
}

pub(crate) const fn cost(name: &'static str) -> Metric {
    let guide = Guide::Linear;
    Metric { name, guide }
}

/// The measurements of one metric at one step, a number a round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    least: f64,
    greatest: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Option<Self> {
        let [median, least, greatest] = spread(values.iter().copied())?;
        Some(Self {
            median,
            least,
            greatest,
        })
    }

    fn cell(self) -> String {
        let Self {
            median,
            least,
            greatest,
        } = self;
        match least < greatest {
            true => format!("{} ({}–{})", short(median), short(least), short(greatest)),
            false => short(median),
        }
    }
}

/// Three digits.
fn short(number: f64) -> String {
    if number == 0.0 {
        return "0".into();
    }
    let digits = 2 - number.abs().log10().floor() as i32;
    if digits > 0 {
        format!("{number:.*}", digits.min(3) as usize)
    } else {
        let unit = 10_f64.powi(-digits);
        format!("{}", (number / unit).round() * unit)
    }
}

/// A broker's line in a chart.
pub(crate) struct Line {
    pub(crate) broker: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

/// All that was measured along one axis.
pub(crate) struct Figures {
    /// The axis's name in one word.
    pub(crate) name: &'static str,
    /// What its steps count.
    pub(crate) steps: &'static str,
    pub(crate) metrics: &'static [Metric],
    /// By broker, step and metric.
    values: BTreeMap<(&'static str, u64, &'static str), Vec<f64>>,
}

impl Figures {
    pub(crate) fn new(name: &'static str, steps: &'static str, metrics: &'static [Metric]) -> Self {
        Self {
            name,
            steps,
            metrics,
            values: BTreeMap::new(),
        }
    }

    pub(crate) fn add(&mut self, broker: &'static str, step: usize, metric: Metric, value: f64) {
        let key = (broker, step as u64, metric.name);
        self.values.entry(key).or_default().push(value);
    }

    pub(crate) fn brokers(&self) -> Vec<&'static str> {
        let mut brokers: Vec<_> = self.values.keys().map(|(broker, ..)| *broker).collect();
        brokers.dedup();
        brokers
    }

    fn steps_of(&self, broker: &str) -> Vec<u64> {
        let keys = self.values.keys().filter(|(of, ..)| *of == broker);
        let mut steps: Vec<_> = keys.map(|(_, step, _)| *step).collect();
        steps.dedup();
        steps
    }

    fn spread(&self, broker: &'static str, step: u64, metric: Metric) -> Option<Spread> {
        Spread::of(self.values.get(&(broker, step, metric.name))?)
    }

    /// The medians of a metric.
    pub(crate) fn lines(&self, metric: Metric) -> Vec<Line> {
        let line = |broker| Line {
            broker,
            points: self
                .steps_of(broker)
                .into_iter()
                .filter_map(|step| {
                    let spread = self.spread(broker, step, metric)?;
                    Some((step as f64, spread.median))
                })
                .collect(),
        };
        let lines = self.brokers().into_iter().map(line);
        lines.filter(|line| !line.points.is_empty()).collect()
    }

    /// Prints a table for each broker.
    pub(crate) fn print(&self) {
        for broker in self.brokers() {
            println!("\n### {}: {broker}\n", self.name);
            let has = |metric: &&Metric| {
                let mut steps = self.steps_of(broker).into_iter();
                steps.any(|step| self.spread(broker, step, **metric).is_some())
            };
            let metrics: Vec<_> = self.metrics.iter().filter(has).collect();
            let names: Vec<_> = metrics.iter().map(|metric| metric.name).collect();
            println!("| {} | {} |", self.steps, names.join(" | "));
            println!("|---|{}", "---|".repeat(names.len()));
            for step in self.steps_of(broker) {
                let cells: Vec<_> = metrics
                    .iter()
                    .map(|metric| self.spread(broker, step, **metric))
                    .map(|spread| spread.map_or("–".into(), Spread::cell))
                    .collect();
                println!("| {step} | {} |", cells.join(" | "));
            }
        }
    }
}
