//! Draws figures as an SVG: a panel for each metric, both axes logarithmic. Readable on light and on dark ground.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::figures::{Figures, Guide, Line, Metric};

/// Size of a panel with its margins, and of the plot in it.
const PANEL: (f64, f64) = (360.0, 250.0);
const PLOT: (f64, f64) = (280.0, 165.0);
/// Where the plot begins in the panel.
const CORNER: (f64, f64) = (62.0, 40.0);
const COLUMNS: usize = 2;
/// Height of the legend.
const LEGEND: f64 = 30.0;
/// Lines of the brokers, in alphabetical order; middling colours are seen on any ground.
const COLOURS: [&str; 2] = ["#e0702a", "#3987e5"];
const STYLE: &str = "text{font:12px sans-serif;fill:#808080}.t{font-weight:bold}.e{text-anchor:end}\
                     .m{text-anchor:middle}.g{stroke:#808080;stroke-opacity:.25}.f{fill:none;stroke:#808080}\
                     .l{fill:none;stroke-width:2}.i{fill:none;stroke-opacity:.7;stroke-dasharray:2 4}";

/// Whole decades around some values.
#[derive(Clone, Copy)]
struct Scale {
    first: i32,
    last: i32,
    from: f64,
    to: f64,
}

impl Scale {
    fn around(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let logs: Vec<_> = values.filter(|v| *v > 0.0).map(f64::log10).collect();
        let least = logs.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (first, last) = match logs.is_empty() {
            true => (0, 1),
            false => (least.floor() as i32, greatest.ceil() as i32),
        };
        Self {
            first,
            last: last.max(first + 1),
            from,
            to,
        }
    }

    fn at(&self, value: f64) -> f64 {
        let decades = f64::from(self.last - self.first);
        let share = (value.log10() - f64::from(self.first)) / decades;
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    fn greatest(&self) -> f64 {
        10_f64.powi(self.last)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + use<> {
        (self.first..=self.last).map(|power| 10_f64.powi(power))
    }
}

/// A power of ten.
fn tick(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{} M", value / 1e6),
        value if value >= 1e4 => format!("{} k", value / 1e3),
        value => format!("{value}"),
    }
}

fn colour(brokers: &[&str], broker: &str) -> &'static str {
    let place = brokers.iter().position(|name| *name == broker).unwrap_or(0);
    COLOURS[place % COLOURS.len()]
}

fn points(line: &[(f64, f64)], x: Scale, y: Scale) -> String {
    let points = line.iter().filter(|(_, value)| *value > 0.0);
    let points = points.map(|(step, value)| format!("{:.1},{:.1}", x.at(*step), y.at(*value)));
    points.collect::<Vec<_>>().join(" ")
}

/// Growth in proportion from a point on, as far as the plot reaches.
fn straight(from: (f64, f64), x: Scale, y: Scale) -> [(f64, f64); 2] {
    let (step, value) = from;
    let most = x.greatest().min(step * y.greatest() / value);
    [from, (most, value * most / step)]
}

fn panel(svg: &mut String, figures: &Figures, metric: Metric, lines: &[Line]) -> std::fmt::Result {
    let (left, top) = CORNER;
    let (right, bottom) = (left + PLOT.0, top + PLOT.1);
    let all = || lines.iter().flat_map(|line| line.points.iter().copied());
    let x = Scale::around(all().map(|(step, _)| step), left, right);
    let y = Scale::around(all().map(|(_, value)| value), bottom, top);
    writeln!(
        svg,
        r#"<text class="t" x="{left}" y="{}">{}</text>"#,
        top - 12.0,
        metric.name
    )?;
    writeln!(
        svg,
        r#"<rect class="f" x="{left}" y="{top}" width="{}" height="{}"/>"#,
        PLOT.0, PLOT.1
    )?;
    for value in x.ticks() {
        let (at, text) = (x.at(value), tick(value));
        writeln!(svg, r#"<path class="g" d="M{at:.1} {top}V{bottom}"/>"#)?;
        writeln!(
            svg,
            r#"<text class="m" x="{at:.1}" y="{}">{text}</text>"#,
            bottom + 15.0
        )?;
    }
    for value in y.ticks() {
        let (at, text) = (y.at(value), tick(value));
        writeln!(svg, r#"<path class="g" d="M{left} {at:.1}H{right}"/>"#)?;
        writeln!(
            svg,
            r#"<text class="e" x="{}" y="{:.1}">{text}</text>"#,
            left - 6.0,
            at + 4.0
        )?;
    }
    let middle = f64::midpoint(left, right);
    writeln!(
        svg,
        r#"<text class="m" x="{middle}" y="{}">{}</text>"#,
        bottom + 31.0,
        figures.steps
    )?;
    let brokers = figures.brokers();
    for line in lines {
        let colour = colour(&brokers, line.broker);
        let first = line.points.first().copied();
        let guide = match metric.guide {
            Guide::Nothing => None,
            Guide::Linear => first,
            Guide::Best(best) => first.map(|(step, _)| (step, best(step))),
        };
        if let Some(from) = guide {
            let guide = points(&straight(from, x, y), x, y);
            writeln!(
                svg,
                r#"<polyline class="i" stroke="{colour}" points="{guide}"/>"#
            )?;
        }
        let through = points(&line.points, x, y);
        writeln!(
            svg,
            r#"<polyline class="l" stroke="{colour}" points="{through}"/>"#
        )?;
        for (step, value) in line.points.iter().filter(|(_, value)| *value > 0.0) {
            let (x, y) = (x.at(*step), y.at(*value));
            writeln!(
                svg,
                r#"<circle cx="{x:.1}" cy="{y:.1}" r="3.5" fill="{colour}"/>"#
            )?;
        }
    }
    Ok(())
}

fn draw(figures: &Figures) -> Result<String, std::fmt::Error> {
    let metrics = figures.metrics.iter();
    let panels: Vec<_> = metrics
        .map(|metric| (*metric, figures.lines(*metric)))
        .filter(|(_, lines)| !lines.is_empty())
        .collect();
    let rows = panels.len().div_ceil(COLUMNS);
    let (width, height) = (PANEL.0 * COLUMNS as f64, PANEL.1 * rows as f64 + LEGEND);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\">\n<style>{STYLE}</style>\n"
    );
    let brokers = figures.brokers();
    for (place, broker) in brokers.iter().enumerate() {
        let (x, colour) = (CORNER.0 + 130.0 * place as f64, colour(&brokers, broker));
        writeln!(svg, r#"<path class="l" stroke="{colour}" d="M{x} 16h24"/>"#)?;
        writeln!(svg, r#"<text x="{}" y="20">{broker}</text>"#, x + 30.0)?;
    }
    let x = CORNER.0 + 130.0 * brokers.len() as f64;
    writeln!(
        svg,
        r##"<path class="i" stroke="#808080" d="M{x} 16h24"/>"##
    )?;
    writeln!(svg, r#"<text x="{}" y="20">in proportion</text>"#, x + 30.0)?;
    for (place, (metric, lines)) in panels.iter().enumerate() {
        let x = PANEL.0 * (place % COLUMNS) as f64;
        let y = LEGEND + PANEL.1 * (place / COLUMNS) as f64;
        writeln!(svg, r#"<g transform="translate({x} {y})">"#)?;
        panel(&mut svg, figures, *metric, lines)?;
        writeln!(svg, "</g>")?;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

/// Writes a chart into a folder.
pub(crate) fn write(folder: &Path, figures: &Figures) -> Result<()> {
    let file = folder.join(figures.name).with_extension("svg");
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&file, draw(figures).unwrap_or_default()))
        .with_context(|| format!("writing {}", file.display()))
}
