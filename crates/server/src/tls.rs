//! TLS with rustls, when the settings name a certificate. A renewed one is taken up while serving:
//! when its files change, and at once on SIGHUP.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use imagewell_core::Error;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use crate::config::TlsSettings;
use crate::validity::Validity;

/// Warnings of an end that is near are logged this often.
const WARNED_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// The certificate that is shown, and where the next one comes from.
pub struct Certificates {
    certificate_file: PathBuf,
    private_key_file: PathBuf,
    reload_every: Duration,
    warning: Duration,
    current: RwLock<Arc<CertifiedKey>>,
    state: Mutex<State>,
}

/// What is known of the files and of the certificate that is shown.
struct State {
    /// When they were last read, whether or not that led to a certificate.
    files: [Option<FileMark>; 2],
    validity: Validity,
    warned: Option<SystemTime>,
}

/// What changes with a file.
#[derive(PartialEq, Eq, Clone, Copy)]
struct FileMark {
    inode: u64,
    len: u64,
    modified: (i64, i64),
}

impl FileMark {
    /// None for a file that is not there.
    fn of(file: &Path) -> Option<Self> {
        let meta = file.metadata().ok()?;
        Some(Self { inode: meta.ino(), len: meta.len(), modified: (meta.mtime(), meta.mtime_nsec()) })
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Certificates").field("certificate_file", &self.certificate_file).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Certificates {
    /// Reads certificate and key; none when the settings name none.
    ///
    /// # Errors
    /// [`Error::Internal`] says which file is unreadable or doesn't fit.
    pub fn open(settings: &TlsSettings) -> Result<Option<Self>, Error> {
        let (Some(certificate), Some(key)) = (&settings.certificate_file, &settings.private_key_file) else {
            return Ok(None);
        };
        let files = [FileMark::of(certificate), FileMark::of(key)];
        let (certified, validity) = read(certificate, key)?;
        Ok(Some(Self {
            certificate_file: certificate.clone(),
            private_key_file: key.clone(),
            reload_every: Duration::from_secs(settings.reload_seconds),
            warning: Duration::from_secs(settings.expiry_warning_days * 24 * 60 * 60),
            current: RwLock::new(Arc::new(certified)),
            state: Mutex::new(State { files, validity, warned: None }),
        }))
    }

    /// What shakes hands with whichever certificate is the current one.
    #[must_use]
    pub fn acceptor(self: &Arc<Self>) -> TlsAcceptor {
        let resolver = Arc::clone(self) as Arc<dyn ResolvesServerCert>;
        let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    /// From when until when the current certificate is valid, and how long before its end a warning is due.
    #[must_use]
    pub fn validity(&self) -> (Validity, Duration) {
        (self.state().validity, self.warning)
    }

    /// Looks after the files and the end of the certificate, until dropped.
    pub async fn keep_fresh(self: Arc<Self>) {
        let mut next = tokio::time::interval(self.reload_every);
        loop {
            next.tick().await;
            let certificates = Arc::clone(&self);
            // Reading files may block.
            let _ = tokio::task::spawn_blocking(move || {
                certificates.reload(false);
                certificates.warn_of_end(SystemTime::now());
            })
            .await;
        }
    }

    /// Reads the files again when they have changed, or at any rate. What can't be used leaves the certificate as it is.
    pub fn reload(&self, at_any_rate: bool) {
        let files = [FileMark::of(&self.certificate_file), FileMark::of(&self.private_key_file)];
        let mut state = self.state();
        if !at_any_rate && state.files == files {
            return;
        }
        state.files = files;
        let outcome = match read(&self.certificate_file, &self.private_key_file) {
            Ok((certified, validity)) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(certified);
                (state.validity, state.warned) = (validity, None);
                tracing::info!(not_after = validity.end_text(), "the certificate was read again");
                "taken"
            }
            Err(error) => {
                tracing::error!(?error, "the certificate can't be read again: the one before is shown on");
                "failed"
            }
        };
        metrics::counter!("imagewell_tls_reloads_total", "outcome" => outcome).increment(1);
    }

    fn warn_of_end(&self, now: SystemTime) {
        let mut state = self.state();
        let end = state.validity.not_after;
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit")]
        metrics::gauge!("imagewell_tls_certificate_ends_timestamp_seconds").set(end as f64);
        let warned = state.warned.is_some_and(|then| now.duration_since(then).unwrap_or_default() < WARNED_EVERY);
        if warned || state.validity.left(now) > self.warning {
            return;
        }
        state.warned = Some(now);
        tracing::warn!(not_after = state.validity.end_text(), "the certificate ends soon, or has ended: renew it");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(certificate: &Path, key: &Path) -> Result<(CertifiedKey, Validity), Error> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(certificate, &error))?;
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, &error))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let first = chain.first().map(|certificate| Validity::of(certificate));
    let certified = CertifiedKey::from_der(chain, key_der, &provider).map_err(|error| unreadable(certificate, &error))?;
    // A second call finds it installed already.
    let _ = provider.install_default();
    let validity = first.flatten().ok_or_else(|| Error::Internal {
        detail: format!("reading {}: the certificate does not say how long it is valid", certificate.display()),
    })?;
    Ok((certified, validity))
}

fn unreadable(file: &Path, error: &(dyn std::error::Error + 'static)) -> Error {
    Error::internal(&format!("reading {}", file.display()), error)
}
