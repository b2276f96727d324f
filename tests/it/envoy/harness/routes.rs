//! What the routes of the shared Envoy ask for, before those of the shipped file. Each says in its context what it needs.

use std::fmt::Write as _;

use crate::envoy::harness::Bootstrap;

/// The context of a route, by its path. All are of the meters of [`crate::envoy::harness::Guest`].
const CONTEXTS: &[(&str, &[(&str, &str)])] = &[
    ("/known", &[]),
    ("/optional", &[("optional", "true")]),
    ("/call", &[("meter", "calls")]),
    ("/five", &[("meter", "calls"), ("cost", "5")]),
    ("/permitted", &[("permission", "usage.read")]),
    ("/featured", &[("feature", "sso")]),
    ("/published", &[("publishable", "GET,POST")]),
    ("/behind", &[("trusted_hops", "1")]),
    ("/wrong", &[("metre", "calls")]),
    ("/reserved", &[("meter", "tokens"), ("cost", "100"), ("settle", "header:x-tokens"), ("record", "calls=requests")]),
    ("/recorded", &[("record", "calls=requests,bytes=bytes,time=milliseconds,tokens=header:x-tokens")]),
];

/// What is reserved and recorded of a request that the rate limit filter may refuse.
const RESERVED: [(&str, &str); 4] =
    [("meter", "tokens"), ("cost", "100"), ("settle", "header:x-tokens"), ("record", "bytes=requests")];

/// Routes of the rate limit service, by their paths: what their `rate_limits` are.
const LIMITS: &[(&str, &str)] = &[
    ("/limited", "- actions: [TENANT, CALLS]"),
    // Its tenant is nobody's where ext_authz said of none, and without `default_value` there is no descriptor.
    ("/optional/limited", "- actions: [TENANT, CALLS]"),
    ("/optional/unlimited", "- actions: [TENANT_WITHOUT_DEFAULT, CALLS]"),
    ("/refused-later", "- actions: [TENANT, CALLS]"),
    ("/limited-twice", "- actions: [TENANT, CALLS]\n- actions: [TENANT, KEY, TOKENS]"),
    (
        "/addends",
        "- actions: [TENANT, CALLS]\n  hits_addend: {number: 3}\n- actions: [TENANT, TOKENS]\n  hits_addend: {number: 20}",
    ),
    (
        "/afterwards",
        "- actions: [TENANT, TOKENS]\n  hits_addend: {format: \"%DYNAMIC_METADATA(cost:tokens)%\"}\n  apply_on_stream_done: true",
    ),
    (
        "/overridden",
        "- actions: [TENANT, CALLS]\n  limit: {dynamic_metadata: {metadata_key: {key: override, path: [{key: limit}]}}}",
    ),
    ("/faulty", "- actions: [TENANT, {generic_key: {descriptor_key: meter, descriptor_value: no.such.meter}}]"),
];

/// The actions that are named above.
const ACTIONS: &[(&str, &str)] = &[
    (
        "TENANT_WITHOUT_DEFAULT",
        "{metadata: {descriptor_key: tenant, source: DYNAMIC, \
         metadata_key: {key: envoy.filters.http.ext_authz, path: [{key: tenant}]}}}",
    ),
    (
        "TENANT",
        "{metadata: {descriptor_key: tenant, source: DYNAMIC, default_value: nobody, \
         metadata_key: {key: envoy.filters.http.ext_authz, path: [{key: tenant}]}}}",
    ),
    (
        "KEY",
        "{metadata: {descriptor_key: api_key, source: DYNAMIC, default_value: nobody, \
         metadata_key: {key: envoy.filters.http.ext_authz, path: [{key: api_key}]}}}",
    ),
    ("CALLS", "{generic_key: {descriptor_key: meter, descriptor_value: calls}}"),
    ("TOKENS", "{generic_key: {descriptor_key: meter, descriptor_value: tokens}}"),
];

/// Filters between the two. One says an amount that replaces the tenant's limits, for routes that look at it. The other takes
/// what a request cost from the application's reply, since an amount can be read from metadata and not from a header.
const FILTERS: &str = r#"          - name: envoy.filters.http.set_metadata
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config
              metadata:
              - metadata_namespace: override
                value: {limit: {requests_per_unit: 2, unit: HOUR}}
          - name: envoy.filters.http.header_to_metadata
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config
              response_rules:
              - header: x-tokens
                on_header_present: {metadata_namespace: cost, key: tokens, type: NUMBER}
"#;

const RATE_LIMIT: &str = "          # 2. The rate limit service";

/// The bootstrap with these routes.
pub fn with_routes(bootstrap: Bootstrap) -> Bootstrap {
    let mut routes = String::new();
    // The longer path first: Envoy takes the first that matches.
    for (path, limits) in LIMITS {
        let actions = ACTIONS.iter().fold(limits.replace('\n', "\n      "), |limits, (name, action)| {
            limits
                .replace(&format!("[{name}"), &format!("[{action}"))
                .replace(&format!(", {name}"), &format!(", {action}"))
        });
        let context = match *path {
            "/refused-later" => &RESERVED[..],
            path if path.starts_with("/optional") => &[("optional", "true")],
            _ => &[],
        };
        route(&mut routes, path, context);
        write!(
            routes,
            "    envoy.filters.http.ratelimit:\n      \
             \"@type\": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute\n      \
             rate_limits:\n      {actions}\n"
        )
        .unwrap();
    }
    for (path, context) in CONTEXTS {
        route(&mut routes, path, context);
    }
    bootstrap.with_routes(&routes).replaced(RATE_LIMIT, &format!("{FILTERS}{RATE_LIMIT}"))
}

fn route(routes: &mut String, path: &str, context: &[(&str, &str)]) {
    let context: Vec<_> = context.iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
    write!(
        routes,
        "- match: {{path_separated_prefix: {path}}}\n  name: {}\n  route: {{cluster: application}}\n  \
         typed_per_filter_config:\n    envoy.filters.http.ext_authz:\n      \
         \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute\n      \
         check_settings: {{context_extensions: {{{}}}}}\n",
        &path[1..],
        context.join(", ")
    )
    .unwrap();
}
