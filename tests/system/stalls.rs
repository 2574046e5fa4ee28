//! A machine that is busy at the worst moment.

use crate::support::strace::strace;
use crate::support::{Config, Engine, Features, Sink};
use std::net::SocketAddr;

/// The library's executor goes to sleep over its first task when it gets no processor for 100 ms just before it
/// looks for work. strace delays that same wait of every thread, so each further try meets it too.
fn start_with_late_cores(wait: usize, destination: SocketAddr) {
    let late = format!("inject=io_uring_enter:delay_exit=150000:when={wait}");
    let Some(strace) = strace(&["-o", "/dev/null", "-e", "trace=io_uring_enter", "-e", &late]) else { return };
    let mut engine = Engine::prepare(&Config::to(destination));
    engine.under(strace);
    if let Some(said) = engine.try_run() {
        assert!(said.contains("executors did not begin to turn"), "{said}");
        return;
    }
    let reply = engine.client().send("s@test.example", &["r@d.example"], b"a: b\r\n\r\nc\r\n");
    assert_eq!(reply.code, 250);
    engine.await_records("Delivery", 1);
    assert!(engine.stop().success());
}

#[test]
fn a_core_that_gets_no_processor_at_its_start_does_not_sleep_for_ever() {
    let sink = Sink::start(Features::default());
    let destination = sink.address;
    // Which of its first waits that is depends on the library.
    let starts = [2, 3, 4].map(|wait| std::thread::spawn(move || start_with_late_cores(wait, destination)));
    for start in starts {
        start.join().unwrap();
    }
}
