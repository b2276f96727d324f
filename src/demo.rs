//! The demo: three organizations, four people, four teams, an open invitation and a month of usage, for somebody who looks
//! at Tenancy for the first time.
//!
//! Loading it again changes nothing: organizations are found by slug, people by address, meters by key, usage by the
//! identity of its events, and plans that have limits or features are left alone. Keys are made for an organization that has none; their secrets are told this once.

mod invitations;
mod plans;
mod teams;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::auth::keys::argon_pool::ArgonPool;
use crate::auth::keys::kind::ApiKeyKind;
use crate::auth::mint;
use crate::auth::permission::Permission;
use crate::auth::principal::{Permitted, PermittedPlatform};
use crate::clock::Clock;
use crate::error::Error;
use crate::ids::{ApiKeyId, OrganizationId, UserId};
use crate::metering::catalog::Catalog;
use crate::metering::recorder::{Accepted, Draft, Recorder};
use crate::metering::writer::{Writer, WriterOptions};
use crate::model::api_key::{self, ApiKey};
use crate::model::member::Role;
use crate::model::meter::{self, Aggregation, Measure, NewMeter};
use crate::model::organization;
use crate::model::usage::{EventId, Quantity};
use crate::model::user;
use crate::page::Page;
use crate::repository::database::Database;
use crate::repository::scope::Purpose;
use crate::repository::{self, upkeep};

/// Who does it, in the audit.
const JOB: &str = "demo";

/// A month of usage in this many records.
const RECORDS: u32 = 100;

struct DemoOrganization {
    slug: &'static str,
    name: &'static str,
    plan: &'static str,
    zone: chrono_tz::Tz,
    currency: &'static str,
    members: &'static [(usize, Role)],
    /// How many of ten records are its.
    share: u32,
}

const ORGANIZATIONS: &[DemoOrganization] = &[
    DemoOrganization {
        slug: "techcorp",
        name: "TechCorp Inc.",
        plan: "enterprise",
        zone: chrono_tz::America::New_York,
        currency: "USD",
        members: &[(0, Role::Owner), (1, Role::Admin), (2, Role::Member)],
        share: 6,
    },
    DemoOrganization {
        slug: "startupio",
        name: "StartupIO",
        plan: "pro",
        zone: chrono_tz::Europe::Berlin,
        currency: "EUR",
        members: &[(1, Role::Owner), (3, Role::Member)],
        share: 3,
    },
    DemoOrganization {
        slug: "digital-agency",
        name: "Digital Agency Ltd",
        plan: "free",
        zone: chrono_tz::Europe::London,
        currency: "GBP",
        members: &[(3, Role::Owner), (2, Role::Viewer)],
        share: 1,
    },
];

const PEOPLE: &[(&str, &str)] = &[
    ("John Doe", "john.doe@techcorp.example.com"),
    ("Jane Smith", "jane.smith@startupio.example.com"),
    ("Bob Wilson", "bob.wilson@example.com"),
    ("Alice Chen", "alice.chen@digital-agency.example.com"),
];

struct DemoMeter {
    key: &'static str,
    name: &'static str,
    unit: &'static str,
    aggregation: Aggregation,
    value_property: Option<&'static str>,
    group_by: &'static [&'static str],
}

/// The platform-wide meters. The usage is of the first two.
const METERS: &[DemoMeter] = &[
    DemoMeter {
        key: "api.requests",
        name: "API requests",
        unit: "request",
        aggregation: Aggregation::Count,
        value_property: None,
        group_by: &["endpoint"],
    },
    DemoMeter {
        key: "ai.tokens",
        name: "AI tokens",
        unit: "token",
        aggregation: Aggregation::Sum,
        value_property: None,
        group_by: &["model"],
    },
    DemoMeter {
        key: "users.active",
        name: "Active users",
        unit: "user",
        aggregation: Aggregation::UniqueCount,
        value_property: None,
        group_by: &[],
    },
    DemoMeter {
        key: "storage.bytes",
        name: "Storage in use",
        unit: "byte",
        aggregation: Aggregation::Latest,
        value_property: Some("bytes"),
        group_by: &[],
    },
    counted("quizzes", "Quizzes", "quiz"),
    counted("conversations", "Conversations", "conversation"),
    counted("projects", "Projects", "project"),
];

/// A meter of which the demo has limits and no usage.
const fn counted(key: &'static str, name: &'static str, unit: &'static str) -> DemoMeter {
    DemoMeter { key, name, unit, aggregation: Aggregation::Sum, value_property: None, group_by: &[] }
}

/// A key that was made, shown this once.
#[derive(Debug)]
pub struct DemoKey {
    /// The slug of its organization.
    pub organization: &'static str,
    /// The whole key.
    pub secret: String,
}

/// Loads what is missing of the demo; returns the keys it made.
pub async fn load(database: &Database, clock: &Clock) -> Result<Vec<DemoKey>, Error> {
    let accepted = Accepted::default();
    partitions(database, clock, accepted).await?;
    meters(database, clock).await?;
    plans::load(database, clock).await?;
    let mut people = Vec::new();
    for (name, email) in PEOPLE {
        people.push(person(database, clock, name, email).await?);
    }
    let pool = mint::small_pool()?;
    let mut keys = Vec::new();
    for demo in ORGANIZATIONS {
        let organization = organization(database, clock, demo).await?;
        let permitted = Permitted::system(organization.organization_id, JOB);
        members(database, clock, &permitted, demo, &people).await?;
        // Its members are those that the teams have.
        if demo.slug == ORGANIZATIONS[0].slug {
            teams::load(database, clock, &permitted, &people).await?;
            invitations::load(database, clock, &permitted).await?;
        }
        keys.extend(key(database, clock, &pool, &permitted, demo.slug).await?);
        usage(database, clock, accepted, &permitted, demo, organization.create_time).await?;
    }
    Ok(keys)
}

async fn partitions(database: &Database, clock: &Clock, accepted: Accepted) -> Result<(), Error> {
    let mut scope = database.platform(&PermittedPlatform::system(JOB), Purpose::Upkeep).await?;
    let now = clock.now();
    upkeep::create_usage_partitions(&mut scope, now - accepted.age, now + accepted.ahead).await?;
    scope.commit().await
}

impl DemoMeter {
    fn new_meter(&self) -> NewMeter {
        NewMeter {
            key: self.key.to_owned(),
            profile: meter::Profile {
                display_name: self.name.to_owned(),
                description: String::new(),
                unit: self.unit.to_owned(),
            },
            measure: Measure {
                aggregation: self.aggregation,
                value_property: self.value_property.map(str::to_owned),
                group_by: self.group_by.iter().map(ToString::to_string).collect(),
                filter: Vec::new(),
            },
        }
    }
}

async fn meters(database: &Database, clock: &Clock) -> Result<(), Error> {
    let mut scope = database.platform(&PermittedPlatform::system(JOB), Purpose::PlatformMeters).await?;
    let known = repository::meter::platform_wide(&mut scope).await?;
    for demo in METERS {
        if known.iter().all(|meter| meter.key != demo.key) {
            repository::meter::create(&mut scope, demo.new_meter(), clock.now()).await?;
        }
    }
    scope.commit().await
}

async fn person(database: &Database, clock: &Clock, name: &str, email: &str) -> Result<UserId, Error> {
    let mut scope = database.platform(&PermittedPlatform::system(JOB), Purpose::Users).await?;
    let narrow = repository::user::Narrow { status: None, email: Some(email.to_owned()) };
    let found = repository::user::list(&mut scope, &narrow, &one_page()?).await?;
    if let Some(user) = found.first() {
        return Ok(user.user_id);
    }
    let profile = user::Profile { email: email.to_owned(), display_name: name.to_owned(), ..user::Profile::default() };
    let now = clock.now();
    let created =
        repository::user::create(&mut scope, UserId::new(now), &profile, &user::Private::default(), now).await?;
    scope.commit().await?;
    Ok(created.user_id)
}

async fn organization(
    database: &Database,
    clock: &Clock,
    demo: &DemoOrganization,
) -> Result<organization::Organization, Error> {
    let permitted = PermittedPlatform::system(JOB);
    let mut scope = database.platform(&permitted, Purpose::ReadOrganizations).await?;
    let found = repository::organization::find_by_slug(&mut scope, demo.slug).await?;
    scope.rollback().await?;
    if let Some(id) = found {
        let mut scope = database.tenant(&Permitted::system(id, JOB)).await?;
        return repository::organization::get(&mut scope).await;
    }
    let profile = organization::Profile {
        slug: demo.slug.to_owned(),
        display_name: demo.name.to_owned(),
        plan: demo.plan.to_owned(),
        contact_email: format!("hello@{}.example.com", demo.slug),
        billing_email: format!("billing@{}.example.com", demo.slug),
        time_zone: demo.zone,
        currency: demo.currency.to_owned(),
        labels: [("demo".to_owned(), "true".to_owned())].into(),
        ..organization::Profile::default()
    };
    let mut scope = database.platform(&permitted, Purpose::CreateOrganization).await?;
    let now = clock.now();
    let created = repository::organization::create(&mut scope, OrganizationId::new(now), &profile, now).await?;
    scope.commit().await?;
    Ok(created)
}

async fn members(
    database: &Database,
    clock: &Clock,
    permitted: &Permitted,
    demo: &DemoOrganization,
    people: &[UserId],
) -> Result<(), Error> {
    let mut scope = database.tenant(permitted).await?;
    repository::organization::lock(&mut scope).await?;
    for (person, role) in demo.members {
        let user = people[*person];
        match repository::member::get(&mut scope, user).await {
            Err(Error::NotFound { .. }) => {
                repository::member::add(&mut scope, user, &(*role).into(), clock.now()).await?;
            }
            known => drop(known?),
        }
    }
    scope.commit().await
}

async fn key(
    database: &Database,
    clock: &Clock,
    pool: &ArgonPool,
    permitted: &Permitted,
    organization: &'static str,
) -> Result<Option<DemoKey>, Error> {
    let mut scope = database.tenant(permitted).await?;
    let narrow = repository::api_key::Narrow { labels: None, show_revoked: true };
    let known = repository::api_key::list(&mut scope, &narrow, &one_page()?).await?;
    scope.rollback().await?;
    if !known.is_empty() {
        return Ok(None);
    }
    let (plain, hash) = mint::new(pool, ApiKeyKind::SecretLive).await?;
    let now = clock.now();
    let scopes = Permission::ALL.iter().filter(|permission| permission.for_tenants()).map(ToString::to_string);
    let key = ApiKey {
        organization_id: permitted.organization_id(),
        api_key_id: ApiKeyId::new(now),
        kind: plain.parsed().kind(),
        lookup_id: plain.parsed().lookup(),
        profile: api_key::Profile {
            display_name: "Demo".into(),
            scopes: scopes.collect(),
            ..api_key::Profile::default()
        },
        previous_secret_expire_time: None,
        last_used_time: None,
        revoke_time: None,
        revision: 1,
        create_time: now,
        update_time: now,
    };
    let mut scope = database.tenant(permitted).await?;
    repository::api_key::create(&mut scope, &key, &hash).await?;
    scope.commit().await?;
    Ok(Some(DemoKey { organization, secret: plain.parsed().expose().to_owned() }))
}

/// Records the organization's share of the month before it was created: always the same events, so that those of an
/// earlier load are recognised.
async fn usage(
    database: &Database,
    clock: &Clock,
    accepted: Accepted,
    permitted: &Permitted,
    demo: &DemoOrganization,
    created: DateTime<Utc>,
) -> Result<(), Error> {
    let until = created.duration_trunc(TimeDelta::hours(1)).map_err(Error::internal)?;
    let first = ORGANIZATIONS.iter().take_while(|other| other.slug != demo.slug).map(|other| other.share).sum::<u32>();
    let drafts = (0..RECORDS)
        .filter(|number| (first..first + demo.share).contains(&(number % 10)))
        .map(|number| {
            let of_tokens = number % 4 == 0;
            let meter = METERS[usize::from(of_tokens)].key;
            let properties = match (of_tokens, number % 3) {
                (true, 0) => json!({"model": "large"}),
                (true, _) => json!({"model": "small"}),
                (false, 0) => json!({"endpoint": "/v1/chat"}),
                (false, _) => json!({"endpoint": "/v1/search"}),
            };
            let (person, _) = demo.members[number as usize % demo.members.len()];
            // Spread over the days without a pattern that shows: 37 and 100 have no common divisor.
            let quantity = if of_tokens { 100 + number * 37 % 100 * 25 } else { 1 };
            let draft = || {
                Ok(Draft {
                    event_id: Some(EventId::read("event_id", &format!("demo-{number}"))?),
                    occurred_at: Some(until - TimeDelta::hours(i64::from(number) * 30 * 24 / i64::from(RECORDS))),
                    meter: meter.to_owned(),
                    quantity: Some(Quantity::parse("quantity", &quantity.to_string())?),
                    subject: PEOPLE[person].1.to_owned(),
                    properties: Some(properties),
                })
            };
            draft()
        })
        .collect();

    let catalog = Arc::new(Catalog::new(database.clone(), clock.clone(), Duration::from_secs(30)));
    let (writer, task) = Writer::new(database.clone(), clock.clone(), WriterOptions::default());
    let recorder = Recorder::new(catalog, writer, clock.clone(), accepted);
    let done = CancellationToken::new();
    let (fates, ended) = tokio::join!(
        async {
            let fates = recorder.record(permitted, drafts).await;
            done.cancel();
            fates
        },
        task.run(done.clone())
    );
    fates?;
    ended
}

/// Enough for what is looked up here.
fn one_page() -> Result<Page, Error> {
    Page::read(JOB, &(), 1, "")
}
