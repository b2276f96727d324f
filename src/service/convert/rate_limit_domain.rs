//! Rate limit domains between protobuf and the model.

use crate::error::{Error, Violations};
use crate::model::etag;
use crate::model::limit::{Unit, Window};
use crate::model::rate_limit_domain::{self as rules, Limit, RateLimitDomain, Rule, TENANT};
use crate::proto::v1;
use crate::proto::v1::rate_limit_rule::Limit as ProtoLimit;
use crate::service::convert::timestamp;

/// The fields that an update mask can name.
pub const FIELDS: &[&str] = &["rules"];

/// For the wire.
#[must_use]
pub fn to_proto(domain: RateLimitDomain) -> v1::RateLimitDomain {
    v1::RateLimitDomain {
        domain: domain.domain,
        rules: domain.rules.into_iter().map(rule).collect(),
        rule_count: i32::try_from(domain.rule_count).unwrap_or(i32::MAX),
        etag: etag::of(domain.revision),
        create_time: Some(timestamp(domain.create_time)),
        update_time: Some(timestamp(domain.update_time)),
    }
}

fn rule(rule: Rule) -> v1::RateLimitRule {
    let limit = rule.limit.map(|limit| match limit {
        Limit::Unlimited => ProtoLimit::RateLimit(v1::RateLimit { unlimited: true, ..v1::RateLimit::default() }),
        Limit::Own { requests, window } => ProtoLimit::RateLimit(v1::RateLimit {
            requests_per_unit: requests,
            unit: unit(window).into(),
            unlimited: false,
        }),
        Limit::Tenant { meter, tenant_key } => ProtoLimit::TenantLimit(v1::TenantRateLimit { meter, tenant_key }),
    });
    v1::RateLimitRule {
        key: rule.key,
        value: rule.value,
        limit,
        name: rule.name,
        shadow_mode: rule.shadow,
        replaces: rule.replaces,
        rules: rule.rules.into_iter().map(self::rule).collect(),
    }
}

const fn unit(window: Window) -> v1::RateLimitUnit {
    match window {
        Window::Calendar(unit) | Window::Rolling(unit) => match unit {
            Unit::Second => v1::RateLimitUnit::Second,
            Unit::Minute => v1::RateLimitUnit::Minute,
            Unit::Hour => v1::RateLimitUnit::Hour,
            Unit::Day => v1::RateLimitUnit::Day,
            Unit::Week => v1::RateLimitUnit::Week,
            Unit::Month => v1::RateLimitUnit::Month,
        },
        // No rule has one.
        Window::Lifetime => v1::RateLimitUnit::Unspecified,
    }
}

/// The name and the rules of a domain as it was sent. Error: `INVALID_FIELD` with every violation.
pub fn read(message: v1::RateLimitDomain) -> Result<(String, Vec<Rule>), Error> {
    let mut wrong = Violations::default();
    let name = wrong.take(rules::domain("domain", &message.domain));
    let rules = read_level("rules", message.rules, &mut wrong);
    rules::check("rules", &rules, &mut wrong);
    wrong.finish().map_err(|error| error.within("rate_limit_domain"))?;
    let name = name.ok_or_else(|| Error::internal("a domain without a name and without a violation"))?;
    Ok((name, rules))
}

fn read_level(field: &str, sent: Vec<v1::RateLimitRule>, wrong: &mut Violations) -> Vec<Rule> {
    let rules = sent.into_iter().enumerate().map(|(position, rule)| {
        let field = format!("{field}[{position}]");
        Rule {
            key: rule.key,
            value: rule.value,
            limit: rule.limit.and_then(|limit| read_limit(&field, limit, wrong)),
            name: rule.name,
            shadow: rule.shadow_mode,
            replaces: rule.replaces,
            rules: read_level(&format!("{field}.rules"), rule.rules, wrong),
        }
    });
    rules.collect()
}

fn read_limit(field: &str, limit: ProtoLimit, wrong: &mut Violations) -> Option<Limit> {
    match limit {
        ProtoLimit::RateLimit(v1::RateLimit { requests_per_unit: 0, unit: 0, unlimited: true }) => {
            Some(Limit::Unlimited)
        }
        ProtoLimit::RateLimit(v1::RateLimit { unlimited: true, .. }) => {
            wrong.add(format!("{field}.rate_limit.unlimited"), "must not be set beside an amount or a unit");
            None
        }
        ProtoLimit::RateLimit(limit) => {
            let unit = match limit.unit() {
                v1::RateLimitUnit::Second => Unit::Second,
                v1::RateLimitUnit::Minute => Unit::Minute,
                v1::RateLimitUnit::Hour => Unit::Hour,
                v1::RateLimitUnit::Day => Unit::Day,
                v1::RateLimitUnit::Week => Unit::Week,
                v1::RateLimitUnit::Month => Unit::Month,
                v1::RateLimitUnit::Unspecified => {
                    wrong.add(format!("{field}.rate_limit.unit"), "must be one of the units");
                    return None;
                }
            };
            Some(Limit::Own { requests: limit.requests_per_unit, window: rules::window(unit) })
        }
        ProtoLimit::TenantLimit(v1::TenantRateLimit { meter, tenant_key }) => {
            let tenant_key = if tenant_key.is_empty() { TENANT.to_owned() } else { tenant_key };
            Some(Limit::Tenant { meter, tenant_key })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_come_back_as_they_were_sent() {
        let own = |unit: v1::RateLimitUnit| {
            Some(ProtoLimit::RateLimit(v1::RateLimit { requests_per_unit: 5, unit: unit.into(), unlimited: false }))
        };
        let named = |key: &str, limit| v1::RateLimitRule { key: key.into(), limit, ..v1::RateLimitRule::default() };
        let units = (1..=6).map(|unit| v1::RateLimitUnit::try_from(unit).unwrap());
        let mut sent: Vec<_> = units.map(|unit| named(unit.as_str_name(), own(unit))).collect();
        let unlimited = v1::RateLimit { unlimited: true, ..v1::RateLimit::default() };
        let tenant = v1::TenantRateLimit { meter: "api.calls".into(), tenant_key: TENANT.into() };
        sent.push(v1::RateLimitRule {
            value: "v*".into(),
            name: "n".into(),
            shadow_mode: true,
            replaces: vec!["m".into()],
            rules: vec![named("tenant", Some(ProtoLimit::TenantLimit(tenant)))],
            ..named("unlimited", Some(ProtoLimit::RateLimit(unlimited)))
        });
        let message = v1::RateLimitDomain { domain: "edge".into(), rules: sent.clone(), ..Default::default() };
        let (domain, rules) = read(message).unwrap();
        assert_eq!((domain.as_str(), rules.into_iter().map(rule).collect::<Vec<_>>()), ("edge", sent));
    }

    #[test]
    fn every_violation_has_its_path() {
        let of = |limit| v1::RateLimitRule { key: "k".into(), limit: Some(limit), ..v1::RateLimitRule::default() };
        let unlimited = v1::RateLimit { unlimited: true, requests_per_unit: 1, unit: 1 };
        let rules = vec![v1::RateLimitRule {
            rules: vec![of(ProtoLimit::RateLimit(unlimited))],
            ..of(ProtoLimit::RateLimit(v1::RateLimit { unit: 7, ..v1::RateLimit::default() }))
        }];
        let Err(Error::Invalid(wrong)) = read(v1::RateLimitDomain { rules, ..Default::default() }) else {
            panic!("taken")
        };
        let mut fields: Vec<_> = wrong.iter().map(|violation| violation.field.as_str()).collect();
        fields.sort_unstable();
        let within = "rate_limit_domain.rules[0]";
        let expected = [
            "rate_limit_domain.domain".to_owned(),
            format!("{within}.rate_limit.unit"),
            format!("{within}.rules[0].rate_limit.unlimited"),
        ];
        assert_eq!(fields, expected);
    }
}
