//! The lines of an export, their number, and what they add up to.

use std::io::{self, BufRead as _, BufReader, Read};

use crate::model::portable::Sum;

/// The longest line: a record of the audit has two states of a resource, each as large as a request.
const LONGEST: u64 = 64 << 20;

/// What is read at once.
const BUFFER: usize = 256 << 10;

/// Reads lines.
pub struct Lines<R> {
    input: BufReader<R>,
    sum: Sum,
    number: u64,
    offset: u64,
}

impl<R: Read> Lines<R> {
    /// Of these bytes.
    pub fn new(input: R) -> Self {
        Self { input: BufReader::with_capacity(BUFFER, input), sum: Sum::default(), number: 0, offset: 0 }
    }

    /// The number of the last line that was read, from 1.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// How many bytes were read.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// What was read so far.
    pub fn sum(&self) -> Sum {
        self.sum.clone()
    }

    /// The next line, with its end. One that is too long or no text is an error.
    pub fn next(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        let read = (&mut self.input).take(LONGEST + 1).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.offset += read as u64;
        let wrong = |what: &str| io::Error::other(format!("line {} {what}", self.number));
        if read as u64 > LONGEST {
            return Err(wrong("is too long"));
        }
        self.sum.add(&line);
        String::from_utf8(line).map(Some).map_err(|_| wrong("is no UTF-8"))
    }
}
