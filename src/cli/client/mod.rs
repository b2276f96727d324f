//! What the commands share that are clients of the service like any other: whoever has a key can run them from anywhere, the
//! rules are the service's own, and the audit tells whose key it was.

pub mod lines;
pub mod progress;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use crate::cli::CliError;

/// The variable that carries the key. No argument does: those can be seen by everybody on the machine.
pub const KEY: &str = "TENANCY_API_KEY";

/// How long to wait before another try: at first, and at most. Each wait is twice the last.
pub const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The key, from a file or the environment.
pub fn key(file: Option<&Path>) -> Result<String, CliError> {
    let key = match file {
        Some(file) => fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?,
        None => std::env::var(KEY).map_err(|_| format!("set {KEY} to an API key, or name a file with --key-file"))?,
    };
    Ok(key.trim().to_owned())
}

/// What is sent along with every request.
#[derive(Clone, Debug)]
pub struct Credential(MetadataValue<Ascii>);

impl Credential {
    /// Of a key. Error: one with characters that no key has.
    pub fn new(key: &str) -> Result<Self, CliError> {
        let mut key: MetadataValue<Ascii> = key.parse().map_err(|_| format!("{KEY} is no API key"))?;
        key.set_sensitive(true);
        Ok(Self(key))
    }

    /// A request with the key.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("x-api-key", self.0.clone());
        request
    }
}

/// Where to. Error: no URL, or one of another scheme.
pub fn endpoint(url: &str) -> Result<Endpoint, CliError> {
    let wrong = |error: tonic::transport::Error| format!("--url {url}: {error}");
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(wrong)?;
    let endpoint = match endpoint.uri().scheme_str() {
        Some("http") => endpoint,
        Some("https") => endpoint.tls_config(ClientTlsConfig::new().with_native_roots()).map_err(wrong)?,
        _ => return Err(format!("--url {url}: must be http://host:port or https://host:port").into()),
    };
    // A peer that is gone without a word is noticed.
    let keepalive = Duration::from_secs(10);
    Ok(endpoint.connect_timeout(keepalive).http2_keep_alive_interval(keepalive).keep_alive_timeout(keepalive))
}

/// What is to be read, and its size where that is known.
#[expect(missing_debug_implementations, reason = "a reader has nothing to show")]
pub struct Input {
    /// The bytes.
    pub reader: Box<dyn Read + Send>,
    /// How many there are.
    pub bytes: Option<u64>,
}

/// The file, or standard input.
pub fn open(file: Option<&Path>) -> Result<Input, CliError> {
    let Some(path) = file else {
        return Ok(Input { reader: Box::new(std::io::stdin()), bytes: None });
    };
    let named = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = File::open(path).map_err(named)?;
    let metadata = file.metadata().map_err(named)?;
    Ok(Input { reader: Box::new(file), bytes: metadata.is_file().then_some(metadata.len()) })
}

/// Whether the same would be refused the same way once more.
#[must_use]
pub fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unauthenticated
            | Code::PermissionDenied
            | Code::NotFound
            | Code::AlreadyExists
            | Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::Unimplemented
    )
}

/// What the service said, for a person.
#[must_use]
pub fn told(status: &Status) -> String {
    let code = status.code();
    if status.message().is_empty() { code.description().to_owned() } else { status.message().to_owned() }
}
