//! Windows as the ledger sees them: slots, one after the other. A calendar window is one slot; a rolling one is several,
//! of which all count that end within the length of the window; a lifetime is a single one. Pure.

use std::ops::Range;
use std::time::Duration;

use chrono::{DateTime, Datelike as _, Months, NaiveDate, NaiveTime, TimeDelta, Timelike as _, Utc};
use chrono_tz::Tz;

use crate::metering::buckets::{self, first_instant};
use crate::model::limit::{Unit, Window};

/// Microseconds of the database's clock since 1970.
pub type LedgerTime = i64;

/// Microseconds in a second.
pub const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// How long it is until `end`; nothing when that has passed.
#[must_use]
pub fn until(end: LedgerTime, now: DateTime<Utc>) -> Duration {
    Duration::from_micros(u64::try_from(end.saturating_sub(now.timestamp_micros())).unwrap_or(0))
}

/// The end of what does not end: the year 9999, which every clock and every date can say.
pub const NEVER: LedgerTime = 253_370_764_800 * SECOND;

/// In which calendar windows turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Calendar {
    /// The zone.
    pub zone: Tz,
    /// On which day of the month months turn, 1 to 31; on the last one of a shorter month.
    pub anchor_day: u8,
}

impl Default for Calendar {
    fn default() -> Self {
        Self { zone: Tz::UTC, anchor_day: 1 }
    }
}

/// A slot: from its start on, and before its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Slot {
    pub start: LedgerTime,
    pub end: LedgerTime,
}

/// How long a rolling window is; `None` for others.
#[must_use]
pub const fn length(window: Window) -> Option<i64> {
    match window {
        Window::Rolling(unit) => Some(match unit {
            Unit::Second => SECOND,
            Unit::Minute => MINUTE,
            Unit::Hour => HOUR,
            Unit::Day => DAY,
            Unit::Week => 7 * DAY,
            Unit::Month => 30 * DAY,
        }),
        Window::Calendar(_) | Window::Lifetime => None,
    }
}

/// How long a slot of a rolling window is: what was used in it counts until it is past as a whole.
const fn step(unit: Unit) -> i64 {
    match unit {
        // Rates are not cut into slots of the ledger: see `rate`.
        Unit::Second => SECOND / 32,
        Unit::Minute => MINUTE / 32,
        Unit::Hour => MINUTE,
        Unit::Day => 15 * MINUTE,
        Unit::Week => HOUR,
        Unit::Month => 6 * HOUR,
    }
}

/// The slot that the time is in.
#[must_use]
pub fn slot(window: Window, now: LedgerTime, calendar: Calendar) -> Slot {
    match window {
        Window::Lifetime => Slot { start: 0, end: NEVER },
        Window::Rolling(unit) => every(now, step(unit)),
        Window::Calendar(Unit::Second) => every(now, SECOND),
        // Beyond the calendar of chrono lies nothing that is asked for.
        Window::Calendar(unit) => turns(unit, now, calendar).unwrap_or(Slot { start: now, end: NEVER }),
    }
}

const fn every(now: LedgerTime, step: i64) -> Slot {
    let start = now - now.rem_euclid(step);
    Slot { start, end: start + step }
}

fn turns(unit: Unit, now: LedgerTime, calendar: Calendar) -> Option<Slot> {
    let time = DateTime::<Utc>::from_timestamp_micros(now)?;
    let local = time.with_timezone(&calendar.zone);
    let date = local.date_naive();
    let midnight = |date: NaiveDate| first_instant(date.and_time(NaiveTime::MIN), calendar.zone);
    let (start, end) = match unit {
        Unit::Second | Unit::Minute | Unit::Hour => {
            // On the wall, by the offset in force: where the clock is set back by half an hour, a short one follows.
            let seconds =
                i64::from(local.second()) + if unit == Unit::Hour { i64::from(local.minute()) * 60 } else { 0 };
            let past = TimeDelta::seconds(seconds) + TimeDelta::nanoseconds(local.nanosecond().into());
            let start = time.checked_sub_signed(past)?;
            let length = if unit == Unit::Hour { TimeDelta::hours(1) } else { TimeDelta::minutes(1) };
            (start, start.checked_add_signed(length)?)
        }
        Unit::Day => whole(buckets::around(time, buckets::Unit::Day, calendar.zone)?),
        Unit::Week => whole(buckets::around(time, buckets::Unit::Week, calendar.zone)?),
        Unit::Month => {
            let this = anchor(date, calendar.anchor_day)?;
            let first = date.with_day(1)?;
            let (from, to) = if this <= date {
                (this, anchor(first.checked_add_months(Months::new(1))?, calendar.anchor_day)?)
            } else {
                (anchor(first.checked_sub_months(Months::new(1))?, calendar.anchor_day)?, this)
            };
            (midnight(from)?, midnight(to)?)
        }
    };
    Some(Slot { start: start.timestamp_micros(), end: end.timestamp_micros() })
}

fn whole(bucket: Range<DateTime<Utc>>) -> (DateTime<Utc>, DateTime<Utc>) {
    (bucket.start, bucket.end)
}

/// The day of the month in which months turn.
fn anchor(month: NaiveDate, anchor_day: u8) -> Option<NaiveDate> {
    let last = month.num_days_in_month();
    month.with_day(u32::from(anchor_day.min(last)))
}

#[cfg(test)]
mod tests {
    use chrono_tz::{America, Asia, Australia, Europe, Pacific};
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> LedgerTime {
        text.parse::<DateTime<Utc>>().unwrap().timestamp_micros()
    }

    fn found(unit: Unit, now: &str, zone: Tz, anchor_day: u8) -> (LedgerTime, LedgerTime) {
        let slot = slot(Window::Calendar(unit), at(now), Calendar { zone, anchor_day });
        (slot.start, slot.end)
    }

    #[test]
    fn months_turn_on_the_anchor_or_on_the_last_day() {
        let month = |now, anchor_day| found(Unit::Month, now, Tz::UTC, anchor_day);
        assert_eq!(month("2026-01-31T00:00:00Z", 31), (at("2026-01-31T00:00:00Z"), at("2026-02-28T00:00:00Z")));
        assert_eq!(month("2026-02-27T23:59:59Z", 31), (at("2026-01-31T00:00:00Z"), at("2026-02-28T00:00:00Z")));
        assert_eq!(month("2026-02-28T00:00:00Z", 31), (at("2026-02-28T00:00:00Z"), at("2026-03-31T00:00:00Z")));
        assert_eq!(month("2028-02-29T12:00:00Z", 30), (at("2028-02-29T00:00:00Z"), at("2028-03-30T00:00:00Z")));
        assert_eq!(month("2026-05-14T12:00:00Z", 15), (at("2026-04-15T00:00:00Z"), at("2026-05-15T00:00:00Z")));
        assert_eq!(month("2026-12-20T12:00:00Z", 1), (at("2026-12-01T00:00:00Z"), at("2027-01-01T00:00:00Z")));
    }

    #[test]
    fn windows_turn_with_the_clock_on_the_wall() {
        let rome = |unit, now| found(unit, now, Europe::Rome, 29);
        // The 29th of March 2026 is the Sunday with 23 hours.
        let month = (at("2026-02-27T23:00:00Z"), at("2026-03-28T23:00:00Z"));
        assert_eq!(rome(Unit::Month, "2026-03-28T22:59:59Z"), month, "from the 28th of February, its last day");
        assert_eq!(rome(Unit::Month, "2026-03-29T12:00:00Z"), (at("2026-03-28T23:00:00Z"), at("2026-04-28T22:00:00Z")));
        assert_eq!(rome(Unit::Day, "2026-03-29T12:00:00Z"), (at("2026-03-28T23:00:00Z"), at("2026-03-29T22:00:00Z")));
        assert_eq!(rome(Unit::Week, "2026-03-29T12:00:00Z"), (at("2026-03-22T23:00:00Z"), at("2026-03-29T22:00:00Z")));
        let kathmandu = found(Unit::Hour, "2026-05-01T00:20:00Z", Asia::Kathmandu, 1);
        assert_eq!(kathmandu, (at("2026-05-01T00:15:00Z"), at("2026-05-01T01:15:00Z")));
        // Samoa had no 30th of December 2011.
        let apia = found(Unit::Day, "2011-12-30T09:00:00Z", Pacific::Apia, 1);
        assert_eq!(apia, (at("2011-12-29T10:00:00Z"), at("2011-12-30T10:00:00Z")));
        assert_eq!(
            found(Unit::Minute, "2026-05-01T00:20:31.5Z", Tz::UTC, 1),
            (at("2026-05-01T00:20:00Z"), at("2026-05-01T00:21:00Z"))
        );
    }

    proptest! {
        #[test]
        fn the_time_is_in_its_slot_and_the_next_one_follows(
            now in 1_480_000_000_i64..2_000_000_000,
            anchor_day in 1_u8..=31,
            unit in prop::sample::select(vec![Unit::Second, Unit::Minute, Unit::Day, Unit::Week, Unit::Month]),
            zone in prop::sample::select(vec![
                Europe::Rome, Asia::Kathmandu, America::St_Johns, Australia::Lord_Howe, Pacific::Apia, Asia::Beirut,
                America::Sao_Paulo, chrono_tz::Africa::Casablanca, chrono_tz::Antarctica::Troll,
            ]),
        ) {
            let calendar = Calendar { zone, anchor_day };
            let now = now * SECOND;
            let found = slot(Window::Calendar(unit), now, calendar);
            prop_assert!(found.start <= now && now < found.end, "{found:?}");
            prop_assert_eq!(slot(Window::Calendar(unit), found.start, calendar), found);
            prop_assert_eq!(slot(Window::Calendar(unit), found.end - 1, calendar), found);
            prop_assert_eq!(slot(Window::Calendar(unit), found.end, calendar).start, found.end);
        }

        #[test]
        fn steps_of_rolling_windows_divide_them(unit in prop::sample::select(vec![Unit::Hour, Unit::Day, Unit::Week, Unit::Month])) {
            prop_assert_eq!(length(Window::Rolling(unit)).unwrap() % step(unit), 0);
        }
    }
}
