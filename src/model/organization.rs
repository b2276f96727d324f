//! Organizations: what an organization is and what its fields may be.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::error::Violation;
use crate::ids::OrganizationId;
use crate::model::text::Labels;

/// How long a deleted organization can be brought back, in days, unless configured otherwise.
pub const PURGE_AFTER_DAYS: i64 = 30;

/// The plan of an organization that is created without one.
const FIRST_PLAN: &str = "free";

/// A tenant.
#[derive(Clone, Debug, Serialize)]
pub struct Organization {
    /// Its id.
    pub organization_id: OrganizationId,
    /// What can be changed with a mask.
    #[serde(flatten)]
    pub profile: Profile,
    /// When and why it was suspended.
    pub suspension: Option<Suspension>,
    /// When it was deleted, and when it is purged.
    pub deletion: Option<Deletion>,
    /// Counts the changes.
    pub revision: i64,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// The last change.
    pub update_time: DateTime<Utc>,
}

/// The fields of an organization that are given at creation and changed with a mask.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// The name in URLs.
    pub slug: String,
    /// The name for people.
    pub display_name: String,
    /// What it pays for: the key of a plan.
    pub plan: String,
    /// Empty or an address.
    pub contact_email: String,
    /// Empty or an address.
    pub billing_email: String,
    /// In which its days and months turn.
    pub time_zone: chrono_tz::Tz,
    /// On which day of the month its months of limits turn, 1 to 31; the last one in a shorter month.
    pub billing_anchor_day: u8,
    /// ISO 4217.
    pub currency: String,
    /// BCP 47.
    pub locale: String,
    /// How dates are shown.
    pub date_format: String,
    /// Empty or an https URI.
    pub logo_uri: String,
    /// Empty or `#rrggbb`.
    pub primary_color: String,
    /// Free labels.
    pub labels: Labels,
    /// `None`: what the plan says.
    pub member_limit: Option<i32>,
    /// `None`: what the plan says.
    pub team_limit: Option<i32>,
    /// A JSON object.
    pub settings: Value,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            slug: String::new(),
            display_name: String::new(),
            plan: FIRST_PLAN.into(),
            contact_email: String::new(),
            billing_email: String::new(),
            time_zone: chrono_tz::UTC,
            billing_anchor_day: 1,
            currency: "USD".into(),
            locale: "en".into(),
            date_format: DATE_FORMATS[0].into(),
            logo_uri: String::new(),
            primary_color: String::new(),
            labels: Labels::new(),
            member_limit: None,
            team_limit: None,
            settings: Value::Object(serde_json::Map::new()),
        }
    }
}

/// When and why an organization was suspended.
#[derive(Clone, Debug, Serialize)]
pub struct Suspension {
    /// When.
    pub time: DateTime<Utc>,
    /// Why, as the operator put it.
    pub reason: String,
}

/// When an organization was deleted.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Deletion {
    /// When.
    pub time: DateTime<Utc>,
    /// When everything of it goes for good.
    pub purge_time: DateTime<Utc>,
}

/// 3 to 63 characters of a-z, 0-9 and single hyphens, starting with a letter, not ending with a hyphen. Never a UUID: the
/// first character alone would not tell, so the form is refused.
pub fn slug(field: &str, text: &str) -> Result<String, Violation> {
    let good = (3..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && !text.contains("--")
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && crate::ids::parse_uuid(text).is_none();
    if good {
        return Ok(text.to_owned());
    }
    let rule = "must be 3 to 63 characters of a-z, 0-9 and single hyphens, starting with a letter, and no UUID";
    Err(Violation::new(field, rule))
}

/// An IANA zone that this build knows.
pub fn time_zone(field: &str, text: &str) -> Result<chrono_tz::Tz, Violation> {
    text.parse().map_err(|_| Violation::new(field, "must be an IANA time zone such as Europe/Rome"))
}

/// A day of the month, 1 to 31.
pub fn billing_anchor_day(field: &str, day: i32) -> Result<u8, Violation> {
    let good = u8::try_from(day).ok().filter(|day| (1..=31).contains(day));
    good.ok_or_else(|| Violation::new(field, "must be a day of the month, 1 to 31"))
}

/// An ISO 4217 code in upper case.
pub fn currency(field: &str, text: &str) -> Result<String, Violation> {
    iso_currency::Currency::from_code(text)
        .map(|currency| currency.code().to_owned())
        .ok_or_else(|| Violation::new(field, "must be an ISO 4217 code such as EUR"))
}

const DATE_FORMATS: [&str; 4] = ["YYYY-MM-DD", "DD/MM/YYYY", "MM/DD/YYYY", "DD.MM.YYYY"];

/// One of the known date formats.
pub fn date_format(field: &str, text: &str) -> Result<String, Violation> {
    if DATE_FORMATS.contains(&text) {
        return Ok(text.to_owned());
    }
    Err(Violation::new(field, format!("must be one of {}", DATE_FORMATS.join(", "))))
}

/// Empty, or `#` and six hexadecimal digits.
pub fn primary_color(field: &str, text: &str) -> Result<String, Violation> {
    let good = text.is_empty()
        || text.strip_prefix('#').is_some_and(|hex| hex.len() == 6 && hex.bytes().all(|b| b.is_ascii_hexdigit()));
    if good { Ok(text.to_owned()) } else { Err(Violation::new(field, "must be empty or a colour such as #1a73e8")) }
}

/// Absent, or 1 to 1,000,000.
pub fn member_limit(field: &str, limit: Option<i32>) -> Result<Option<i32>, Violation> {
    match limit {
        Some(limit) if !(1..=1_000_000).contains(&limit) => {
            Err(Violation::new(field, "must be 1 to 1000000, or absent for no limit"))
        }
        limit => Ok(limit),
    }
}

/// Absent, or 0 to 10,000.
pub fn team_limit(field: &str, limit: Option<i32>) -> Result<Option<i32>, Violation> {
    match limit {
        Some(limit) if !(0..=10_000).contains(&limit) => {
            Err(Violation::new(field, "must be 0 to 10000, or absent for no limit"))
        }
        limit => Ok(limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs() {
        for good in ["abc", "techcorp", "a1-b2-c3"] {
            assert!(slug("slug", good).is_ok(), "{good}");
        }
        let uuid = "a1234567-1234-7234-8234-123456789abc";
        for bad in ["", "ab", "1abc", "abc-", "a--b", "Abc", "a_b", &"a".repeat(64), uuid] {
            assert!(slug("slug", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn zones_currencies_and_the_rest() {
        assert!(time_zone("f", "Asia/Kathmandu").is_ok());
        assert!(time_zone("f", "Mars/Olympus").is_err());
        assert!(billing_anchor_day("f", 31).is_ok_and(|day| day == 31));
        assert!([-1, 0, 32, 257].into_iter().all(|day| billing_anchor_day("f", day).is_err()));
        assert!(currency("f", "EUR").is_ok());
        assert!(currency("f", "eur").is_err() && currency("f", "XYZ").is_err());
        assert!(primary_color("f", "#1a73E8").is_ok() && primary_color("f", "1a73e8").is_err());
        assert!(member_limit("f", Some(0)).is_err() && member_limit("f", None).is_ok());
        assert!(team_limit("f", Some(0)).is_ok() && team_limit("f", Some(10_001)).is_err());
    }
}
