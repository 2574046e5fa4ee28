//! The `mailrace` binary: control core and command line.

mod config;
mod machine;
mod certificate;
mod files;
mod preflight;
mod rules;
mod system;
#[cfg(test)]
mod test_directory;
mod token;
mod topology;
mod users;

fn main() {}
