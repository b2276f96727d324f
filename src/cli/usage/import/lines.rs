//! Reads the file, line by line, into messages of a size that is good to send.

use std::io::{self, Read};

use prost::Message as _;
use tokio::sync::mpsc;

use crate::cli::client::lines::{LINE, Lines};
use crate::cli::usage::import::cloud_event;
use crate::proto::v1;

/// The most events of a message, and the bytes after which it is full.
const MESSAGE: (usize, usize) = (1000, 1 << 20);

/// The events of some lines, in their order.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The numbers of the lines, from 1.
    pub lines: Vec<u64>,
    /// Their events.
    pub events: Vec<v1::UsageEvent>,
    /// Lines that are no events, and why.
    pub wrong: Vec<(u64, String)>,
    /// How far the file is read, in bytes.
    pub offset: u64,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.wrong.is_empty()
    }
}

/// Reads an input.
pub struct Reader<R> {
    input: Lines<R>,
    meter: Option<String>,
}

impl<R: Read> Reader<R> {
    /// Of these bytes; `meter` instead of what the events say.
    pub fn new(input: R, meter: Option<String>) -> Self {
        Self { input: Lines::new(input), meter }
    }

    /// Reads to the end, or until nobody wants more. Blocks: to be run on a thread of its own.
    pub fn run(mut self, batches: &mpsc::Sender<io::Result<Batch>>) {
        loop {
            match self.batch() {
                Ok(Some(batch)) => {
                    if batches.blocking_send(Ok(batch)).is_err() {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    let _ = batches.blocking_send(Err(error));
                    return;
                }
            }
        }
    }

    /// The next message; `None` at the end.
    fn batch(&mut self) -> io::Result<Option<Batch>> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        let mut line = Vec::new();
        while let Some(is_whole) = self.input.next(&mut line)? {
            let number = self.input.number();
            if !is_whole {
                batch.wrong.push((number, format!("the line is longer than {} KiB", LINE >> 10)));
            } else if !line.trim_ascii().is_empty() {
                match cloud_event::read(&line, self.meter.as_deref()) {
                    Ok(event) => {
                        bytes += event.encoded_len();
                        batch.lines.push(number);
                        batch.events.push(event);
                    }
                    Err(why) => batch.wrong.push((number, why)),
                }
            }
            let count = batch.events.len() + batch.wrong.len();
            let is_full = count >= MESSAGE.0 || bytes >= MESSAGE.1;
            // A message ends with what is read, so that lines of a pipe do not wait for those to come.
            if is_full || count > 0 && self.input.is_drained() {
                break;
            }
        }
        batch.offset = self.input.offset();
        Ok((!batch.is_empty()).then_some(batch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: usize) -> String {
        format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"calls","time":"2026-11-05T10:00:00Z"}}{}"#,
            "\n"
        )
    }

    fn batches(text: &str) -> Vec<Batch> {
        let mut reader = Reader::new(text.as_bytes(), None);
        std::iter::from_fn(|| reader.batch().unwrap()).collect()
    }

    #[test]
    fn lines_keep_their_numbers() {
        let long = "x".repeat(LINE + 1);
        let text = format!("{}\n \nnonsense\n{}{long}\n{}", event(1), event(2), event(3).trim_end());
        let all = batches(&text);
        let lines: Vec<u64> = all.iter().flat_map(|batch| batch.lines.clone()).collect();
        let wrong: Vec<u64> = all.iter().flat_map(|batch| batch.wrong.iter().map(|(line, _)| *line)).collect();
        assert_eq!((lines, wrong), (vec![1, 5, 7], vec![4, 6]));
        assert_eq!(all.last().unwrap().offset, text.len() as u64);
        assert!(batches("").is_empty() && batches("\n\n").is_empty());
    }

    #[test]
    fn messages_are_bounded() {
        let text: String = (0..2500).map(event).collect();
        let all = batches(&text);
        assert!(all.iter().all(|batch| (1..=MESSAGE.0).contains(&batch.events.len())));
        assert_eq!(all.iter().map(|batch| batch.events.len()).sum::<usize>(), 2500);
    }
}
