//! What became of the lines of an import.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::proto::v1::{UsageEventResult, UsageEventStatus as Status};

/// How many lines that were not recorded are told one by one.
const SHOWN: usize = 20;

/// The counts, and the first lines that were not recorded.
#[derive(Debug, Default)]
pub struct Summary {
    recorded: u64,
    duplicate: u64,
    filtered: u64,
    conflict: u64,
    rejected: u64,
    reasons: BTreeMap<String, u64>,
    shown: Vec<(u64, String)>,
    /// Of an import that ended early: the lines that were read, and of which nothing is known.
    pub unknown: Option<u64>,
}

impl Summary {
    /// Counts a line's event.
    pub fn count(&mut self, line: u64, result: &UsageEventResult) {
        match result.status() {
            Status::Recorded => self.recorded += 1,
            Status::Duplicate => self.duplicate += 1,
            Status::Filtered => self.filtered += 1,
            Status::Conflict => {
                self.conflict += 1;
                self.show(line, "CONFLICT", &result.message);
            }
            Status::Rejected | Status::Unavailable | Status::Unspecified => {
                self.reject(line, &result.reason, &result.message);
            }
        }
    }

    /// Counts a line that is not acceptable.
    pub fn reject(&mut self, line: u64, reason: &str, message: &str) {
        self.rejected += 1;
        *self.reasons.entry(reason.to_owned()).or_default() += 1;
        self.show(line, reason, message);
    }

    fn show(&mut self, line: u64, reason: &str, message: &str) {
        if self.shown.len() < SHOWN {
            self.shown.push((line, format!("{reason}: {message}")));
        }
    }

    /// Lines of which something is known.
    pub const fn lines(&self) -> u64 {
        self.recorded + self.duplicate + self.filtered + self.not_recorded()
    }

    /// Lines that are not recorded and should be.
    pub const fn not_recorded(&self) -> u64 {
        self.conflict + self.rejected
    }

    /// Writes it for a person.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { recorded, duplicate, filtered, conflict, rejected, .. } = self;
        writeln!(
            out,
            "{} lines: {recorded} recorded, {duplicate} duplicate, {filtered} filtered, {conflict} conflict, \
             {rejected} rejected",
            self.lines()
        )?;
        for (reason, count) in &self.reasons {
            writeln!(out, "  {count} {reason}")?;
        }
        let mut shown: Vec<_> = self.shown.iter().collect();
        shown.sort_unstable();
        for (line, why) in shown {
            writeln!(out, "line {line}: {why}")?;
        }
        if self.not_recorded() > self.shown.len() as u64 {
            writeln!(out, "and {} more", self.not_recorded() - self.shown.len() as u64)?;
        }
        if let Some(unknown) = self.unknown {
            writeln!(
                out,
                "it ended early, and {unknown} lines that were read are not acknowledged: import the file again, what \
                 is there counts once"
            )?;
        }
        Ok(())
    }
}
