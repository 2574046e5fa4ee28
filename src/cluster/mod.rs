//! One set of rules for several engines, kept by etcd.

pub mod suppressions;
