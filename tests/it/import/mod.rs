//! `tenancy import`: from rows of a file to who belongs where, and what is said of the others.

mod files;
mod foreseen;
mod large;

use std::path::{Path, PathBuf};

use clap::Parser as _;
use tempfile::TempDir;
use tenancy::cli::{Cli, Command, client, import};
use tokio_util::sync::CancellationToken;

use crate::harness::World;

/// Files, and what the command makes of them.
pub struct Files(TempDir);

impl Files {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// The command, with these arguments.
pub fn command(world: &World, file: &Path, arguments: &[&str]) -> import::Import {
    let url = format!("http://{}", world.running.grpc);
    let all = ["tenancy", "import", "--url", &url, file.to_str().unwrap()].into_iter().chain(arguments.iter().copied());
    let Some(Command::Import(command)) = Cli::parse_from(all).command else { panic!("another command") };
    command
}

/// Runs the command with a key; what it wrote, and whether all is well.
pub async fn imported_by(
    world: &World,
    key: &str,
    file: &Path,
    arguments: &[&str],
) -> (Vec<String>, Result<(), String>) {
    let command = command(world, file, arguments);
    let input = client::open(command.file.as_deref()).unwrap();
    let mut out = Vec::new();
    let outcome = import::import(&command, key, input, &mut out, CancellationToken::new()).await;
    let told = String::from_utf8(out).unwrap().lines().map(str::to_owned).collect();
    (told, outcome.map_err(|error| error.to_string()))
}

/// The same with an operator's key.
pub async fn imported(world: &World, file: &Path, arguments: &[&str]) -> (Vec<String>, Result<(), String>) {
    imported_by(world, world.operator_key(), file, arguments).await
}

/// Everything that an import makes, as text: who is where in which role and teams, without ids and times.
pub async fn people(world: &World) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT 'organization ' || slug || ' ' || display_name FROM tenancy.organizations
         UNION ALL SELECT 'user ' || email || ' ' || display_name || ' ' || external_id FROM tenancy.users
         UNION ALL SELECT 'team ' || o.slug || ' ' || t.display_name || ' ' || cardinality(t.path) || ' ' || t.description
         FROM tenancy.teams t JOIN tenancy.organizations o USING (organization_id)
         UNION ALL SELECT 'member ' || o.slug || ' ' || u.email || ' ' || m.role
         FROM tenancy.members m JOIN tenancy.organizations o USING (organization_id) JOIN tenancy.users u USING (user_id)
         UNION ALL SELECT 'team member ' || o.slug || ' ' || t.display_name || ' ' || u.email
         FROM tenancy.team_members m JOIN tenancy.teams t USING (organization_id, team_id)
         JOIN tenancy.organizations o USING (organization_id) JOIN tenancy.users u USING (user_id)
         ORDER BY 1",
    )
    .fetch_all(&world.database.superuser)
    .await
    .unwrap()
}

/// How many records the audits have.
pub async fn records(world: &World) -> i64 {
    sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM tenancy.audit_events) + (SELECT count(*) FROM tenancy.platform_audit_events)",
    )
    .fetch_one(&world.database.superuser)
    .await
    .unwrap()
}
