//! The files of deploy/envoy are what an Envoy takes, and what they promise.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tenancy::auth::permission::Permission;
use tenancy::proto::v1;

use crate::envoy::harness::{Ask, Bootstrap, Envoy, Guest, Upstream, Version, program, validate};
use crate::harness::{World, eventually};
use crate::usage::support::create_meter;

#[test]
fn the_bootstraps_are_valid() {
    if program().is_none() {
        return;
    }
    let shipped = Bootstrap::file("envoy.yaml");
    for bootstrap in [&shipped, &Bootstrap::file("rlqs.yaml")] {
        validate(bootstrap).unwrap();
    }
    // A field that there is not is refused, so a pass means something.
    let wrong = shipped.replaced("failure_mode_deny:", "failure_mode_denies:");
    assert!(validate(&wrong).unwrap_err().contains("failure_mode_denies"));
}

/// The documents of a file of deploy/envoy.
fn documents(name: &str) -> Vec<Value> {
    let read = |text: &str| serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{name}: {error}"));
    read(Bootstrap::file(name).text())
}

#[test]
fn every_file_is_yaml_and_every_manifest_has_a_kind_and_a_name() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/envoy");
    for directory in ["", "secrets", "istio", "gateway-api"] {
        for entry in fs::read_dir(root.join(directory)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            let documents = documents(name);
            assert!(!documents.is_empty(), "{name}");
            for document in documents.iter().filter(|_| ["istio", "gateway-api"].contains(&directory)) {
                for field in [&document["apiVersion"], &document["kind"], &document["metadata"]["name"]] {
                    assert!(field.is_string(), "{name}: {document}");
                }
            }
        }
    }
}

/// As Istio merges: what has fields field by field, lists one after the other.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) => into.extend(from.iter().cloned()),
        (into, from) => *into = from.clone(),
    }
}

/// A gateway that has two routes with names and one without, as Istio would configure it, with the patches of the `EnvoyFilter`.
fn gateway() -> Value {
    let mut bootstrap = documents("envoy.yaml").remove(0);
    let resources = &mut bootstrap["static_resources"];
    resources["clusters"].as_array_mut().unwrap().retain(|cluster| cluster["name"] == "application");
    let mut clusters = resources["clusters"].take();
    let manager = &mut resources["listeners"][0]["filter_chains"][0]["filters"][0];
    let ours = ["access_log", "early_header_mutation_extensions", "common_http_protocol_options"];
    let config = manager["typed_config"].as_object_mut().unwrap();
    config.retain(|name, _| !ours.contains(&name.as_str()));
    config["http_filters"].as_array_mut().unwrap().retain(|filter| filter["name"] == "envoy.filters.http.router");
    let to_application =
        |path: Value, name: &str| json!({"match": path, "name": name, "route": {"cluster": "application"}});
    config["route_config"]["virtual_hosts"][0]["routes"] = json!([
        to_application(json!({"path": "/healthz"}), "health"),
        to_application(json!({"prefix": "/chat"}), "chat"),
        to_application(json!({"prefix": "/"}), ""),
    ]);
    for patch in documents("istio/envoy-filter.yaml")[0]["spec"]["configPatches"].as_array().unwrap() {
        let value = &patch["patch"]["value"];
        let host = "/typed_config/route_config/virtual_hosts/0";
        match (patch["applyTo"].as_str().unwrap(), patch["patch"]["operation"].as_str().unwrap()) {
            ("CLUSTER", "ADD") => clusters.as_array_mut().unwrap().push(value.clone()),
            ("NETWORK_FILTER", "MERGE") => merge(manager, value),
            ("HTTP_FILTER", "INSERT_BEFORE") => {
                let filters = manager["typed_config"]["http_filters"].as_array_mut().unwrap();
                filters.insert(filters.len() - 1, value.clone());
            }
            ("VIRTUAL_HOST", "MERGE") => merge(manager.pointer_mut(host).unwrap(), value),
            ("HTTP_ROUTE", "MERGE") => {
                let name = &patch["match"]["routeConfiguration"]["vhost"]["route"]["name"];
                let routes = manager.pointer_mut(host).unwrap()["routes"].as_array_mut().unwrap();
                merge(routes.iter_mut().find(|route| route["name"] == *name).unwrap(), value);
            }
            other => panic!("no such patch is known here: {other:?}"),
        }
    }
    resources["clusters"] = clusters;
    bootstrap
}

#[tokio::test]
async fn the_patches_of_the_envoy_filter_do_what_the_bootstrap_does() {
    if program().is_none() {
        return;
    }
    let (world, upstream) = (World::start().await, Upstream::start().await);
    let guest = Guest::new(&world, "meshed").await;
    create_meter(&guest.tenant.client, "api.requests", v1::MeterAggregation::Count).await;
    create_meter(&guest.tenant.client, "ai.tokens", v1::MeterAggregation::Sum).await;
    let secrets = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let place = secrets.path().to_str().unwrap();
    fs::write(secrets.path().join("key"), world.service_key(&[Permission::Sidecar], &[]).await).unwrap();
    let sds = Bootstrap::file("secrets/key.yaml").text().replace("/etc/tenancy", place);
    fs::write(secrets.path().join("sds.yaml"), sds).unwrap();

    // On ports of this machine.
    let mut gateway = gateway();
    ports(&mut gateway, &|port| match port {
        50051 => world.running.grpc.port(),
        8000 => upstream.address.port(),
        _ => 0,
    });
    let text = gateway.to_string().replace("/etc/tenancy", place);
    let bootstrap = Bootstrap::new(text.replace("tenancy.tenancy.svc.cluster.local", "127.0.0.1"));
    validate(&bootstrap).unwrap();
    let envoy = Envoy::start(&bootstrap, "none").await;
    // An Envoy takes requests before it has read the key.
    eventually("the key is read", || async { guest.gets("/any", &envoy).await.status == 200 }).await;

    let answer = guest.get("/any").header("x-tenant-id", "spoofed").send(envoy.address, Version::Http1).await;
    assert_eq!(answer.upstream("x-tenant-id"), Some(guest.tenant.id.clone()));
    assert_eq!(guest.gets("/chat?tokens=12", &envoy).await.status, 200);
    let nobody = async |ask: Ask| ask.send(envoy.address, Version::Http1).await;
    assert_eq!(nobody(Ask::get("/any")).await.reason(), "CREDENTIALS_MISSING");
    assert_eq!(nobody(Ask::get("/healthz").header("x-tenant-id", "spoofed")).await.upstream("x-tenant-id"), None);
    assert_eq!(nobody(Ask::get("/healthz").header("x_tenant_id", "spoofed")).await.status, 400);
    guest.records("api.requests", "3", 3).await;
    guest.records("ai.tokens", "12", 1).await;
}

/// Other ports in place of those that are written there.
fn ports(value: &mut Value, other: &dyn Fn(u64) -> u16) {
    match value {
        Value::Object(fields) => {
            if let Some(port) = fields.get("port_value").and_then(Value::as_u64) {
                fields.insert("port_value".into(), other(port).into());
            }
            fields.values_mut().for_each(|field| ports(field, other));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| ports(item, other)),
        _ => {}
    }
}
