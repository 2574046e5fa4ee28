//! Destinations that say their word and hang up in the same breath, while octets of ours are still under way: the
//! connection is reset, and what they said must be heard all the same.

use crate::support::wait::PATIENCE;
use crate::support::wire::Wire;
use crate::support::{Api, Config, Engine};
use serde_json::json;
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

/// Serves each connection by `converse`, after which it is closed whatever was not read. The threads end with the
/// test's process.
fn serve(converse: impl Fn(&mut Wire) -> io::Result<()> + Send + Sync + 'static) -> SocketAddr {
    // With little room for what it does not read.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.set_recv_buffer_size(16 << 10).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(128).unwrap();
    let listener = TcpListener::from(listener);
    let address = listener.local_addr().unwrap();
    let converse = Arc::new(converse);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let converse = converse.clone();
            std::thread::spawn(move || {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                // Whatever ends a conversation, the next one comes.
                let _ = converse(&mut Wire::new(stream));
            });
        }
    });
    address
}

/// Greets, and answers the commands up to the content's. The last line that was read.
fn envelope(wire: &mut Wire, features: &str) -> io::Result<String> {
    loop {
        let line = String::from_utf8_lossy(&wire.read_line()?).trim_end().to_owned();
        match line.split(' ').next().unwrap_or_default() {
            "" => return Err(io::ErrorKind::UnexpectedEof.into()),
            "EHLO" => wire.write(format!("250-mx.example\r\n{features}250 SIZE\r\n").as_bytes())?,
            "DATA" | "BDAT" | "STARTTLS" => return Ok(line),
            "QUIT" => {
                wire.write(b"221 bye\r\n")?;
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            _ => wire.write(b"250 ok\r\n")?,
        }
    }
}

fn body(octets: usize) -> Vec<u8> {
    let line = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n";
    [b"Subject: x\r\n\r\n", &*line.repeat(octets / line.len())].concat()
}

/// A refusal in the midst of a large body was lost when the reset came with it: the message was sent again and again,
/// as if the connection had broken by accident, until it expired.
#[test]
fn a_refusal_in_the_midst_of_the_data_is_heard_though_the_connection_is_reset_with_it() {
    let destination = serve(|wire| {
        wire.write(b"220 mx.example\r\n")?;
        envelope(wire, "250-PIPELINING\r\n")?;
        wire.write(b"354 go\r\n")?;
        wire.read_exact(100_000)?;
        wire.write(b"552 5.3.4 too much of it\r\n")
    });
    let engine = Engine::start(&Config::to(destination));
    let body = body(20 << 20);
    for number in 0..5 {
        let reply = engine.client().send("s@test.example", &[&format!("r{number}@d.example")], &body);
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    engine.await_records("Bounce", 5);
    for record in engine.records() {
        assert_ne!(record.kind(), "TransientFailure", "{record:?}");
        assert!(record.kind() != "Bounce" || record.content().contains("too much of it"), "{record:?}");
    }
}

/// A message whose 250 had come was sent once more when the reset came behind it and octets of the next one were still
/// to be written.
#[test]
fn an_acceptance_is_heard_though_the_connection_is_reset_behind_it() {
    const MESSAGES: usize = 40;
    let accepted: Arc<Mutex<BTreeMap<Vec<u8>, usize>>> = Arc::default();
    let noting = accepted.clone();
    let destination = serve(move |wire| {
        wire.write(b"220 mx.example\r\n")?;
        let chunk = envelope(wire, "250-PIPELINING\r\n250-CHUNKING\r\n")?;
        let octets = chunk.split(' ').nth(1).unwrap().parse().unwrap();
        let content = wire.read_exact(octets)?;
        let key = content.rsplit(|octet| *octet == b'#').next().unwrap().to_vec();
        *noting.lock().unwrap().entry(key).or_default() += 1;
        wire.write(b"250 taken\r\n")
    });
    let limit = "domain = \"d.example\"\nconnections = 2";
    let engine = Engine::start(&Config::to(destination).table("limit", limit));
    let api = Api::of(&engine);
    // So that several are ready at once.
    let pause = api.post("/v1/pauses", &json!({"domain": "d.example"}));
    let mut client = engine.client();
    for number in 0..MESSAGES {
        let body = [&*body(250_000), format!("#{number}\r\n").as_bytes()].concat();
        let reply = client.send("s@test.example", &["r@d.example"], &body);
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    api.remove(pause["id"].as_str().unwrap());
    engine.await_records("Delivery", MESSAGES);
    let accepted = accepted.lock().unwrap();
    assert_eq!(accepted.len(), MESSAGES);
    let twice: Vec<_> = accepted.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "{} of {MESSAGES} were delivered more than once", twice.len());
}

/// Who cannot shake hands mostly closes without a word, in order or by a reset, or stands still. Mail that may go in clear
/// went elsewhere or nowhere unless it was a reset.
#[test]
fn a_destination_that_closes_in_the_handshake_gets_its_mail_in_clear() {
    for goodbye in [&b""[..], b"\x15\x03\x03\x00\x02\x01\x00"] {
        let destination = serve(move |wire| {
            wire.write(b"220 mx.example\r\n")?;
            if envelope(wire, "250-STARTTLS\r\n")? == "STARTTLS" {
                wire.write(b"220 go ahead\r\n")?;
                // The ClientHello is read, so that the end is no reset.
                let head = wire.read_exact(5)?;
                wire.read_exact(usize::from(u16::from_be_bytes([head[3], head[4]])))?;
                return wire.write(goodbye);
            }
            wire.write(b"354 go\r\n")?;
            while wire.read_line()? != b".\r\n" {}
            wire.write(b"250 taken\r\n")
        });
        let engine = Engine::start(&Config::to(destination));
        let reply = engine.client().send("s@test.example", &["r@d.example"], b"Subject: x\r\n\r\nx\r\n");
        assert_eq!(reply.code, 250, "{reply:?}");
        let record = engine.await_records("Delivery", 1).remove(0);
        assert_eq!(record.attempts(), 1, "{goodbye:?}: {record:?}");
    }
}
