//! Reads a PEM certificate chain and its key and makes sure that they belong together. The one door to rustls
//! in this package.

use mailrace_shards::settings::TlsFiles;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;

/// Octets of a PEM file; a longer one is refused.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// A server's TLS configuration, or what is wrong with which file.
pub fn load(files: &TlsFiles) -> Result<Arc<ServerConfig>, String> {
    let (certificate, key) = (files.certificate.display(), files.key.display());
    let pem = read(&files.certificate)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{certificate} is not a PEM certificate chain: {error}"))?;
    if chain.is_empty() {
        return Err(format!("{certificate} holds no certificate; it must be PEM, the server's own first"));
    }
    let private = PrivateKeyDer::from_pem_slice(&read(&files.key)?)
        .map_err(|error| format!("{key} holds no private key in PEM (unencrypted): {error}"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS is not available: {error}"))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| format!("{certificate} and {key} do not make a server certificate: {error}"))?;
    Ok(Arc::new(config))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    crate::files::read_bounded(path, PEM_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::load;
    use mailrace_shards::settings::TlsFiles;
    use std::path::Path;

    #[test]
    fn files_must_belong_together() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls");
        for (certificate, key, expected) in [
            ("chain.pem", "key.pem", ""),
            ("chain.pem", "other-key.pem", "do not make a server certificate"),
            ("key.pem", "key.pem", "key.pem holds no certificate"),
            ("chain.pem", "chain.pem", "chain.pem holds no private key"),
            ("none.pem", "key.pem", "none.pem cannot be opened"),
            ("chain.pem", "none.pem", "none.pem cannot be opened"),
        ] {
            let files = TlsFiles { certificate: directory.join(certificate), key: directory.join(key) };
            let error = load(&files).err().unwrap_or_default();
            assert!(
                error.contains(expected) && error.is_empty() == expected.is_empty(),
                "{certificate} {key}: {error}"
            );
        }
    }
}
