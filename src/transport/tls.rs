//! TLS on the gRPC port: the certificate, who has which one at the other end, and both read anew when their files change.
//!
//! A client need not show a certificate, as most come with a key. One that does has to show a good one: signed by the
//! client CA, in its time, for a client's use. What is known of it then is its SPIFFE id, where it is an X.509-SVID, which
//! has exactly one URI among its names; whether that lets it in is the auth layer's to say.
//!
//! Files are compared by what is in them, as Kubernetes exchanges them by a link, and others write over them. Certificate
//! and key are taken together or not at all: halfway through a replacement they do not fit, and the next look finds them
//! whole. A connection goes on with what it began with, until its age ends it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use tokio_rustls::rustls::{DEFAULT_VERSIONS, RootCertStore, ServerConnection};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::model::workload::SpiffeId;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// The longest that a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Where the files are, each in PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// The server's certificate, and those between it and its CA.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The CAs that sign clients' certificates; `None`: clients are not asked for any.
    pub client_ca: Option<PathBuf>,
}

/// Serves TLS by what is in the files. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tls(watch::Receiver<Arc<ServerConfig>>);

/// Keeps a [`Tls`] up to date.
#[derive(Debug)]
pub struct Follower {
    files: TlsFiles,
    /// What was in them at the last look, good or not: an error is told once.
    seen: Option<blake3::Hash>,
    config: watch::Sender<Arc<ServerConfig>>,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read.
    #[error("{option}: cannot read {path}: {source}")]
    Read {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file that holds something else.
    #[error("{option}: {path}: {why}")]
    Content {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What was expected.
        why: String,
    },
}

const CERTIFICATE: &str = "TENANCY_TLS_CERTIFICATE";
const KEY: &str = "TENANCY_TLS_KEY";
const CLIENT_CA: &str = "TENANCY_TLS_CLIENT_CA";

/// What is in the files.
struct Contents {
    certificate: Vec<u8>,
    key: zeroize::Zeroizing<Vec<u8>>,
    client_ca: Option<Vec<u8>>,
}

impl TlsFiles {
    /// Reads them, and serves by them from now on; the follower is to be run beside the server.
    pub fn open(self) -> Result<(Tls, Follower), TlsError> {
        let contents = self.read()?;
        let (sender, receiver) = watch::channel(Arc::new(self.config(&contents)?));
        Ok((Tls(receiver), Follower { seen: Some(contents.hash()), files: self, config: sender }))
    }

    fn read(&self) -> Result<Contents, TlsError> {
        let read = |option, path: &PathBuf| {
            std::fs::read(path).map_err(|source| TlsError::Read { option, path: path.clone(), source })
        };
        Ok(Contents {
            certificate: read(CERTIFICATE, &self.certificate)?,
            key: read(KEY, &self.key)?.into(),
            client_ca: self.client_ca.as_ref().map(|path| read(CLIENT_CA, path)).transpose()?,
        })
    }

    fn config(&self, contents: &Contents) -> Result<ServerConfig, TlsError> {
        let error = |option, path: &PathBuf| {
            let path = path.clone();
            move |why: &dyn std::fmt::Display| TlsError::Content { option, path, why: why.to_string() }
        };
        let chain = certificates(&contents.certificate).map_err(|why| error(CERTIFICATE, &self.certificate)(&why))?;
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|why| error(KEY, &self.key)(&format!("no private key in PEM: {why}")))?;
        let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(DEFAULT_VERSIONS)
            .map_err(|why| error(CERTIFICATE, &self.certificate)(&why))?;
        let builder = match (&self.client_ca, &contents.client_ca) {
            (Some(path), Some(bundle)) => {
                let mut roots = RootCertStore::empty();
                for root in certificates(bundle).map_err(|why| error(CLIENT_CA, path)(&why))? {
                    roots.add(root).map_err(|why| error(CLIENT_CA, path)(&why))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(|why| error(CLIENT_CA, path)(&why))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config =
            builder.with_single_cert(chain, key).map_err(|why| error(CERTIFICATE, &self.certificate)(&why))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A session that is taken up again brings its certificate along, which nobody verifies then: it may have expired.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

/// All certificates of a PEM file, of which there must be one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    if found.is_empty() { Err("no certificate in PEM".to_owned()) } else { Ok(found) }
}

impl Contents {
    fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for part in [&self.certificate, &*self.key, self.client_ca.as_deref().unwrap_or_default()] {
            // The length keeps what ends one file from beginning the next.
            hasher.update(&part.len().to_le_bytes()).update(part);
        }
        hasher.finalize()
    }
}

impl Follower {
    /// Looks at the files until it is told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = sleep(LOOK) => {}
                () = stop.cancelled() => return,
            }
            // A mounted secret may be on a disk that is slow or gone.
            match tokio::task::spawn_blocking(move || {
                self.look();
                self
            })
            .await
            {
                Ok(this) => self = this,
                Err(error) => return tracing::error!(%error, "certificates are not followed any more"),
            }
        }
    }

    /// Takes what is in the files, when that is new and good.
    fn look(&mut self) {
        let contents = self.files.read();
        let hash = contents.as_ref().ok().map(Contents::hash);
        if hash == self.seen {
            return;
        }
        self.seen = hash;
        match contents.and_then(|contents| self.files.config(&contents)) {
            Ok(config) => {
                self.config.send_replace(Arc::new(config));
                tracing::info!("certificates were read anew");
            }
            Err(error) => tracing::error!(%error, "certificates changed, and the old ones are kept"),
        }
    }
}

impl Tls {
    /// Shakes hands. Not for long, as a client can do that before anybody asked who it is.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, Option<SpiffeId>)> {
        let config = Arc::clone(&self.0.borrow());
        let accepted = timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await;
        let stream = accepted.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long"))??;
        let peer = peer(stream.get_ref().1);
        Ok((stream, peer))
    }
}

/// The workload that the client's certificate, which was verified, is of.
fn peer(connection: &ServerConnection) -> Option<SpiffeId> {
    spiffe_id(connection.peer_certificates()?.first()?)
}

fn spiffe_id(certificate: &CertificateDer<'_>) -> Option<SpiffeId> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let mut uris = certificate.valid_uri_names();
    let id = uris.next()?.parse().ok()?;
    // A second one, whatever it is: no SVID, and nobody can tell which of them is meant.
    uris.next().is_none().then_some(id)
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
