//! Reads the file into windows: as many rows as are kept in memory at once.

use std::io::{self, Read};

use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::cli::client::lines::{LINE, Lines};
use crate::cli::import::csv::{Header, Record, Records};
use crate::cli::import::row::{self, Defaults, Kind, Row};
use crate::cli::import::{Format, report::Refusal};

/// The most rows of a window, and the bytes after which it is full.
const WINDOW: (usize, usize) = (4_000, 4 << 20);

/// Some rows that follow each other in the file.
#[derive(Debug, Default)]
pub struct Window {
    /// Those that can be sent, with the lines on which they begin.
    pub rows: Vec<(u64, Row)>,
    /// Those that cannot.
    pub refused: Vec<Refusal>,
    /// The line on which it begins.
    pub first: u64,
    /// The line after it.
    pub next: u64,
    /// How far the file is read, in bytes.
    pub offset: u64,
}

/// Reads an input.
pub struct Reader<R> {
    lines: Lines<R>,
    /// The first line, which was looked at, and whether it is whole.
    first: Option<(Vec<u8>, bool)>,
    defaults: Defaults,
    /// Where to begin.
    from: u64,
    syntax: Syntax,
}

enum Syntax {
    Ndjson,
    Csv(Box<Records>, Option<Header>),
}

impl<R: Read> Reader<R> {
    /// Of lines of which the first was read already; rows that begin before the line `from` are left out.
    pub fn new(lines: Lines<R>, first: Option<(Vec<u8>, bool)>, format: Format, defaults: Defaults, from: u64) -> Self {
        let syntax = match format {
            Format::Ndjson => Syntax::Ndjson,
            Format::Csv => Syntax::Csv(Box::new(Records::new()), None),
        };
        Self { lines, first, defaults, from, syntax }
    }

    /// Reads to the end, or until nobody wants more. Blocks: to be run on a thread of its own.
    pub fn run(mut self, windows: &mpsc::Sender<Result<Window, String>>) {
        loop {
            let window = self.window().transpose();
            let is_last = !matches!(window, Some(Ok(_)));
            if let Some(window) = window
                && windows.blocking_send(window).is_err()
            {
                return;
            }
            if is_last {
                return;
            }
        }
    }

    /// The next window; `None` at the end.
    fn window(&mut self) -> Result<Option<Window>, String> {
        let mut window = Window { first: self.lines.number() + 1, ..Window::default() };
        if self.first.is_some() {
            window.first = 1;
        }
        let began = self.lines.offset();
        let mut line = Vec::new();
        loop {
            let is_whole = match self.first.take() {
                Some((first, is_whole)) => {
                    line = first;
                    is_whole
                }
                None => match self.lines.next(&mut line).map_err(unreadable)? {
                    Some(is_whole) => is_whole,
                    None => break,
                },
            };
            self.line(&line, is_whole, &mut window)?;
            let is_full =
                window.rows.len() + window.refused.len() >= WINDOW.0 || self.lines.offset() - began >= WINDOW.1 as u64;
            if is_full && !self.is_within_a_row() {
                break;
            }
        }
        self.end(&mut window);
        (window.next, window.offset) = (self.lines.number() + 1, self.lines.offset());
        Ok((window.next > window.first).then_some(window))
    }

    fn is_within_a_row(&self) -> bool {
        matches!(&self.syntax, Syntax::Csv(records, _) if records.is_within())
    }

    fn line(&mut self, line: &[u8], is_whole: bool, window: &mut Window) -> Result<(), String> {
        let (number, defaults) = (self.lines.number(), &self.defaults);
        match &mut self.syntax {
            Syntax::Ndjson if number < self.from || is_whole && line.trim_ascii().is_empty() => {}
            Syntax::Ndjson if !is_whole => window.refuse(number, None, format!("longer than {} KiB", LINE >> 10)),
            Syntax::Ndjson => match serde_json::from_slice::<Map<String, Value>>(line) {
                Ok(object) => window.push(number, object, defaults),
                Err(error) => window.refuse(number, None, format!("no JSON object: {error}")),
            },
            Syntax::Csv(_, Some(_)) if number < self.from => {}
            Syntax::Csv(records, header) => {
                let mut failed = None;
                records.line(line, number, is_whole, &mut |line, record| {
                    if let Err(why) = take(header, (line, record), defaults, window) {
                        failed = Some(why);
                    }
                });
                return failed.map_or(Ok(()), Err);
            }
        }
        Ok(())
    }

    /// Tells of a row that the window ends in the middle of: that of the end of the file.
    fn end(&mut self, window: &mut Window) {
        if let Syntax::Csv(records, Some(_)) = &mut self.syntax {
            records.end(&mut |line, record| {
                if let Err(why) = record {
                    window.refuse(line, None, why);
                }
            });
        }
    }
}

fn unreadable(error: io::Error) -> String {
    format!("the file cannot be read to its end: {error}")
}

/// Takes a record: the header, or a row by it. Error: a header that cannot be.
fn take(
    header: &mut Option<Header>,
    (line, record): (u64, Record),
    defaults: &Defaults,
    window: &mut Window,
) -> Result<(), String> {
    let Some(header) = header else {
        let names = record.map_err(|why| format!("line {line}, the header: {why}"))?;
        *header = Some(Header::read(&names, defaults.kind).map_err(|why| format!("line {line}, the header: {why}"))?);
        return Ok(());
    };
    match record.and_then(|cells| header.object(&cells)) {
        Ok(object) => window.push(line, object, defaults),
        Err(why) => window.refuse(line, None, why),
    }
    Ok(())
}

impl Window {
    fn push(&mut self, line: u64, object: Map<String, Value>, defaults: &Defaults) {
        match row::read(object, defaults) {
            Ok(row) => self.rows.push((line, row)),
            Err((kind, why)) => self.refuse(line, kind, why),
        }
    }

    fn refuse(&mut self, line: u64, kind: Option<Kind>, message: String) {
        self.refused.push(Refusal { line, kind, reason: "INVALID_ROW".into(), message });
    }
}
