//! Other people's programs at both ends: swaks hands in, aiosmtpd takes.

use crate::support::certificate::Certificate;
use crate::support::programs::{Aiosmtpd, swaks};
use crate::support::{Config, Engine, Features, Sink, guarded};

#[test]
fn swaks_hands_in_in_clear_and_over_tls_with_auth() {
    let sink = Sink::start(Features::default());
    let certificate = Certificate::new("localhost");
    let engine = guarded(&sink, &certificate);
    let envelope = ["--from", "s@test.example", "--to", "r@d.example,q@e.example", "--helo", "swaks.example"];
    let login = |mechanism, secret| ["--tls", "--auth", mechanism, "--auth-user", "alice", "--auth-password", secret];
    // What is asked for, swaks' exit code (0: sent, 23: MAIL refused, 28: AUTH refused).
    let cases: [(Vec<&str>, i32); 5] = [
        (vec![], 23),
        (vec!["--tls"], 23),
        (login("PLAIN", "open sesame").to_vec(), 0),
        (login("LOGIN", "open sesame").to_vec(), 0),
        (login("PLAIN", "wrong").to_vec(), 28),
    ];
    for (arguments, expected) in &cases {
        let output = swaks(engine.smtp, &[&envelope[..], arguments].concat());
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*expected), "{arguments:?}: {said}");
    }
    let messages = sink.await_messages(4);
    assert_eq!(messages.len(), 4, "two of five were sent, to two domains each");
    assert!(messages.iter().all(|message| message.header("X-Mailer").is_some_and(|value| value.starts_with("swaks"))));
}

#[test]
fn aiosmtpd_gets_ordinary_mail_as_it_was() {
    let destination = Aiosmtpd::start(true);
    let engine = Engine::start(&Config::to(destination.address));
    let body = "Subject: to python\r\n\r\n.dot\r\n..dots\r\ncaf\u{e9}\r\n".chars().map(|c| c as u8).collect::<Vec<_>>();
    let reply = engine.client().send("s@test.example BODY=8BITMIME", &["a@d.example", "b@d.example"], &body);
    assert_eq!(reply.code, 250, "{reply:?}");
    let delivered = engine.await_records("Delivery", 2);
    assert_eq!(delivered.len(), 2);
    let envelopes = destination.envelopes();
    assert_eq!(envelopes.len(), 1, "one transaction for both");
    assert_eq!(envelopes[0]["sender"], "s@test.example");
    assert_eq!(envelopes[0]["recipients"], serde_json::json!(["a@d.example", "b@d.example"]));
    let content: Vec<u8> = envelopes[0]["content"].as_str().unwrap().chars().map(|c| c as u8).collect();
    assert!(content.ends_with(&body) && content.starts_with(b"Received: "), "{:?}", String::from_utf8_lossy(&content));
    assert!(envelopes[0]["options"].to_string().contains("BODY=8BITMIME"), "{}", envelopes[0]);
}

#[test]
fn an_internationalised_address_is_delivered_where_smtputf8_is_offered_and_bounces_elsewhere() {
    let (with, without) = (Aiosmtpd::start(true), Aiosmtpd::start(false));
    let engine =
        Engine::start(&Config::default().route("with.example", with.address).route("without.example", without.address));
    let mut client = engine.client();
    assert!(client.offers("SMTPUTF8"), "{:?}", client.features);
    let recipients = ["m\u{fc}ller@with.example", "m\u{fc}ller@without.example"];
    let body = "Subject: gr\u{fc}\u{df}e\r\n\r\nhallo\r\n".as_bytes();
    let reply = client.send("j\u{f6}rg@test.example SMTPUTF8 BODY=8BITMIME", &recipients, body);
    assert_eq!(reply.code, 250, "{reply:?}");
    let bounced = engine.await_records("Bounce", 1);
    assert_eq!((bounced[0].recipient(), bounced[0].enhanced().as_str()), (recipients[1], "5.6.7"), "{bounced:?}");
    let delivered = engine.await_records("Delivery", 1);
    assert_eq!(delivered[0].recipient(), recipients[0]);
    let envelopes = with.envelopes();
    assert_eq!(envelopes[0]["recipients"], serde_json::json!([recipients[0]]));
    assert_eq!(envelopes[0]["sender"], "j\u{f6}rg@test.example");
    assert!(envelopes[0]["options"].to_string().contains("SMTPUTF8"), "{}", envelopes[0]);
    assert_eq!(without.envelopes().len(), 0);
    // Without the parameter such an address is refused at once.
    assert_eq!(client.command("MAIL FROM:<j\u{f6}rg@test.example>").code, 553);
}

#[test]
fn an_internationalised_domain_goes_out_in_its_ascii_form() {
    let destination = Aiosmtpd::start(true);
    let engine = Engine::start(&Config::default().route("xn--bcher-kva.example", destination.address));
    let reply = engine.client().send("s@test.example SMTPUTF8", &["r@b\u{fc}cher.example"], b"Subject: x\r\n\r\nx\r\n");
    assert_eq!(reply.code, 250, "{reply:?}");
    engine.await_records("Delivery", 1);
    assert_eq!(destination.envelopes()[0]["recipients"], serde_json::json!(["r@xn--bcher-kva.example"]));
}
