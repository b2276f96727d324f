//! The rules of the house that no compiler knows. Each is a test that names the lines that break it.
//!
//! They look at lines, not at syntax: simple enough to be trusted, and to be got around by whoever wants to.

mod imports;

use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, io};

use imports::IMPORTS;

/// The longest that a file of code may be, in lines.
const LONGEST: usize = 400;

/// What is not left behind, and what to do instead. Written in pieces, so that this file may hold them.
const LEFT_BEHIND: &[(&str, &str)] = &[
    (concat!("TO", "DO"), "do it, or file an issue"),
    (concat!("FIX", "ME"), "fix it, or file an issue"),
    (concat!("XX", "X"), "say what is wrong, or file an issue"),
    (concat!("todo", "!("), "write it"),
    (concat!("unimplemented", "!("), "write it"),
    (concat!("dbg", "!("), "use tracing"),
    (concat!("#[ig", "nore"), "make the test run, or remove it"),
    (concat!("[all", "ow("), "use #[expect(lint, reason = \"…\")], which tells when it is no longer needed"),
    (concat!(", all", "ow("), "use expect(lint, reason = \"…\"), which tells when it is no longer needed"),
];

/// Where sqlx may be named outside of src/repository/: file or directory, what of it, and why there.
const SQLX: &[(&str, &str, &str)] = &[
    ("src/config.rs", "sqlx::postgres::PgConnectOptions", "options are read into the type they end up in"),
    ("src/cli/connect.rs", "sqlx::postgres::PgConnectOptions", "the embedded Postgres has no URL to read"),
    ("src/ids.rs", "sqlx::Type", "an id is a column's type; deriving that takes no SQL"),
    ("src/model/", "sqlx::Type", "so is an enumeration"),
];

/// Who may know of gRPC. An error, a rule or a query that did would be of no use to the command line or a worker.
const GRPC: &[&str] = &[
    "app",
    "auth::layer",
    "cli::client",
    "cli::import",
    "cli::ratelimit",
    "cli::usage::import",
    "proto",
    "service",
    "sidecar",
    "status",
    "transport",
    "worker::health",
];

/// Imports against the table that are known, and where what they want should be instead. One that is gone has to leave
/// this list.
const DEBTS: &[(&str, &str, &str)] = &[];

/// A file of the repository, by its path from the root.
struct File {
    path: String,
    text: String,
}

impl File {
    /// The lines with their numbers, without those that are comments from the start.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// The module that the file is, such as `auth::keys::cache`; `None` for what is none of the library's.
    fn module(&self) -> Option<String> {
        let path = self.path.strip_prefix("src/")?.strip_suffix(".rs")?;
        let path = path.strip_suffix("/mod").unwrap_or(path);
        (!["lib", "main"].contains(&path)).then(|| path.replace('/', "::"))
    }
}

/// All files below the directories whose names end so.
fn files(places: &[&str], ending: &str) -> io::Result<Vec<File>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut open: Vec<_> = places.iter().map(|place| root.join(place)).collect();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(path)? {
                open.push(entry?.path());
            }
        } else if let Ok(relative) = path.strip_prefix(root)
            && let Some(relative) = relative.to_str().filter(|relative| relative.ends_with(ending))
            && path.exists()
        {
            found.push(File { path: relative.to_owned(), text: fs::read_to_string(&path)? });
        }
    }
    found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn code() -> io::Result<Vec<File>> {
    files(&["src", "tests", "benches", "build.rs"], ".rs")
}

#[track_caller]
fn none(found: &[String]) {
    assert!(found.is_empty(), "the house has rules:\n{}\n", found.join("\n"));
}

/// Whether a path is the prefix or below it: `auth::keys` covers `auth::keys::key`, not `auth::keyring`.
fn covers(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Whether the line has the marker; one of capital letters only as a word.
fn has(line: &str, marker: &str) -> bool {
    if marker.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == marker);
    }
    line.contains(marker)
}

#[test]
fn every_module_says_what_it_is() -> io::Result<()> {
    let found = code()?.into_iter().filter(|file| !file.text.starts_with("//! "));
    none(&found.map(|file| format!("{}:1: begin with `//! `, what this is and why", file.path)).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn no_file_is_long() -> io::Result<()> {
    let found = code()?.into_iter().map(|file| (file.text.lines().count(), file.path));
    let found = found.filter(|(lines, _)| *lines > LONGEST);
    let found =
        found.map(|(lines, path)| format!("{path}: {lines} lines; split it, by what it knows, below {LONGEST}"));
    none(&found.collect::<Vec<_>>());
    Ok(())
}

#[test]
fn nothing_is_left_behind() -> io::Result<()> {
    let mut found = Vec::new();
    let others = [files(&["proto"], ".proto")?, files(&["migrations"], ".sql")?].into_iter().flatten();
    for file in code()?.into_iter().chain(others) {
        for (index, line) in file.text.lines().enumerate() {
            // No test, but what a test of kills runs as another process and then kills.
            let helper = line.contains("ore = \"a process ");
            for (marker, instead) in LEFT_BEHIND.iter().filter(|(marker, _)| !helper && has(line, marker)) {
                found.push(format!("{}:{}: {marker}: {instead}", file.path, index + 1));
            }
        }
    }
    none(&found);
    Ok(())
}

#[test]
fn sql_is_in_the_repository_only() -> io::Result<()> {
    let mut found = Vec::new();
    for file in files(&["src"], ".rs")?.iter().filter(|file| !file.path.starts_with("src/repository/")) {
        for (number, line) in file.code() {
            let allowed = SQLX.iter().filter(|(place, ..)| file.path.starts_with(place));
            let rest = allowed.fold(line.to_owned(), |line, (_, what, _)| line.replace(what, ""));
            if ["sqlx::", "use sqlx", "extern crate sqlx"].iter().any(|name| rest.contains(name)) {
                found.push(format!("{}:{number}: SQL belongs into src/repository/: {}", file.path, line.trim()));
            }
        }
    }
    none(&found);
    Ok(())
}

#[test]
fn the_owner_works_from_the_command_line_only() -> io::Result<()> {
    let mut found = Vec::new();
    let may = ["src/repository/portable/", "src/cli/restore"];
    for file in files(&["src"], ".rs")?.iter().filter(|file| !may.iter().any(|place| file.path.starts_with(place))) {
        for (number, line) in file.code().filter(|(_, line)| line.contains("owner::") || line.contains("RestoreScope"))
        {
            found.push(format!("{}:{number}: what serves has no login of the owner: {}", file.path, line.trim()));
        }
    }
    none(&found);
    Ok(())
}

#[test]
fn grpc_stays_at_the_edge() -> io::Result<()> {
    let mut found = Vec::new();
    for file in files(&["src"], ".rs")? {
        let Some(module) = file.module() else { continue };
        if GRPC.iter().any(|allowed| covers(allowed, &module)) {
            continue;
        }
        for (number, line) in file.code().filter(|(_, line)| line.contains("tonic::") || line.contains("tonic_")) {
            found.push(format!("{}:{number}: `{module}` must not know gRPC: {}", file.path, line.trim()));
        }
    }
    none(&found);
    Ok(())
}

/// The paths from the crate's root that a line names, as far as they can be read: `use crate::a::{b, c}` names `a`.
fn imports(line: &str) -> impl Iterator<Item = &str> {
    // Where a thing is visible, as in `pub(in crate::a)`, is no import.
    let line = line.split_once("(in crate::").map_or(line, |(_, rest)| rest);
    line.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':').unwrap_or(rest.len());
        rest[..end].trim_end_matches(':')
    })
}

/// What is wrong with naming this path in this module.
fn objection(module: &str, path: &str) -> Option<String> {
    let rows = IMPORTS.iter().filter(|(name, _)| covers(name, module));
    let Some((name, allowed)) = rows.max_by_key(|(name, _)| name.len()) else {
        return Some(format!("`{module}` has no row in IMPORTS (tests/it/tidy.rs): decide what it may know"));
    };
    if covers(name, path) || allowed.iter().any(|allowed| covers(allowed, path)) {
        return None;
    }
    let allowed = if allowed.is_empty() { "nothing else".to_owned() } else { allowed.join(", ") };
    Some(format!("`{name}` must not import `{path}`; it may import itself and {allowed}"))
}

#[test]
fn modules_import_what_they_may() -> io::Result<()> {
    let mut found = Vec::new();
    let mut debts: Vec<_> = DEBTS.iter().collect();
    for file in files(&["src"], ".rs")? {
        let Some(module) = file.module() else { continue };
        for (number, line) in file.code() {
            for (path, objection) in imports(line).filter_map(|path| Some((path, objection(&module, path)?))) {
                debts.retain(|(debtor, debt, _)| *debtor != module || !covers(debt, path));
                if !DEBTS.iter().any(|(debtor, debt, _)| *debtor == module && covers(debt, path)) {
                    found.push(format!("{}:{number}: {objection}", file.path));
                }
            }
            // From a module of the first level, and from two levels up, `super` leads to where the table does not look.
            if line.contains("super::super") || (line.starts_with("use super::") && !module.contains("::")) {
                found.push(format!("{}:{number}: write `crate::…`: {}", file.path, line.trim()));
            }
        }
        if let Some(why) = objection(&module, &module) {
            found.push(format!("{}: {why}", file.path));
        }
    }
    found.extend(debts.iter().map(|(debtor, debt, _)| format!("`{debtor}` owes `{debt}` no more: take it off DEBTS")));
    none(&found);
    Ok(())
}

#[test]
fn the_readme_has_every_option() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // One that is missing has none of them.
    let readme = fs::read_to_string(root.join("README.md")).unwrap_or_default();
    let documented: BTreeSet<&str> = readme
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .filter(|name| *name == "DATABASE_URL" || name.starts_with("TENANCY_"))
        .collect();
    let files = files(&["src"], ".rs")?;
    let options: BTreeSet<&str> = files
        .iter()
        .flat_map(File::code)
        .flat_map(|(_, line)| line.split("env = \"").skip(1))
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert!(options.contains("DATABASE_URL"), "options are no longer declared by `env = \"…\"`: adapt this test");
    let missing = options.difference(&documented).map(|name| format!("README.md: no row that begins with | `{name}`"));
    let gone = documented.difference(&options).map(|name| format!("README.md: there is no option `{name}`"));
    none(&missing.chain(gone).collect::<Vec<_>>());
    Ok(())
}
