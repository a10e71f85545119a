//! TLS with rustls, when the settings name a certificate.

use std::path::Path;
use std::sync::Arc;

use imagewell_core::Error;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsSettings;

/// Reads certificate and key; none when the settings name none.
///
/// # Errors
/// [`Error::Internal`] says which file is unreadable or doesn't fit.
pub fn acceptor(settings: &TlsSettings) -> Result<Option<TlsAcceptor>, Error> {
    let (Some(certificate), Some(key)) = (&settings.certificate_file, &settings.private_key_file) else { return Ok(None) };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(certificate, &error))?;
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, &error))?;
    // A second call finds it installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key_der)
        .map_err(|error| unreadable(certificate, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

fn unreadable(file: &Path, error: &(dyn std::error::Error + 'static)) -> Error {
    Error::internal(&format!("reading {}", file.display()), error)
}
