//! Many destinations at one moment: what asks about all of them at once is carried out one after the other.

use crate::support::ports::free_address;
use crate::support::{Api, Config, Engine, until};
use serde_json::json;

/// More than a thread's stack takes when each is begun on top of the one before.
const DOMAINS: usize = 800;
const AT_ONCE: usize = 100;

#[test]
fn hundreds_of_destinations_are_resolved_at_once() {
    let mut engine = Engine::start(&Config::to(free_address()).shards(1));
    Api::of(&engine).post("/v1/pauses", &json!({}));
    let mut client = engine.client();
    for first in (0..DOMAINS).step_by(AT_ONCE) {
        let recipients: Vec<String> = (first..first + AT_ONCE).map(|domain| format!("r@d{domain}.example")).collect();
        let list: Vec<&str> = recipients.iter().map(String::as_str).collect();
        assert_eq!(client.send("s@test.example", &list, b"Subject: many\r\n\r\ntext\r\n").code, 250);
    }
    let queued = |engine: &Engine| Api::of(engine).post("/v1/pauses?dry_run=true", &json!({}))["matched"].as_u64();
    until("all are queued", || queued(&engine) == Some(DOMAINS as u64));
    // New settings leave no route as it was.
    engine.reload();
    assert_eq!(queued(&engine), Some(DOMAINS as u64));
    // Neither does a start.
    engine.kill();
    engine.run();
    until("all are found", || queued(&engine) == Some(DOMAINS as u64));
    assert!(engine.is_running());
    assert!(engine.stop().success());
}

/// Mail for a host that is this engine is ended at once, also when it listens at all addresses of the machine: it came back
/// through dozens of rounds before.
#[test]
fn mail_for_a_host_that_is_this_engine_does_not_go_round() {
    for wildcard in [false, true] {
        let mut engine = Engine::prepare(&Config::default());
        engine.configure(&Config::to(engine.smtp));
        if wildcard {
            let text = std::fs::read_to_string(engine.path("mailrace.toml")).unwrap();
            let named = format!("listen = [\"{}\"]", engine.smtp);
            assert!(text.contains(&named), "{text}");
            engine.write(
                "mailrace.toml",
                &text.replace(&named, &format!("listen = [\"0.0.0.0:{}\"]", engine.smtp.port())),
            );
        }
        engine.run();
        let reply = engine.client().send("s@test.example", &["r@d.example"], b"Subject: x\r\n\r\nx\r\n");
        assert_eq!(reply.code, 250, "{reply:?}");
        let record = engine.await_records("Bounce", 1).remove(0);
        assert_eq!((record.code(), record.enhanced().as_str()), (554, "5.4.6"), "{wildcard}: {record:?}");
        assert_eq!(engine.await_records("Reception", 1).len(), 1, "{wildcard}");
    }
}
