//! `tenancy usage verify`: every figure that can be recounted, recounted: quarters of an hour and distinct values from the raw
//! events that are kept, hours from their quarters, always.

use std::io::{self, Write};
use std::ops::Range;

use chrono::{DateTime, NaiveDate, NaiveTime, SecondsFormat, TimeDelta, Utc};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::auth::principal::{Permitted, PermittedPlatform};
use crate::cli::operator::find_organization;
use crate::error::Error;
use crate::model::organization::Organization;
use crate::model::usage::{HOUR_SECONDS, QUARTER_SECONDS, hour, quarter};
use crate::page::{Cursor, Page};
use crate::repository::database::Database;
use crate::repository::organization;
use crate::repository::scope::Purpose;
use crate::repository::usage::recount::{self, Difference};

/// The job's name in what is written down of its scopes.
const JOB: &str = "tenancy usage verify";

/// The time that one statement recounts: a partition of raw events. Less where that is too much for it.
const SLICE: TimeDelta = TimeDelta::days(7);

/// The most differences of a slice that are shown: where there are more, each single one is of no interest.
const SHOWN: i64 = 1000;

/// What to recount.
#[derive(Args, Clone, Debug, Default)]
pub struct Verify {
    /// Only this organization, by id or slug; can be repeated [default: all]
    #[arg(long = "organization", value_name = "ID|SLUG")]
    pub organizations: Vec<String>,

    /// From the quarter of an hour that has this time, such as 2026-05-01 or 2026-05-01T12:00:00Z, and the first hour after
    /// it [default: the oldest raw event; hours: the oldest]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<DateTime<Utc>>,

    /// Up to the quarter of an hour that has this time, that one left out, and its hour too [default: the end of time]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub until: Option<DateTime<Utc>>,
}

/// Why it ended with another status than 0.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It could not go on.
    #[error(transparent)]
    Domain(#[from] Error),
    /// What was found could not be told.
    #[error("the output could not be written: {0}")]
    Output(#[from] io::Error),
    /// Figures are not what the raw events add up to, or hours not what their quarters do.
    #[error("{0} differences: these figures are not what the raw events add up to")]
    Different(usize),
}

/// What was found so far.
#[derive(Default)]
struct Tally {
    different: usize,
    beyond: i64,
}

/// Recounts, and writes each difference as a line.
pub async fn run(wanted: &Verify, database: &Database, out: &mut impl Write) -> Result<(), VerifyError> {
    let organizations = organizations(wanted, database).await?;
    // Draws on stderr, and nothing where that is no terminal.
    let bar = ProgressBar::new(organizations.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{pos}/{len} {wide_bar} {msg} {eta}") {
        bar.set_style(style);
    }
    let mut tally = Tally::default();
    for organization in &organizations {
        bar.set_message(organization.profile.slug.clone());
        verify(wanted, database, organization, &mut tally, out).await?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    if tally.beyond > 0 {
        writeln!(out, "{} aggregates were not recounted: their raw events are no longer kept", tally.beyond)?;
    }
    writeln!(out, "{} organizations, {} differences", organizations.len(), tally.different)?;
    out.flush()?;
    if tally.different > 0 { Err(VerifyError::Different(tally.different)) } else { Ok(()) }
}

/// Recounts one organization.
async fn verify(
    wanted: &Verify,
    database: &Database,
    organization: &Organization,
    tally: &mut Tally,
    out: &mut impl Write,
) -> Result<(), VerifyError> {
    let since = wanted.since.map_or(DateTime::UNIX_EPOCH, quarter);
    // Beyond the newest partition no aggregate has a right to be, so it is looked for there too.
    let until = wanted.until.map_or(DateTime::<Utc>::MAX_UTC, quarter);
    quarters(&(since..until), database, organization, tally, out).await?;
    // The hours that lie whole within.
    let (first, last) = (hour(since), hour(until));
    let first = if first == since { first } else { first + TimeDelta::seconds(HOUR_SECONDS) };
    hours(&(first..last), database, organization, tally, out).await
}

/// Compares quarters of an hour, and distinct values, with the raw events.
async fn quarters(
    span: &Range<DateTime<Utc>>,
    database: &Database,
    organization: &Organization,
    tally: &mut Tally,
    out: &mut impl Write,
) -> Result<(), VerifyError> {
    let (since, until) = (span.start, span.end);
    let permitted = Permitted::system(organization.organization_id, JOB);
    let mut scope = database.tenant(&permitted).await?;
    let Some(kept) = recount::kept(&mut scope).await? else {
        tally.beyond += recount::quarters(&mut scope, &(since..until)).await?;
        return Ok(());
    };
    tally.beyond += recount::quarters(&mut scope, &(since..until.min(kept.start))).await?;
    scope.rollback().await?;

    let mut length = SLICE;
    let mut start = since.max(kept.start);
    while start < until {
        let end = if start < kept.end { until.min(start + length) } else { until };
        let mut scope = database.tenant(&permitted).await?;
        // Upkeep may have dropped a partition since.
        let oldest = recount::kept(&mut scope).await?.map_or(end, |kept| kept.start);
        let slice = start.max(oldest).min(end)..end;
        match recount::different_quarters(&mut scope, &slice, SHOWN).await {
            Ok(differences) => {
                tell(organization, &slice, &differences, tally, out)?;
                start = end;
            }
            // More events than the time of a statement is enough for.
            Err(Error::DeadlineExceeded) if length > TimeDelta::seconds(QUARTER_SECONDS) => {
                length = half(length, QUARTER_SECONDS);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Compares hours with their quarters: in one statement, unless those are too many.
async fn hours(
    span: &Range<DateTime<Utc>>,
    database: &Database,
    organization: &Organization,
    tally: &mut Tally,
    out: &mut impl Write,
) -> Result<(), VerifyError> {
    let permitted = Permitted::system(organization.organization_id, JOB);
    let mut scope = database.tenant(&permitted).await?;
    let Some(stored) = recount::hours(&mut scope, span).await? else { return Ok(()) };
    scope.rollback().await?;
    let (mut start, mut length) = (stored.start, stored.end - stored.start);
    while start < stored.end {
        // What is recorded after the look at the newest one is left for the next time.
        let slice = start..stored.end.min(start + length);
        let mut scope = database.tenant(&permitted).await?;
        match recount::different_hours(&mut scope, &slice, SHOWN).await {
            Ok(differences) => {
                tell(organization, &slice, &differences, tally, out)?;
                start = slice.end;
            }
            Err(Error::DeadlineExceeded) if length > TimeDelta::seconds(HOUR_SECONDS) => {
                length = half(length, HOUR_SECONDS);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The half of a length, on a multiple of a unit that it is longer than.
fn half(length: TimeDelta, unit: i64) -> TimeDelta {
    let seconds = (length.num_seconds() / 2).max(unit);
    TimeDelta::seconds(seconds - seconds % unit)
}

/// Writes what was found in a slice.
fn tell(
    organization: &Organization,
    slice: &Range<DateTime<Utc>>,
    differences: &[Difference],
    tally: &mut Tally,
    out: &mut impl Write,
) -> io::Result<()> {
    for difference in differences {
        writeln!(out, "{}", line(organization, difference))?;
    }
    if i64::try_from(differences.len()) == Ok(SHOWN) {
        writeln!(out, "{}: and perhaps more of {}", organization.profile.slug, span(slice))?;
    }
    tally.different += differences.len();
    Ok(())
}

/// Those wanted, the deleted ones among them: they can be undeleted.
async fn organizations(wanted: &Verify, database: &Database) -> Result<Vec<Organization>, Error> {
    let mut named = Vec::new();
    for name in &wanted.organizations {
        named.push(find_organization(name, database).await?.uuid());
    }
    let narrow = organization::Narrow {
        organization_ids: (!named.is_empty()).then_some(named),
        show_deleted: true,
        ..organization::Narrow::default()
    };
    let mut all = Vec::new();
    let mut token = String::new();
    loop {
        let page = Page::read(JOB, &(), i32::MAX, &token)?;
        let mut scope = database.platform(&PermittedPlatform::system(JOB), Purpose::ReadOrganizations).await?;
        let mut found = organization::list(&mut scope, &narrow, &page).await?;
        token = page.finish(&mut found, |last| Cursor { time: last.create_time, id: last.organization_id.uuid() });
        all.append(&mut found);
        if token.is_empty() {
            return Ok(all);
        }
    }
}

fn line(organization: &Organization, difference: &Difference) -> String {
    let Difference { is_hour, meter_id, meter, series_id, subject, group_values, bucket_start, expected, found } =
        difference;
    let meter = meter.clone().unwrap_or_else(|| meter_id.to_string());
    let series = match (series_id.is_nil(), subject, group_values) {
        (true, ..) => "the whole".to_owned(),
        (false, Some(subject), Some(values)) => format!("subject {subject:?}, groups {values:?}"),
        (false, ..) => format!("series {series_id}"),
    };
    let (slug, start) = (&organization.profile.slug, bucket_start.to_rfc3339_opts(SecondsFormat::Secs, true));
    let bucket = if *is_hour { format!("the hour of {start}") } else { start };
    format!("{slug}, {meter}, {series}, {bucket}: expected {expected}, found {found}")
}

fn span(slice: &Range<DateTime<Utc>>) -> String {
    format!("{} to {}", slice.start, slice.end)
}

fn time(text: &str) -> Result<DateTime<Utc>, String> {
    let day = |text: &str| Some(text.parse::<NaiveDate>().ok()?.and_time(NaiveTime::MIN).and_utc());
    let time = DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc()).or_else(|| day(text));
    time.ok_or_else(|| "must be a day or a time, such as 2026-05-01 or 2026-05-01T12:00:00Z".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_days_or_have_a_zone() {
        assert_eq!(time("2026-05-01").unwrap(), time("2026-05-01T02:00:00+02:00").unwrap());
        for bad in ["", "today", "2026-05-01T12:00:00", "2026-13-01"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
