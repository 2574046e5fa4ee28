//! The TLS filter: both of its ends in memory, with certificates made on the spot.

use mailrace_shards::runtime::tls::{ClientTls, ServerTls, Tls, TlsError};
use mailrace_shards::settings::TlsFiles;
use std::path::{Path, PathBuf};

/// A directory that goes away with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mailrace-tls-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory for temporary files");
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("the directory takes files");
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn certificate(directory: &Directory, host: &str) -> TlsFiles {
    let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).expect("a host name");
    TlsFiles {
        certificate: directory.write(&format!("{host}.crt"), &made.cert.pem()),
        key: directory.write(&format!("{host}.key"), &made.signing_key.serialize_pem()),
    }
}

/// Carries octets both ways until neither end has any, `step` octets at a time; gives back what each end read.
fn carry(client: &mut Tls, server: &mut Tls, step: usize) -> Result<(Vec<u8>, Vec<u8>), TlsError> {
    let (mut at_client, mut at_server) = (vec![], vec![]);
    loop {
        let (mut up, mut down) = (vec![], vec![]);
        client.pull(&mut up);
        up.chunks(step).try_for_each(|part| server.feed(part, &mut at_server))?;
        server.pull(&mut down);
        down.chunks(step).try_for_each(|part| client.feed(part, &mut at_client))?;
        if up.is_empty() && down.is_empty() {
            return Ok((at_client, at_server));
        }
    }
}

#[test]
fn handshake_and_octets_both_ways() {
    let directory = Directory::new("both");
    let files = certificate(&directory, "mx.test");
    let server = ServerTls::load(&files).unwrap();
    let clients = ClientTls::with_roots_of(&files.certificate).unwrap();
    let body: Vec<u8> = (0..300_000_u32).map(|number| (number % 251) as u8).collect();
    for (verify, step) in [(true, 1), (true, 70_000), (false, 3), (false, 1_000_000)] {
        let mut near = Tls::client(&clients, "MX.test.", verify).unwrap();
        let mut far = Tls::server(&server).unwrap();
        near.encrypt(b"early ");
        assert!(near.handshaking() && far.handshaking() && near.version().is_none());
        let (_, early) = carry(&mut near, &mut far, step).unwrap();
        assert!(!near.handshaking() && !far.handshaking());
        assert_eq!(early, b"early ");
        assert_eq!((near.version(), far.version()), (Some("TLSv1.3"), Some("TLSv1.3")));
        assert!(near.suite().is_some_and(|suite| suite.starts_with("TLS13_")) && near.suite() == far.suite());
        near.encrypt(&body);
        far.encrypt(b"250 ok\r\n");
        let (answer, received) = carry(&mut near, &mut far, step).unwrap();
        assert!(received == body && answer == b"250 ok\r\n");
        near.close_notify();
        carry(&mut near, &mut far, step).unwrap();
        assert!(far.peer_closed() && !near.peer_closed());
    }
}

#[test]
fn verification_refuses_what_it_should() {
    let directory = Directory::new("verify");
    let files = certificate(&directory, "mx.test");
    let server = ServerTls::load(&files).unwrap();
    let own = ClientTls::with_roots_of(&files.certificate).unwrap();
    let public = ClientTls::new();
    for (clients, host) in [(&own, "other.test"), (&own, "192.0.2.1"), (&public, "mx.test")] {
        let mut near = Tls::client(clients, host, true).unwrap();
        let mut far = Tls::server(&server).unwrap();
        let error = carry(&mut near, &mut far, 1000).unwrap_err();
        assert!(matches!(error, TlsError::Certificate(_)), "{host}: {error:?}");
        let mut alert = vec![];
        near.pull(&mut alert);
        assert!(matches!(far.feed(&alert, &mut vec![]), Err(TlsError::Protocol(_))), "the peer is told");
    }
    assert_eq!(Tls::client(&own, "not_a host", true).unwrap_err(), TlsError::Name);
    for host in ["other.test", "192.0.2.1", "[2001:db8::1]", "not_a host"] {
        let mut near = Tls::client(&public, host, false).unwrap();
        let mut far = Tls::server(&server).unwrap();
        carry(&mut near, &mut far, 1000).unwrap();
        assert!(!near.handshaking(), "{host}: any certificate will do");
    }
}

/// A second connection to the same host is cheaper on the wire: no certificate is sent.
#[test]
fn sessions_are_resumed() {
    let directory = Directory::new("resume");
    let server = ServerTls::load(&certificate(&directory, "mx.test")).unwrap();
    let clients = ClientTls::new();
    let mut from_server = [0, 0];
    for count in &mut from_server {
        let mut near = Tls::client(&clients, "mx.test", false).unwrap();
        let mut far = Tls::server(&server).unwrap();
        let (mut up, mut down) = (vec![], vec![]);
        near.pull(&mut up);
        far.feed(&up, &mut vec![]).unwrap();
        far.pull(&mut down);
        *count = down.len();
        near.feed(&down, &mut vec![]).unwrap();
        carry(&mut near, &mut far, 10_000).unwrap();
    }
    assert!(from_server[1] + 300 < from_server[0], "{from_server:?}");
}

#[test]
fn clear_text_is_no_handshake() {
    let directory = Directory::new("clear");
    let server = ServerTls::load(&certificate(&directory, "mx.test")).unwrap();
    let mut far = Tls::server(&server).unwrap();
    assert!(matches!(far.feed(b"EHLO client.test\r\n", &mut vec![]), Err(TlsError::Protocol(_))));
    let mut near = Tls::client(&ClientTls::new(), "mx.test", false).unwrap();
    assert!(matches!(near.feed(b"250 2.0.0 ok, injected\r\n", &mut vec![]), Err(TlsError::Protocol(_))));
}

#[test]
fn files_that_are_no_use_are_named() {
    let directory = Directory::new("files");
    let good = certificate(&directory, "mx.test");
    let other = certificate(&directory, "other.test");
    let empty = directory.write("empty.pem", "nothing here\n");
    let missing = directory.0.join("missing.pem");
    let key = |key: &Path| TlsFiles { key: key.to_owned(), ..good.clone() };
    let chain = |certificate: &Path| TlsFiles { certificate: certificate.to_owned(), ..good.clone() };
    for (files, named) in [
        (chain(&missing), &missing),
        (chain(&empty), &empty),
        (chain(&good.key), &good.key),
        (key(&missing), &missing),
        (key(&empty), &empty),
        (key(&other.key), &other.key),
    ] {
        let error = ServerTls::load(&files).unwrap_err();
        assert_eq!(&error.file, named, "{error}");
    }
}
