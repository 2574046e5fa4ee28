//! The `mailrace-perf` binary: load harness.

fn main() {}
