//! What callers noted, held against a limit.

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike as _, Utc};
use tenancy::proto::v1;
use tenancy::quota::slots::{LedgerTime, SECOND};
use uuid::Uuid;

/// A limit of the test, on a meter of its name.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub meter: &'static str,
    pub kind: v1::SubjectKind,
    pub unit: v1::WindowUnit,
    pub rolling: bool,
    pub amount: i64,
    pub burst: i64,
}

impl Case {
    pub fn rule(&self) -> v1::LimitRule {
        v1::LimitRule {
            meter: self.meter.into(),
            subject_kind: self.kind.into(),
            window: Some(v1::Window { unit: self.unit.into(), rolling: self.rolling }),
            amount: Some(self.amount),
            burst: self.burst,
            ..v1::LimitRule::default()
        }
    }

    pub fn name(&self) -> String {
        let how = if self.rolling { "rolling " } else { "" };
        let burst = if self.burst > 0 { format!(" with burst {}", self.burst) } else { String::new() };
        format!("{}: {how}{}{burst}", self.meter, word(self.unit))
    }

    /// Whether it is used up in the end: none of it comes back while the test runs, and it is not one user's.
    pub fn drains(&self) -> bool {
        self.kind == v1::SubjectKind::Organization
            && !matches!(self.unit, v1::WindowUnit::Second | v1::WindowUnit::Minute)
    }

    /// As the ledger names it.
    pub fn window_kind(&self) -> String {
        let unit = word(self.unit);
        match self.unit {
            v1::WindowUnit::Lifetime => unit,
            _ => format!("{}_{unit}", if self.rolling { "rolling" } else { "calendar" }),
        }
    }

    fn subject(&self, note: &Note) -> Uuid {
        if self.kind == v1::SubjectKind::User { note.user } else { Uuid::nil() }
    }

    /// The most that was surely admitted in any one window, of whichever subject.
    pub fn most(&self, notes: &[Note]) -> i64 {
        let mut subjects: BTreeMap<Uuid, Vec<&Note>> = BTreeMap::new();
        for note in notes.iter().filter(|note| note.meter == self.meter) {
            subjects.entry(self.subject(note)).or_default().push(note);
        }
        subjects.into_values().map(|notes| self.most_of_one(notes)).max().unwrap_or(0)
    }

    fn most_of_one(&self, notes: Vec<&Note>) -> i64 {
        if self.rolling {
            return most_in_any(length(self.unit), notes);
        }
        let mut windows: BTreeMap<i64, i64> = BTreeMap::new();
        for note in notes {
            // What may have been admitted in either of two windows is taken for admitted in none.
            let (sent, replied) = (self.window(note.sent), self.window(note.replied));
            if sent == replied {
                *windows.entry(sent).or_default() += note.amount;
            }
        }
        windows.into_values().max().unwrap_or(0)
    }

    /// The number of a calendar window.
    fn window(&self, time: LedgerTime) -> i64 {
        match self.unit {
            v1::WindowUnit::Lifetime => 0,
            v1::WindowUnit::Month => {
                let date = DateTime::<Utc>::from_timestamp_micros(time).unwrap();
                i64::from(date.year()) * 12 + i64::from(date.month0())
            }
            unit => time.div_euclid(length(unit)),
        }
    }
}

fn word(unit: v1::WindowUnit) -> String {
    unit.as_str_name().trim_start_matches("WINDOW_UNIT_").to_lowercase()
}

fn length(unit: v1::WindowUnit) -> i64 {
    match unit {
        v1::WindowUnit::Second => SECOND,
        v1::WindowUnit::Minute => 60 * SECOND,
        v1::WindowUnit::Hour => 3600 * SECOND,
        other => panic!("{other:?}"),
    }
}

/// What was admitted: at some moment between these.
#[derive(Clone, Copy, Debug)]
pub struct Note {
    pub meter: &'static str,
    pub user: Uuid,
    pub amount: i64,
    pub sent: LedgerTime,
    pub replied: LedgerTime,
}

/// The most that was surely admitted in any window of that length: sent and answered within it.
pub fn most_in_any(length: i64, mut notes: Vec<&Note>) -> i64 {
    notes.sort_by_key(|note| note.replied);
    let mut starts: Vec<usize> = (0..notes.len()).collect();
    starts.sort_by_key(|start| notes[*start].sent);
    let mut counted = vec![false; notes.len()];
    let (mut next, mut sum, mut most) = (0, 0, 0);
    // A window that has the most begins as something is sent.
    for start in starts {
        let begin = notes[start].sent;
        while next < notes.len() && notes[next].replied < begin + length {
            counted[next] = notes[next].sent >= begin;
            sum += if counted[next] { notes[next].amount } else { 0 };
            next += 1;
        }
        most = most.max(sum);
        sum -= if counted[start] { notes[start].amount } else { 0 };
    }
    most
}

#[test]
fn what_was_surely_in_a_window() {
    let note = |sent: i64, replied: i64| Note {
        meter: "calls",
        user: Uuid::nil(),
        amount: 1,
        sent: sent * 10,
        replied: replied * 10,
    };
    let notes = [note(0, 1), note(0, 9), note(5, 12), note(6, 7), note(8, 10), note(3, 30)];
    assert_eq!(most_in_any(101, notes.iter().collect()), 4, "all but the two that were answered late");
    assert_eq!(most_in_any(51, notes.iter().collect()), 2);
    assert_eq!(most_in_any(1_001, notes.iter().collect()), 6);
    let calls = Case {
        meter: "calls",
        kind: v1::SubjectKind::Organization,
        unit: v1::WindowUnit::Second,
        rolling: false,
        amount: 1,
        burst: 0,
    };
    let second =
        |sent: i64, replied: i64| Note { sent: sent * SECOND / 10, replied: replied * SECOND / 10, ..note(0, 0) };
    assert_eq!(calls.most(&[second(1, 2), second(9, 11), second(11, 12), second(13, 19)]), 2);
}
