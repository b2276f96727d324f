//! Reads an input line by line, in bounded memory whatever it holds.

use std::io::{self, BufRead as _, BufReader, Read};

/// The longest line. What follows is skipped without being kept.
pub const LINE: usize = 256 << 10;
/// What is read at once.
const BUFFER: usize = 256 << 10;

/// The lines of an input, and how far it is read.
#[expect(missing_debug_implementations, reason = "a reader has nothing to show")]
pub struct Lines<R> {
    input: BufReader<R>,
    line: u64,
    offset: u64,
}

impl<R: Read> Lines<R> {
    /// Of these bytes.
    pub fn new(input: R) -> Self {
        Self { input: BufReader::with_capacity(BUFFER, input), line: 0, offset: 0 }
    }

    /// The number of the last line that was read, from 1.
    pub const fn number(&self) -> u64 {
        self.line
    }

    /// How many bytes were read.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether the next line has to be waited for, as that of a pipe.
    pub fn is_drained(&self) -> bool {
        self.input.buffer().is_empty()
    }

    /// Reads a line without its end; false when it was too long, `None` at the end of the input.
    pub fn next(&mut self, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
        line.clear();
        let mut is_whole = true;
        let mut has_begun = false;
        loop {
            let available = match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                available => available?,
            };
            if available.is_empty() {
                self.line += u64::from(has_begun);
                return Ok(has_begun.then_some(is_whole));
            }
            has_begun = true;
            let end = available.iter().position(|byte| *byte == b'\n');
            let part = &available[..end.unwrap_or(available.len())];
            if line.len() + part.len() <= LINE {
                line.extend_from_slice(part);
            } else {
                is_whole = false;
            }
            let read = part.len() + usize::from(end.is_some());
            self.input.consume(read);
            self.offset += read as u64;
            if end.is_some() {
                self.line += 1;
                return Ok(Some(is_whole));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_numbered_and_bounded() {
        let long = "x".repeat(LINE + 1);
        let text = format!("a\n\n{long}\n{}\r\nb", &long[1..]);
        let mut lines = Lines::new(text.as_bytes());
        let mut line = Vec::new();
        let mut found = Vec::new();
        while let Some(is_whole) = lines.next(&mut line).unwrap() {
            assert!(line.len() <= LINE);
            found.push((lines.number(), if is_whole { line.len() } else { 0 }, is_whole));
        }
        // The carriage return makes the fourth one too long by one.
        assert_eq!(found, [(1, 1, true), (2, 0, true), (3, 0, false), (4, 0, false), (5, 1, true)]);
        assert_eq!(lines.offset(), text.len() as u64);
    }
}
