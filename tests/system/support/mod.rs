//! What the system tests share: the engine as a child process, destinations, injectors, other people's programs.
//! Whatever is started here ends with its value. Nothing waits for a fixed time: [`wait::until`] looks at a
//! condition until it holds or a generous deadline has passed.

// Each test uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod api;
pub mod certificate;
pub mod client;
pub mod cluster;
pub mod config;
pub mod dns;
pub mod engine;
pub mod etcd;
pub mod ledger;
pub mod log;
pub mod mail;
pub mod mounts;
pub mod names;
pub mod ports;
pub mod postfix;
pub mod power;
pub mod programs;
pub mod random;
pub mod received;
pub mod relay;
pub mod sink;
pub mod strace;
pub mod valve;
pub mod wait;
pub mod wire;

pub use api::{Answer, Api};
pub use client::Client;
pub use cluster::{Cluster, Node};
pub use config::Config;
pub use engine::Engine;
pub use log::Record;
pub use sink::{Action, Features, Sink, Step};
pub use wait::until;

/// An engine that offers STARTTLS and knows one user; strangers are everybody.
pub fn guarded(sink: &Sink, certificate: &certificate::Certificate) -> Engine {
    let config = Config::to(sink.address)
        .line("smtp", "relay_from = [\"192.0.2.0/24\"]")
        .line("smtp", "users_file = \"users.txt\"")
        .line("smtp", "tls_certificate = \"own.crt\"")
        .line("smtp", "tls_key = \"own.key\"");
    let mut engine = Engine::prepare(&config);
    engine.write("own.crt", &certificate.certificate_pem);
    engine.write("own.key", &certificate.key_pem);
    let hashed = engine.tool(&["hash-secret", "alice"], "open sesame\n");
    assert!(hashed.status.success());
    engine.write("users.txt", &String::from_utf8(hashed.stdout).unwrap());
    engine.run();
    engine
}

/// A number from the environment, for the long form of a test.
pub fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}
