//! The sink's side of TLS (RFC 3207): a certificate made on the spot, and records in memory, without a socket.
//!
//! Nobody is to trust the certificate: a mail server that delivers opportunistically doesn't check it.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection};

/// A server that shows a self-signed certificate made for it (ECDSA on P-256), and that certificate.
pub fn self_signed() -> io::Result<(Arc<ServerConfig>, CertificateDer<'static>)> {
    let made = rcgen::generate_simple_self_signed(["sink.perf.test".to_owned()]).map_err(io::Error::other)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder().with_no_client_auth();
    let certificate = made.cert.der().clone();
    let config = config.with_single_cert(vec![certificate.clone()], key).map_err(io::Error::other)?;
    Ok((Arc::new(config), certificate))
}

/// One connection's records, both ways.
pub struct Records(ServerConnection);

impl Records {
    /// Before the first octet of the client's hello.
    pub fn new(config: &Arc<ServerConfig>) -> io::Result<Records> {
        let mut connection = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        // The owner bounds what it has to send; rustls must never take a part of it and be silent about the rest.
        connection.set_buffer_limit(None);
        Ok(Records(connection))
    }

    /// Takes octets from the client; appends what they say to `plain`, and what the handshake answers to `out`.
    /// An error is that of the client's TLS: the connection is of no further use.
    pub fn receive(&mut self, mut octets: &[u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> io::Result<()> {
        while !octets.is_empty() {
            if self.0.read_tls(&mut octets)? == 0 {
                // The client has closed its side; what it sends behind that is nothing.
                break;
            }
            let state = self.0.process_new_packets();
            // An alert that says what was wrong goes out as well.
            self.pull(out)?;
            let state = state.map_err(io::Error::other)?;
            let start = plain.len();
            plain.resize(start + state.plaintext_bytes_to_read(), 0);
            self.0.reader().read_exact(&mut plain[start..])?;
        }
        Ok(())
    }

    /// Appends `plain` to `out`, as records.
    pub fn send(&mut self, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        self.0.writer().write_all(plain)?;
        self.pull(out)
    }

    fn pull(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        while self.0.wants_write() {
            self.0.write_tls(out)?;
        }
        Ok(())
    }
}
