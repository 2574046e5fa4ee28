//! Several engines under one set of rules, agreed through etcd. The shards know nothing of it.

pub mod etcd;
