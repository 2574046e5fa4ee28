//! What happened when: counts and waits in slices of time, few enough to be drawn and cheap enough for every message.
//!
//! When there are too many slices, pairs of them become one. It must never grow with the number of messages.

use serde::{Deserialize, Serialize};

/// Width of a slice at first.
const FIRST_WIDTH_NS: u64 = 200_000_000;
/// Slices that are kept; at one more, each two become one of twice the width.
const MAX_SLICES: usize = 600;
/// Steps of a wait's histogram for each power of two: the error of a percentile is below an eighth.
const STEPS_LOG2: u32 = 3;
/// Steps in all: up to 2³⁶ µs, which is 19 hours.
const STEPS: usize = (36 << STEPS_LOG2) as usize;

/// One slice.
#[derive(Clone)]
struct Slice {
    count: u32,
    /// How many waits of each step.
    waits: Box<[u32]>,
}

/// Slices from the first event on.
pub struct Timeline {
    first_ns: u64,
    width_ns: u64,
    slices: Vec<Slice>,
}

/// A slice as a report has it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Its beginning, seconds after the first message was begun.
    pub second: f64,
    /// Messages a second.
    pub per_second: f64,
    /// Half of its messages waited no longer, ms; to an eighth.
    pub p50: f64,
    /// Ninety-nine of a hundred waited no longer, ms; to an eighth.
    pub p99: f64,
}

impl Timeline {
    /// Nothing yet.
    pub fn new() -> Timeline {
        Timeline { first_ns: 0, width_ns: FIRST_WIDTH_NS, slices: Vec::new() }
    }

    /// One message, done at `now_ns` after waiting `wait_ns`. True when a slice has begun with it, hence another ended.
    pub fn record(&mut self, now_ns: u64, wait_ns: u64) -> bool {
        if self.first_ns == 0 {
            self.first_ns = now_ns;
        }
        while self.place(now_ns) >= MAX_SLICES {
            self.halve();
        }
        let place = self.place(now_ns);
        let begun = place >= self.slices.len();
        while self.slices.len() <= place {
            self.slices.push(Slice { count: 0, waits: vec![0; STEPS].into_boxed_slice() });
        }
        let slice = &mut self.slices[place];
        slice.count += 1;
        slice.waits[step(wait_ns / 1_000)] += 1;
        begun
    }

    /// The points, with the time counted from `zero_ns`.
    pub fn points(&self, zero_ns: u64) -> Vec<Point> {
        let offset = self.first_ns.saturating_sub(zero_ns) as f64 / 1e9;
        let width = self.width_ns as f64 / 1e9;
        let point = |(index, slice): (usize, &Slice)| Point {
            second: offset + index as f64 * width,
            per_second: f64::from(slice.count) / width,
            p50: slice.quantile_ms(0.50),
            p99: slice.quantile_ms(0.99),
        };
        self.slices.iter().enumerate().map(point).collect()
    }

    /// Median and 99th percentile of the newest slice that is over, ms.
    pub fn newest(&self) -> Option<(f64, f64)> {
        let slice = self.slices.iter().rev().skip(1).find(|slice| slice.count > 0)?;
        Some((slice.quantile_ms(0.50), slice.quantile_ms(0.99)))
    }

    fn place(&self, now_ns: u64) -> usize {
        (now_ns.saturating_sub(self.first_ns) / self.width_ns) as usize
    }

    fn halve(&mut self) {
        self.width_ns *= 2;
        let merge = |pair: &[Slice]| {
            let mut merged = pair[0].clone();
            for other in &pair[1..] {
                merged.count += other.count;
                merged.waits.iter_mut().zip(&other.waits).for_each(|(sum, more)| *sum += more);
            }
            merged
        };
        self.slices = self.slices.chunks(2).map(merge).collect();
    }
}

impl Slice {
    fn quantile_ms(&self, share: f64) -> f64 {
        let rank = (f64::from(self.count) * share).ceil() as u32;
        let mut seen = 0;
        for (index, count) in self.waits.iter().enumerate() {
            seen += count;
            if seen >= rank.max(1) {
                return middle_us(index) / 1e3;
            }
        }
        0.0
    }
}

/// The step of a wait: exact below eight, then eight steps for each power of two.
fn step(wait_us: u64) -> usize {
    let exact = 1 << STEPS_LOG2;
    if wait_us < exact {
        return wait_us as usize;
    }
    let power = wait_us.ilog2();
    let within = (wait_us >> (power - STEPS_LOG2)) & (exact - 1);
    let index = (u64::from(power - STEPS_LOG2 + 1) << STEPS_LOG2) + within;
    (index as usize).min(STEPS - 1)
}

fn middle_us(index: usize) -> f64 {
    let exact = 1 << STEPS_LOG2;
    if index < exact {
        return index as f64;
    }
    let (octave, within) = (index >> STEPS_LOG2, index & (exact - 1));
    let width = 2_f64.powi(octave as i32 - 1);
    (exact as f64 + within as f64 + 0.5) * width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_found_in_its_step() {
        for wait_us in (0..2_000).chain([10_000, 1_000_000, 3_600_000_000]) {
            let found = middle_us(step(wait_us));
            assert!((found - wait_us as f64).abs() <= wait_us as f64 / 8.0, "{wait_us} → {found}");
        }
    }

    #[test]
    fn rates_and_percentiles_stand_at_their_time() {
        let mut timeline = Timeline::new();
        let second = 1_000_000_000;
        for index in 0..1_000 {
            timeline.record(5 * second + index * second / 1_000, 3_000_000);
            timeline.record(7 * second + index * second / 1_000, 80_000_000);
        }
        let points = timeline.points(4 * second);
        assert_eq!(points.len(), 15);
        assert!((points[0].second - 1.0).abs() < 1e-9 && (points[0].per_second - 1_000.0).abs() < 1e-9);
        assert!((2.6..3.4).contains(&points[4].p50) && points[7].per_second == 0.0);
        assert!((70.0..90.0).contains(&points[14].p99), "{:?}", points[14]);
    }

    #[test]
    fn a_long_time_has_few_slices_and_loses_no_count() {
        let mut timeline = Timeline::new();
        for second in 0..10_000_u64 {
            timeline.record(1 + second * 1_000_000_000, 1_000);
        }
        let points = timeline.points(1);
        assert!(points.len() <= MAX_SLICES);
        let width = points[1].second - points[0].second;
        let count: f64 = points.iter().map(|point| point.per_second * width).sum();
        assert!((count - 10_000.0).abs() < 1e-3, "{count}");
    }
}
