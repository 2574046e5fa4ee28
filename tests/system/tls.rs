//! STARTTLS on both sides, AUTH, and who may relay.

use crate::support::certificate::Certificate;
use crate::support::guarded;
use crate::support::{Action, Client, Config, Engine, Features, Sink, Step};

const BODY: &[u8] = b"Subject: secret\r\n\r\nsecret\r\n";

fn secured(engine: &Engine, certificate: &Certificate) -> Client {
    let mut client = engine.client();
    assert!(client.offers("STARTTLS") && !client.offers("AUTH"), "{:?}", client.features);
    client.start_tls(certificate, "localhost");
    assert!(!client.offers("STARTTLS") && client.offers("AUTH PLAIN LOGIN"), "{:?}", client.features);
    client
}

/// What AUTH PLAIN says (RFC 4616).
fn plain(name: &str, secret: &str) -> String {
    base64(format!("\0{name}\0{secret}").as_bytes())
}

fn base64(octets: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(octets)
}

#[test]
fn auth_over_tls_lets_users_and_tokens_in_and_nobody_else() {
    let sink = Sink::start(Features::default());
    let certificate = Certificate::new("localhost");
    let engine = guarded(&sink, &certificate);

    let mut client = secured(&engine, &certificate);
    let refused = client.command(&format!("AUTH PLAIN {}", plain("alice", "wrong")));
    assert_eq!(refused.code, 535, "{refused:?}");
    assert_eq!(client.command("MAIL FROM:<s@test.example>").code, 530);
    assert_eq!(client.command(&format!("AUTH PLAIN {}", plain("alice", "open sesame"))).code, 235);
    assert_eq!(client.send("plain@test.example", &["r@d.example"], BODY).code, 250);

    let mut client = secured(&engine, &certificate);
    assert_eq!(client.command("AUTH LOGIN").code, 334);
    assert_eq!(client.command(&base64(b"alice")).code, 334);
    assert_eq!(client.command(&base64(b"open sesame")).code, 235);
    assert_eq!(client.send("login@test.example", &["r@d.example"], BODY).code, 250);

    let messages = sink.await_messages(2);
    let received = String::from_utf8_lossy(&messages[0].content).into_owned();
    assert!(received.contains("with ESMTPSA"), "{received}");
    let records = engine.await_records("Reception", 2);
    assert!(records.iter().all(|record| record.text("reception_protocol") == "ESMTPSA"), "{records:?}");
}

#[test]
fn a_token_with_scope_inject_is_good_for_auth_and_one_with_scope_read_is_not() {
    let sink = Sink::start(Features::default());
    let certificate = Certificate::new("localhost");
    let mut engine = guarded(&sink, &certificate);
    // Tokens that are made while it runs are noticed too, but when is not for a test to know.
    engine.stop();
    let mut tokens = ["inject", "read"].map(|scope| {
        let made = engine.tool(&["token", "add", scope, "--scope", scope, "--config", "mailrace.toml"], "");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    });
    engine.run();
    let mut client = secured(&engine, &certificate);
    let reply = client.command(&format!("AUTH PLAIN {}", plain("read", &tokens[1])));
    assert_eq!(reply.code, 535, "{reply:?}");
    let reply = client.command(&format!("AUTH PLAIN {}", plain("inject", &tokens[0])));
    assert_eq!(reply.code, 235, "{reply:?}");
    assert_eq!(client.send("token@test.example", &["r@d.example"], BODY).code, 250);
    sink.await_messages(1);
    tokens[0].push('x');
    let mut client = secured(&engine, &certificate);
    assert_eq!(client.command(&format!("AUTH PLAIN {}", plain("inject", &tokens[0]))).code, 535);
}

/// Who says STARTTLS and then nothing was never let go: it had a place among the injectors for ever, and a stop waited for
/// it as for a transaction, as long as it may.
#[test]
fn a_handshake_that_stands_still_keeps_no_stop_waiting() {
    let sink = Sink::start(Features::default());
    let certificate = Certificate::new("localhost");
    let config = Config::to(sink.address)
        .line("server", "stop_within = \"1h\"")
        .line("smtp", "tls_certificate = \"own.crt\"")
        .line("smtp", "tls_key = \"own.key\"");
    let mut engine = Engine::prepare(&config);
    engine.write("own.crt", &certificate.certificate_pem);
    engine.write("own.key", &certificate.key_pem);
    engine.run();
    let mut silent = engine.client();
    assert_eq!(silent.command("STARTTLS").code, 220);
    let mut half = engine.client();
    assert_eq!(half.command("STARTTLS").code, 220);
    // The beginning of a ClientHello.
    half.write(b"\x16\x03\x01\x02\x00\x01\x00");
    assert!(engine.stop().success());
    assert!(silent.try_reply().is_err() && half.try_reply().is_err(), "without a word in clear");
}

#[test]
fn strangers_do_not_relay() {
    let sink = Sink::start(Features::default());
    let certificate = Certificate::new("localhost");
    let engine = guarded(&sink, &certificate);
    let mut client = engine.client();
    assert_eq!(client.command("AUTH PLAIN AGEAYg==").code, 538, "no credentials in clear");
    let refused = client.send("s@test.example", &["r@d.example"], BODY);
    assert_eq!(refused.code, 530, "{refused:?}");

    let engine = Engine::start(&Config::to(sink.address).line("smtp", "relay_from = [\"192.0.2.0/24\"]"));
    let mut client = engine.client();
    assert!(!client.offers("AUTH") && !client.offers("STARTTLS"), "{:?}", client.features);
    let refused = client.send("s@test.example", &["r@d.example"], BODY);
    assert_eq!(refused.code, 550, "{refused:?}");
    assert_eq!(sink.connections(), 0);
}

fn with_policy(sink: &Sink, policy: &str) -> Engine {
    let limit = format!("domain = \"d.example\"\ntls = \"{policy}\"");
    Engine::start(&Config::to(sink.address).table("limit", &limit))
}

fn send_one(engine: &Engine) {
    let reply = engine.client().send("s@test.example", &["r@d.example"], BODY);
    assert_eq!(reply.code, 250, "{reply:?}");
}

#[test]
fn delivery_uses_tls_as_the_policy_says() {
    let offering = || Features { starttls: Some(Certificate::new("127.0.0.1")), ..Features::default() };
    // Policy, whether the destination offers STARTTLS, and whether mail goes by TLS (None: not at all).
    let cases = [
        ("opportunistic", true, Some(true)),
        ("opportunistic", false, Some(false)),
        ("required", true, Some(true)),
        ("required", false, None),
        ("disabled", true, Some(false)),
        ("verified", true, None),
    ];
    for (policy, offered, expected) in cases {
        let sink = Sink::start(if offered { offering() } else { Features::default() });
        let engine = with_policy(&sink, policy);
        send_one(&engine);
        match expected {
            Some(tls) => {
                let record = engine.await_records("Delivery", 1).remove(0);
                let message = sink.await_messages(1).remove(0);
                assert_eq!(message.tls, tls, "{policy}");
                assert!(message.content.ends_with(BODY), "{policy}");
                assert_eq!(record.text("tls_protocol_version").is_empty(), !tls, "{policy}: {record:?}");
                assert_eq!(record.text("tls_cipher").is_empty(), !tls, "{policy}: {record:?}");
            }
            None => {
                let record = engine.await_records("TransientFailure", 1).remove(0);
                assert!(record.content().contains("TLS"), "{policy}: {record:?}");
                assert_eq!(sink.attempts().len(), 0, "{policy}");
            }
        }
    }
}

#[test]
fn a_broken_handshake_falls_back_to_clear_only_when_tls_is_opportunistic() {
    for (policy, falls_back) in [("opportunistic", true), ("required", false)] {
        let sink = Sink::start(Features { starttls: Some(Certificate::new("sink.example")), ..Features::default() });
        sink.script(|step| if matches!(step, Step::StartTls) { Action::BreakTls } else { Action::Default });
        let engine = with_policy(&sink, policy);
        send_one(&engine);
        if falls_back {
            let record = engine.await_records("Delivery", 1).remove(0);
            assert!(!sink.await_messages(1)[0].tls);
            assert_eq!(record.attempts(), 1, "the fallback is no attempt of its own: {record:?}");
            assert_eq!(sink.connections(), 2, "{policy}");
        } else {
            let record = engine.await_records("TransientFailure", 1).remove(0);
            assert!(record.content().to_lowercase().contains("tls"), "{record:?}");
            assert_eq!(sink.attempts().len(), 0);
        }
    }
}

#[test]
fn many_messages_large_and_small_go_over_tls_in_both_directions() {
    let sink = Sink::start(Features { starttls: Some(Certificate::new("x")), chunking: true, ..Features::default() });
    let certificate = Certificate::new("localhost");
    let engine = guarded(&sink, &certificate);
    let mut client = secured(&engine, &certificate);
    assert_eq!(client.command(&format!("AUTH PLAIN {}", plain("alice", "open sesame"))).code, 235);
    let body = |number: usize| {
        let text = format!(".line {number}\r\n").repeat([1, 50, 3_000, 60_000][number % 4]);
        [b"Subject: x\r\n\r\n", text.as_bytes()].concat()
    };
    for number in 0..16 {
        let reply = client.send(&format!("{number}@test.example"), &["r@d.example"], &body(number));
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    for message in sink.await_messages(16) {
        let number: usize = message.sender.split('@').next().unwrap().parse().unwrap();
        assert!(message.tls && message.content.ends_with(&body(number)), "message {number}");
    }
}
