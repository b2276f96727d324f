//! Tokens between protobuf and the model.

use std::collections::HashSet;

use chrono::TimeDelta;
use prost_types::Duration;

use crate::auth::permission::{Permission, Permissions};
use crate::auth::tokens::PublicKey;
use crate::error::{Error, Violation, Violations};
use crate::ids::UserId;
use crate::proto::v1;

/// What somebody wants of a token.
#[derive(Debug)]
pub struct Wanted {
    /// No more than this; `None` means all there is.
    pub permissions: Option<Permissions>,
    /// No longer than this.
    pub lifetime: Option<TimeDelta>,
}

impl Wanted {
    /// Of what a token would allow, what is wanted.
    #[must_use]
    pub fn of(&self, all: Permissions) -> Permissions {
        self.permissions.map_or(all, |wanted| all.and(wanted))
    }
}

/// The user whose token it is to be, and what is wanted of it. Error: `INVALID_FIELD` with every violation.
pub fn issue(request: &v1::IssueTokenRequest) -> Result<(UserId, Wanted), Error> {
    let mut wrong = Violations::default();
    let user_id = request.user_id.parse().map_err(|_: Error| Violation::new("user_id", "must be a UUID"));
    let user_id = wrong.take(user_id);
    let wanted = wanted(&mut wrong, &request.permissions, request.lifetime);
    wrong.finish()?;
    let user_id = user_id.ok_or_else(|| Error::internal("a request lacks a user without a violation"))?;
    Ok((user_id, wanted))
}

/// What is wanted of a token that a key is exchanged for. Error: `INVALID_FIELD` with every violation.
pub fn exchange(request: &v1::ExchangeApiKeyRequest, presented: Result<(), Violation>) -> Result<Wanted, Error> {
    let mut wrong = Violations::default();
    wrong.take(presented);
    let wanted = wanted(&mut wrong, &request.permissions, request.lifetime);
    wrong.finish()?;
    Ok(wanted)
}

fn wanted(wrong: &mut Violations, permissions: &[String], lifetime: Option<Duration>) -> Wanted {
    let lifetime = lifetime.and_then(|lifetime| wrong.take(at_least_a_second(lifetime)));
    let permissions = (!permissions.is_empty()).then(|| narrowed(wrong, permissions));
    Wanted { permissions, lifetime }
}

fn narrowed(wrong: &mut Violations, names: &[String]) -> Permissions {
    if names.len() > Permission::ALL.len() || names.iter().collect::<HashSet<_>>().len() < names.len() {
        wrong.add("permissions", "must name each permission at most once");
        return Permissions::default();
    }
    let read = names.iter().enumerate().filter_map(|(position, name)| {
        let rule = "is not a permission; ListPermissions has them";
        let read = name.parse::<Permission>().map_err(|_| Violation::new(format!("permissions[{position}]"), rule));
        wrong.take(read)
    });
    read.collect()
}

fn at_least_a_second(lifetime: Duration) -> Result<TimeDelta, Violation> {
    let nanos = u32::try_from(lifetime.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    let read = nanos.and_then(|nanos| TimeDelta::new(lifetime.seconds, nanos));
    let read = read.filter(|lifetime| *lifetime >= TimeDelta::seconds(1));
    read.ok_or_else(|| Violation::new("lifetime", "must be at least a second"))
}

/// For the wire.
#[must_use]
pub fn to_proto(key: PublicKey) -> v1::JsonWebKey {
    let PublicKey { kty, crv, x, kid, alg, purpose } = key;
    v1::JsonWebKey { kty: kty.into(), crv: crv.into(), x, kid, alg: alg.into(), r#use: purpose.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let request = v1::IssueTokenRequest {
            user_id: "ida".into(),
            permissions: vec!["usage.read".into(), "root".into()],
            lifetime: Some(Duration { seconds: 0, nanos: 999_999_999 }),
            ..Default::default()
        };
        let Err(Error::Invalid(violations)) = issue(&request) else { panic!("it was taken") };
        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["user_id", "lifetime", "permissions[1]"]);
        let twice = v1::ExchangeApiKeyRequest { permissions: vec!["usage.read".into(); 2], ..Default::default() };
        assert!(exchange(&twice, Ok(())).is_err());
    }

    #[test]
    fn less_is_less_and_nothing_said_is_all() {
        let (all, read) = (Permissions::ALL, Permissions::only(Permission::UsageRead));
        let of = |names: &[&str]| {
            let request = v1::ExchangeApiKeyRequest {
                permissions: names.iter().map(ToString::to_string).collect(),
                ..Default::default()
            };
            exchange(&request, Ok(())).unwrap()
        };
        assert_eq!((of(&[]).of(all), of(&["usage.read"]).of(all)), (all, read));
        assert_eq!(of(&["audit.read"]).of(read), Permissions::default());
        for bad in [(0, 0), (-1, 0), (1, -1), (1, 1_000_000_000), (i64::MAX, 0), (i64::MIN, 0)] {
            assert!(at_least_a_second(Duration { seconds: bad.0, nanos: bad.1 }).is_err(), "{bad:?}");
        }
        assert_eq!(at_least_a_second(Duration { seconds: 1, nanos: 0 }), Ok(TimeDelta::seconds(1)));
    }
}
