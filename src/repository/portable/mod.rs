//! One organization as a file and back: `export` reads every row that it has, `restore` writes them where it is not yet.
//!
//! Both go by the catalog and not by a list of tables, so that no table can be forgotten: what has an `organization_id`
//! is the organization's, and moves, unless [`LEFT_OUT`] says why not. Beside that move the users who are its members, and
//! the definitions of the platform-wide meters that its rows name.
//!
//! The export runs as any tenant scope does, in one snapshot: row level security bounds what can be in the file, whatever
//! is wrong here. The restore is the owner's work, as migrations are ([`owner`]), in one transaction, under the policies
//! of the one organization.
//!
//! # What limits were granted
//!
//! The accounts of the ledger move as they are, with what replicas held of them. Those replicas are not there on the other
//! installation and never give anything back; to the ledger they are replicas that died: what they held counts as spent, to
//! the end of its window. So nothing is granted a second time, also not what they used after the export without saying so. What
//! the origin grants after the export is not in it, so who moves an organization suspends it first.
//! Of a rate, their shares rest for one window. A reservation that is open stays counted; its id is signed by the
//! installation that made it, so it cannot be settled elsewhere. Operations that happen once are known on the other side
//! too, for as long as they are kept.

pub mod export;
pub mod owner;
pub mod restore;

use std::fmt;

use crate::error::Error;
use crate::repository::scope::Scope;

/// Tables with an `organization_id` that stay behind, each with the reason.
pub const LEFT_OUT: &[(&str, &str)] = &[(
    "idempotent_requests",
    "replies to repeated requests, kept for a day; who repeats one does so where it was made",
)];

/// A table of what moves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// Its name, without the schema.
    pub name: String,
    /// Its columns but the generated ones.
    pub columns: Vec<String>,
    /// The columns by which its rows are ordered: its key, or what its rows refer to of each other, so that of a tree the
    /// upper ones come first.
    pub order: Vec<String>,
}

impl Table {
    /// Whether it has the column.
    #[must_use]
    pub fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|name| name == column)
    }
}

/// The organization's tables, parents before children.
pub async fn tables<K: fmt::Debug + Send>(scope: &mut Scope<K>) -> Result<Vec<Table>, Error> {
    let left_out: Vec<String> = LEFT_OUT.iter().map(|(table, _)| (*table).to_owned()).collect();
    let found = sqlx::query_as!(
        Table,
        r#"WITH RECURSIVE tenant AS (
               SELECT c.oid, c.relname FROM pg_class c
               JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'organization_id' AND NOT a.attisdropped
               WHERE c.relnamespace = 'tenancy'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
                 AND c.relname <> ALL ($1::text[])
           ), depth (oid, level) AS (
               -- The organization before what does not refer to it.
               SELECT oid, CASE relname WHEN 'organization_slugs' THEN 0 WHEN 'organizations' THEN 1 ELSE 2 END FROM tenant
               UNION
               SELECT t.oid, d.level + 1 FROM depth d
               JOIN pg_constraint f ON f.confrelid = d.oid AND f.contype = 'f' AND f.conparentid = 0 AND f.conrelid <> d.oid
               JOIN tenant t ON t.oid = f.conrelid
           )
           SELECT t.relname::text AS "name!",
               ARRAY(SELECT a.attname::text FROM pg_attribute a
                   WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
                   ORDER BY a.attnum) AS "columns!",
               ARRAY(SELECT a.attname::text
                   FROM unnest(coalesce(
                       (SELECT f.confkey FROM pg_constraint f
                        WHERE f.conrelid = t.oid AND f.confrelid = t.oid AND f.contype = 'f' ORDER BY f.oid LIMIT 1),
                       (SELECT k.conkey FROM pg_constraint k WHERE k.conrelid = t.oid AND k.contype = 'p')
                   )) WITH ORDINALITY AS key (attnum, place)
                   JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = key.attnum
                   ORDER BY key.place) AS "order!"
           FROM tenant t JOIN depth d ON d.oid = t.oid GROUP BY t.oid, t.relname ORDER BY max(d.level), t.relname"#,
        &left_out
    )
    .fetch_all(&mut *scope)
    .await?;
    Ok(found)
}

/// The same of a table that belongs to no organization.
async fn table<K: fmt::Debug + Send>(scope: &mut Scope<K>, name: &str) -> Result<Table, Error> {
    let columns = sqlx::query_scalar!(
        r#"SELECT a.attname::text AS "name!" FROM pg_attribute a
           WHERE a.attrelid = (SELECT c.oid FROM pg_class c
                 WHERE c.relnamespace = 'tenancy'::regnamespace AND c.relname = $1)
             AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum"#,
        name
    )
    .fetch_all(&mut *scope)
    .await?;
    Ok(Table { name: name.to_owned(), columns, order: Vec::new() })
}

/// A name of the catalog inside a statement.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A list of them.
fn quoted_all(names: &[String]) -> String {
    names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
}
