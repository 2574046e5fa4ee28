//! What the system tests share: the engine as a child process, destinations, injectors, other people's programs.
//! Whatever is started here ends with its value. Nothing waits for a fixed time: [`wait::until`] looks at a
//! condition until it holds or a generous deadline has passed.

// Each test uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod api;
pub mod certificate;
pub mod client;
pub mod config;
pub mod dns;
pub mod engine;
pub mod log;
pub mod names;
pub mod ports;
pub mod programs;
pub mod received;
pub mod rest;
pub mod sink;
pub mod valve;
pub mod wait;
pub mod wire;

pub use api::Api;
pub use client::Client;
pub use config::Config;
pub use engine::Engine;
pub use log::Record;
pub use sink::{Action, Features, Sink, Step};
pub use wait::until;

/// A number from the environment, for the long form of a test.
pub fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}
