//! Names of workloads: SPIFFE ids, and which of them are let in. Rules of <https://spiffe.io/docs/latest/spiffe-specs/spiffe-id/>.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest id, in bytes.
const LONGEST: usize = 2048;
/// The longest name of a trust domain, in bytes.
const LONGEST_DOMAIN: usize = 255;

/// The id of a workload, as `spiffe://trust-domain/path`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SpiffeId(Arc<str>);

impl SpiffeId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SpiffeId {
    type Err = String;

    /// Error: what is wrong, for a person. An id without a path names a trust domain and no workload.
    fn from_str(text: &str) -> Result<Self, String> {
        let (domain, path) = parts(text)?;
        if path.is_empty() {
            return Err(format!("{text:?} names the trust domain {domain}, and no workload in it"));
        }
        check_segments(text, path)?;
        Ok(Self(text.into()))
    }
}

/// The trust domain, and the path from its `/` on.
fn parts(text: &str) -> Result<(&str, &str), String> {
    let rest = text.strip_prefix("spiffe://").ok_or_else(|| format!("{text:?} does not begin with spiffe://"))?;
    if text.len() > LONGEST {
        return Err(format!("a SPIFFE id has at most {LONGEST} bytes"));
    }
    let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    if domain.is_empty() || domain.len() > LONGEST_DOMAIN || !domain.bytes().all(is_part) {
        return Err(format!(
            "{text:?} has no trust domain of lower-case letters, digits, dots, dashes and underscores"
        ));
    }
    Ok((domain, path))
}

fn check_segments(text: &str, path: &str) -> Result<(), String> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(is_part);
    // The path begins with a slash, so there is an empty piece before it.
    if path.split('/').skip(1).all(is_segment) {
        return Ok(());
    }
    Err(format!("{text:?} has a path with more than letters, digits, dots, dashes and underscores between its slashes"))
}

/// The workloads that are let in: ids, and prefixes that end in `/*`, separated by commas.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Workloads(Arc<[Pattern]>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Pattern {
    Exact(SpiffeId),
    /// Ends in a slash, so that `/ns/envoy/*` is not `/ns/envoy-of-somebody-else`.
    Below(Box<str>),
}

impl Workloads {
    /// Whether this one is let in.
    #[must_use]
    pub fn contains(&self, id: &SpiffeId) -> bool {
        self.0.iter().any(|pattern| match pattern {
            Pattern::Exact(exact) => exact == id,
            Pattern::Below(prefix) => id.as_str().starts_with(&**prefix),
        })
    }

    /// Whether it lets nobody in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for Workloads {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let patterns = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        patterns.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(prefix) = text.strip_suffix("/*") else { return text.parse().map(Self::Exact) };
        let (_, path) = parts(prefix)?;
        check_segments(text, path)?;
        Ok(Self::Below(format!("{prefix}/").into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_or_refused() {
        for good in ["spiffe://a/b", "spiffe://prod.example/ns/envoy/sa/Side-car_1.x"] {
            assert_eq!(good.parse::<SpiffeId>().unwrap().to_string(), good);
        }
        let long = format!("spiffe://a/{}", "b".repeat(LONGEST));
        let domain = format!("spiffe://{}/b", "a".repeat(LONGEST_DOMAIN + 1));
        let bad = [
            "",
            "a/b",
            "http://a/b",
            "SPIFFE://a/b",
            "spiffe://",
            "spiffe:///b",
            "spiffe://a",
            "spiffe://a/",
            "spiffe://A/b",
            "spiffe://a:80/b",
            "spiffe://u@a/b",
            "spiffe://a/b/",
            "spiffe://a//b",
            "spiffe://a/./b",
            "spiffe://a/../b",
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a/%62",
            "spiffe://a/b c",
            "spiffe://a/*",
            "spiffe://a/b\0",
            &long,
            &domain,
        ];
        for bad in bad {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_list_has_ids_and_prefixes() {
        let workloads: Workloads = "spiffe://prod/ns/envoy/*, spiffe://prod/gateway,,spiffe://edge/*".parse().unwrap();
        let contains = |id: &str| workloads.contains(&id.parse().unwrap());
        for inside in
            ["spiffe://prod/ns/envoy/a", "spiffe://prod/ns/envoy/a/b", "spiffe://prod/gateway", "spiffe://edge/x"]
        {
            assert!(contains(inside), "{inside}");
        }
        for outside in [
            "spiffe://prod/ns/envoy",
            "spiffe://prod/ns/envoys/a",
            "spiffe://prod/gateway/a",
            "spiffe://prod/gateway2",
            "spiffe://edge.evil/x",
            "spiffe://edg/x",
            "spiffe://production/ns/envoy/a",
        ] {
            assert!(!contains(outside), "{outside}");
        }
        assert!("".parse::<Workloads>().unwrap().is_empty());
        for bad in [
            "*",
            "spiffe://*",
            "spiffe://*/a",
            "spiffe://a/b*",
            "spiffe://a/*/b",
            "spiffe://a//*",
            "spiffe://a",
            "prod/x",
        ] {
            assert!(bad.parse::<Workloads>().is_err(), "{bad}");
        }
    }
}
