//! What a route of an Envoy says that its requests need: the `context_extensions` of its `check_settings`.
//!
//! A route that says what nobody understands lets nobody through: what was misspelt may have been the permission.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::auth::permission::Permission;
use crate::model::limit::MOST;
use crate::model::{meter, text};
use crate::sidecar::admission::{self, Recording, Source};

/// How long what was reserved waits for the access log, unless the route says otherwise.
const TTL: Duration = Duration::from_mins(10);

/// The shortest and the longest that a route may say.
const TTLS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);

/// The most proxies before an Envoy.
const HOPS: u8 = 16;

/// What publishable keys may do where the route does not say: what changes nothing.
const SAFE: &str = "GET,HEAD,OPTIONS";

/// What a route needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route<'a> {
    /// The key must hold it.
    pub permission: Option<Permission>,
    /// The plan must include it.
    pub feature: Option<&'a str>,
    /// A request takes so much of a meter.
    pub meter: Option<&'a str>,
    /// How much, as far as is known beforehand.
    pub cost: u64,
    /// What tells afterwards how much it was: what is taken is reserved.
    pub settle: Option<Source>,
    /// How long the reservation waits for that.
    pub reserve_ttl: Duration,
    /// What is recorded of a request besides.
    pub recordings: Vec<Recording>,
    /// Requests without a credential pass.
    pub optional: bool,
    /// How many proxies before the Envoy add to x-forwarded-for.
    pub trusted_hops: u8,
    /// The methods that publishable keys may use, separated by commas.
    publishable: &'a str,
}

impl<'a> Route<'a> {
    /// Reads what it says.
    ///
    /// Error: what is wrong, and where, for who configures the Envoy.
    pub fn read(extensions: &'a BTreeMap<String, String>) -> Result<Self, String> {
        let mut route = Self {
            permission: None,
            feature: None,
            meter: None,
            cost: 1,
            settle: None,
            reserve_ttl: TTL,
            recordings: Vec::new(),
            optional: false,
            trusted_hops: 0,
            publishable: SAFE,
        };
        for (name, value) in extensions {
            let wrong = |rule: &str| format!("{name}: {value:?} {rule}");
            match name.as_str() {
                "permission" => {
                    let permission = value.parse().ok().filter(|permission: &Permission| permission.for_tenants());
                    route.permission = Some(permission.ok_or_else(|| wrong("is no permission of tenants"))?);
                }
                "feature" if text::is_key(value) => route.feature = Some(value),
                "feature" => return Err(wrong("is not the name of a feature")),
                "meter" if meter::is_key(value) => route.meter = Some(value),
                "meter" => return Err(wrong("is not the key of a meter")),
                "cost" => {
                    let cost = value.parse().ok().filter(|cost| (1..=MOST).contains(cost));
                    route.cost = cost.ok_or_else(|| wrong(&format!("is not a whole number of 1 to {MOST}")))?;
                }
                "settle" => route.settle = Some(value.parse().map_err(|error| format!("{name}: {error}"))?),
                "reserve_ttl" => {
                    let ttl = humantime::parse_duration(value).ok().filter(|ttl| TTLS.contains(ttl));
                    route.reserve_ttl = ttl.ok_or_else(|| wrong("is not a duration of 1s to 24h"))?;
                }
                "record" => {
                    route.recordings = admission::recordings(value).map_err(|error| format!("{name}: {error}"))?;
                }
                "optional" => {
                    route.optional = value.parse().map_err(|_| wrong("is neither true nor false"))?;
                }
                "trusted_hops" => {
                    let hops = value.parse().ok().filter(|hops| *hops <= HOPS);
                    route.trusted_hops = hops.ok_or_else(|| wrong(&format!("is not a number of 0 to {HOPS}")))?;
                }
                "publishable" if value.is_empty() || value.split(',').all(is_method) => route.publishable = value,
                "publishable" => return Err(wrong("is not a list of methods such as GET,POST")),
                _ => return Err(format!("{name}: there is no such extension")),
            }
        }
        for (name, needed, missing) in [
            ("cost", "meter", route.meter.is_none()),
            ("settle", "meter", route.meter.is_none()),
            ("reserve_ttl", "settle", route.settle.is_none()),
        ] {
            if missing && extensions.contains_key(name) {
                return Err(format!("{name}: says nothing without {needed}"));
            }
        }
        // It is recorded already.
        if let Some(twice) = route.recordings.iter().find(|recording| route.meter == Some(&recording.meter)) {
            return Err(format!("record: {} is the meter of the route", twice.meter));
        }
        Ok(route)
    }

    /// Whether only a tenant's request can have what it takes.
    #[must_use]
    pub const fn needs_tenant(&self) -> bool {
        !self.optional || self.permission.is_some() || self.feature.is_some() || self.meter.is_some()
    }

    /// Whether a publishable key may use the method.
    #[must_use]
    pub fn is_publishable(&self, method: &str) -> bool {
        self.publishable.split(',').any(|known| !known.is_empty() && known == method)
    }
}

/// As methods are sent: they have a case, and ours are in capitals.
fn is_method(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extensions(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn all_that_a_route_can_say() {
        let said = extensions(&[
            ("permission", "usage.read"),
            ("feature", "sso"),
            ("meter", "api.calls"),
            ("cost", "3"),
            ("settle", "header:x-tokens"),
            ("reserve_ttl", "90s"),
            ("record", "bytes=bytes"),
            ("optional", "true"),
            ("trusted_hops", "2"),
            ("publishable", "GET,POST"),
        ]);
        let route = Route::read(&said).unwrap();
        let expected = Route {
            permission: Some(Permission::UsageRead),
            feature: Some("sso"),
            meter: Some("api.calls"),
            cost: 3,
            settle: Some(Source::ResponseHeader("x-tokens".into())),
            reserve_ttl: Duration::from_secs(90),
            recordings: vec![Recording { meter: "bytes".into(), source: Source::Bytes }],
            optional: true,
            trusted_hops: 2,
            publishable: "GET,POST",
        };
        assert_eq!(route, expected);
        assert!(route.needs_tenant() && route.is_publishable("POST") && !route.is_publishable("PUT"));
        let nothing = extensions(&[]);
        let route = Route::read(&nothing).unwrap();
        assert!(route.needs_tenant() && route.cost == 1 && route.reserve_ttl == TTL);
        assert!(["GET", "HEAD", "OPTIONS"].iter().all(|method| route.is_publishable(method)));
        assert!(["POST", "", "get", "GET,HEAD"].iter().all(|method| !route.is_publishable(method)));
        let nobody = extensions(&[("publishable", "")]);
        assert!(!Route::read(&nobody).unwrap().is_publishable(""));
    }

    #[test]
    fn what_nobody_understands_is_named() {
        for (name, value) in [
            ("permision", "usage.read"),
            ("permission", "usage.destroy"),
            ("permission", "organizations.create"),
            ("permission", ""),
            ("feature", ""),
            ("feature", "S S O"),
            ("meter", ""),
            ("meter", "A"),
            ("cost", "0"),
            ("cost", "-1"),
            ("cost", "1.5"),
            ("cost", "99999999999999999999"),
            ("settle", "tokens"),
            ("reserve_ttl", "0s"),
            ("reserve_ttl", "25h"),
            ("reserve_ttl", "10"),
            ("record", "a"),
            ("record", "calls=bytes"),
            ("optional", "yes"),
            ("optional", ""),
            ("trusted_hops", "-1"),
            ("trusted_hops", "17"),
            ("publishable", "get"),
            ("publishable", "GET, POST"),
            ("publishable", "*"),
        ] {
            let mut said = extensions(&[("meter", "calls"), ("settle", "requests")]);
            said.insert(name.to_owned(), value.to_owned());
            let error = Route::read(&said).unwrap_err();
            assert!(error.starts_with(&format!("{name}: ")), "{error}");
        }
        for (name, value) in [("cost", "2"), ("settle", "requests"), ("reserve_ttl", "1m")] {
            let said = extensions(&[(name, value)]);
            assert!(Route::read(&said).unwrap_err().starts_with(name), "{name} alone");
        }
    }
}
