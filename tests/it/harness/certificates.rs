//! Authorities, and what they sign: the files of a service, and what its clients show and trust.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
    date_time_ymd,
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, DEFAULT_VERSIONS, RootCertStore};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::harness::wire::{Broken, Wire};
use crate::harness::{Client, Cloned, World};

/// An authority that signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

/// What else is to be said of a certificate.
pub type Further = fn(&mut CertificateParams);

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Of another name than what it signs, which BoringSSL would take for signed by itself.
        params.distinguished_name.push(DnType::CommonName, "authority");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its certificate, in PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Signs one for a server on this machine.
    pub fn server(&self) -> Pair {
        self.sign(vec![SanType::DnsName("localhost".try_into().unwrap())], |_| {})
    }

    /// Signs one for a client, with these URIs.
    pub fn client(&self, uris: &[&str]) -> Pair {
        self.client_with(uris, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth])
    }

    /// Signs one for a client that is over.
    pub fn expired(&self, uris: &[&str]) -> Pair {
        self.client_with(uris, |params| params.not_after = date_time_ymd(2020, 1, 1))
    }

    /// Signs one for a client, with what else is to be said of it.
    pub fn client_with(&self, uris: &[&str], further: Further) -> Pair {
        self.sign(uris.iter().map(|uri| SanType::URI(Ia5String::try_from(*uri).unwrap())).collect(), further)
    }

    fn sign(&self, names: Vec<SanType>, further: Further) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        further(&mut params);
        Pair { certificate: params.signed_by(&key, &self.0).unwrap().pem(), key: key.serialize_pem() }
    }
}

/// The files of a service that does TLS.
#[derive(Debug)]
pub struct Files(TempDir);

impl Files {
    /// The service's certificate, and whose clients it knows.
    pub fn new(server: &Pair, clients: &Authority) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.put("client-ca.pem", &clients.pem());
        files.put_server(server);
        files
    }

    /// Another certificate.
    pub fn put_server(&self, server: &Pair) {
        self.put("certificate.pem", &server.certificate);
        self.put("key.pem", &server.key);
    }

    /// Writes one of them: `certificate.pem`, `key.pem` or `client-ca.pem`.
    pub fn put(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
    }

    /// A service with them, on a database that is there, which lets these workloads in.
    pub async fn serve(&self, database: Cloned, workloads: &str) -> World {
        let path = |name: &str| Path::join(self.0.path(), name).to_str().unwrap().to_owned();
        let (certificate, key, client_ca) = (path("certificate.pem"), path("key.pem"), path("client-ca.pem"));
        let flags = ["--tls-certificate", &certificate, "--tls-key", &key, "--tls-client-ca", &client_ca];
        World::on(database, &[&flags[..], &["--sidecar-spiffe-ids", workloads]].concat()).await
    }
}

/// A client by TLS that trusts an authority, and shows a certificate where it has one.
pub fn client(address: SocketAddr, trusted: &Authority, identity: Option<&Pair>) -> Client {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(trusted.pem())).domain_name("localhost");
    if let Some(Pair { certificate, key }) = identity {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap();
    let channel: Channel = endpoint.connect_lazy();
    Client::new(channel)
}

/// The same as one connection.
pub async fn wire(address: SocketAddr, trusted: &Authority, identity: Option<&Pair>) -> Result<Wire, Broken> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.pem().as_bytes())?)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(DEFAULT_VERSIONS)?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(Pair { certificate, key }) => builder.with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes())?],
            PrivateKeyDer::from_pem_slice(key.as_bytes())?,
        )?,
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await?;
    let stream = TlsConnector::from(Arc::new(config)).connect("localhost".try_into()?, stream).await?;
    Wire::over(stream, address).await
}
