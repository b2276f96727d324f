//! Messages with one nasty value each, for every field that the descriptors know, however deep it lies.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use prost_reflect::prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage as _, Value};
use prost_types::{FieldMask, Timestamp};
use tenancy::proto::v1;

use crate::isolation::cases::Furnished;

/// How often a message may contain itself: `google.protobuf.Value` does so for ever.
const REPETITIONS: usize = 2;

/// Stands for a string that is no UTF-8, which no [`Value`] can hold; swapped once the message is encoded.
const NO_UTF8: &str = "no-utf-8-here";

/// Stands for a name that no other message has, or every create after the first would be refused for its name alone.
const UNIQUE: &str = "unique-000000";

static NAMES: AtomicU32 = AtomicU32::new(0);

/// The requests that do something, where the isolation tests have none.
pub fn good(path: &str, furnished: &Furnished) -> Option<Vec<u8>> {
    let organization = |slug: &str| v1::Organization {
        slug: slug.into(),
        display_name: "Nasty".into(),
        labels: [("tier".to_owned(), "one".to_owned())].into(),
        ..v1::Organization::default()
    };
    let user =
        || v1::User { email: format!("{UNIQUE}@example.com"), display_name: "Nasty".into(), ..v1::User::default() };
    let message = match path.rsplit('/').next()? {
        "VerifyApiKey" => {
            v1::VerifyApiKeyRequest { api_key: furnished.tenant.key.clone(), ..Default::default() }.encode_to_vec()
        }
        "CreateOrganization" => {
            v1::CreateOrganizationRequest { organization: Some(organization(UNIQUE)), ..Default::default() }
                .encode_to_vec()
        }
        // Every field, so that each nasty value is looked at.
        "UpdateOrganization" => v1::UpdateOrganizationRequest {
            organization: Some(v1::Organization {
                organization_id: furnished.tenant.id.clone(),
                plan: "pro".into(),
                time_zone: "UTC".into(),
                billing_anchor_day: 1,
                currency: "EUR".into(),
                locale: "en".into(),
                date_format: "YYYY-MM-DD".into(),
                ..organization(&furnished.tenant.slug)
            }),
            update_mask: Some(FieldMask { paths: vec!["*".into()] }),
            ..Default::default()
        }
        .encode_to_vec(),
        "ListOrganizations" => {
            v1::ListOrganizationsRequest { filter: "plan = \"free\"".into(), ..Default::default() }.encode_to_vec()
        }
        "CreateMeter" => v1::CreateMeterRequest {
            meter: Some(v1::Meter {
                organization_id: furnished.tenant.id.clone(),
                key: UNIQUE.into(),
                display_name: "Nasty".into(),
                aggregation: v1::MeterAggregation::Sum.into(),
                value_property: "size".into(),
                group_by: vec!["region".into()],
                filter: vec![v1::MeterCondition {
                    property: "tier".into(),
                    operator: v1::MeterConditionOperator::In.into(),
                    values: vec!["paid".into()],
                }],
                ..v1::Meter::default()
            }),
            ..Default::default()
        }
        .encode_to_vec(),
        "UpdateMeter" => v1::UpdateMeterRequest {
            meter: Some(v1::Meter {
                organization_id: furnished.tenant.id.clone(),
                meter_id: furnished.meter_id.clone(),
                display_name: "Nasty".into(),
                ..v1::Meter::default()
            }),
            update_mask: Some(FieldMask { paths: vec!["*".into()] }),
        }
        .encode_to_vec(),
        "CreateUser" => v1::CreateUserRequest { user: Some(user()), ..Default::default() }.encode_to_vec(),
        "BatchCreateUsers" => v1::BatchCreateUsersRequest { users: vec![user()], ..Default::default() }.encode_to_vec(),
        "BatchAddMembers" => v1::BatchAddMembersRequest {
            organization_id: furnished.tenant.id.clone(),
            members: vec![v1::NewMember {
                user_id: furnished.user_id.clone(),
                role: "owner".into(),
                teams: vec!["Engineering/Backend Squad".into()],
                ..v1::NewMember::default()
            }],
            ..Default::default()
        }
        .encode_to_vec(),
        "UpdateUser" => v1::UpdateUserRequest {
            user: Some(v1::User { user_id: furnished.user_id.clone(), ..user() }),
            update_mask: Some(FieldMask { paths: vec!["*".into()] }),
            ..Default::default()
        }
        .encode_to_vec(),
        "DeactivateUser" => {
            v1::DeactivateUserRequest { user_id: furnished.user_id.clone(), ..Default::default() }.encode_to_vec()
        }
        "RecordUsage" => v1::RecordUsageRequest {
            organization_id: furnished.tenant.id.clone(),
            events: vec![v1::UsageEvent {
                event_id: UNIQUE.into(),
                meter: format!("{}.calls", furnished.tenant.slug),
                quantity: "3".into(),
                occurred_at: Some(Timestamp { seconds: chrono::Utc::now().timestamp(), nanos: 0 }),
                ..v1::UsageEvent::default()
            }],
        }
        .encode_to_vec(),
        method => return good_of_quotas(method, furnished),
    };
    Some(message)
}

/// The same of plans and limits.
fn good_of_quotas(method: &str, furnished: &Furnished) -> Option<Vec<u8>> {
    let plan = |key: &str| v1::Plan {
        key: key.into(),
        display_name: "Nasty".into(),
        features: [("sso".to_owned(), prost_types::Value { kind: Some(prost_types::value::Kind::BoolValue(true)) })]
            .into(),
        ..v1::Plan::default()
    };
    let message = match method {
        "GetPlan" => v1::GetPlanRequest { plan: "free".into(), ..Default::default() }.encode_to_vec(),
        "CreatePlan" => v1::CreatePlanRequest { plan: Some(plan(UNIQUE)), ..Default::default() }.encode_to_vec(),
        "UpdatePlan" => {
            v1::UpdatePlanRequest { plan: Some(plan("pro")), update_mask: Some(FieldMask { paths: vec!["*".into()] }) }
                .encode_to_vec()
        }
        "ArchivePlan" => v1::ArchivePlanRequest { plan: "starter".into(), ..Default::default() }.encode_to_vec(),
        "CreateTeam" => v1::CreateTeamRequest {
            team: Some(v1::Team {
                organization_id: furnished.tenant.id.clone(),
                parent_team_id: furnished.team_id.clone(),
                display_name: UNIQUE.into(),
                ..v1::Team::default()
            }),
            ..Default::default()
        }
        .encode_to_vec(),
        "UpdateTeam" => v1::UpdateTeamRequest {
            team: Some(v1::Team {
                organization_id: furnished.tenant.id.clone(),
                team_id: furnished.team_id.clone(),
                display_name: "Nasty".into(),
                ..v1::Team::default()
            }),
            update_mask: Some(FieldMask { paths: vec!["*".into()] }),
        }
        .encode_to_vec(),
        "UpdateLimit" => v1::UpdateLimitRequest {
            limit: Some(v1::Limit {
                organization_id: furnished.tenant.id.clone(),
                limit_id: furnished.limit_id.clone(),
                rule: Some(v1::LimitRule { amount: Some(5), alert_percents: vec![90], ..v1::LimitRule::default() }),
                ..v1::Limit::default()
            }),
            update_mask: Some(FieldMask { paths: vec!["*".into()] }),
        }
        .encode_to_vec(),
        _ => return None,
    };
    Some(message)
}

/// The base with one field after the other replaced by one nasty value after the other, with the name of what was done.
pub fn messages(base: &DynamicMessage) -> Vec<(String, Vec<u8>)> {
    variants(base, &mut Vec::new())
        .into_iter()
        .map(|(what, message)| {
            let mut bytes = message.encode_to_vec();
            swap(&mut bytes, NO_UTF8, &[0xff; NO_UTF8.len()]);
            let number = NAMES.fetch_add(1, Ordering::Relaxed);
            swap(&mut bytes, UNIQUE, format!("unique-{number:06}").as_bytes());
            (what, bytes)
        })
        .collect()
}

/// Puts something as long where the marker is.
fn swap(bytes: &mut [u8], marker: &str, replacement: &[u8]) {
    if let Some(at) = bytes.windows(marker.len()).position(|window| window == marker.as_bytes()) {
        bytes[at..at + marker.len()].copy_from_slice(replacement);
    }
}

fn variants(base: &DynamicMessage, above: &mut Vec<String>) -> Vec<(String, DynamicMessage)> {
    let descriptor = base.descriptor();
    if above.iter().filter(|name| *name == descriptor.full_name()).count() >= REPETITIONS {
        return Vec::new();
    }
    above.push(descriptor.full_name().to_owned());
    let mut found = Vec::new();
    for field in descriptor.fields() {
        let name = field.name().to_owned();
        for (what, value) in of_field(&field, base, above) {
            let mut message = base.clone();
            message.set_field(&field, value);
            found.push((format!("{name}{what}"), message));
        }
    }
    if descriptor.full_name() == "google.protobuf.Struct" {
        found.extend([20, 60, 150].map(|depth| (format!(" {depth} deep"), nested(&descriptor, depth))));
    }
    above.pop();
    found
}

fn of_field(field: &FieldDescriptor, base: &DynamicMessage, above: &mut Vec<String>) -> Vec<(String, Value)> {
    let current = base.get_field(field);
    if field.is_map() {
        let entry = field.kind();
        let entry = entry.as_message().unwrap();
        let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
        let default = Value::default_value_for_field(&value);
        let keys = of_kind(&key.kind(), None, above).into_iter().filter_map(|(what, nasty)| {
            let map = HashMap::from([(map_key(nasty)?, default.clone())]);
            Some((format!("{{key}}{what}"), Value::Map(map)))
        });
        let keys: Vec<_> = keys.collect();
        let values = of_kind(&value.kind(), None, above).into_iter().map(|(what, nasty)| {
            (format!("{{}}{what}"), Value::Map(HashMap::from([(MapKey::String("key".into()), nasty)])))
        });
        let many = (0..5000).map(|number| (MapKey::String(format!("key-{number}")), default.clone())).collect();
        return keys.into_iter().chain(values).chain([("{} × 5000".into(), Value::Map(many))]).collect();
    }
    if field.is_list() {
        let first = current.as_list().and_then(|list| list.first().cloned());
        let mut found: Vec<_> = of_kind(&field.kind(), first.as_ref(), above)
            .into_iter()
            .map(|(what, nasty)| (format!("[]{what}"), Value::List(vec![nasty])))
            .collect();
        let one = first.unwrap_or_else(|| Value::default_value(&field.kind()));
        found.push(("[] × 5000".into(), Value::List(vec![one; 5000])));
        return found;
    }
    of_kind(&field.kind(), Some(&current), above)
}

/// The nasty values of a kind; those of a message are itself with one nasty field each.
fn of_kind(kind: &Kind, current: Option<&Value>, above: &mut Vec<String>) -> Vec<(String, Value)> {
    let named = |values: Vec<Value>| values.into_iter().map(|value| (format!(" = {value:?}"), value)).collect();
    match kind {
        Kind::Message(inner) => {
            let base = match current.and_then(Value::as_message) {
                Some(message) => message.clone(),
                None => DynamicMessage::new(inner.clone()),
            };
            let empty = (" = empty".to_owned(), Value::Message(DynamicMessage::new(inner.clone())));
            let mut found: Vec<_> = variants(&base, above)
                .into_iter()
                .map(|(what, message)| (format!(".{what}"), Value::Message(message)))
                .collect();
            found.push(empty);
            found
        }
        Kind::String => strings().into_iter().map(|(what, text)| (format!(" = {what}"), Value::String(text))).collect(),
        Kind::Bytes => named(vec![Value::Bytes(vec![0xff; 1 << 16].into())]),
        Kind::Bool => named(vec![Value::Bool(true), Value::Bool(false)]),
        Kind::Enum(_) => named([i32::MIN, -1, 0, 1, 9999, i32::MAX].map(Value::EnumNumber).to_vec()),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            // A thousand million: one more than the nanoseconds of a second.
            named([i32::MIN, -1, 0, 1, 1_000_000_000, i32::MAX].map(Value::I32).to_vec())
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            // The first and the last second that a timestamp may name, their neighbours, and the ten thousand years of a
            // duration.
            let edges = [-62_135_596_801, -62_135_596_800, 253_402_300_799, 253_402_300_800, 315_576_000_001];
            let extremes = [i64::MIN, i64::MIN + 1, -1, 0, 1, 900, i64::MAX / 1000, i64::MAX];
            named(edges.into_iter().chain(extremes).map(Value::I64).collect())
        }
        Kind::Uint32 | Kind::Fixed32 => named([0, 1, u32::MAX].map(Value::U32).to_vec()),
        Kind::Uint64 | Kind::Fixed64 => named([0, 1, u64::MAX].map(Value::U64).to_vec()),
        Kind::Float => named([f32::NAN, f32::INFINITY, f32::MIN, f32::MAX].map(Value::F32).to_vec()),
        Kind::Double => {
            let doubles = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MIN, f64::MAX, f64::MIN_POSITIVE, -0.0];
            named(doubles.map(Value::F64).to_vec())
        }
    }
}

fn strings() -> Vec<(&'static str, String)> {
    vec![
        ("64 KiB", "a".repeat(64 << 10)),
        ("10k emoji", "🦀".repeat(10_000)),
        ("NUL", "a\0b".into()),
        ("a text turned around", "abc\u{202e}def".into()),
        ("no UTF-8", NO_UTF8.into()),
        ("a path", "../../".into()),
        ("SQL", "' OR 1=1 --".into()),
        ("%", "%".into()),
        ("a newline", "a\r\nb: c".into()),
        ("an invalid UUID", "018f6d2e-0000-7000-8000-00000000000g".into()),
        ("an unknown UUID", "018f6d2e-0000-7000-8000-000000000000".into()),
        ("the greatest UUID", "ffffffff-ffff-ffff-ffff-ffffffffffff".into()),
        ("a huge number", format!("1{}", "0".repeat(400))),
        ("a number with an exponent", "1e999999999".into()),
        ("a filter", "plan = \"\\".into()),
        ("space", " ".into()),
    ]
}

fn map_key(value: Value) -> Option<MapKey> {
    match value {
        Value::String(text) => Some(MapKey::String(text)),
        Value::Bool(value) => Some(MapKey::Bool(value)),
        Value::I32(value) => Some(MapKey::I32(value)),
        Value::I64(value) => Some(MapKey::I64(value)),
        _ => None,
    }
}

/// A struct that has itself in it, so many times.
fn nested(descriptor: &MessageDescriptor, depth: usize) -> DynamicMessage {
    let fields = descriptor.get_field_by_name("fields").unwrap();
    let entry = fields.kind();
    let value = entry.as_message().unwrap().map_entry_value_field().kind().as_message().unwrap().clone();
    let mut inner = DynamicMessage::new(descriptor.clone());
    for _ in 0..depth {
        let mut holder = DynamicMessage::new(value.clone());
        holder.set_field_by_name("struct_value", Value::Message(inner));
        inner = DynamicMessage::new(descriptor.clone());
        inner.set_field(&fields, Value::Map(HashMap::from([(MapKey::String("a".into()), Value::Message(holder))])));
    }
    inner
}
