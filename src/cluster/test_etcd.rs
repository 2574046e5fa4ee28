//! Real etcd processes for the tests of this package, as the system's tests start them.

#![allow(dead_code, reason = "of what the system's tests need, some is not needed here")]

#[path = "../../tests/system/support/ports.rs"]
pub mod ports;
#[path = "../../tests/system/support/relay.rs"]
pub mod relay;
#[path = "../../tests/system/support/etcd.rs"]
pub mod server;
#[path = "../../tests/system/support/wait.rs"]
pub mod wait;
