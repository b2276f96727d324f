//! `tenancy operator`: the keys of the platform. Only here are they made, by who has access to the database.

mod table;

use std::io::{self, Write};
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::auth::keys::key::PlainKey;
use crate::auth::mint;
use crate::auth::permission::Permission;
use crate::auth::principal::{Permitted, PermittedPlatform};
use crate::clock::Clock;
use crate::config::calendar;
use crate::error::{Error, Violation};
use crate::ids::{OrganizationId, PlatformKeyId, parse_uuid};
use crate::model::platform_key::{Grant, PlatformKey};
use crate::model::text;
use crate::repository::database::Database;
use crate::repository::scope::Purpose;
use crate::repository::{organization, platform_key};

/// The job's name in the audit.
const JOB: &str = "tenancy operator";

/// Make, list and revoke the keys of operators and services
#[derive(Subcommand, Clone, Debug)]
pub enum OperatorCommand {
    /// Make a key and print it, this once. Without --scope it is an operator's (op_), who may do everything; with
    /// --scope a service's (svc_)
    Create(Create),
    /// List all keys of the platform, without their secrets
    List,
    /// Revoke a key for good
    Revoke(Revoke),
}

/// What the key is to be.
#[derive(Args, Clone, Debug)]
pub struct Create {
    /// Who or what will use it
    #[arg(long)]
    pub name: String,

    /// What a service may do, such as usage.write; can be repeated
    #[arg(long = "scope", value_name = "PERMISSION", value_parser = permission)]
    pub scopes: Vec<Permission>,

    /// The organization that a service may name, by id or slug; can be repeated [default: all]
    #[arg(long = "organization", value_name = "ID|SLUG", requires = "scopes")]
    pub organizations: Vec<String>,

    /// How long it works, such as 90d [default: until it is revoked]
    #[arg(long, value_name = "DURATION", value_parser = lifetime)]
    pub expires_in: Option<Duration>,
}

/// Which key.
#[derive(Args, Clone, Debug)]
pub struct Revoke {
    /// Its id, as listed
    #[arg(value_name = "ID", value_parser = key_id)]
    pub id: PlatformKeyId,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// Nothing was done, or what the error says.
    #[error(transparent)]
    Domain(#[from] Error),
    /// What was done could not be told.
    #[error("the output could not be written: {0}")]
    Output(#[from] io::Error),
    /// The key exists, and nobody has seen it.
    #[error("key {id} was created but could not be printed, and cannot be again; revoke it: {source}")]
    Unseen {
        /// The key.
        id: PlatformKeyId,
        /// Why.
        source: io::Error,
    },
}

/// Runs a command. The output of `create` is the key and nothing else, so that a script can take it.
pub async fn run(
    command: OperatorCommand,
    database: &Database,
    clock: &Clock,
    out: &mut impl Write,
) -> Result<(), OperatorError> {
    match command {
        OperatorCommand::Create(wanted) => {
            let (key, plain) = create(wanted, database, clock).await?;
            let written = writeln!(out, "{}", plain.parsed().expose()).and_then(|()| out.flush());
            written.map_err(|source| OperatorError::Unseen { id: key.platform_key_id, source })
        }
        OperatorCommand::List => {
            let mut scope = database.platform(&PermittedPlatform::system(JOB), Purpose::PlatformKeys).await?;
            let keys = platform_key::list(&mut scope).await?;
            scope.rollback().await?;
            Ok(table::write(out, &keys, clock.now())?)
        }
        OperatorCommand::Revoke(Revoke { id }) => {
            let mut scope = database.platform(&PermittedPlatform::system(JOB), Purpose::PlatformKeys).await?;
            let revoked = platform_key::revoke(&mut scope, id, clock.now()).await?;
            scope.commit().await?;
            Ok(writeln!(out, "{} {} ({}) is revoked", id, revoked.redacted(), revoked.display_name)?)
        }
    }
}

/// Makes a key as wanted.
pub async fn create(wanted: Create, database: &Database, clock: &Clock) -> Result<(PlatformKey, PlainKey), Error> {
    let display_name = text::display_name("name", &wanted.name)?;
    let grant = grant(&wanted, database).await?;
    let (plain, hash) = mint::new(&mint::small_pool()?, grant.kind()).await?;

    let now = clock.now();
    let (scopes, organization_ids) = match grant {
        Grant::Operator => (Vec::new(), None),
        Grant::Service { scopes, organization_ids } => {
            (scopes.into_iter().map(|scope| scope.to_string()).collect(), organization_ids)
        }
    };
    let key = PlatformKey {
        platform_key_id: PlatformKeyId::new(now),
        kind: plain.parsed().kind(),
        lookup_id: plain.parsed().lookup(),
        display_name,
        scopes,
        organization_ids,
        expire_time: wanted.expires_in.map(|lifetime| now + calendar(lifetime)),
        revoke_time: None,
        last_used_time: None,
        create_time: now,
    };
    let mut scope = database.platform(&PermittedPlatform::system(JOB), Purpose::PlatformKeys).await?;
    platform_key::create(&mut scope, &key, &hash).await?;
    scope.commit().await?;
    Ok((key, plain))
}

/// What the key may do, every organization found.
async fn grant(wanted: &Create, database: &Database) -> Result<Grant, Error> {
    let mut scopes = wanted.scopes.clone();
    scopes.sort_unstable();
    scopes.dedup();
    let mut ids = Vec::with_capacity(wanted.organizations.len());
    for named in &wanted.organizations {
        ids.push(find_organization(named, database).await?);
    }
    ids.sort_unstable();
    ids.dedup();
    match (scopes.is_empty(), ids.is_empty()) {
        (true, true) => Ok(Grant::Operator),
        // Never an operator by oversight: who names organizations wants less than everything.
        (true, false) => Err(Violation::new("scope", "must be given with organization").into()),
        (false, all) => Ok(Grant::Service { scopes, organization_ids: (!all).then_some(ids) }),
    }
}

/// The organization of an id or a slug. Error: `ORGANIZATION_NOT_FOUND`.
pub(super) async fn find_organization(named: &str, database: &Database) -> Result<OrganizationId, Error> {
    if let Some(id) = parse_uuid(named).map(OrganizationId::from) {
        let mut scope = database.tenant(&Permitted::system(id, JOB)).await?;
        return Ok(organization::get(&mut scope).await?.organization_id);
    }
    let mut scope = database.platform(&PermittedPlatform::system(JOB), Purpose::ReadOrganizations).await?;
    let found = organization::find_by_slug(&mut scope, named).await?;
    found.ok_or_else(|| Error::not_found("organization", named))
}

fn permission(text: &str) -> Result<Permission, String> {
    text.parse().map_err(|_| {
        let known: Vec<_> = Permission::ALL.iter().map(|permission| permission.as_str()).collect();
        format!("permissions are {}", known.join(", "))
    })
}

fn key_id(text: &str) -> Result<PlatformKeyId, String> {
    text.parse().map_err(|_| "must be a UUID".into())
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    // No sum of a time and a duration may overflow.
    if !(Duration::from_secs(1)..=Duration::from_hours(100 * 366 * 24)).contains(&lifetime) {
        return Err("must be a second to a hundred years".into());
    }
    Ok(lifetime)
}

#[cfg(test)]
mod tests;
