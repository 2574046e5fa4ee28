//! TLS as a filter between octets and octets: what came from the socket goes in, what to send comes out. Opens no
//! socket and waits for nothing. The only place that knows rustls; its provider is ring, always named.

use crate::settings::TlsFiles;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, Connection, DigitallySignedStruct, RootCertStore, ServerConfig};
use rustls::{ServerConnection, SignatureScheme};
use std::fmt;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Sessions that a client may resume, per core and kind of verification. The oldest are forgotten.
const RESUMABLE_SESSIONS_MAX: usize = 4096;

/// The engine's certificate and key, ready to serve.
#[derive(Debug)]
pub struct ServerTls(Arc<ServerConfig>);

/// Which file of a certificate or key cannot be used, and why.
#[derive(Debug)]
pub struct TlsFileError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for TlsFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.reason)
    }
}

impl std::error::Error for TlsFileError {}

impl ServerTls {
    /// Reads the PEM chain (leaf first) and key, and checks that they belong together. Reads files: for the
    /// start and for reloads, not for a core that is serving.
    pub fn load(files: &TlsFiles) -> Result<Arc<Self>, TlsFileError> {
        let wrong = |file: &Path, reason: String| TlsFileError { file: file.to_owned(), reason };
        let read = |file: &Path| std::fs::read(file).map_err(|error| wrong(file, error.to_string()));
        let chain = CertificateDer::pem_slice_iter(&read(&files.certificate)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| wrong(&files.certificate, error.to_string()))?;
        if chain.is_empty() {
            return Err(wrong(&files.certificate, "holds no certificate".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?)
            .map_err(|error| wrong(&files.key, format!("no usable private key: {error}")))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring knows the protocol versions that rustls is built with")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| wrong(&files.key, format!("does not go with the certificate: {error}")))?;
        config.ticketer =
            rustls::crypto::ring::Ticketer::new().map_err(|error| wrong(&files.key, format!("tickets: {error}")))?;
        Ok(Arc::new(Self(Arc::new(config))))
    }
}

/// What the TLS connections of one core have in common as clients: roots, and sessions to resume.
#[derive(Clone, Debug)]
pub struct ClientTls {
    verified: Arc<ClientConfig>,
    any: Arc<ClientConfig>,
}

impl Default for ClientTls {
    fn default() -> Self {
        Self::new()
    }
}

impl ClientTls {
    /// With the public roots of `webpki-roots`. Make one per core: sessions are resumed within it.
    #[must_use]
    pub fn new() -> Self {
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        Self::with_roots(roots)
    }

    /// With the certificates of a PEM file as the only roots, for networks with an authority of their own.
    pub fn with_roots_of(file: &Path) -> Result<Self, TlsFileError> {
        let wrong = |reason: String| TlsFileError { file: file.to_owned(), reason };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(file).map_err(|error| wrong(error.to_string()))? {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(wrong("holds no certificate".to_owned()));
        }
        Ok(Self::with_roots(roots))
    }

    fn with_roots(roots: RootCertStore) -> Self {
        let builder = || {
            ClientConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .expect("ring knows the protocol versions that rustls is built with")
        };
        let mut verified = builder().with_root_certificates(roots).with_no_client_auth();
        let anybody = Arc::new(AnyCertificate(provider()));
        let mut any = builder().dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth();
        // Apart, so that a session begun without verification is never resumed where it is asked for.
        verified.resumption = Resumption::in_memory_sessions(RESUMABLE_SESSIONS_MAX);
        any.resumption = Resumption::in_memory_sessions(RESUMABLE_SESSIONS_MAX);
        Self { verified: Arc::new(verified), any: Arc::new(any) }
    }
}

/// Takes any certificate, for delivery that prefers encryption to none (RFC 7435). The handshake's signature is
/// still checked: the peer has to own the key that it shows.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Why a connection cannot go on. An alert for the peer may wait in [`Tls::pull`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsError {
    /// A certificate was to be verified for something that is no host name.
    Name,
    /// The peer's certificate was refused: not trusted, expired, or for another name.
    Certificate(String),
    /// The peer, or we, broke the protocol off.
    Protocol(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str("not a host name"),
            Self::Certificate(reason) | Self::Protocol(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for TlsError {}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(_) => Self::Certificate(error.to_string()),
            _ => Self::Protocol(error.to_string()),
        }
    }
}

/// One TLS connection, either side. Lives in the task that owns the socket.
pub struct Tls {
    connection: Box<Connection>,
    peer_closed: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("handshaking", &self.handshaking()).finish_non_exhaustive()
    }
}

impl Tls {
    /// As the client of `host`, a name or an address. With `verify` the certificate has to be valid for it
    /// (policy `verified`); without, any will do. The first flight waits in [`Tls::pull`].
    pub fn client(config: &ClientTls, host: &str, verify: bool) -> Result<Self, TlsError> {
        let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
        let name = match ServerName::try_from(host.to_owned()) {
            Ok(name) => name,
            Err(_) if verify => return Err(TlsError::Name),
            // A host with a name that TLS does not know (an underscore, say) is not told which one we mean:
            // an address is never sent as SNI (RFC 6066 §3).
            Err(_) => ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into()),
        };
        let config = if verify { &config.verified } else { &config.any };
        Ok(Self::new(ClientConnection::new(config.clone(), name)?.into()))
    }

    /// As the server.
    pub fn server(config: &ServerTls) -> Result<Self, TlsError> {
        Ok(Self::new(ServerConnection::new(config.0.clone())?.into()))
    }

    fn new(mut connection: Connection) -> Self {
        // What is written is pulled at once, and bounded by who writes it.
        connection.set_buffer_limit(None);
        Self { connection: Box::new(connection), peer_closed: false }
    }

    /// Takes octets of the socket, all of them, and appends what they hold to `plaintext`. Pull afterwards, even
    /// after an error: there may be something to answer.
    pub fn feed(&mut self, mut ciphertext: &[u8], plaintext: &mut Vec<u8>) -> Result<(), TlsError> {
        while !ciphertext.is_empty() {
            let taken = self.connection.read_tls(&mut ciphertext).map_err(|e| TlsError::Protocol(e.to_string()))?;
            let state = self.connection.process_new_packets()?;
            let waiting = state.plaintext_bytes_to_read();
            if waiting > 0 {
                let start = plaintext.len();
                plaintext.resize(start + waiting, 0);
                let read = self.connection.reader().read_exact(&mut plaintext[start..]);
                read.map_err(|error| TlsError::Protocol(error.to_string()))?;
            }
            self.peer_closed |= state.peer_has_closed();
            if taken == 0 {
                // Nothing counts behind close_notify.
                break;
            }
        }
        Ok(())
    }

    /// Encrypts `plaintext` for [`Tls::pull`]; until the handshake is done it waits inside.
    pub fn encrypt(&mut self, plaintext: &[u8]) {
        self.connection.writer().write_all(plaintext).expect("the buffer has no limit");
    }

    /// Appends everything that is to be sent to `ciphertext`.
    pub fn pull(&mut self, ciphertext: &mut Vec<u8>) {
        while self.connection.wants_write() {
            self.connection.write_tls(ciphertext).expect("a vector takes any octets");
        }
    }

    /// Whether the handshake is still going on.
    #[must_use]
    pub fn handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Name of the cipher suite, once it is agreed on.
    #[must_use]
    pub fn suite(&self) -> Option<&'static str> {
        self.connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str())
    }

    /// Version of the protocol, once it is agreed on.
    #[must_use]
    pub fn version(&self) -> Option<&'static str> {
        match self.connection.protocol_version()? {
            rustls::ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
            rustls::ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
            other => other.as_str(),
        }
    }

    /// Says that nothing more will be sent; pull afterwards.
    pub fn close_notify(&mut self) {
        self.connection.send_close_notify();
    }

    /// Whether the peer has said that it sends nothing more. An end of input without it may be an attacker's.
    #[must_use]
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
