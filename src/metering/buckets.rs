//! Cutting a range of time into the minutes, hours, days, weeks or months of a zone, across daylight saving. Pure.
//!
//! Here and not by Postgres's `date_trunc`: two tables of time zones, ours and the server's, would differ some day, and
//! a zone that only one of them knows would be a fault. Windows of limits turn by the same arithmetic.

use std::ops::Range;

use chrono::{
    DateTime, Datelike as _, Days, MappedLocalTime, Months, NaiveDate, NaiveDateTime, TimeDelta, Timelike as _, Utc,
    Weekday,
};
use chrono_tz::Tz;

/// How a range is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Minutes.
    Minute,
    /// Hours on the wall.
    Hour,
    /// Calendar days.
    Day,
    /// Weeks, from Monday.
    Week,
    /// Calendar months.
    Month,
}

/// The boundaries of the buckets of `[start, end)`, both of them included: bucket `i` lies between boundaries `i` and
/// `i + 1`. `None` when there are more than `most` buckets, or the range is empty.
#[must_use]
pub fn boundaries(
    start: DateTime<Utc>,
    end: DateTime<Utc>,
    unit: Unit,
    zone: Tz,
    most: usize,
) -> Option<Vec<DateTime<Utc>>> {
    let mut boundaries = vec![start];
    let mut last = start;
    while last < end {
        if boundaries.len() > most {
            return None;
        }
        last = next(last, unit, zone).filter(|next| *next > last)?.min(end);
        boundaries.push(last);
    }
    (boundaries.len() > 1).then_some(boundaries)
}

/// The whole bucket that the given time is in: of a day, a week or a month. `None` beyond the calendar.
#[must_use]
pub fn around(time: DateTime<Utc>, unit: Unit, zone: Tz) -> Option<Range<DateTime<Utc>>> {
    let date = time.with_timezone(&zone).date_naive();
    let date = match unit {
        Unit::Minute | Unit::Hour | Unit::Day => date,
        Unit::Week => date.week(Weekday::Mon).first_day(),
        Unit::Month => date.with_day(1)?,
    };
    Some(first_instant(date.and_hms_opt(0, 0, 0)?, zone)?..next(time, unit, zone)?)
}

/// The first start of a bucket after the given time.
fn next(after: DateTime<Utc>, unit: Unit, zone: Tz) -> Option<DateTime<Utc>> {
    let local = after.with_timezone(&zone).naive_local();
    let past_minute = TimeDelta::seconds(local.second().into()) + TimeDelta::nanoseconds(local.nanosecond().into());
    let date = match unit {
        // By the offset in force: where the clock is set back by half an hour, a bucket of half an hour follows.
        Unit::Hour => {
            return after
                .checked_add_signed(TimeDelta::hours(1) - past_minute - TimeDelta::minutes(local.minute().into()));
        }
        Unit::Minute => return after.checked_add_signed(TimeDelta::minutes(1) - past_minute),
        Unit::Day => local.date(),
        Unit::Week => local.date().week(Weekday::Mon).first_day(),
        Unit::Month => NaiveDate::from_ymd_opt(local.year(), local.month(), 1)?,
    };
    // More than one step only where a zone skipped a whole day, as Samoa did.
    (1..=3).find_map(|steps: u32| {
        let date = match unit {
            Unit::Month => date.checked_add_months(Months::new(steps))?,
            Unit::Week => date.checked_add_days(Days::new(7 * u64::from(steps)))?,
            Unit::Minute | Unit::Hour | Unit::Day => date.checked_add_days(Days::new(steps.into()))?,
        };
        first_instant(date.and_hms_opt(0, 0, 0)?, zone).filter(|start| *start > after)
    })
}

/// The first instant at which the clock on the wall shows the given time; a later one where that is left out.
#[must_use]
pub fn first_instant(local: NaiveDateTime, zone: Tz) -> Option<DateTime<Utc>> {
    // Clocks are set forward by multiples of a quarter of an hour; by a whole day at most.
    (0..=96).find_map(|quarters| {
        let local = local.checked_add_signed(TimeDelta::minutes(15 * quarters))?;
        match local.and_local_timezone(zone) {
            MappedLocalTime::Single(time) | MappedLocalTime::Ambiguous(time, _) => Some(time.to_utc()),
            MappedLocalTime::None => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use chrono_tz::{America, Asia, Australia, Europe, Pacific};
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    /// The lengths of the buckets in minutes.
    fn minutes(start: &str, end: &str, unit: Unit, zone: Tz) -> Vec<i64> {
        let boundaries = boundaries(at(start), at(end), unit, zone, 10_000).unwrap();
        boundaries.windows(2).map(|pair| (pair[1] - pair[0]).num_minutes()).collect()
    }

    #[test]
    fn days_have_23_or_25_hours() {
        let spring = minutes("2026-03-27T23:00:00Z", "2026-03-30T22:00:00Z", Unit::Day, Europe::Rome);
        assert_eq!(spring, [24 * 60, 23 * 60, 24 * 60]);
        let autumn = minutes("2026-10-23T22:00:00Z", "2026-10-26T23:00:00Z", Unit::Day, Europe::Rome);
        assert_eq!(autumn, [24 * 60, 25 * 60, 24 * 60]);
        // At midnight, in Beirut.
        let beirut = minutes("2025-03-28T22:00:00Z", "2025-03-30T21:00:00Z", Unit::Day, Asia::Beirut);
        assert_eq!(beirut, [24 * 60, 23 * 60]);
        // Samoa had no 30th of December 2011.
        let apia = minutes("2011-12-29T10:00:00Z", "2012-01-01T10:00:00Z", Unit::Day, Pacific::Apia);
        assert_eq!(apia, [24 * 60; 3]);
    }

    #[test]
    fn hours_follow_the_wall() {
        let kathmandu = minutes("2026-05-01T00:00:00Z", "2026-05-01T02:30:00Z", Unit::Hour, Asia::Kathmandu);
        assert_eq!(kathmandu, [15, 60, 60, 15]);
        let rome = minutes("2026-10-25T00:00:00Z", "2026-10-25T03:00:00Z", Unit::Hour, Europe::Rome);
        assert_eq!(rome, [60, 60, 60], "two o'clock comes twice");
        // Lord Howe sets its clocks by half an hour.
        let back = minutes("2026-04-04T14:00:00Z", "2026-04-04T16:30:00Z", Unit::Hour, Australia::Lord_Howe);
        assert_eq!(back, [60, 30, 60]);
    }

    #[test]
    fn minutes_and_weeks() {
        let odd = boundaries(at("2026-05-01T00:00:30.5Z"), at("2026-05-01T00:02:00Z"), Unit::Minute, chrono_tz::UTC, 9);
        let expected = ["2026-05-01T00:00:30.5Z", "2026-05-01T00:01:00Z", "2026-05-01T00:02:00Z"].map(at);
        assert_eq!(odd.unwrap(), expected);
        // The 28th of March 2026 is a Saturday, and the clocks are set forward on Sunday.
        let weeks = minutes("2026-03-27T23:00:00Z", "2026-04-05T22:00:00Z", Unit::Week, Europe::Rome);
        assert_eq!(weeks, [(48 - 1) * 60, 7 * 24 * 60]);
    }

    #[test]
    fn the_period_around_a_time() {
        let now = at("2026-03-29T12:34:56.7Z");
        let found = |unit| around(now, unit, Europe::Rome).unwrap();
        assert_eq!(found(Unit::Day), at("2026-03-28T23:00:00Z")..at("2026-03-29T22:00:00Z"));
        assert_eq!(found(Unit::Week), at("2026-03-22T23:00:00Z")..at("2026-03-29T22:00:00Z"));
        assert_eq!(found(Unit::Month), at("2026-02-28T23:00:00Z")..at("2026-03-31T22:00:00Z"));
        // Midnight was left out in Beirut.
        let beirut = around(at("2025-03-30T05:00:00Z"), Unit::Day, Asia::Beirut).unwrap();
        assert_eq!(beirut, at("2025-03-29T22:00:00Z")..at("2025-03-30T21:00:00Z"));
    }

    #[test]
    fn months_are_clipped_to_the_range() {
        let months = boundaries(at("2026-01-31T12:00:00Z"), at("2026-03-10T00:00:00Z"), Unit::Month, chrono_tz::UTC, 3);
        let expected =
            ["2026-01-31T12:00:00Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z", "2026-03-10T00:00:00Z"].map(at);
        assert_eq!(months.unwrap(), expected);
        let hours =
            |most| boundaries(at("2026-01-01T00:00:00Z"), at("2026-01-01T03:00:00Z"), Unit::Hour, chrono_tz::UTC, most);
        assert!(hours(3).is_some() && hours(2).is_none());
    }

    proptest! {
        #[test]
        fn buckets_cover_the_range_and_each_is_one_day_of_the_calendar(
            quarter in 1_480_000_i64..2_400_000,
            quarters in 1_i64..4_000,
            zone in prop::sample::select(vec![
                Europe::Rome, Asia::Kathmandu, America::St_Johns, Australia::Lord_Howe, Pacific::Apia, Asia::Beirut,
                America::Sao_Paulo, chrono_tz::Africa::Casablanca, chrono_tz::Antarctica::Troll,
            ]),
        ) {
            let time = |quarter: i64| DateTime::from_timestamp(quarter * 900, 0).unwrap();
            let (start, end) = (time(quarter), time(quarter + quarters));
            let cut = boundaries(start, end, Unit::Day, zone, 10_000).unwrap();
            prop_assert!(cut.is_sorted_by(|a, b| a < b));
            prop_assert_eq!((cut[0], *cut.last().unwrap()), (start, end));
            let day = |time: DateTime<Utc>| time.with_timezone(&zone).date_naive();
            for pair in cut.windows(2) {
                prop_assert_eq!(day(pair[0]), day(pair[1] - TimeDelta::minutes(15)));
            }
            for boundary in &cut[1..cut.len() - 1] {
                prop_assert!(day(*boundary) > day(*boundary - TimeDelta::minutes(15)));
            }
        }
    }
}
