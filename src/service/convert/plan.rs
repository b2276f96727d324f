//! Plans between protobuf and the model.

use std::collections::BTreeMap;

use prost_types::value::Kind;
use prost_types::{FieldMask, Value as ProtoValue};
use serde_json::Value;

use crate::error::{Error, Violations};
use crate::metering::catalog::View;
use crate::model::limit::Rule;
use crate::model::limit::rules::NamedRule;
use crate::model::plan::{self as rules, Feature, Features, NewPlan, Plan, PlanLimit, Profile, Sizes};
use crate::model::{etag, organization, text};
use crate::proto::v1;
use crate::service::convert::{limit, mask, timestamp, to_value};

/// The fields that an update mask can name.
const FIELDS: &[&str] = &["display_name", "description", "limits", "features", "member_limit", "team_limit"];

/// For the wire. The view must have the meters of the limits.
pub fn to_proto(plan: Plan, meters: &View) -> Result<v1::Plan, Error> {
    let limit = |PlanLimit { limit_id, rule }| {
        Ok(v1::PlanLimit { limit_id: limit_id.to_string(), rule: Some(limit::rule(rule, meters)?) })
    };
    Ok(v1::Plan {
        key: plan.key,
        display_name: plan.profile.display_name,
        description: plan.profile.description,
        limits: plan.limits.into_iter().map(limit).collect::<Result<_, Error>>()?,
        features: features(plan.features),
        member_limit: plan.sizes.member_limit,
        team_limit: plan.sizes.team_limit,
        version: plan.version,
        archive_time: plan.archive_time.map(timestamp),
        etag: etag::of(plan.revision),
        create_time: Some(timestamp(plan.create_time)),
        update_time: Some(timestamp(plan.update_time)),
    })
}

/// Features for the wire.
#[must_use]
pub fn features(features: Features) -> BTreeMap<String, ProtoValue> {
    features.into_iter().map(|(name, feature)| (name, to_value(Value::from(feature)))).collect()
}

fn read_feature(value: &ProtoValue) -> Option<Feature> {
    match value.kind.as_ref()? {
        Kind::BoolValue(value) => Some(Feature::Boolean(*value)),
        Kind::NumberValue(value) => Some(Feature::Number(*value)),
        Kind::StringValue(value) => Some(Feature::Text(value.clone())),
        Kind::NullValue(_) | Kind::StructValue(_) | Kind::ListValue(_) => None,
    }
}

/// How many of something; `None`: as many as they like.
#[derive(Clone, Copy, Debug)]
struct Most(Option<i32>);

/// What is sent of a plan, its rules still with the keys of their meters; `None` for what is not changed.
#[derive(Debug, Default)]
pub struct Draft {
    key: Option<String>,
    display_name: Option<String>,
    description: Option<String>,
    rules: Option<Vec<NamedRule>>,
    features: Option<Features>,
    member_limit: Option<Most>,
    team_limit: Option<Most>,
}

impl Draft {
    /// A new plan. Error: `INVALID_FIELD` with every violation.
    pub fn of_new(message: v1::Plan) -> Result<Self, Error> {
        let key = rules::key("key", &message.key);
        let mut wrong = Violations::default();
        let key = wrong.take(key);
        let draft = Self { key, ..Self::read(message, FIELDS, &mut wrong)? };
        wrong.finish().map_err(|error| error.within("plan"))?;
        Ok(draft)
    }

    /// The changes that a mask names; without one, to what the message sets. Error: `INVALID_FIELD` on `update_mask`, or
    /// with every violation.
    pub fn of_changes(mask: Option<FieldMask>, message: v1::Plan) -> Result<Self, Error> {
        let fields = mask::fields_or_set(mask, FIELDS, |field| match field {
            "display_name" => !message.display_name.is_empty(),
            "description" => !message.description.is_empty(),
            "limits" => !message.limits.is_empty(),
            "features" => !message.features.is_empty(),
            "member_limit" => message.member_limit.is_some(),
            "team_limit" => message.team_limit.is_some(),
            _ => false,
        })?;
        let mut wrong = Violations::default();
        let draft = Self::read(message, &fields, &mut wrong)?;
        wrong.finish().map_err(|error| error.within("plan"))?;
        Ok(draft)
    }

    fn read(message: v1::Plan, fields: &[&str], wrong: &mut Violations) -> Result<Self, Error> {
        let mut draft = Self::default();
        // Each is named once, so each is taken once.
        let mut limits = Some(message.limits);
        for field in fields {
            match *field {
                "display_name" => {
                    draft.display_name = wrong.take(text::display_name(field, &message.display_name));
                }
                "description" => draft.description = wrong.take(rules::description(field, &message.description)),
                "limits" => {
                    let limits = limits.take().unwrap_or_default().into_iter();
                    let unchecked = limits.map(|limit| limit::unchecked(limit.rule.unwrap_or_default()));
                    draft.rules = rules::limits(field, unchecked, wrong);
                }
                "features" => {
                    let features = message.features.iter().map(|(name, value)| (name, read_feature(value)));
                    draft.features = rules::features(field, features, wrong);
                }
                "member_limit" => {
                    draft.member_limit = wrong.take(organization::member_limit(field, message.member_limit)).map(Most);
                }
                "team_limit" => {
                    draft.team_limit = wrong.take(organization::team_limit(field, message.team_limit)).map(Most);
                }
                unknown => return Err(Error::internal(format!("{unknown} is no field of a plan"))),
            }
        }
        Ok(draft)
    }

    /// Whether the view has every meter of the rules.
    #[must_use]
    pub fn is_within(&self, meters: &View) -> bool {
        self.rules.iter().flatten().all(|rule| meters.of_key(&rule.meter).is_some())
    }

    /// The same with the meters of the keys. Error: `METER_NOT_FOUND`.
    pub fn resolved(self, meters: &View) -> Result<Resolved, Error> {
        let rules = self.rules.map(|rules| rules.into_iter().map(|rule| limit::resolved(rule, meters)).collect());
        Ok(Resolved {
            key: self.key,
            display_name: self.display_name,
            description: self.description,
            rules: rules.transpose()?,
            features: self.features,
            member_limit: self.member_limit,
            team_limit: self.team_limit,
        })
    }
}

/// What is sent of a plan; `None` for what is not changed.
#[derive(Debug)]
pub struct Resolved {
    key: Option<String>,
    display_name: Option<String>,
    description: Option<String>,
    rules: Option<Vec<Rule>>,
    features: Option<Features>,
    member_limit: Option<Most>,
    team_limit: Option<Most>,
}

impl Resolved {
    /// The plan to create, of a draft of a new one.
    pub fn new_plan(self) -> Result<NewPlan, Error> {
        let new = || {
            Some(NewPlan {
                key: self.key?,
                profile: Profile { display_name: self.display_name?, description: self.description? },
                rules: self.rules?,
                features: self.features?,
                sizes: Sizes { member_limit: self.member_limit?.0, team_limit: self.team_limit?.0 },
            })
        };
        new().ok_or_else(|| Error::internal("a plan lacks a field without a violation"))
    }

    /// The plan as changed at `now`.
    #[must_use]
    pub fn applied(self, before: &Plan, now: chrono::DateTime<chrono::Utc>) -> Plan {
        let mut after = before.clone();
        after.profile.display_name = self.display_name.unwrap_or(after.profile.display_name);
        after.profile.description = self.description.unwrap_or(after.profile.description);
        if let Some(rules) = self.rules {
            after.limits = rules::limits_of(&before.limits, rules, now);
        }
        after.features = self.features.unwrap_or(after.features);
        after.sizes.member_limit = self.member_limit.map_or(after.sizes.member_limit, |most| most.0);
        after.sizes.team_limit = self.team_limit.map_or(after.sizes.team_limit, |most| most.0);
        after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_violation_has_its_path() {
        let value = |kind| ProtoValue { kind };
        let plan = v1::Plan {
            key: "Gold".into(),
            description: "x".repeat(1001),
            member_limit: Some(0),
            team_limit: Some(-1),
            limits: vec![v1::PlanLimit::default()],
            features: [
                ("list".to_owned(), value(Some(Kind::ListValue(prost_types::ListValue::default())))),
                ("nan".to_owned(), value(Some(Kind::NumberValue(f64::NAN)))),
                ("none".to_owned(), value(None)),
                ("sso".to_owned(), value(Some(Kind::BoolValue(true)))),
                ("text".to_owned(), value(Some(Kind::StringValue("x".repeat(256))))),
                ("Upper".to_owned(), value(Some(Kind::BoolValue(true)))),
            ]
            .into(),
            ..v1::Plan::default()
        };
        let Err(Error::Invalid(wrong)) = Draft::of_new(plan) else { panic!("taken") };
        let mut fields: Vec<_> = wrong.iter().map(|violation| violation.field.as_str()).collect();
        fields.sort_unstable();
        let expected = [
            "plan.description",
            "plan.display_name",
            "plan.features",
            "plan.features.list",
            "plan.features.nan",
            "plan.features.none",
            "plan.features.text",
            "plan.key",
            "plan.limits[0].rule.amount",
            "plan.limits[0].rule.meter",
            "plan.limits[0].rule.subject_kind",
            "plan.limits[0].rule.window.unit",
            "plan.member_limit",
            "plan.team_limit",
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn an_empty_mask_is_what_is_set() {
        let message = v1::Plan { display_name: "Gold".into(), ..v1::Plan::default() };
        let draft = Draft::of_changes(None, message.clone()).unwrap();
        assert!(draft.display_name.is_some() && draft.description.is_none() && draft.rules.is_none());
        assert!(draft.member_limit.is_none() && draft.team_limit.is_none());
        let all = Some(FieldMask { paths: vec!["*".into()] });
        let draft = Draft::of_changes(all, message).unwrap();
        assert!(draft.description.is_some() && draft.rules.is_some() && draft.features.is_some());
        assert!(Draft::of_changes(None, v1::Plan::default()).is_err());
        let fixed = Some(FieldMask { paths: vec!["key".into()] });
        assert!(Draft::of_changes(fixed, v1::Plan::default()).is_err());
    }
}
