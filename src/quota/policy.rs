//! What is in force in one organization: the limits of its plan and its own, by meter. Pure.

mod interner;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

use crate::ids::{MeterId, OrganizationId};
use crate::model::limit::{Enforcement, Maker, Rule, SubjectKind, Window};
use crate::model::meter::Meter;
use crate::model::plan::PolicyRows;
use crate::quota::decision::{AccountKey, Applied, Source, Subjects};
use crate::quota::slots::{Calendar, LedgerTime};

pub use interner::Interner;

/// What is in force in an organization. Small, and cheap to clone: there may be a million of them.
#[derive(Clone, Debug)]
pub struct Policy {
    limits: Arc<Limits>,
    /// In which its windows turn.
    pub calendar: Calendar,
    /// When it was read from the database.
    pub as_of: LedgerTime,
}

/// What an organization has in common with others that have nothing but their plan.
#[derive(PartialEq, Eq, Debug)]
struct Limits {
    /// By the keys of the meters.
    meters: HashMap<Arc<str>, Box<[Group]>>,
    /// The features that are on, sorted.
    features: Box<[Box<str>]>,
}

/// The limits of one meter, kind of subject and window: they share an account.
#[derive(PartialEq, Eq, Debug)]
struct Group {
    meter_id: MeterId,
    subject_kind: SubjectKind,
    window: Window,
    plan: Option<Arc<Applied>>,
    platform: Makers,
    organization: Makers,
}

/// The limits that one maker made; most made none.
#[derive(PartialEq, Eq, Debug, Default)]
struct Makers(Option<Box<Made>>);

/// Some limits of one maker.
#[derive(PartialEq, Eq, Debug, Default)]
struct Made {
    each: Option<Arc<Applied>>,
    exact: HashMap<Uuid, Arc<Applied>>,
}

impl Makers {
    fn of(&self, subject_id: Uuid) -> Option<&Arc<Applied>> {
        let Made { each, exact } = &**self.0.as_ref()?;
        exact.get(&subject_id).or(each.as_ref())
    }
}

/// A limit that applies to a question, and the account that it is about.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Resolved {
    pub account: AccountKey,
    pub applied: Arc<Applied>,
}

impl Policy {
    /// What the rows say of the meters that count for the organization. Where that is nothing but its plan, `interner` has it
    /// once for many.
    #[must_use]
    pub fn new(organization_id: OrganizationId, rows: &PolicyRows, meters: &[Arc<Meter>], interner: &Interner) -> Self {
        let limits = Limits::new(rows, meters);
        let is_common = rows.limits.is_empty() && meters.iter().all(|meter| meter.organization_id.is_none());
        Self {
            limits: if is_common { interner.intern(organization_id, rows, limits) } else { Arc::new(limits) },
            calendar: Calendar { zone: rows.time_zone, anchor_day: rows.billing_anchor_day },
            as_of: rows.as_of.timestamp_micros(),
        }
    }

    /// The limits that apply to a meter and who asks in the organization whose policy it is; `None` when no such meter counts
    /// for it.
    #[must_use]
    pub fn resolve(&self, organization_id: OrganizationId, meter: &str, subjects: Subjects) -> Option<Vec<Resolved>> {
        let groups = self.limits.meters.get(meter)?;
        Some(groups.iter().filter_map(|group| group.resolve(organization_id, subjects)).collect())
    }

    /// Whether the plan entitles to a feature: whether there is any of it.
    #[must_use]
    pub fn includes(&self, feature: &str) -> bool {
        self.limits.features.binary_search_by(|known| (**known).cmp(feature)).is_ok()
    }

    /// The meters, by key.
    #[must_use]
    pub fn meters(&self) -> Vec<&str> {
        let mut meters: Vec<&str> = self.limits.meters.keys().map(|meter| &**meter).collect();
        meters.sort_unstable();
        meters
    }

    /// The limit that an account has now; `None` where there is none any more.
    #[must_use]
    pub fn applied(&self, meter: &str, account: &AccountKey) -> Option<Arc<Applied>> {
        let groups = self.limits.meters.get(meter)?;
        let group = groups.iter().find(|group| {
            group.meter_id == account.meter_id
                && group.subject_kind == account.subject_kind
                && group.window == account.window
        })?;
        group.in_force(account.subject_id).cloned()
    }
}

impl Limits {
    fn new(rows: &PolicyRows, meters: &[Arc<Meter>]) -> Self {
        let mut by_id: HashMap<MeterId, (Arc<str>, Vec<Group>)> =
            meters.iter().map(|meter| (meter.meter_id, (Arc::from(meter.key.as_str()), Vec::new()))).collect();
        let mut put = |limit_id, source, subject_id: Option<Uuid>, rule: &Rule| {
            // A limit on a meter that does not count here, as the organization's own has its key, says nothing.
            let Some((meter, groups)) = by_id.get_mut(&rule.meter_id) else { return };
            let Rule { meter_id, subject_kind, window, terms } = rule.clone();
            let meter = Arc::clone(meter);
            let applied = Arc::new(Applied { limit_id, source, meter, meter_id, subject_kind, window, terms });
            let place = groups.iter().position(|group| group.subject_kind == subject_kind && group.window == window);
            let place = place.unwrap_or_else(|| {
                groups.push(Group {
                    meter_id,
                    subject_kind,
                    window,
                    plan: None,
                    platform: Makers::default(),
                    organization: Makers::default(),
                });
                groups.len() - 1
            });
            let group = &mut groups[place];
            let makers = match source {
                Source::Plan => {
                    group.plan = Some(applied);
                    return;
                }
                Source::Limit(Maker::Platform) => &mut group.platform,
                Source::Limit(Maker::Organization) => &mut group.organization,
                // Of no policy.
                Source::Rule => return,
            };
            let made = makers.0.get_or_insert_default();
            match subject_id {
                Some(subject_id) => {
                    made.exact.insert(subject_id, applied);
                }
                None => made.each = Some(applied),
            }
        };
        for limit in &rows.plan_limits {
            put(limit.limit_id, Source::Plan, None, &limit.rule);
        }
        for limit in &rows.limits {
            put(limit.limit_id, Source::Limit(limit.maker), limit.subject_id, &limit.rule);
        }
        Self {
            meters: by_id.into_values().map(|(meter, groups)| (meter, groups.into())).collect(),
            features: rows.features.iter().filter(|(_, f)| f.is_on()).map(|(name, _)| name.as_str().into()).collect(),
        }
    }
}

impl Group {
    fn resolve(&self, organization_id: OrganizationId, subjects: Subjects) -> Option<Resolved> {
        let subject_id = match self.subject_kind {
            SubjectKind::Organization => Some(organization_id.uuid()),
            SubjectKind::Team => subjects.team,
            SubjectKind::User => subjects.user,
            SubjectKind::ApiKey => subjects.api_key,
        }?;
        let account =
            AccountKey { subject_kind: self.subject_kind, subject_id, meter_id: self.meter_id, window: self.window };
        Some(Resolved { account, applied: Arc::clone(self.in_force(subject_id)?) })
    }

    /// The platform's limit for the subject before that for each, before the plan's; the organization's own in addition. Of
    /// two that hold for one account, the one that denies earlier: one that denies at all, then the smaller.
    fn in_force(&self, subject_id: Uuid) -> Option<&Arc<Applied>> {
        let granted = self.platform.of(subject_id).or(self.plan.as_ref());
        let own = self.organization.of(subject_id);
        match (granted, own) {
            (Some(granted), Some(own)) => Some(if order(own) < order(granted) { own } else { granted }),
            (granted, own) => granted.or(own),
        }
    }
}

fn order(applied: &Applied) -> (bool, u64) {
    let terms = &applied.terms;
    (terms.shadow || terms.enforcement == Enforcement::Soft, terms.amount.unwrap_or(u64::MAX))
}
