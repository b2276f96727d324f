//! Shows on stderr how far an import has come: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

/// How often a line is written where there is no terminal.
const PACE: Duration = Duration::from_secs(10);

/// Shows the progress.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    /// When the last line was written; `None` on a terminal.
    told: Option<Mutex<Instant>>,
}

impl Progress {
    /// Of an input of so many bytes.
    #[must_use]
    pub fn new(bytes: Option<u64>) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden(), told: Some(Mutex::new(Instant::now())) };
        }
        let (bar, template) = match bytes {
            Some(bytes) => (ProgressBar::new(bytes), "{bar:40} {bytes}/{total_bytes} {msg} {elapsed}"),
            None => (ProgressBar::new_spinner(), "{spinner} {bytes} {msg} {elapsed}"),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, told: None }
    }

    /// So far is acknowledged.
    pub fn reached(&self, offset: u64, lines: u64) {
        self.bar.set_position(offset);
        self.bar.set_message(format!("{lines} lines"));
        let Some(Ok(mut told)) = self.told.as_ref().map(Mutex::lock) else { return };
        if told.elapsed() >= PACE {
            *told = Instant::now();
            eprintln!("{lines} lines are acknowledged");
        }
    }

    /// Something that is to be known while it goes on.
    pub fn tell(&self, what: &str) {
        if self.told.is_some() {
            eprintln!("{what}");
        } else {
            self.bar.println(what);
        }
    }

    /// Makes room for the summary.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
