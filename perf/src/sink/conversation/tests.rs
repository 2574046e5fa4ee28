//! A sink's conversation with a client that asks for TLS, both in memory.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;
use crate::sink::profile::Profile;
use crate::sink::tls::self_signed;

/// Both ends after `first` was sent in clear, and what the sink said in clear.
fn begin(first: &str) -> (Shared, Conversation, ClientConnection, Vec<u8>, Flow) {
    let (server, certificate) = self_signed().unwrap();
    let mut shared = Shared::new(Profile { chunking: true, ..Profile::default() });
    shared.tls = Some(server);
    let mut said = Vec::new();
    let mut conversation = Conversation::new(&mut said);
    let flow = conversation.receive(first.as_bytes(), &mut shared, &mut said);
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let client = ClientConnection::new(Arc::new(client), "sink.perf.test".try_into().unwrap()).unwrap();
    (shared, conversation, client, said, flow)
}

/// Moves octets between the two until neither has any; the client's arrive in pieces of `piece` octets.
fn exchange(shared: &mut Shared, sink: &mut Conversation, client: &mut ClientConnection, piece: usize) -> String {
    let mut heard = Vec::new();
    while client.wants_write() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        let mut answer = Vec::new();
        for octets in wire.chunks(piece) {
            assert_ne!(sink.receive(octets, shared, &mut answer), Flow::StartTls);
        }
        let mut answer = &answer[..];
        while !answer.is_empty() {
            client.read_tls(&mut answer).unwrap();
            let state = client.process_new_packets().unwrap();
            let start = heard.len();
            heard.resize(start + state.plaintext_bytes_to_read(), 0);
            client.reader().read_exact(&mut heard[start..]).unwrap();
        }
    }
    String::from_utf8(heard).unwrap()
}

#[test]
fn mail_comes_over_tls_however_its_records_are_cut() {
    for piece in [3, 50, 1_000, 1 << 20] {
        let (mut shared, mut sink, mut client, said, flow) = begin("EHLO a\r\nSTARTTLS\r\n");
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("250-STARTTLS\r\n") && said.ends_with("\r\n220 2.0.0 go ahead\r\n"), "{said}");
        assert_eq!(flow, Flow::Open);
        let body = "x".repeat(40_000);
        let commands = format!(
            "EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n{body}\r\n.\r\n\
             MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 5 LAST\r\nhello"
        );
        client.set_buffer_limit(None);
        client.writer().write_all(commands.as_bytes()).unwrap();
        let heard = exchange(&mut shared, &mut sink, &mut client, piece);
        assert!(!heard.contains("STARTTLS"), "{heard}");
        let codes: Vec<&str> = heard.lines().filter(|line| !line.starts_with("250-")).map(|line| &line[..3]).collect();
        assert_eq!(codes, ["250", "250", "250", "354", "250", "250", "250", "250"], "{heard}");
        let totals = shared.tally.totals;
        assert_eq!(
            (totals.messages, totals.tls_messages, totals.chunked_messages, totals.protocol_errors),
            (2, 2, 1, 0)
        );
        assert!(!sink.in_transaction());
    }
}

#[test]
fn what_stands_in_clear_behind_starttls_is_never_obeyed() {
    let (mut shared, mut sink, mut client, said, _) =
        begin("EHLO a\r\nMAIL FROM:<a@b>\r\nSTARTTLS\r\nRCPT TO:<c@d>\r\nDATA\r\n");
    assert!(said.ends_with(b"220 2.0.0 go ahead\r\n"));
    assert!(!sink.in_transaction(), "a transaction from before TLS goes on");
    client.writer().write_all(b"RCPT TO:<c@d>\r\nEHLO a\r\nSTARTTLS\r\n").unwrap();
    let heard = exchange(&mut shared, &mut sink, &mut client, 1 << 20);
    assert!(heard.starts_with("503 ") && heard.ends_with("500 5.5.1 unknown command\r\n"), "{heard}");
}

#[test]
fn a_client_that_speaks_no_tls_after_starttls_is_cut_off() {
    let (mut shared, mut sink, ..) = begin("EHLO a\r\nSTARTTLS\r\n");
    assert_eq!(sink.receive(b"MAIL FROM:<a@b>\r\n", &mut shared, &mut Vec::new()), Flow::Close);
    assert_eq!(shared.tally.totals.protocol_errors, 1);
}
