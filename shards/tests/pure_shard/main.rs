//! The brain of a core, driven through its public door with a clock of the test's own: what goes in, and what
//! comes of it. No socket, no file, no thread.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod commands;
mod delivery;
mod departed;
mod families;
mod flushes;
mod given;
mod hosts;
mod largest;
mod limits;
mod places;
mod questions;
mod receptions;
mod reloads;
mod rules;
mod slices;
mod stranded;
mod ways;
mod world;
