//! What limits a descriptor: a rule of its domain, else the limits of the tenant it names, else nothing.

use std::sync::Arc;

use crate::auth::principal::Caller;
use crate::error::Error;
use crate::ids::{OrganizationId, parse_uuid};
use crate::model::rate_limit_domain::TENANT;
use crate::quota::decision::{Applied, Subjects};
use crate::quota::policy::Resolved;
use crate::quota::rules::{Matched, RuleSet, Says, names};
use crate::quota::slots::LedgerTime;
use crate::sidecar::ratelimit::RateLimits;
use crate::sidecar::ratelimit::question::Question;

/// The key of the entry that names a meter.
const METER: &str = "meter";

/// How a descriptor is decided.
#[derive(Debug)]
pub struct Course<'a> {
    /// By what.
    pub way: Way<'a>,
    /// The rule that says so.
    pub rule: Option<Arc<Matched>>,
}

/// By what a descriptor is decided.
#[derive(Debug)]
pub enum Way<'a> {
    /// Nothing limits it.
    Free,
    /// A rule says that nothing does.
    Unlimited,
    /// Its tenant is not to be served.
    Closed(Closed),
    /// A limit of its own.
    Own {
        /// Whose accounts.
        organization_id: OrganizationId,
        /// The limit.
        limit: [Resolved; 1],
        /// When it was read from the database.
        as_of: LedgerTime,
    },
    /// The limits of a tenant.
    Tenant {
        /// Which.
        organization_id: OrganizationId,
        /// Who in it.
        subjects: Subjects,
        /// The key of the meter.
        meter: Meter<'a>,
    },
}

/// The key of a meter, as a rule or a descriptor says it.
#[derive(Debug)]
pub enum Meter<'a> {
    OfRule(Arc<str>),
    OfEntry(&'a str),
}

impl Meter<'_> {
    /// The key.
    pub fn as_str(&self) -> &str {
        match self {
            Self::OfRule(key) => key,
            Self::OfEntry(key) => key,
        }
    }
}

/// Why a tenant is not served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closed {
    NotFound,
    Suspended,
    Deleted,
}

impl Closed {
    /// As in the API.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "ORGANIZATION_NOT_FOUND",
            Self::Suspended => "ORGANIZATION_SUSPENDED",
            Self::Deleted => "ORGANIZATION_DELETED",
        }
    }
}

impl RateLimits {
    /// How a descriptor is decided, by what is known now.
    ///
    /// Errors: `DATABASE_UNAVAILABLE` when its tenant is not known.
    pub async fn course<'a>(
        &self,
        caller: &Caller,
        domain: &str,
        rules: Option<&RuleSet>,
        question: &Question<'a>,
    ) -> Result<Course<'a>, Error> {
        let entries = question.entries.iter().map(|entry| (entry.key.as_str(), entry.value.as_str()));
        let rule = rules.and_then(|rules| rules.find(entries)).cloned();
        let as_of = rules.map_or(0, |rules| rules.as_of);
        let way = match rule.as_ref().map(|rule| &rule.says) {
            Some(Says::Tenant { meter, tenant_key }) => {
                let named = question.value(tenant_key).unwrap_or_default();
                self.by_tenant(caller, domain, question, named, Meter::OfRule(Arc::clone(meter))).await?
            }
            Some(Says::Unlimited | Says::Own(_)) if question.limit.is_some() => {
                self.by_override(caller, domain, question).await?
            }
            Some(Says::Unlimited) => Way::Unlimited,
            Some(Says::Own(applied)) => self.by_own(caller, question, Arc::clone(applied), as_of).await?,
            None => match (question.value(TENANT), question.value(METER)) {
                (Some(named), Some(meter)) => {
                    self.by_tenant(caller, domain, question, named, Meter::OfEntry(meter)).await?
                }
                _ if question.limit.is_some() => self.by_override(caller, domain, question).await?,
                _ => Way::Free,
            },
        };
        Ok(Course { way, rule })
    }

    async fn by_tenant<'a>(
        &self,
        caller: &Caller,
        domain: &str,
        question: &Question<'a>,
        named: &str,
        meter: Meter<'a>,
    ) -> Result<Way<'a>, Error> {
        let organization_id = match self.tenant(caller, named).await? {
            Ok(organization_id) => organization_id,
            Err(closed) => return Ok(Way::Closed(closed)),
        };
        if question.limit.is_some() {
            return self.by_override(caller, domain, question).await;
        }
        // What is no UUID, as a default for those who are not known, is nobody in particular.
        let id = |key| question.value(key).and_then(parse_uuid);
        let subjects = Subjects { team: id("team"), user: id("user"), api_key: id("api_key") };
        Ok(Way::Tenant { organization_id, subjects, meter })
    }

    /// The limit that the request brings along. What it counts has a name of its own, with the limit in it, as others may
    /// bring another one.
    async fn by_override<'a>(&self, caller: &Caller, domain: &str, question: &Question<'a>) -> Result<Way<'a>, Error> {
        let Some((requests, window)) = question.limit else { return Ok(Way::Free) };
        let what = names::of(["override", domain, window.as_str(), &requests.to_string()]);
        let applied = names::applied(what, "", requests, window, false);
        self.by_own(caller, question, applied, 0).await
    }

    async fn by_own<'a>(
        &self,
        caller: &Caller,
        question: &Question<'a>,
        applied: Arc<Applied>,
        as_of: LedgerTime,
    ) -> Result<Way<'a>, Error> {
        let tenant = match question.value(TENANT) {
            None => None,
            Some(named) => match self.tenant(caller, named).await? {
                Ok(organization_id) => Some(organization_id),
                // Counted all the same, for nobody: the rule is for whatever the entry says.
                Err(Closed::NotFound) => None,
                Err(closed) => return Ok(Way::Closed(closed)),
            },
        };
        // The tenant counts by its id, whether it was named so or by its slug.
        let id = tenant.map(|tenant| tenant.to_string());
        let entries = question.entries.iter().flat_map(|entry| {
            let value = if entry.key == TENANT { id.as_deref() } else { None };
            [entry.key.as_str(), value.unwrap_or(&entry.value)]
        });
        let limit = [names::resolved(applied, entries)];
        Ok(Way::Own { organization_id: names::owner(tenant), limit, as_of })
    }

    /// The organization that is named, by UUID or slug, if it is open and the sidecar's to see.
    async fn tenant(&self, caller: &Caller, named: &str) -> Result<Result<OrganizationId, Closed>, Error> {
        match self.shared.gate.open_organization(caller, named).await {
            Ok(organization) => Ok(Ok(organization.organization_id)),
            // What is neither a UUID nor a slug is nobody's name.
            Err(Error::NotFound { .. } | Error::Invalid(_)) => Ok(Err(Closed::NotFound)),
            Err(Error::PermissionDenied { reason: "ORGANIZATION_SUSPENDED", .. }) => Ok(Err(Closed::Suspended)),
            Err(Error::FailedPrecondition { reason: "ORGANIZATION_DELETED", .. }) => Ok(Err(Closed::Deleted)),
            Err(error) => Err(error),
        }
    }
}
