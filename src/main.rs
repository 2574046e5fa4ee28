//! The `mailrace` binary: control core and command line.

fn main() {}
