//! The configuration of an Envoy: the shipped file, changed where a test needs it. So the file that is shipped is the one
//! that is tested.

use std::net::SocketAddr;
use std::path::Path;
use std::{fs, iter};

/// A bootstrap, as text.
#[derive(Clone, Debug)]
pub struct Bootstrap(String);

/// Below which line further routes go.
const ROUTES: &str = "              routes:\n";

impl Bootstrap {
    /// The one of deploy/envoy, between a Tenancy and an application, on ports that the system chooses.
    pub fn shipped(tenancy: SocketAddr, application: SocketAddr) -> Self {
        Self::between_them("envoy.yaml", tenancy, application)
    }

    /// The one with rate limit quotas.
    pub fn quotas(tenancy: SocketAddr, application: SocketAddr) -> Self {
        Self::between_them("rlqs.yaml", tenancy, application)
    }

    fn between_them(name: &str, tenancy: SocketAddr, application: SocketAddr) -> Self {
        Self::file(name)
            .replaced("port_value: 9901", "port_value: 0")
            .replaced("port_value: 10000", "port_value: 0")
            .replaced("port_value: 50051", &format!("port_value: {}", tenancy.port()))
            .replaced("port_value: 8000", &format!("port_value: {}", application.port()))
    }

    /// This text.
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// A file of deploy/envoy, as it is.
    pub fn file(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/envoy").join(name);
        Self(fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    /// The same with one text for another, which must be there once.
    #[track_caller]
    pub fn replaced(self, from: &str, to: &str) -> Self {
        assert_eq!(self.0.matches(from).count(), 1, "{from:?} should be in the bootstrap once:\n{}", self.0);
        Self(self.0.replacen(from, to, 1))
    }

    /// The same with routes before all others, in YAML that begins at the first column.
    pub fn with_routes(self, routes: &str) -> Self {
        let lines = routes.trim_matches('\n').lines().map(|line| format!("              {line}\n"));
        let routes: String = iter::once(ROUTES.to_owned()).chain(lines).collect();
        self.replaced(ROUTES, &routes)
    }

    /// The same with another of the files as the cluster of Tenancy.
    #[track_caller]
    pub fn with_cluster(self, name: &str) -> Self {
        let (begin, end) = ("  # Tenancy. cluster-tls.yaml", "  - name: application\n");
        let old = self.between(begin, end);
        let port = old.between("port_value: ", "}").0;
        self.replaced(&old.0, &Self::file(name).replaced("port_value: 50051", &port).0)
    }

    /// What is from one text on and before another.
    #[track_caller]
    fn between(&self, from: &str, to: &str) -> Self {
        let from = self.0.find(from).unwrap_or_else(|| panic!("{from:?} is not in the bootstrap"));
        Self(self.0[from..][..self.0[from..].find(to).unwrap()].to_owned())
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.0
    }
}
