//! System tests: the real binary between real sockets. Each test starts its own engine on ports and a data
//! directory of its own and judges it from outside only: by replies, by what destinations received, and by the
//! outcome log.
//!
//! The long form is asked for by the environment: `MAILRACE_SYSTEM_MESSAGES` (messages that are counted, 10,000),
//! `MAILRACE_SYSTEM_LARGE_MIB` (size of the large message, 20; 50 is the most that is accepted),
//! `MAILRACE_CRASH_ROUNDS` (rounds of SIGKILL under load, 5), `MAILRACE_POWER_CUTS` (moments at which the power is cut,
//! 5), `MAILRACE_OVERLOAD_…` (connections, descriptors and memory; see `overload`), `MAILRACE_SOAK_…` (how long mail and
//! rules come and go; see `soak`), and `MAILRACE_CLUSTER_SECONDS` and `MAILRACE_CLUSTER_SEED` (faults in a cluster; see
//! `cluster_faults`). What needs root, mounts or
//! tracing says SKIPPED where the machine does not allow it.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod bodies;
mod clients;
mod cluster;
mod cluster_access;
mod cluster_faults;
mod cluster_partition;
mod cluster_return;
mod cluster_survival;
mod control;
mod count;
mod crash;
mod destinations;
mod disk_bound;
mod disk_faults;
mod disk_full;
mod dns;
mod failures;
mod gate;
mod hangups;
mod hostile;
mod independent;
mod inject;
mod limits;
mod liveness;
mod overload;
mod power_cut;
mod recipients;
mod recovery;
mod retry;
mod rules;
mod rules_counts;
mod rules_disk;
mod rules_ending;
mod rules_schedule;
mod rules_survival;
mod signals;
mod smuggling;
mod soak;
mod stalls;
mod support;
mod tls;
