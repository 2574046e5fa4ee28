//! Choices that differ from run to run and that a seed repeats.

use super::setting;
use std::hash::{BuildHasher as _, RandomState};

/// A generator of numbers (Knuth's MMIX).
pub struct Random(u64);

impl Random {
    /// From the seed that the environment names, or else from a new one, which is printed.
    pub fn from_setting(name: &str) -> Self {
        // The standard library's hasher keys are the system's random numbers.
        let seed = setting(name, (RandomState::new().hash_one(name) >> 32) as usize);
        eprintln!("{name}={seed}");
        Self(seed as u64)
    }

    /// From a seed.
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// One of 0 to `bound` - 1.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}
