//! What seals the keys of tokens, as the binary gets it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use nix::sys::signal::Signal;

use super::Place;
use crate::harness::admin;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_the_embedded_postgres_it_is_made_once_and_kept() {
    let place = Place::new();
    let mut sets = Vec::new();
    for _ in 0..2 {
        let process = place.start();
        place.ready().await;
        sets.push(admin(place.admin, "/.well-known/jwks.json").await);
        process.send(Signal::SIGTERM);
        let (code, said) = process.ended().await;
        assert_eq!(code, Some(0));
        let path = place.data.join("token.key");
        let key = fs::read_to_string(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(key.trim().len() == 44 && !said.contains(key.trim()));
    }
    assert!(sets[0].0 == 200 && sets[0].1.contains("Ed25519"), "{sets:?}");
    assert_eq!(sets[0], sets[1], "the next start opens what the first one sealed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_seal_is_refused_and_not_repeated() {
    let place = Place::new();
    for (name, value, code) in [
        ("TENANCY_TOKEN_ENCRYPTION_KEY", "hunter2hunter2", 1),
        ("TENANCY_TOKEN_ENCRYPTION_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=,", 1),
        ("TENANCY_TOKEN_LIFETIME", "61m", 2),
        ("TENANCY_TOKEN_LIFETIME", "9s", 2),
        ("TENANCY_TOKEN_KEY_ROTATION", "59m", 2),
        ("TENANCY_TOKEN_ISSUER", "", 2),
    ] {
        let mut command = place.server(&[]);
        command.env(name, value);
        let (ended, said) = place.run(command).ended().await;
        assert_eq!(ended, Some(code), "{name}={value}: {said}");
        assert!(
            said.contains(name) || said.contains(&name["TENANCY_".len()..].to_lowercase().replace('_', "-")),
            "{said}"
        );
        assert!(code == 2 || !said.contains(value), "{said}");
    }
    assert!(!place.data.exists(), "nothing was begun");
}
