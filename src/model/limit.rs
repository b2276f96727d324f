//! Limits: how much of what, by whom, in which time. Of plans, and of organizations.

pub mod rules;

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{LimitId, MeterId, OrganizationId};

/// The most that one decision is about, and the most that a limit admits in a window.
pub const MOST: u64 = 1_000_000_000_000_000;

/// The most that a limit admits in a rolling window of a second or a minute, and its greatest burst.
pub const MOST_RATE: u64 = 1_000_000_000;

/// The most limits that are made for one organization, beside those of its plan.
pub const MOST_LIMITS: i64 = 10_000;

/// A limit that was made for an organization.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Limit {
    /// The organization.
    pub organization_id: OrganizationId,
    /// Its id.
    pub limit_id: LimitId,
    /// Whose it is.
    pub maker: Maker,
    /// The one subject it holds for; `None`: each of its kind.
    pub subject_id: Option<Uuid>,
    /// What it says.
    #[serde(flatten)]
    pub rule: Rule,
    /// Counts its changes.
    pub revision: i64,
    /// When it was created.
    pub create_time: DateTime<Utc>,
    /// When it was last changed.
    pub update_time: DateTime<Utc>,
}

/// Who made a limit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Maker {
    /// A platform key: it replaces the plan's.
    Platform,
    /// The organization: it holds in addition.
    Organization,
}

impl Maker {
    /// As in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Organization => "organization",
        }
    }
}

/// What a limit says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rule {
    /// What is counted.
    pub meter_id: MeterId,
    /// Whose consumption is added up.
    pub subject_kind: SubjectKind,
    /// In which time.
    pub window: Window,
    /// How much, and what then.
    pub terms: Terms,
}

impl Rule {
    /// What of it cannot be changed, and is one of its kind in a plan.
    #[must_use]
    pub const fn identity(&self) -> (MeterId, SubjectKind, Window) {
        (self.meter_id, self.subject_kind, self.window)
    }
}

/// The part of a rule that can be changed: what is counted stays the same.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Terms {
    /// How much is admitted in a window; `None`: without a limit.
    pub amount: Option<u64>,
    /// Of a rate: what the token bucket holds; 0: no bucket.
    #[serde(default)]
    pub burst: u64,
    /// What happens past the amount.
    #[serde(default)]
    pub enforcement: Enforcement,
    /// Whether it only reports.
    #[serde(default)]
    pub shadow: bool,
    /// What is decided without the database; `None`: by the enforcement.
    #[serde(default)]
    pub fallback: Option<Fallback>,
    /// At which percentages of the amount an alert is raised, rising.
    #[serde(default)]
    pub alert_percents: Vec<u16>,
}

impl Terms {
    /// Whether consumption past the amount is admitted.
    #[must_use]
    pub fn is_soft(&self) -> bool {
        self.enforcement == Enforcement::Soft
    }

    /// The percentages of alerts that were reached when so much is used, and those that were reached before.
    #[must_use]
    pub fn reached(&self, used: u64, before: &[u16]) -> Vec<u16> {
        let amount = u128::from(self.amount.unwrap_or(u64::MAX));
        let is_reached = |percent: &u16| u128::from(used) * 100 >= amount * u128::from(*percent);
        self.alert_percents.iter().copied().filter(|percent| before.contains(percent) || is_reached(percent)).collect()
    }

    /// What is decided when the database is away and what was granted is used up.
    #[must_use]
    pub fn fallback(&self) -> Fallback {
        self.fallback.unwrap_or(if self.is_soft() { Fallback::Admit } else { Fallback::Deny })
    }
}

/// What happens past the amount.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Enforcement {
    /// Denied.
    #[default]
    Hard,
    /// Admitted, and counted as overage.
    Soft,
}

/// What is decided without the database.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Fallback {
    Deny,
    Admit,
}

/// Whose consumption is added up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum SubjectKind {
    Organization,
    Team,
    User,
    ApiKey,
}

impl SubjectKind {
    /// As in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::Team => "team",
            Self::User => "user",
            Self::ApiKey => "api_key",
        }
    }

    /// Reads what the database has.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Organization, Self::Team, Self::User, Self::ApiKey].into_iter().find(|kind| kind.as_str() == name)
    }
}

/// The time in which consumption is added up. In the database by its name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub enum Window {
    /// One after the other, in the calendar of the organization.
    Calendar(Unit),
    /// What ends now.
    Rolling(Unit),
    /// For ever.
    Lifetime,
}

/// How long a window is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Unit {
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
}

const WINDOWS: [(&str, Window); 13] = [
    ("calendar_second", Window::Calendar(Unit::Second)),
    ("calendar_minute", Window::Calendar(Unit::Minute)),
    ("calendar_hour", Window::Calendar(Unit::Hour)),
    ("calendar_day", Window::Calendar(Unit::Day)),
    ("calendar_week", Window::Calendar(Unit::Week)),
    ("calendar_month", Window::Calendar(Unit::Month)),
    ("rolling_second", Window::Rolling(Unit::Second)),
    ("rolling_minute", Window::Rolling(Unit::Minute)),
    ("rolling_hour", Window::Rolling(Unit::Hour)),
    ("rolling_day", Window::Rolling(Unit::Day)),
    ("rolling_week", Window::Rolling(Unit::Week)),
    ("rolling_month", Window::Rolling(Unit::Month)),
    ("lifetime", Window::Lifetime),
];

impl Window {
    /// As in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        // Every window is in the list: a test compares.
        WINDOWS.iter().find(|(_, window)| *window == self).map_or("", |(name, _)| name)
    }

    /// Whether it is a rate: a rolling window so short that replicas share it and do not take slices of it.
    #[must_use]
    pub const fn is_rate(self) -> bool {
        matches!(self, Self::Rolling(Unit::Second | Unit::Minute))
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Window> for &'static str {
    fn from(window: Window) -> Self {
        window.as_str()
    }
}

impl TryFrom<String> for Window {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let found = WINDOWS.iter().find(|(known, _)| *known == name);
        found.map(|(_, window)| *window).ok_or_else(|| format!("{name:?} is no window"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_window_has_a_name() {
        let units = [Unit::Second, Unit::Minute, Unit::Hour, Unit::Day, Unit::Week, Unit::Month];
        let all = units.into_iter().flat_map(|unit| [Window::Calendar(unit), Window::Rolling(unit)]);
        for window in all.chain([Window::Lifetime]) {
            assert_eq!(Window::try_from(window.as_str().to_owned()), Ok(window));
        }
        assert!(Window::try_from("fortnight".to_owned()).is_err());
    }
}
