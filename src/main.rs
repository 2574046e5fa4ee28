//! The `mailrace` binary: control core and command line.

mod config;
mod machine;
mod topology;

fn main() {}
