//! Meters between protobuf and the model.

use crate::error::{Error, Violation, Violations};
use crate::model::meter::{self as rules, Aggregation, Definition, Meter};
use crate::model::text;
use crate::proto::v1;
use crate::service::convert::timestamp;

/// For the wire.
#[must_use]
pub fn to_proto(meter: Meter) -> v1::Meter {
    v1::Meter {
        organization_id: meter.organization_id.map(|id| id.to_string()).unwrap_or_default(),
        meter_id: meter.meter_id.to_string(),
        key: meter.definition.key,
        display_name: meter.definition.display_name,
        unit: meter.definition.unit,
        aggregation: aggregation(meter.definition.aggregation).into(),
        create_time: Some(timestamp(meter.create_time)),
    }
}

/// An aggregation for the wire.
#[must_use]
pub const fn aggregation(aggregation: Aggregation) -> v1::MeterAggregation {
    match aggregation {
        Aggregation::Count => v1::MeterAggregation::Count,
        Aggregation::Sum => v1::MeterAggregation::Sum,
    }
}

/// What a new meter is. Error: `INVALID_FIELD` with every violation.
pub fn definition(message: &v1::Meter) -> Result<Definition, Error> {
    let mut wrong = Violations::default();
    let key = wrong.take(rules::key("key", &message.key));
    let display_name = wrong.take(text::display_name("display_name", &message.display_name));
    let unit = wrong.take(text::free("unit", &message.unit, 63));
    let aggregation = wrong.take(match message.aggregation() {
        v1::MeterAggregation::Count => Ok(Aggregation::Count),
        v1::MeterAggregation::Sum => Ok(Aggregation::Sum),
        v1::MeterAggregation::Unspecified => Err(Violation::new("aggregation", "must be one of the aggregations")),
    });
    wrong.finish().map_err(|error| error.within("meter"))?;
    match (key, display_name, unit, aggregation) {
        (Some(key), Some(display_name), Some(unit), Some(aggregation)) => {
            Ok(Definition { key, display_name, unit, aggregation })
        }
        _ => Err(Error::internal("a meter lacks a field without a violation")),
    }
}
