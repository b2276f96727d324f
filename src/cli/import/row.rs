//! What a row says: the same fields in either format, read by the same rules.

use std::collections::BTreeMap;

use clap::ValueEnum;
use prost::Message as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::proto::v1;
use crate::service::convert::to_struct;

/// What a row is about, in the order in which rows of different kinds are sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, ValueEnum)]
pub enum Kind {
    /// An organization
    Organization,
    /// A user
    User,
    /// A team of an organization
    Team,
    /// A member of an organization
    Member,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Organization, Self::User, Self::Team, Self::Member];

    /// As in files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::User => "user",
            Self::Team => "team",
            Self::Member => "member",
        }
    }
}

/// A row.
#[derive(Clone, Debug)]
pub enum Row {
    /// An organization.
    Organization(Box<v1::Organization>),
    /// A user.
    User(Box<v1::User>),
    /// A team.
    Team(Team),
    /// A member.
    Member(Member),
}

/// A team, by its path.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Team {
    /// UUID or slug; empty for the key's own.
    #[serde(default)]
    pub organization: String,
    /// The names from the root down to it.
    pub path: String,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// Free labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A member, by address or by id.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// UUID or slug; empty for the key's own.
    #[serde(default)]
    pub organization: String,
    /// The user's address.
    #[serde(default)]
    pub email: String,
    /// Or their id.
    #[serde(default)]
    pub user_id: String,
    /// In which role.
    pub role: String,
    /// To which teams.
    #[serde(default)]
    pub teams: Vec<String>,
    /// The name of a user who is to be created.
    #[serde(default)]
    pub display_name: String,
}

impl Member {
    /// As the service takes it.
    pub fn message(&self) -> v1::NewMember {
        v1::NewMember {
            user_id: self.user_id.clone(),
            email: self.email.clone(),
            role: self.role.clone(),
            teams: self.teams.clone(),
        }
    }

    /// The user, where the row names them by address.
    pub fn user(&self) -> Option<v1::User> {
        let display_name = if self.display_name.is_empty() { &self.email } else { &self.display_name };
        let user = v1::User { email: self.email.clone(), display_name: display_name.clone(), ..v1::User::default() };
        (!self.email.is_empty()).then_some(user)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Organization {
    slug: String,
    display_name: String,
    #[serde(default)]
    plan: String,
    #[serde(default)]
    contact_email: String,
    #[serde(default)]
    billing_email: String,
    #[serde(default)]
    time_zone: String,
    #[serde(default)]
    billing_anchor_day: i32,
    #[serde(default)]
    currency: String,
    #[serde(default)]
    locale: String,
    #[serde(default)]
    date_format: String,
    branding: Option<Branding>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    member_limit: Option<i32>,
    settings: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Branding {
    #[serde(default)]
    logo_uri: String,
    #[serde(default)]
    primary_color: String,
}

impl From<Organization> for v1::Organization {
    fn from(row: Organization) -> Self {
        let branding = |row: Branding| v1::Branding { logo_uri: row.logo_uri, primary_color: row.primary_color };
        Self {
            slug: row.slug,
            display_name: row.display_name,
            plan: row.plan,
            contact_email: row.contact_email,
            billing_email: row.billing_email,
            time_zone: row.time_zone,
            billing_anchor_day: row.billing_anchor_day,
            currency: row.currency,
            locale: row.locale,
            date_format: row.date_format,
            branding: row.branding.map(branding),
            labels: row.labels,
            member_limit: row.member_limit,
            settings: row.settings.map(Value::Object).map(to_struct),
            ..Self::default()
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct User {
    email: String,
    display_name: String,
    #[serde(default)]
    avatar_uri: String,
    #[serde(default)]
    locale: String,
    identity: Option<Identity>,
    settings: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    provider: String,
    subject: String,
}

impl From<User> for v1::User {
    fn from(row: User) -> Self {
        let identity = |row: Identity| v1::ExternalIdentity { provider: row.provider, subject: row.subject };
        Self {
            email: row.email,
            display_name: row.display_name,
            avatar_uri: row.avatar_uri,
            locale: row.locale,
            identity: row.identity.map(identity),
            settings: row.settings.map(Value::Object).map(to_struct),
            ..Self::default()
        }
    }
}

/// What holds for rows that do not say.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// What they are about.
    pub kind: Option<Kind>,
    /// The organization of teams and members.
    pub organization: String,
}

/// The largest message that a row may be: several have to fit into a request of 4 MiB.
const LARGEST: usize = 1 << 20;

/// The row of an object. Error: what is wrong with it, and its kind where that is known.
pub fn read(mut fields: Map<String, Value>, defaults: &Defaults) -> Result<Row, (Option<Kind>, String)> {
    fields.retain(|_, value| !value.is_null());
    let kind = match fields.remove("type") {
        None => defaults.kind.ok_or_else(|| (None, "type must be set, here or with --type".to_owned()))?,
        Some(named) => {
            let known = Kind::ALL.into_iter().find(|kind| named.as_str() == Some(kind.as_str()));
            known.ok_or_else(|| (None, format!("type must be organization, user, team or member, not {named}")))?
        }
    };
    let own = |organization: &mut String| {
        if organization.is_empty() {
            organization.clone_from(&defaults.organization);
        }
    };
    let row = match kind {
        Kind::Organization => parse::<Organization>(fields).map(|row| Row::Organization(Box::new(row.into()))),
        Kind::User => parse::<User>(fields).map(|row| Row::User(Box::new(row.into()))),
        Kind::Team => parse::<Team>(fields).map(|mut team| {
            own(&mut team.organization);
            Row::Team(team)
        }),
        Kind::Member => parse::<Member>(fields).map(|mut member| {
            own(&mut member.organization);
            Row::Member(member)
        }),
    };
    let row = row.map_err(|why| (Some(kind), why))?;
    let size = match &row {
        Row::Organization(message) => message.encoded_len(),
        Row::User(message) => message.encoded_len(),
        Row::Team(_) | Row::Member(_) => 0,
    };
    if size > LARGEST {
        return Err((Some(kind), format!("settings are far too large: {size} bytes")));
    }
    Ok(row)
}

fn parse<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T, String> {
    serde_json::from_value(Value::Object(fields)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(value: Value, defaults: &Defaults) -> Result<Row, String> {
        let Value::Object(fields) = value else { panic!("no object") };
        read(fields, defaults).map_err(|(_, why)| why)
    }

    #[test]
    fn rows_are_read_and_what_is_wrong_is_named() {
        let none = Defaults::default();
        let acme = Defaults { kind: Some(Kind::Member), organization: "acme".into() };
        let Row::Member(member) = of(json!({"email": "a@b.co", "role": "viewer", "user_id": null}), &acme).unwrap()
        else {
            panic!("no member")
        };
        assert_eq!((member.organization.as_str(), member.message().email.as_str()), ("acme", "a@b.co"));
        let user = json!({"type": "user", "email": "a@b.co", "display_name": "A", "identity": {"provider": "p", "subject": "s"}});
        let Row::User(user) = of(user, &acme).unwrap() else { panic!("no user") };
        assert_eq!(user.identity.unwrap().subject, "s");
        for (row, expected) in [
            (json!({"email": "a@b.co"}), "type"),
            (json!({"type": "person"}), "person"),
            (json!({"type": "member", "email": "a@b.co"}), "role"),
            (json!({"type": "member", "role": "viewer", "rle": "x"}), "rle"),
            (json!({"type": "team", "path": 7}), "string"),
            (json!({"type": "organization", "slug": "acme", "display_name": "A", "member_limit": "7"}), "i32"),
            (json!({"type": "user", "email": "a@b.co", "display_name": "A", "settings": []}), "map"),
        ] {
            let why = of(row, &none).unwrap_err();
            assert!(why.contains(expected), "{expected}: {why}");
        }
    }
}
