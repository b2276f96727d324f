//! The static configuration of envoyproxy/ratelimit, read as it is documented there. Whatever it says that would change which
//! requests are refused is either done or refused; nothing is passed over in silence.

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::proto::v1;
use crate::proto::v1::rate_limit_rule::Limit;

/// What a file says.
#[derive(Debug)]
pub struct Read {
    /// The domain.
    pub domain: v1::RateLimitDomain,
    /// What its owner should know.
    pub remarks: Vec<&'static str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Root {
    domain: String,
    #[serde(default)]
    descriptors: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Descriptor {
    key: String,
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    rate_limit: Option<RateLimit>,
    #[serde(default)]
    descriptors: Option<Vec<Descriptor>>,
    #[serde(default)]
    shadow_mode: bool,
    /// Which metrics there are, there.
    #[serde(default)]
    detailed_metric: bool,
    #[serde(default)]
    value_to_metric: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RateLimit {
    #[serde(default)]
    unit: Option<Unit>,
    #[serde(default)]
    requests_per_unit: Option<u32>,
    #[serde(default)]
    unlimited: bool,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    replaces: Option<Vec<Replaced>>,
    /// Ours: the limits of a tenant on this meter.
    #[serde(default)]
    meter: Option<String>,
    /// Ours: the entry that names the tenant.
    #[serde(default)]
    tenant_key: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Replaced {
    name: String,
}

/// A unit, in whichever case.
struct Unit(v1::RateLimitUnit);

impl<'de> Deserialize<'de> for Unit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Ok(Self(match name.to_ascii_lowercase().as_str() {
            "second" => v1::RateLimitUnit::Second,
            "minute" => v1::RateLimitUnit::Minute,
            "hour" => v1::RateLimitUnit::Hour,
            "day" => v1::RateLimitUnit::Day,
            "week" => v1::RateLimitUnit::Week,
            "month" => v1::RateLimitUnit::Month,
            "year" => return Err(D::Error::custom("unit year is not supported: the longest is month")),
            _ => {
                let known = "second, minute, hour, day, week or month";
                return Err(D::Error::custom(format!("unit {name:?} is none of {known}")));
            }
        }))
    }
}

/// Reads a file. Error: what is wrong, and where.
pub fn read(text: &str) -> Result<Read, String> {
    let root: Root = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let mut seen = Seen::default();
    let rules = rules("descriptors", root.descriptors, &mut seen)?;
    let domain = v1::RateLimitDomain { domain: root.domain, rules, ..v1::RateLimitDomain::default() };
    Ok(Read { domain, remarks: seen.remarks() })
}

/// What there is to remark on.
#[derive(Default)]
struct Seen {
    metrics: bool,
    rolling: bool,
    calendar: bool,
}

impl Seen {
    fn remarks(&self) -> Vec<&'static str> {
        let remarks = [
            (
                self.rolling,
                "limits per second or minute hold in every second or minute, not only in those of the clock",
            ),
            (self.calendar, "hours, days, weeks and months are those of the calendar, in UTC"),
            (self.metrics, "detailed_metric and value_to_metric have no effect: there are no metrics by descriptor"),
        ];
        remarks.into_iter().filter(|(is_seen, _)| *is_seen).map(|(_, remark)| remark).collect()
    }
}

/// `path` is where they are in the file.
fn rules(path: &str, descriptors: Option<Vec<Descriptor>>, seen: &mut Seen) -> Result<Vec<v1::RateLimitRule>, String> {
    let descriptors = descriptors.unwrap_or_default().into_iter().enumerate();
    let rules = descriptors.map(|(position, descriptor)| {
        let path = format!("{path}[{position}]");
        seen.metrics |= descriptor.detailed_metric || descriptor.value_to_metric;
        let mut rule = v1::RateLimitRule {
            key: descriptor.key,
            value: descriptor.value.unwrap_or_default(),
            shadow_mode: descriptor.shadow_mode,
            rules: rules(&format!("{path}.descriptors"), descriptor.descriptors, seen)?,
            ..v1::RateLimitRule::default()
        };
        if let Some(limit) = descriptor.rate_limit {
            rule.name = limit.name.clone().unwrap_or_default();
            let replaced = limit.replaces.iter().flatten();
            rule.replaces = replaced.map(|replaced| replaced.name.clone()).collect();
            rule.limit = Some(self::limit(&format!("{path}.rate_limit"), limit, seen)?);
        }
        Ok(rule)
    });
    rules.collect()
}

fn limit(path: &str, limit: RateLimit, seen: &mut Seen) -> Result<Limit, String> {
    let is_own = limit.unit.is_some() || limit.requests_per_unit.is_some();
    match limit {
        RateLimit { meter: Some(_), unlimited, .. } if is_own || unlimited => {
            Err(format!("{path}: a limit is either a meter's or has an amount of its own"))
        }
        RateLimit { meter: Some(meter), tenant_key, .. } => {
            // As the service has it where nothing is said, so that what comes back is the same.
            let tenant_key = tenant_key.unwrap_or_else(|| "tenant".to_owned());
            Ok(Limit::TenantLimit(v1::TenantRateLimit { meter, tenant_key }))
        }
        RateLimit { tenant_key: Some(_), .. } => Err(format!("{path}.tenant_key: goes with a meter only")),
        RateLimit { unlimited: true, .. } if is_own => {
            Err(format!("{path}: has an amount or a unit although it is unlimited"))
        }
        RateLimit { unlimited: true, .. } => {
            Ok(Limit::RateLimit(v1::RateLimit { unlimited: true, ..v1::RateLimit::default() }))
        }
        RateLimit { unit: None, .. } => Err(format!("{path}: needs a unit, or unlimited: true, or a meter")),
        RateLimit { requests_per_unit: None, .. } => Err(format!("{path}: needs requests_per_unit")),
        RateLimit { unit: Some(Unit(unit)), requests_per_unit: Some(requests_per_unit), .. } => {
            let rolls = matches!(unit, v1::RateLimitUnit::Second | v1::RateLimitUnit::Minute);
            seen.rolling |= rolls;
            seen.calendar |= !rolls;
            Ok(Limit::RateLimit(v1::RateLimit { requests_per_unit, unit: unit.into(), unlimited: false }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        read(text).unwrap_err()
    }

    #[test]
    fn what_is_not_supported_is_refused_with_its_place() {
        let of = |limit: &str| error(&format!("domain: edge\ndescriptors:\n  - key: a\n    rate_limit: {limit}\n"));
        for (limit, expected) in [
            ("{unit: YEAR, requests_per_unit: 1}", "year is not supported"),
            ("{unit: fortnight, requests_per_unit: 1}", "fortnight"),
            ("{unit: day, requests_per_unit: 1, burst: 2}", "burst"),
            ("{unit: day, requests_per_unit: -1}", "line 4"),
            ("{unit: day, requests_per_unit: 4294967296}", "line 4"),
            ("{unit: day}", "descriptors[0].rate_limit: needs requests_per_unit"),
            ("{requests_per_unit: 1}", "descriptors[0].rate_limit: needs a unit"),
            ("{unlimited: true, unit: day}", "descriptors[0].rate_limit: has an amount or a unit"),
            ("{meter: calls, unit: day}", "descriptors[0].rate_limit: a limit is either"),
            ("{tenant_key: org, unit: day, requests_per_unit: 1}", "descriptors[0].rate_limit.tenant_key"),
        ] {
            let told = of(limit);
            assert!(told.contains(expected), "{limit}: {told}");
        }
        for (text, expected) in [
            ("", "line 1"),
            ("descriptors: []\n", "domain"),
            ("domain: edge\nlimits: []\n", "limits"),
            ("domain: edge\ndescriptors:\n  - value: a\n", "key"),
            ("domain: edge\ndescriptors:\n  - key: a\n    quota_mode: true\n", "quota_mode"),
            ("domain: edge\n---\ndomain: other\n", "multiple"),
            ("domain: [", "line 1"),
        ] {
            let told = error(text);
            assert!(told.to_lowercase().contains(expected), "{text:?}: {told}");
        }
        let unknown = error("domain: edge\ndescriptors:\n  - key: a\n    colour: red\n");
        assert!(unknown.contains("colour") && unknown.contains("line 4"), "{unknown}");
    }

    #[test]
    fn scalars_are_the_texts_that_were_written() {
        let text = "domain: 1\ndescriptors:\n  - {key: 2, value: 1.10}\n  - {key: true, value: ''}\n  - key: a\n    value: 007\n";
        let Read { domain, remarks } = read(text).unwrap();
        let pairs: Vec<_> = domain.rules.iter().map(|rule| (rule.key.as_str(), rule.value.as_str())).collect();
        assert_eq!((domain.domain.as_str(), pairs), ("1", vec![("2", "1.10"), ("true", ""), ("a", "007")]));
        assert!(remarks.is_empty());
    }
}
