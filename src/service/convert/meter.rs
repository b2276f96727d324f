//! Meters between protobuf and the model.

use prost_types::FieldMask;

use crate::error::{Error, Violation, Violations};
use crate::model::meter::{
    self as rules, Aggregation, CONDITIONS, Condition, Measure, Meter, NewMeter, Operator, Profile,
};
use crate::model::{etag, text};
use crate::proto::v1;
use crate::service::convert::{mask, timestamp};

/// The fields that an update mask can name.
const FIELDS: &[&str] = &["display_name", "description", "unit"];

/// The fields that are as they were at creation for ever.
const FIXED: &[&str] = &["key", "aggregation", "value_property", "group_by", "filter"];

/// For the wire.
#[must_use]
pub fn to_proto(meter: Meter) -> v1::Meter {
    let Meter { profile, measure, .. } = meter;
    v1::Meter {
        organization_id: meter.organization_id.map(|id| id.to_string()).unwrap_or_default(),
        meter_id: meter.meter_id.to_string(),
        key: meter.key,
        display_name: profile.display_name,
        description: profile.description,
        unit: profile.unit,
        aggregation: aggregation(measure.aggregation).into(),
        value_property: measure.value_property.unwrap_or_default(),
        group_by: measure.group_by,
        filter: measure.filter.into_iter().map(condition).collect(),
        archive_time: meter.archive_time.map(timestamp),
        etag: etag::of(meter.revision),
        create_time: Some(timestamp(meter.create_time)),
        update_time: Some(timestamp(meter.update_time)),
    }
}

/// An aggregation for the wire.
#[must_use]
pub const fn aggregation(aggregation: Aggregation) -> v1::MeterAggregation {
    match aggregation {
        Aggregation::Count => v1::MeterAggregation::Count,
        Aggregation::Sum => v1::MeterAggregation::Sum,
        Aggregation::Min => v1::MeterAggregation::Min,
        Aggregation::Max => v1::MeterAggregation::Max,
        Aggregation::Avg => v1::MeterAggregation::Avg,
        Aggregation::Latest => v1::MeterAggregation::Latest,
        Aggregation::UniqueCount => v1::MeterAggregation::UniqueCount,
    }
}

fn condition(condition: Condition) -> v1::MeterCondition {
    let operator = match condition.operator {
        Operator::In => v1::MeterConditionOperator::In,
        Operator::NotIn => v1::MeterConditionOperator::NotIn,
    };
    v1::MeterCondition { property: condition.property, operator: operator.into(), values: condition.values }
}

/// What a new meter is. Error: `INVALID_FIELD` with every violation.
pub fn new_meter(message: &v1::Meter) -> Result<NewMeter, Error> {
    let mut wrong = Violations::default();
    let key = wrong.take(rules::key("key", &message.key));
    let display_name = wrong.take(text::display_name("display_name", &message.display_name));
    let description = wrong.take(rules::description("description", &message.description));
    let unit = wrong.take(rules::unit("unit", &message.unit));
    let aggregation = wrong.take(match message.aggregation() {
        v1::MeterAggregation::Count => Ok(Aggregation::Count),
        v1::MeterAggregation::Sum => Ok(Aggregation::Sum),
        v1::MeterAggregation::Min => Ok(Aggregation::Min),
        v1::MeterAggregation::Max => Ok(Aggregation::Max),
        v1::MeterAggregation::Avg => Ok(Aggregation::Avg),
        v1::MeterAggregation::Latest => Ok(Aggregation::Latest),
        v1::MeterAggregation::UniqueCount => Ok(Aggregation::UniqueCount),
        v1::MeterAggregation::Unspecified => Err(Violation::new("aggregation", "must be one of the aggregations")),
    });
    let value_property = wrong.take(rules::value_property("value_property", aggregation, &message.value_property));
    let group_by = rules::group_by("group_by", &message.group_by, &mut wrong);
    let filter = filter("filter", &message.filter, &mut wrong);
    wrong.finish().map_err(|error| error.within("meter"))?;
    let new = || {
        Some(NewMeter {
            key: key?,
            profile: Profile { display_name: display_name?, description: description?, unit: unit? },
            measure: Measure {
                aggregation: aggregation?,
                value_property: value_property?,
                group_by: group_by?,
                filter: filter?,
            },
        })
    };
    new().ok_or_else(|| Error::internal("a meter lacks a field without a violation"))
}

fn filter(field: &str, conditions: &[v1::MeterCondition], wrong: &mut Violations) -> Option<Vec<Condition>> {
    if conditions.len() > CONDITIONS {
        wrong.add(field, format!("must be at most {CONDITIONS} conditions"));
        return None;
    }
    let read: Vec<_> = conditions
        .iter()
        .enumerate()
        .map(|(position, condition)| {
            let operator = match condition.operator() {
                v1::MeterConditionOperator::In => Some(Operator::In),
                v1::MeterConditionOperator::NotIn => Some(Operator::NotIn),
                v1::MeterConditionOperator::Unspecified => None,
            };
            let field = format!("{field}[{position}]");
            rules::condition(&field, &condition.property, operator, &condition.values, wrong)
        })
        .collect();
    read.into_iter().collect()
}

/// The fields that a mask names. Error: `INVALID_FIELD` on `update_mask`, which says so of a field that is fixed.
pub fn fields(mask: Option<FieldMask>) -> Result<Vec<&'static str>, Error> {
    let paths = mask.iter().flat_map(|mask| &mask.paths);
    for path in paths {
        let root = path.split_once('.').map_or(path.as_str(), |(root, _)| root);
        if FIXED.contains(&root) {
            let description = format!("names {path:?}, which is fixed at creation; fields are {}", FIELDS.join(", "));
            return Err(Violation::new("update_mask", description).into());
        }
    }
    mask::fields(mask, FIELDS)
}

/// The profile with the named fields taken from the message. Error: `INVALID_FIELD` with every violation.
pub fn changed_profile(current: Profile, message: &v1::Meter, fields: &[&str]) -> Result<Profile, Error> {
    let mut profile = current;
    let mut wrong = Violations::default();
    macro_rules! set {
        ($field:ident, $checked:expr) => {
            if let Some(value) = wrong.take($checked) {
                profile.$field = value;
            }
        };
    }
    for field in fields {
        match *field {
            "display_name" => set!(display_name, text::display_name(field, &message.display_name)),
            "description" => set!(description, rules::description(field, &message.description)),
            "unit" => set!(unit, rules::unit(field, &message.unit)),
            unknown => return Err(Error::internal(format!("{unknown} is no field of a meter"))),
        }
    }
    wrong.finish().map_err(|error| error.within("meter"))?;
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks() {
        let of = |path: &str| fields(Some(FieldMask { paths: vec![path.into()] }));
        assert_eq!(of("*").unwrap(), ["description", "display_name", "unit"]);
        assert_eq!(of("unit").unwrap(), ["unit"]);
        for fixed in FIXED.iter().chain(&["filter.values"]) {
            let Err(Error::Invalid(violations)) = of(fixed) else { panic!("{fixed} was taken") };
            assert!(violations[0].field == "update_mask" && violations[0].description.contains("fixed"), "{fixed}");
        }
        for never in ["meter_id", "etag", "archive_time", "unit.x", ""] {
            let Err(Error::Invalid(violations)) = of(never) else { panic!("{never} was taken") };
            assert!(!violations[0].description.contains("fixed"), "{never}");
        }
        assert!(fields(None).is_err());
    }

    #[test]
    fn only_named_fields_change() {
        let current = Profile { display_name: "a".into(), description: "b".into(), unit: "c".into() };
        let message = v1::Meter { display_name: "x".into(), ..Default::default() };
        let of = |fields: &[&str]| changed_profile(current.clone(), &message, fields).unwrap();
        assert_eq!(of(&["display_name"]), Profile { display_name: "x".into(), ..current.clone() });
        assert_eq!(of(&["unit"]), Profile { unit: String::new(), ..current.clone() });
        let message = v1::Meter { description: "y".repeat(1001), ..Default::default() };
        let Err(Error::Invalid(wrong)) = changed_profile(current.clone(), &message, FIELDS) else { panic!("taken") };
        let wrong: Vec<_> = wrong.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(wrong, ["meter.display_name", "meter.description"]);
    }
}
