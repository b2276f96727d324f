//! What a start on an embedded Postgres does for a newcomer: an operator's key, the demo, and three calls to paste.
//!
//! Outside embedded mode no key is made or printed at start.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use chrono::{DurationRound as _, SecondsFormat, TimeDelta};

use crate::app::Running;
use crate::auth::principal::PermittedPlatform;
use crate::auth::tokens::sealing::SealingKeys;
use crate::cli::{CliError, operator};
use crate::clock::Clock;
use crate::config::Secret;
use crate::demo;
use crate::page::Page;
use crate::repository::database::Database;
use crate::repository::organization;
use crate::repository::scope::Purpose;

/// The files in the data directory that keep the keys, readable by their owner alone.
const OPERATOR_KEY: &str = "operator.key";
const DEMO_KEY: &str = "demo.key";
/// What seals the keys of tokens, in the same way.
const TOKEN_KEY: &str = "token.key";

/// Makes the operator's key and loads the demo, each where it is missing.
pub async fn prepare(database: &Database, clock: &Clock, data_dir: &Path) -> Result<(), CliError> {
    let operator_key = data_dir.join(OPERATOR_KEY);
    if !operator_key.exists() {
        let wanted = operator::Create {
            name: "embedded".into(),
            scopes: Vec::new(),
            organizations: Vec::new(),
            expires_in: None,
        };
        let (_, key) = operator::create(wanted, database, clock).await?;
        keep(&operator_key, key.parsed().expose())?;
    }
    if is_empty(database).await? {
        let keys = demo::load(database, clock).await?;
        if let Some(key) = keys.first() {
            keep(&data_dir.join(DEMO_KEY), &key.secret)?;
        }
    }
    Ok(())
}

/// What seals the private keys that tokens are signed with, made where it is missing. Not in the database that it is for.
pub fn token_encryption_key(data_dir: &Path) -> Result<Secret, CliError> {
    let path = data_dir.join(TOKEN_KEY);
    if !path.exists() {
        keep(&path, &SealingKeys::generate()?)?;
    }
    let Ok(key) = std::fs::read_to_string(&path)?.trim().parse();
    Ok(key)
}

async fn is_empty(database: &Database) -> Result<bool, CliError> {
    let mut scope = database.platform(&PermittedPlatform::system("first_start"), Purpose::ReadOrganizations).await?;
    let narrow = organization::Narrow { show_deleted: true, ..organization::Narrow::default() };
    Ok(organization::list(&mut scope, &narrow, &Page::read("first_start", &(), 1, "")?).await?.is_empty())
}

/// Writes a key whole or not at all: a file cut short by a crash would stand in the way of the next start.
fn keep(path: &Path, key: &str) -> io::Result<()> {
    let mut unfinished = path.to_owned();
    unfinished.set_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    writeln!(file, "{key}")?;
    file.sync_all()?;
    std::fs::rename(unfinished, path)
}

/// Prints where things are, and calls ready to paste.
pub fn welcome(running: &Running, clock: &Clock, data_dir: &Path, out: &mut impl Write) -> io::Result<()> {
    let grpc = running.grpc;
    writeln!(out, "\nTenancy serves gRPC on {grpc}, and http://{}/readyz and /metrics.\n", running.admin)?;
    let files = [("operator's key", OPERATOR_KEY), ("TechCorp's key", DEMO_KEY)];
    let files = files.map(|(name, file)| (name, shown(&data_dir.join(file))));
    for (name, path) in &files {
        if let Ok(key) = std::fs::read_to_string(path) {
            writeln!(out, "  {name}   {}   (kept in {})", key.trim(), path.display())?;
        }
    }
    let [operator, demo] = files.map(|(_, path)| path);
    let call = |key: &Path, data: &str, method: &str| {
        format!(
            "  grpcurl -plaintext -H \"x-api-key: $(cat {})\" -d '{data}' {grpc} tenancy.v1.{method}",
            key.display()
        )
    };
    let today = clock.now().duration_trunc(TimeDelta::days(1)).unwrap_or_else(|_| clock.now());
    let time = |days: i64| (today + TimeDelta::days(days)).to_rfc3339_opts(SecondsFormat::Secs, true);
    let range = format!(
        r#"{{"meter": "ai.tokens", "start_time": "{}", "end_time": "{}", "bucket": "USAGE_BUCKET_DAY"}}"#,
        time(-7),
        time(1)
    );
    writeln!(out, "\nThree calls to begin with (grpcurl finds the services by reflection):\n")?;
    writeln!(out, "{}", call(&demo, "{}", "OrganizationService/GetOrganization"))?;
    writeln!(out, "{}", call(&demo, &range, "UsageService/QueryUsage"))?;
    writeln!(out, "{}\n", call(&operator, r#"{"page_size": 10}"#, "OrganizationService/ListOrganizations"))?;
    writeln!(out, "Ctrl-C drains and stops.")?;
    out.flush()
}

/// As short as it can be: below the working directory, relative to it.
fn shown(path: &Path) -> PathBuf {
    let here = std::env::current_dir().and_then(|here| here.canonicalize());
    here.ok().and_then(|here| path.strip_prefix(here).ok()).map_or_else(|| path.to_owned(), Path::to_owned)
}
