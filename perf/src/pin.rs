//! Keeps a thread, or a process from its first thread on, on one core.
//!
//! It must never be used on a thread of somebody else: a server's threads inherit the core from the program they begin as.

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::error::{Context, Result};

/// Keeps the calling thread, and what it starts later, on core `cpu`.
pub fn to(cpu: u32) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu as usize);
    sched_setaffinity(None, &set).context(format_args!("stay on core {cpu}"))
}
