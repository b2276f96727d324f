//! What an event is to its meter: whether it counts at all, with which value, and in which group.

use serde_json::Value;
use uuid::Uuid;

use crate::error::Violation;
use crate::model::meter::{Aggregation, Condition, Measure, Operator};
use crate::model::usage::{Quantity, SUBJECT_CHARACTERS, hashed};

/// What an event counts for its meter.
#[derive(Clone, PartialEq, Debug)]
pub struct Measurement {
    /// How much: the event's quantity, or the property that the meter aggregates.
    pub quantity: Quantity,
    /// Which value, for a meter that counts distinct ones.
    pub value_id: Option<Uuid>,
    /// The values of the properties that the meter groups by, in its order; empty text where the event has none.
    pub group_values: Vec<String>,
}

/// Why an event has no measurement.
#[derive(Clone, PartialEq, Debug)]
pub enum Unmeasured {
    /// The filter of the meter leaves it out.
    Filtered,
    /// It lacks what the meter aggregates, or has it in another shape.
    Invalid(Violation),
}

impl Measure {
    /// Measures an event by its fields as sent: `quantity` is `None` where nothing was, properties are an object.
    pub fn measurement(
        &self,
        quantity: Option<Quantity>,
        subject: &str,
        properties: Option<&Value>,
    ) -> Result<Measurement, Unmeasured> {
        let properties = Properties(properties);
        for condition in &self.filter {
            if !condition.is_fulfilled(&properties).map_err(Unmeasured::Invalid)? {
                return Err(Unmeasured::Filtered);
            }
        }
        let (quantity, value_id) = self.value(quantity, subject, &properties).map_err(Unmeasured::Invalid)?;
        let group_values = self.group_by.iter().map(|key| properties.group(key)).collect::<Result<_, _>>();
        Ok(Measurement { quantity, value_id, group_values: group_values.map_err(Unmeasured::Invalid)? })
    }

    fn value(
        &self,
        quantity: Option<Quantity>,
        subject: &str,
        properties: &Properties<'_>,
    ) -> Result<(Quantity, Option<Uuid>), Violation> {
        let given = quantity.unwrap_or(Quantity::ONE);
        match (self.aggregation, self.value_property.as_deref()) {
            (Aggregation::UniqueCount, None) if subject.is_empty() => {
                Err(Violation::new("subject", "must be set: the meter counts distinct subjects"))
            }
            (Aggregation::UniqueCount, None) => Ok((given, Some(hashed(subject)))),
            (Aggregation::UniqueCount, Some(name)) => match properties.scalar(name)? {
                Some(text) => Ok((given, Some(hashed(&text)))),
                None => Err(violation(name, "must be set: the meter counts its distinct values")),
            },
            (_, None) => Ok((given, None)),
            (_, Some(_)) if quantity.is_some() => {
                Err(Violation::new("quantity", "must be empty: the meter takes the value from a property"))
            }
            (_, Some(name)) => {
                let text = properties.scalar(name)?.unwrap_or_default();
                if text.is_empty() {
                    return Err(violation(name, "must be a decimal number: the meter aggregates it"));
                }
                Quantity::parse(&field(name), &text).map(|quantity| (quantity, None))
            }
        }
    }
}

impl Condition {
    fn is_fulfilled(&self, properties: &Properties<'_>) -> Result<bool, Violation> {
        let found = properties.scalar(&self.property)?;
        let is_one = found.is_some_and(|text| self.values.contains(&text));
        Ok(match self.operator {
            Operator::In => is_one,
            Operator::NotIn => !is_one,
        })
    }
}

struct Properties<'a>(Option<&'a Value>);

impl Properties<'_> {
    /// A property as text; `None` where it is absent or null.
    fn scalar(&self, name: &str) -> Result<Option<String>, Violation> {
        match self.0.and_then(|properties| properties.get(name)) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(Some(value.to_string())),
            Some(Value::Array(_) | Value::Object(_)) => {
                Err(violation(name, "must be text, a number, true or false: the meter uses it"))
            }
        }
    }

    fn group(&self, name: &str) -> Result<String, Violation> {
        let text = self.scalar(name)?.unwrap_or_default();
        if text.chars().count() > SUBJECT_CHARACTERS {
            let rule = format!("must be at most {SUBJECT_CHARACTERS} characters: the meter groups by it");
            return Err(violation(name, rule));
        }
        Ok(text)
    }
}

fn field(property: &str) -> String {
    format!("properties.{property}")
}

fn violation(property: &str, rule: impl Into<String>) -> Violation {
    Violation::new(field(property), rule)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn measure(aggregation: Aggregation, value_property: Option<&str>) -> Measure {
        Measure { aggregation, value_property: value_property.map(Into::into), group_by: vec![], filter: vec![] }
    }

    fn measured(
        measure: &Measure,
        quantity: &str,
        subject: &str,
        properties: Value,
    ) -> Result<Measurement, Unmeasured> {
        let quantity = Some(quantity).filter(|q| !q.is_empty()).map(|q| Quantity::parse("quantity", q).unwrap());
        measure.measurement(quantity, subject, Some(&properties))
    }

    fn wrong_field(outcome: Result<Measurement, Unmeasured>) -> String {
        match outcome {
            Err(Unmeasured::Invalid(violation)) => violation.field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_value_is_the_quantity_or_the_property() {
        let plain = measure(Aggregation::Sum, None);
        assert_eq!(measured(&plain, "2.5", "", json!({})).unwrap().quantity.decimal().to_string(), "2.5");
        assert_eq!(measured(&plain, "", "", json!({})).unwrap().quantity, Quantity::ONE);
        let tokens = measure(Aggregation::Sum, Some("tokens"));
        for (sent, expected) in [(json!(12), "12"), (json!(0.1), "0.1"), (json!("0.300"), "0.3"), (json!(1e3), "1000")]
        {
            let found = measured(&tokens, "", "", json!({"tokens": sent})).unwrap();
            assert_eq!(found.quantity.decimal().to_string(), expected);
        }
        for bad in [json!(null), json!(""), json!(-1), json!("many"), json!(1e30), json!(true), json!([1])] {
            assert_eq!(wrong_field(measured(&tokens, "", "", json!({"tokens": bad}))), "properties.tokens");
        }
        assert_eq!(wrong_field(measured(&tokens, "1", "", json!({"tokens": 1}))), "quantity");
        assert_eq!(wrong_field(measured(&tokens, "", "", json!({}))), "properties.tokens");
    }

    #[test]
    fn distinct_values_are_subjects_or_a_property() {
        let subjects = measure(Aggregation::UniqueCount, None);
        let ada = measured(&subjects, "", "ada", json!({})).unwrap().value_id;
        assert!(ada.is_some() && ada == measured(&subjects, "7", "ada", json!({"a": 1})).unwrap().value_id);
        assert_ne!(ada, measured(&subjects, "", "bob", json!({})).unwrap().value_id);
        assert_eq!(wrong_field(measured(&subjects, "", "", json!({}))), "subject");
        let devices = measure(Aggregation::UniqueCount, Some("device"));
        let id = |value| measured(&devices, "", "", json!({"device": value})).unwrap().value_id;
        assert_eq!(id(json!("1")), id(json!(1)), "scalars compare as text");
        assert_eq!(id(json!("ada")), ada);
        assert_eq!(wrong_field(measured(&devices, "", "ada", json!({}))), "properties.device");
    }

    #[test]
    fn groups_and_filters_read_scalars() {
        let measure = Measure {
            group_by: vec!["model".into(), "cached".into()],
            filter: vec![
                Condition { property: "env".into(), operator: Operator::In, values: vec!["prod".into(), "1".into()] },
                Condition { property: "test".into(), operator: Operator::NotIn, values: vec!["true".into()] },
            ],
            ..measure(Aggregation::Count, None)
        };
        let found = measured(&measure, "", "", json!({"env": "prod", "model": "x", "cached": false})).unwrap();
        assert_eq!(found.group_values, ["x", "false"]);
        let found = measured(&measure, "", "", json!({"env": 1, "test": null})).unwrap();
        assert_eq!(found.group_values, ["", ""]);
        for out in [json!({}), json!({"env": "dev"}), json!({"env": "prod", "test": true})] {
            assert_eq!(measured(&measure, "", "", out), Err(Unmeasured::Filtered));
        }
        assert_eq!(wrong_field(measured(&measure, "", "", json!({"env": ["prod"]}))), "properties.env");
        let long = json!({"env": "prod", "model": "x".repeat(129)});
        assert_eq!(wrong_field(measured(&measure, "", "", long)), "properties.model");
    }
}
