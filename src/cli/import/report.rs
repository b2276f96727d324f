//! What became of the rows of an import: counted, the first refusals shown, all of them written to a file where one is named.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::json;

use crate::cli::CliError;
use crate::cli::import::row::Kind;

/// How many refusals are shown one by one.
const SHOWN: usize = 20;

/// What became of a row that was not refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Done {
    /// It is there now.
    Created,
    /// A member joined teams.
    Joined,
    /// It was there before, as the row has it.
    Unchanged,
}

/// A row that was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// On which it begins.
    pub line: u64,
    /// What it is about, where that is known.
    pub kind: Option<Kind>,
    /// Why, in `UPPER_SNAKE`.
    pub reason: String,
    /// For a person.
    pub message: String,
}

/// What became of a row.
#[derive(Clone, Debug)]
pub enum Fate {
    /// It is as the file has it.
    Done(Kind, Done),
    /// It is not.
    Refused(Refusal),
}

/// The counts.
#[derive(Debug, Default)]
pub struct Report {
    done: BTreeMap<(Kind, Done), u64>,
    reasons: BTreeMap<String, u64>,
    refused: u64,
    shown: Vec<Refusal>,
    file: Option<BufWriter<File>>,
    /// Rows of a dry run that only a real one can judge to the end.
    pub unjudged: u64,
}

impl Report {
    /// With all refusals in this file besides.
    pub fn new(file: Option<&Path>) -> Result<Self, CliError> {
        let create = |path: &Path| File::create(path).map_err(|error| format!("{}: {error}", path.display()));
        let file = file.map(create).transpose()?.map(BufWriter::new);
        Ok(Self { file, ..Self::default() })
    }

    /// Counts the rows of one window.
    pub fn count(&mut self, fates: Vec<Fate>) -> io::Result<()> {
        let mut refused = Vec::new();
        for fate in fates {
            match fate {
                Fate::Done(kind, done) => *self.done.entry((kind, done)).or_default() += 1,
                Fate::Refused(refusal) => refused.push(refusal),
            }
        }
        refused.sort_by_key(|refusal| refusal.line);
        for refusal in refused {
            self.refused += 1;
            *self.reasons.entry(refusal.reason.clone()).or_default() += 1;
            if let Some(file) = &mut self.file {
                let Refusal { line, kind, reason, message } = &refusal;
                let kind = kind.map(Kind::as_str);
                writeln!(file, "{}", json!({"line": line, "type": kind, "reason": reason, "message": message}))?;
            }
            if self.shown.len() < SHOWN {
                self.shown.push(refusal);
            }
        }
        // So that what is told is there, whatever happens next.
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }

    /// How many rows are known of.
    pub fn rows(&self) -> u64 {
        self.done.values().sum::<u64>() + self.refused
    }

    /// How many rows were refused.
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Writes it for a person.
    pub fn write(&self, is_dry: bool, out: &mut impl Write) -> io::Result<()> {
        let of = |kind, done| self.done.get(&(kind, done)).copied().unwrap_or_default();
        let all = |done| Kind::ALL.into_iter().map(|kind| of(kind, done)).sum::<u64>();
        let (created, joined) =
            if is_dry { ("would be created", "would join teams") } else { ("created", "joined teams") };
        let line = |name: String, of: &dyn Fn(Done) -> u64| {
            let joining = match of(Done::Joined) {
                0 => String::new(),
                members => format!(", {members} {joined}"),
            };
            format!("{name}: {} {created}{joining}, {} unchanged", of(Done::Created), of(Done::Unchanged))
        };
        writeln!(out, "{}, {} refused", line(format!("{} rows", self.rows()), &all), self.refused)?;
        for kind in Kind::ALL {
            if self.done.keys().any(|(counted, _)| *counted == kind) {
                writeln!(out, "  {}", line(format!("{}s", kind.as_str()), &|done| of(kind, done)))?;
            }
        }
        for (reason, count) in &self.reasons {
            writeln!(out, "  {count} {reason}")?;
        }
        for Refusal { line, kind, reason, message } in &self.shown {
            let kind = kind.map(|kind| format!("{}: ", kind.as_str())).unwrap_or_default();
            writeln!(out, "line {line}: {kind}{reason}: {message}")?;
        }
        if self.refused > self.shown.len() as u64 {
            writeln!(out, "and {} more", self.refused - self.shown.len() as u64)?;
        }
        if self.unjudged > 0 {
            writeln!(
                out,
                "{} rows need what this file would create first: their form was checked, and that it would be there; the \
                 import itself may still refuse them",
                self.unjudged
            )?;
        }
        Ok(())
    }
}
