//! Plots as inline SVG: lines, lines on a logarithmic scale, stacked areas.

use super::{escape, number};

/// Size of a plot, and the room around its field.
const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 22.0;
/// More points than this are thinned: a plot is no wider.
const MAX_POINTS: usize = 240;

/// One line, or one layer.
pub struct Series {
    /// What it is.
    pub name: &'static str,
    /// Its style.
    pub class: &'static str,
    /// Seconds and values, in order.
    pub points: Vec<(f64, f64)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Scale {
    Linear { top: f64 },
    Logarithmic { bottom: f64, top: f64 },
}

impl Scale {
    /// Where a value stands in the field, from the top.
    fn place(self, value: f64) -> f64 {
        let share = match self {
            Scale::Linear { top } => value / top,
            Scale::Logarithmic { bottom, top } => (value.max(bottom) / bottom).ln() / (top / bottom).ln(),
        };
        TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - share.clamp(0.0, 1.0))
    }

    fn ticks(self) -> Vec<f64> {
        match self {
            Scale::Linear { top } => {
                let step = step(top / 4.0);
                (0..).map(|index| f64::from(index) * step).take_while(|tick| *tick <= top * 1.001).collect()
            }
            Scale::Logarithmic { bottom, top } => {
                let powers = bottom.log10().round() as i32..=top.log10().round() as i32;
                powers.map(|power| 10_f64.powi(power)).collect()
            }
        }
    }
}

/// Values over time.
pub fn lines(title: &str, series: &[Series]) -> String {
    let top = series.iter().flat_map(|series| &series.points).map(|(_, value)| *value).fold(0.0, f64::max);
    drawn(title, series, Scale::Linear { top: rounded_up(top) }, false)
}

/// Values over time that lie far apart.
pub fn logarithmic(title: &str, series: &[Series]) -> String {
    let values =
        || series.iter().flat_map(|series| &series.points).map(|(_, value)| *value).filter(|value| *value > 0.0);
    let bottom = 10_f64.powf(values().fold(f64::INFINITY, f64::min).clamp(1e-3, 1e9).log10().floor());
    let top = 10_f64.powf(values().fold(bottom * 10.0, f64::max).log10().ceil());
    drawn(title, series, Scale::Logarithmic { bottom, top }, false)
}

/// Parts of a whole over time; all series have their points at the same seconds.
pub fn stacked(title: &str, series: &[Series]) -> String {
    let count = series.first().map_or(0, |series| series.points.len());
    let whole = |index: usize| series.iter().filter_map(|series| Some(series.points.get(index)?.1)).sum::<f64>();
    let top = (0..count).map(whole).fold(0.0, f64::max);
    drawn(title, series, Scale::Linear { top: rounded_up(top) }, true)
}

fn drawn(title: &str, series: &[Series], scale: Scale, stack: bool) -> String {
    let end = series.iter().filter_map(|series| series.points.last()).map(|(second, _)| *second).fold(1e-3, f64::max);
    let across = |second: f64| LEFT + (WIDTH - LEFT - RIGHT) * (second / end).clamp(0.0, 1.0);
    let mut field = String::new();
    for tick in scale.ticks() {
        let down = scale.place(tick);
        field += &format!("<line class=grid x1={LEFT} x2={} y1={down:.1} y2={down:.1} />", WIDTH - RIGHT);
        field += &format!("<text x={} y={:.1} text-anchor=end>{}</text>", LEFT - 6.0, down + 4.0, number(tick));
    }
    let second_step = step(end / 6.0);
    let seconds = (0..).map(|index| f64::from(index) * second_step).take_while(|second| *second <= end * 1.001);
    for second in seconds {
        let (left, down) = (across(second), HEIGHT - 6.0);
        field += &format!("<text x={left:.1} y={down} text-anchor=middle>{}\u{202f}s</text>", number(second));
    }
    let thinned: Vec<Series> = series.iter().map(thin).collect();
    let mut below: Vec<f64> = Vec::new();
    for series in &thinned {
        if stack {
            below.resize(series.points.len(), 0.0);
            let lower: Vec<(f64, f64)> =
                series.points.iter().zip(&below).map(|((second, _), value)| (*second, *value)).collect();
            below.iter_mut().zip(&series.points).for_each(|(sum, (_, value))| *sum += value);
            let upper = series.points.iter().zip(&below).map(|((second, _), value)| (*second, *value));
            let outline: Vec<(f64, f64)> = upper.chain(lower.into_iter().rev()).collect();
            field +=
                &format!("<polygon class=\"area {}\" points=\"{}\" />", series.class, path(&outline, scale, across));
        } else {
            field += &format!(
                "<polyline class=\"line {}\" points=\"{}\" />",
                series.class,
                path(&series.points, scale, across)
            );
        }
    }
    field += &hovers(&thinned, across);
    let legend: String =
        series.iter().map(|series| format!("<i class=\"{}\"></i>{}", series.class, escape(series.name))).collect();
    format!(
        "<figure><figcaption>{}</figcaption><div class=legend>{legend}</div>\
         <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img>{field}</svg></figure>",
        escape(title)
    )
}

/// A strip over each point that says, when pointed at, what the values are there.
fn hovers(series: &[Series], across: impl Fn(f64) -> f64) -> String {
    let Some(longest) = series.iter().max_by_key(|series| series.points.len()) else { return String::new() };
    let mut text = String::new();
    for (index, (second, _)) in longest.points.iter().enumerate() {
        let left = across(*second);
        let right = longest.points.get(index + 1).map_or(WIDTH - RIGHT, |(next, _)| across(*next));
        let values: Vec<String> = series
            .iter()
            .filter_map(|series| {
                let nearest = series
                    .points
                    .iter()
                    .min_by(|one, other| (one.0 - second).abs().total_cmp(&(other.0 - second).abs()))?;
                Some(format!("{}: {}", series.name, number(nearest.1)))
            })
            .collect();
        text += &format!(
            "<rect class=hover x={left:.1} y={TOP} width={:.1} height={}><title>{} s\n{}</title></rect>",
            (right - left).max(0.5),
            HEIGHT - TOP - BOTTOM,
            number(*second),
            escape(&values.join("\n"))
        );
    }
    text
}

fn path(points: &[(f64, f64)], scale: Scale, across: impl Fn(f64) -> f64) -> String {
    let place = |(second, value): &(f64, f64)| format!("{:.1},{:.1}", across(*second), scale.place(*value));
    points.iter().map(place).collect::<Vec<_>>().join(" ")
}

/// The means of so many neighbours that few enough points are left.
fn thin(series: &Series) -> Series {
    let group = series.points.len().div_ceil(MAX_POINTS).max(1);
    let mean =
        |points: &[(f64, f64)]| (points[0].0, points.iter().map(|(_, value)| value).sum::<f64>() / points.len() as f64);
    Series { points: series.points.chunks(group).map(mean).collect(), ..*series }
}

/// A round number not below `value`: 1, 2, 2.5, 5 times a power of ten.
fn rounded_up(value: f64) -> f64 {
    step(value.max(1e-3))
}

/// The smallest round number that is not below `least`.
fn step(least: f64) -> f64 {
    let power = 10_f64.powf(least.max(1e-9).log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= least * 0.999)
        .unwrap_or(least)
}
