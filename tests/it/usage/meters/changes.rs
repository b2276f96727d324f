//! Changing and archiving meters: an organization's own and platform-wide ones.

use std::time::Duration;

use prost_types::value::Kind;
use prost_types::{FieldMask, Struct};
use sqlx::AssertSqlSafe;
use tenancy::proto::v1;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{calls, create, get, list, tokens};
use crate::harness::{Client, World, clone_template, eventually, refused};

/// Far below the lifetime of what the catalog holds (30 s): only the change log explains a change seen by then.
const SOON: Duration = Duration::from_secs(4);

async fn update(client: &Client, meter: v1::Meter, paths: &[&str]) -> Result<v1::Meter, Status> {
    let paths = paths.iter().map(ToString::to_string).collect();
    let request = v1::UpdateMeterRequest { meter: Some(meter), update_mask: Some(FieldMask { paths }) };
    Ok(client.meters().update_meter(request).await?.into_inner().meter.unwrap())
}

async fn archive(client: &Client, meter: &str, etag: &str) -> Result<v1::Meter, Status> {
    let request = v1::ArchiveMeterRequest { meter: meter.into(), etag: etag.into(), ..Default::default() };
    Ok(client.meters().archive_meter(request).await?.into_inner().meter.unwrap())
}

async fn keys(client: &Client, show_archived: bool) -> Vec<String> {
    let request = v1::ListMetersRequest { show_archived, ..Default::default() };
    let mut keys: Vec<_> = list(client, request).await.unwrap().meters.into_iter().map(|meter| meter.key).collect();
    keys.sort();
    keys
}

/// The records of a meter, the oldest first.
async fn audited(client: &Client, meter: &v1::Meter) -> Vec<v1::AuditEvent> {
    let request = v1::ListAuditEventsRequest {
        filter: format!("resource_type = \"meter\" AND resource_id = \"{}\"", meter.meter_id),
        ..Default::default()
    };
    let listed = client.audit().list_audit_events(request).await.unwrap().into_inner();
    listed.audit_events.into_iter().rev().collect()
}

/// A field of what was before or after.
fn kind(of: Option<&Struct>, field: &str) -> Option<Kind> {
    of?.fields.get(field)?.kind.clone()
}

fn text(value: &str) -> Option<Kind> {
    Some(Kind::StringValue(value.into()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_people_read_is_changed_and_nothing_else() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    for (client, key) in [(&tenant.client, "own"), (&world.operator(), "wide")] {
        let created = create(client, v1::Meter { key: key.into(), ..tokens() }).await.unwrap();
        assert_eq!(get(client, "", &created.key).await.unwrap(), created, "so that it is in memory");
        world.clock.advance(Duration::from_secs(1));
        // What the mask does not name is not looked at.
        let wanted = v1::Meter {
            display_name: "Words".into(),
            description: "x".repeat(2000),
            unit: "x".repeat(2000),
            key: "another".into(),
            aggregation: v1::MeterAggregation::Count.into(),
            group_by: vec![],
            filter: vec![],
            ..created.clone()
        };
        let renamed = update(client, wanted, &["display_name"]).await.unwrap();
        let expected = v1::Meter {
            display_name: "Words".into(),
            etag: renamed.etag.clone(),
            update_time: renamed.update_time,
            ..created.clone()
        };
        assert_eq!(renamed, expected);
        assert_ne!(renamed.etag, created.etag);
        assert!(renamed.update_time.unwrap().seconds > created.update_time.unwrap().seconds);
        assert_eq!(get(client, "", &created.key).await.unwrap(), renamed, "in the next request");

        let stale = update(client, v1::Meter { unit: "word".into(), ..created.clone() }, &["unit"]).await;
        assert!(refused(stale).is(Code::Aborted, "ETAG_MISMATCH"));
        let blind = v1::Meter { etag: String::new(), unit: "word".into(), ..created.clone() };
        assert_eq!(update(client, blind, &["unit"]).await.unwrap().unit, "word");
        let cleared = v1::Meter { meter_id: created.meter_id.clone(), display_name: "W".into(), ..Default::default() };
        let all = update(client, cleared, &["*"]).await.unwrap();
        assert_eq!((all.display_name.as_str(), all.description.as_str(), all.unit.as_str()), ("W", "", ""));
        assert_eq!((&all.key, &all.filter, all.aggregation), (&created.key, &created.filter, created.aggregation));

        let events = audited(client, &created).await;
        let actions: Vec<_> = events.iter().map(|event| event.action.as_str()).collect();
        assert_eq!(actions, ["meters.create", "meters.update", "meters.update", "meters.update"]);
        assert_eq!(events[0].before, None);
        let (before, after) = (events[1].before.as_ref(), events[1].after.as_ref());
        assert_eq!((kind(before, "display_name"), kind(after, "display_name")), (text("Tokens"), text("Words")));
        for field in ["key", "aggregation", "value_property", "group_by", "filter", "description", "unit"] {
            assert!(kind(before, field).is_some() && kind(before, field) == kind(after, field), "{field}");
        }
        assert_eq!(kind(after, "aggregation"), text("sum"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_update_is_refused() {
    let world = World::start().await;
    let client = world.tenant("acme").await.client;
    let meter = create(&client, tokens()).await.unwrap();
    for fixed in ["key", "aggregation", "value_property", "group_by", "filter"] {
        let refusal = refused(update(&client, meter.clone(), &["unit", fixed]).await);
        assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["update_mask"], "{fixed}");
        assert!(refusal.message.contains("fixed"), "{fixed}: {}", refusal.message);
    }
    for other in ["meter_id", "etag", "archive_time", "nonsense"] {
        let refusal = refused(update(&client, meter.clone(), &[other]).await);
        assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["update_mask"], "{other}");
    }
    let refusal = refused(update(&client, meter.clone(), &[]).await);
    assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["update_mask"], "{refusal:?}");
    let wrong = v1::Meter { description: "x".repeat(1001), unit: "\n".into(), ..meter.clone() };
    let mut refusal = refused(update(&client, v1::Meter { display_name: String::new(), ..wrong }, &["*"]).await);
    refusal.fields.sort();
    assert_eq!(refusal.fields, ["meter.description", "meter.display_name", "meter.unit"]);
    // It is named by its id.
    for name in ["", "ai.tokens"] {
        let refusal = refused(update(&client, v1::Meter { meter_id: name.into(), ..meter.clone() }, &["unit"]).await);
        assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["meter.meter_id"], "{name}");
    }
    let unknown = v1::Meter { meter_id: "018f0000-0000-7000-8000-000000000001".into(), ..meter.clone() };
    assert!(refused(update(&client, unknown, &["unit"]).await).is(Code::NotFound, "METER_NOT_FOUND"));
    assert_eq!(audited(&client, &meter).await.len(), 1, "what is refused leaves no record");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archived_once_and_for_good() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    for (client, key) in [(&tenant.client, "own"), (&world.operator(), "wide")] {
        let created = create(client, v1::Meter { key: key.into(), ..calls() }).await.unwrap();
        assert_eq!(get(client, "", key).await.unwrap(), created, "so that it is in memory");
        assert!(refused(archive(client, key, "stale").await).is(Code::Aborted, "ETAG_MISMATCH"));
        world.clock.advance(Duration::from_secs(1));
        let archived = archive(client, key, &created.etag).await.unwrap();
        let expected = v1::Meter {
            archive_time: archived.archive_time,
            update_time: archived.archive_time,
            etag: archived.etag.clone(),
            ..created.clone()
        };
        assert_eq!(archived, expected);
        assert!(archived.archive_time.unwrap().seconds > created.create_time.unwrap().seconds);
        assert_ne!(archived.etag, created.etag);
        world.clock.advance(Duration::from_secs(1));
        for (name, etag) in [(key, ""), (&created.meter_id, &archived.etag)] {
            assert_eq!(archive(client, name, etag).await.unwrap(), archived, "by {name}");
        }
        for name in [key, &created.meter_id] {
            assert_eq!(get(client, "", name).await.unwrap(), archived, "its figures stay, so it can be read");
        }
        let refusal = refused(create(client, v1::Meter { key: key.into(), ..calls() }).await);
        assert!(refusal.is(Code::AlreadyExists, "METER_KEY_TAKEN"), "{refusal:?}");

        let events = audited(client, &created).await;
        let actions: Vec<_> = events.iter().map(|event| event.action.as_str()).collect();
        assert_eq!(actions, ["meters.create", "meters.archive"]);
        let (before, after) = (events[1].before.as_ref(), events[1].after.as_ref());
        assert_eq!(kind(before, "archive_time"), Some(Kind::NullValue(0)));
        assert!(matches!(kind(after, "archive_time"), Some(Kind::StringValue(_))), "{after:?}");

        let renamed = update(client, v1::Meter { display_name: "Once".into(), ..archived.clone() }, &["display_name"]);
        let renamed = renamed.await.unwrap();
        assert_eq!((renamed.display_name.as_str(), renamed.archive_time), ("Once", archived.archive_time));
    }
    for name in ["", "nobody", "a\0b", "018f0000-0000-7000-8000-000000000001"] {
        for client in [&tenant.client, &world.operator()] {
            assert!(refused(archive(client, name, "").await).is(Code::NotFound, "METER_NOT_FOUND"), "{name:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_show_archived_ones_when_asked() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let operator = world.operator();
    for key in ["own.a", "own.b", "own.c", "both"] {
        create(&tenant.client, v1::Meter { key: key.into(), ..calls() }).await.unwrap();
    }
    for key in ["wide.a", "wide.b", "both"] {
        create(&operator, v1::Meter { key: key.into(), ..calls() }).await.unwrap();
    }
    for (client, key) in [(&tenant.client, "own.a"), (&tenant.client, "both"), (&operator, "wide.a")] {
        archive(client, key, "").await.unwrap();
    }
    // The platform's `both` does not come back: the organization's own has the key, archived or not.
    assert_eq!(keys(&tenant.client, false).await, ["own.b", "own.c", "wide.b"]);
    assert_eq!(keys(&tenant.client, true).await, ["both", "own.a", "own.b", "own.c", "wide.a", "wide.b"]);
    assert_eq!(keys(&operator, false).await, ["both", "wide.b"]);
    assert_eq!(keys(&operator, true).await, ["both", "wide.a", "wide.b"]);

    for client in [&tenant.client, &operator] {
        for show_archived in [true, false] {
            let request = v1::ListMetersRequest { show_archived, page_size: 1, ..Default::default() };
            let page_token = list(client, request.clone()).await.unwrap().next_page_token;
            let next = v1::ListMetersRequest { page_token, ..request };
            assert_eq!(list(client, next.clone()).await.unwrap().meters.len(), 1);
            let other = v1::ListMetersRequest { show_archived: !show_archived, ..next };
            let refusal = refused(list(client, other).await);
            assert!(refusal.is(Code::InvalidArgument, "INVALID_FIELD") && refusal.fields == ["page_token"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_platform_wide_meter_is_changed_by_the_platform() {
    let world = World::start().await;
    let tenant = world.tenant("acme").await;
    let wide = create(&world.operator(), calls()).await.unwrap();
    let request = v1::UpdateMeterRequest {
        meter: Some(v1::Meter { organization_id: tenant.id.clone(), ..wide.clone() }),
        update_mask: Some(FieldMask { paths: vec!["display_name".into()] }),
    };
    for client in [&tenant.client, &world.operator()] {
        let refusal = refused(client.meters().update_meter(request.clone()).await);
        assert!(refusal.is(Code::PermissionDenied, "METER_PLATFORM_WIDE"), "{refusal:?}");
        for name in ["calls", &wide.meter_id] {
            let request = v1::ArchiveMeterRequest {
                organization_id: tenant.id.clone(),
                meter: name.into(),
                ..Default::default()
            };
            let refusal = refused(client.meters().archive_meter(request).await);
            assert!(refusal.is(Code::PermissionDenied, "METER_PLATFORM_WIDE"), "{refusal:?}");
        }
    }
    assert_eq!(get(&tenant.client, "", "calls").await.unwrap(), wide);
}

/// The other replica knew the meter, so that only a forgotten one is read again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_sees_a_change() {
    let one = World::start().await;
    let two = World::on(one.database.clone(), &[]).await;
    let tenant = one.tenant("acme").await;
    let elsewhere = two.client(&tenant.key);
    for (client, key) in [(&tenant.client, "own"), (&one.operator(), "wide")] {
        let created = create(client, v1::Meter { key: key.into(), ..calls() }).await.unwrap();
        let elsewhere = &elsewhere;
        eventually("the meter is known", || async { get(elsewhere, "", key).await.is_ok() }).await;
        let renamed = update(client, v1::Meter { display_name: "New".into(), ..created }, &["display_name"]);
        let renamed = renamed.await.unwrap();
        seen(elsewhere, &renamed).await;
        let archived = archive(client, key, "").await.unwrap();
        assert_eq!(get(&tenant.client, "", key).await.unwrap(), archived, "here at once");
        seen(elsewhere, &archived).await;
    }
}

/// Waits until the meter is as expected.
async fn seen(client: &Client, expected: &v1::Meter) {
    let changed = Instant::now();
    while get(client, "", &expected.key).await.unwrap() != *expected {
        assert!(changed.elapsed() < SOON, "not seen on the other replica: {expected:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tables_hold_to_what_is_fixed() {
    let database = clone_template().await;
    let changeable: Vec<String> = sqlx::query_scalar(
        "SELECT r.rolname || ' ' || c.relname || '.' || a.attname
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
             CROSS JOIN pg_roles r
         WHERE c.oid IN ('tenancy.meters'::regclass, 'tenancy.platform_meters'::regclass)
             AND r.rolname IN ('tenancy_app', 'tenancy_ingest', 'tenancy_platform')
             AND has_column_privilege(r.oid, c.oid, a.attnum, 'UPDATE')
         ORDER BY 1",
    )
    .fetch_all(&database.superuser)
    .await
    .unwrap();
    let columns = ["archive_time", "description", "display_name", "revision", "unit", "update_time"];
    let of = |table: &str| columns.map(|column| format!("{table}.{column}"));
    assert_eq!(changeable, [of("tenancy_app meters"), of("tenancy_platform platform_meters")].concat());

    for (columns, values, constraint) in [
        ("aggregation", "'median'", "platform_meters_aggregation"),
        ("aggregation, value_property", "'count', 'tokens'", "platform_meters_count_of_events"),
        ("aggregation, group_by", "'sum', '{1,2,3,4,5,6,7,8,9}'", "platform_meters_group_by"),
        ("aggregation, filter", "'sum', '{}'", "platform_meters_filter"),
    ] {
        let insert = format!(
            "INSERT INTO tenancy.platform_meters (meter_id, key, display_name, create_time, update_time, {columns})
             VALUES (gen_random_uuid(), 'a', 'A', now(), now(), {values})"
        );
        let error = sqlx::query(AssertSqlSafe(insert)).execute(&database.superuser).await.unwrap_err();
        assert_eq!(error.as_database_error().and_then(|error| error.constraint()), Some(constraint), "{error}");
    }
}
