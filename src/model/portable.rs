//! The file that one organization is exported into: NDJSON, a header, then rows, then an end.
//!
//! ```text
//! {"tenancy_export":1,"schema_version":18,"organization":{…},"exported_at":"…","events":{…}}
//! {"table":"users","row":{…}}
//! {"table":"members","row":{…}}
//! {"end":true,"rows":{"users":1,"members":1},"sha256":"…"}
//! ```
//!
//! A row has the columns of its table, as Postgres writes them as JSON; nothing here reads one as a number or a time, so that
//! no digit is lost. The end says how many rows there are and what the file was when it was written, so that one that was
//! cut off or changed is noticed.

use std::borrow::Cow;
use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::ids::OrganizationId;

/// The version of the file's shape, the one that this code writes and reads. The tables' is the schema's own.
pub const FORMAT: u32 = 1;

/// The first line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Header {
    /// The shape of the file: [`FORMAT`].
    pub tenancy_export: u32,
    /// The newest migration of the schema that the rows are of.
    pub schema_version: i64,
    /// Whose rows they are.
    pub organization: Named,
    /// When it was exported.
    pub exported_at: DateTime<Utc>,
    /// When the oldest and the newest raw event happened; absent where there is none.
    pub events: Option<Span>,
}

/// An organization.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Named {
    /// Its id.
    pub organization_id: OrganizationId,
    /// Its slug.
    pub slug: String,
    /// The key of its plan.
    pub plan: String,
}

/// A span of time, both ends within.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Span {
    pub oldest: DateTime<Utc>,
    pub newest: DateTime<Utc>,
}

/// A row, in the columns that the table had when it was exported.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row<'a> {
    /// The table, without its schema.
    #[serde(borrow)]
    pub table: Cow<'a, str>,
    /// Its columns.
    #[serde(borrow)]
    pub row: BTreeMap<String, &'a RawValue>,
}

/// The last line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// True.
    pub end: bool,
    /// How many rows there are of each table.
    pub rows: BTreeMap<String, u64>,
    /// SHA-256 of all lines before, in hexadecimal.
    pub sha256: String,
}

/// What the lines of a file add up to.
#[derive(Clone, Debug, Default)]
pub struct Sum(Sha256);

impl Sum {
    /// Adds a line, with its end.
    pub fn add(&mut self, line: impl AsRef<[u8]>) {
        self.0.update(line);
    }

    /// SHA-256 of all lines so far, in hexadecimal.
    #[must_use]
    pub fn hex(&self) -> String {
        <[u8; 32]>::from(self.0.clone().finalize()).map(|byte| format!("{byte:02x}")).concat()
    }
}

/// Any line but the first.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Line<'a> {
    Row(Row<'a>),
    End(End),
}

impl Header {
    /// Reads the first line. Error: what is wrong with it, for a person.
    pub fn parse(line: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Version {
            tenancy_export: u32,
        }
        let version: Version =
            serde_json::from_str(line).map_err(|error| format!("no header of an export: {error}"))?;
        if version.tenancy_export != FORMAT {
            return Err(format!("an export of format {}; this version reads {FORMAT}", version.tenancy_export));
        }
        serde_json::from_str(line).map_err(|error| format!("no header of an export: {error}"))
    }
}

impl<'a> Line<'a> {
    /// Reads any line but the first. Error: what is wrong with it, for a person.
    pub fn parse(line: &'a str) -> Result<Self, String> {
        match serde_json::from_str(line) {
            Ok(row) => Ok(Self::Row(row)),
            Err(error) => {
                serde_json::from_str(line).map(Self::End).map_err(|_| format!("no row of an export: {error}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_keeps_every_digit() {
        let line =
            r#"{"table":"usage_aggregates","row":{"quantity_sum":0.100000000000000000000001,"n":9007199254740993}}"#;
        let Line::Row(row) = Line::parse(line).unwrap() else { panic!("a row") };
        assert_eq!(row.row["quantity_sum"].get(), "0.100000000000000000000001");
        assert_eq!(row.row["n"].get(), "9007199254740993");
    }

    #[test]
    fn other_lines_are_refused() {
        for line in ["", "{}", "[]", r#"{"table":"x"}"#, r#"{"table":"x","row":{},"more":1}"#, r#"{"end":true}"#] {
            assert!(Line::parse(line).is_err(), "{line}");
        }
        assert!(Header::parse(r#"{"tenancy_export":2}"#).unwrap_err().contains("format 2"));
    }
}
