//! What the files say, and when it is taken.

use std::fs;
use std::path::Path;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair, SanType, string::Ia5String};

use super::*;

fn signed(names: Vec<SanType>) -> (rcgen::Certificate, KeyPair) {
    let mut authority = CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    (params.signed_by(&key, &authority).unwrap(), key)
}

fn uri(uri: &str) -> SanType {
    SanType::URI(Ia5String::try_from(uri).unwrap())
}

#[test]
fn an_id_is_the_one_uri_of_its_certificate() {
    let dns = SanType::DnsName("a.example".try_into().unwrap());
    let id = |names: Vec<SanType>| spiffe_id(signed(names).0.der()).map(|id| id.to_string());
    assert_eq!(id(vec![uri("spiffe://a/b")]).as_deref(), Some("spiffe://a/b"));
    assert_eq!(id(vec![dns.clone(), uri("spiffe://a/b")]).as_deref(), Some("spiffe://a/b"));
    for names in [
        vec![],
        vec![dns],
        vec![uri("https://a/b")],
        vec![uri("spiffe://a")],
        vec![uri("spiffe://a/b"), uri("spiffe://a/c")],
        vec![uri("spiffe://a/b"), uri("https://a/c")],
        vec![uri("https://a/c"), uri("spiffe://a/b")],
        vec![uri("spiffe://a/b"), uri("spiffe://a/b")],
    ] {
        assert_eq!(id(names.clone()), None, "{names:?}");
    }
}

/// Writes a new pair of these files.
fn write(files: &TlsFiles) -> (String, String) {
    let (certificate, key) = signed(vec![uri("spiffe://a/b")]);
    fs::write(&files.certificate, certificate.pem()).unwrap();
    fs::write(&files.key, key.serialize_pem()).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn files(directory: &Path) -> TlsFiles {
    TlsFiles { certificate: directory.join("certificate.pem"), key: directory.join("key.pem"), client_ca: None }
}

#[test]
fn what_is_wrong_with_a_file_is_said_of_its_option() {
    let directory = tempfile::tempdir().unwrap();
    let mut files = files(directory.path());
    let said = |files: &TlsFiles| files.clone().open().map(|_| ()).unwrap_err().to_string();
    assert!(said(&files).starts_with(CERTIFICATE), "there is none: {}", said(&files));
    let (certificate, key) = write(&files);
    fs::remove_file(&files.key).unwrap();
    assert!(said(&files).starts_with(KEY), "there is none: {}", said(&files));
    fs::write(&files.key, &certificate).unwrap();
    assert!(said(&files).starts_with(KEY), "no key: {}", said(&files));
    fs::write(&files.key, &key).unwrap();
    files.clone().open().unwrap();
    for bad in [&certificate[..certificate.len() / 2], "", &key] {
        fs::write(&files.certificate, bad).unwrap();
        assert!(said(&files).starts_with(CERTIFICATE), "no certificate: {}", said(&files));
    }
    let (_, key) = write(&files);
    fs::write(&files.certificate, &certificate).unwrap();
    assert!(said(&files).starts_with(CERTIFICATE), "they do not fit: {}", said(&files));
    assert!(!said(&files).contains(&key[30..60]), "a key is not shown");
    write(&files);
    let bundle = directory.path().join("ca.pem");
    files.client_ca = Some(bundle.clone());
    assert!(said(&files).starts_with(CLIENT_CA), "there is none: {}", said(&files));
    for bad in ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        fs::write(&bundle, bad).unwrap();
        assert!(said(&files).starts_with(CLIENT_CA), "no CA: {}", said(&files));
    }
    fs::write(&bundle, &certificate).unwrap();
    files.open().unwrap();
}

#[test]
fn a_new_pair_is_taken_once_it_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(directory.path());
    write(&files);
    let (tls, mut follower) = files.clone().open().unwrap();
    let served = || Arc::clone(&tls.0.borrow());
    let first = served();
    let mut look = |news: bool, why: &str| {
        let before = served();
        follower.look();
        assert_eq!(!Arc::ptr_eq(&before, &served()), news, "{why}");
    };
    look(false, "nothing is new");
    let (certificate, key) = write(&files);
    fs::write(&files.key, &key[..key.len() / 2]).unwrap();
    look(false, "half a key");
    fs::remove_file(&files.key).unwrap();
    look(false, "no key");
    fs::write(&files.key, &key).unwrap();
    look(true, "a whole pair");
    look(false, "the same");
    write(&files);
    fs::write(&files.certificate, &certificate).unwrap();
    look(false, "the new key, and not yet its certificate");
    fs::write(&files.key, &key).unwrap();
    look(true, "the old pair again, which is a good one");
    assert!(!Arc::ptr_eq(&first, &served()));
}
