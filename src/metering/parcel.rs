//! The events of one request, by the organizations that they name: each organization is authorized, recorded and refused
//! for itself, and every event gets its fate.

use std::collections::HashMap;

use crate::auth::principal::Permitted;
use crate::error::{Error, Violation};
use crate::metering::recorder::{Draft, Fate};

/// The most organizations that one request may name: each is a job of its own for the writer.
const ORGANIZATIONS: usize = 100;

/// The events of a request, and what is known of their fates.
#[derive(Debug)]
pub struct Parcel {
    shares: Vec<Share>,
    events: usize,
    /// Whether an event names an organization itself: then a refusal is the event's fate, else the request's.
    is_addressed: bool,
}

/// The events of one organization.
#[derive(Debug)]
struct Share {
    /// As it is named; empty means the caller's own.
    organization: String,
    /// The places of its events in the request.
    places: Vec<usize>,
    drafts: Vec<Result<Draft, Violation>>,
    outcome: Option<Result<Vec<Fate>, Error>>,
}

impl Share {
    fn of(organization: String) -> Self {
        Self { organization, places: Vec::new(), drafts: Vec::new(), outcome: None }
    }

    /// Not tried, or refused for want of room: then nothing of it was recorded.
    const fn is_open(&self) -> bool {
        matches!(self.outcome, None | Some(Err(Error::Overloaded { .. })))
    }
}

impl Parcel {
    /// Sorts a request's events; each comes with the organization that it names itself, if any.
    ///
    /// Error: a violation of `events` when they name more than 100 organizations.
    pub fn new(
        organization: String,
        events: impl IntoIterator<Item = (String, Result<Draft, Violation>)>,
    ) -> Result<Self, Violation> {
        let mut shares: Vec<Share> = Vec::new();
        let mut by_name: HashMap<String, usize> = HashMap::new();
        let (mut count, mut is_addressed) = (0, false);
        // Most requests name no organization but their own, whose share is found without a hash.
        let mut own = None;
        for (named, draft) in events {
            let is_own = named.is_empty() || named == organization;
            is_addressed |= !named.is_empty();
            let known = if is_own { own } else { by_name.get(&named).copied() };
            let share = known.unwrap_or(shares.len());
            if known.is_none() {
                if is_own {
                    own = Some(share);
                    shares.push(Share::of(organization.clone()));
                } else {
                    by_name.insert(named.clone(), share);
                    shares.push(Share::of(named));
                }
            }
            shares[share].places.push(count);
            shares[share].drafts.push(draft);
            count += 1;
        }
        if shares.len() > ORGANIZATIONS {
            return Err(Violation::new("events", format!("must name at most {ORGANIZATIONS} organizations")));
        }
        Ok(Self { shares, events: count, is_addressed })
    }

    /// The organizations whose events are not settled, as they are named.
    pub fn open(&self) -> impl Iterator<Item = &str> {
        self.shares.iter().filter(|share| share.is_open()).map(|share| share.organization.as_str())
    }

    /// Whether events were refused because the writer's queue is full.
    #[must_use]
    pub fn is_overloaded(&self) -> bool {
        self.shares.iter().any(|share| matches!(share.outcome, Some(Err(Error::Overloaded { .. }))))
    }

    /// What is to be recorded of each organization, given whether the caller may: one answer for each of [`Self::open`],
    /// in its order. Two names of one organization become one.
    pub(super) fn permitted(&mut self, answers: Vec<Result<Permitted, Error>>) -> Vec<Job<'_>> {
        let mut jobs: Vec<(usize, Permitted)> = Vec::with_capacity(answers.len());
        let open: Vec<usize> = (0..self.shares.len()).filter(|share| self.shares[*share].is_open()).collect();
        for (share, answer) in open.into_iter().zip(answers) {
            match answer {
                Err(error) => self.shares[share].outcome = Some(Err(error)),
                // There are few of them, and nearly always one.
                Ok(permitted) => match jobs.iter().find(|job| job.1.organization_id() == permitted.organization_id()) {
                    None => jobs.push((share, permitted)),
                    Some(&(same, _)) => {
                        let (places, drafts) = {
                            let share = &mut self.shares[share];
                            share.outcome = Some(Ok(Vec::new()));
                            (std::mem::take(&mut share.places), std::mem::take(&mut share.drafts))
                        };
                        self.shares[same].places.extend(places);
                        self.shares[same].drafts.extend(drafts);
                    }
                },
            }
        }
        let mut jobs = jobs.into_iter().peekable();
        let shares = self.shares.iter_mut().enumerate();
        let wanted = shares.filter_map(|(at, share)| {
            let (_, permitted) = jobs.next_if(|(wanted, _)| *wanted == at)?;
            Some(Job { permitted, drafts: &share.drafts, outcome: &mut share.outcome })
        });
        wanted.collect()
    }

    /// The fate of every event, in the order of the request.
    ///
    /// Error: when no organization's events were settled and another try may help, or when only the request itself names
    /// an organization, why.
    pub fn fates(self) -> Result<Vec<Fate>, Error> {
        let is_settled = |share: &Share| matches!(share.outcome, Some(Ok(_)));
        let settled = self.shares.iter().any(is_settled);
        let is_alone = self.shares.len() == 1;
        let mut fates = Vec::new();
        for share in self.shares {
            let count = share.places.len();
            let outcome = share.outcome.unwrap_or_else(|| Err(Error::internal("a share that nobody recorded")));
            let of_share = match outcome {
                Ok(of_share) => of_share,
                Err(error) if is_refusal(&error) && self.is_addressed => Fate::refused(&error, count),
                Err(error) if settled && self.is_addressed => Fate::unavailable(&error, count),
                Err(error) => return Err(error),
            };
            // One organization's events are in the order of the request, and nearly all requests have one.
            if is_alone && of_share.len() == count {
                return Ok(of_share);
            }
            fates.resize(self.events, None);
            for (place, fate) in share.places.into_iter().zip(of_share) {
                fates[place] = Some(fate);
            }
        }
        let fates: Option<Vec<Fate>> = fates.into_iter().collect();
        fates.ok_or_else(|| Error::internal("an event without a fate"))
    }
}

/// One organization's events and the proof that they may be recorded.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub permitted: Permitted,
    pub drafts: &'a [Result<Draft, Violation>],
    /// Where to put what became of them.
    pub outcome: &'a mut Option<Result<Vec<Fate>, Error>>,
}

/// Whether it is the caller's fault, and trying again will not help.
const fn is_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::Invalid(_)
            | Error::InvalidRequest { .. }
            | Error::Unauthenticated { .. }
            | Error::PermissionDenied { .. }
            | Error::NotFound { .. }
            | Error::FailedPrecondition { .. }
    )
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn draft(meter: &str) -> Draft {
        Draft {
            event_id: None,
            occurred_at: None,
            meter: meter.into(),
            quantity: None,
            subject: String::new(),
            properties: None,
        }
    }

    fn parcel(organization: &str, named: &[&str]) -> Parcel {
        let events = named.iter().enumerate().map(|(at, named)| ((*named).to_owned(), Ok(draft(&at.to_string()))));
        Parcel::new(organization.into(), events).unwrap()
    }

    fn permitted(organization: u128) -> Permitted {
        Permitted::system(Uuid::from_u128(organization).into(), "test")
    }

    /// Settles every job by fates that tell the events' places.
    fn settle(parcel: &mut Parcel, answers: Vec<Result<Permitted, Error>>) -> usize {
        let jobs = parcel.permitted(answers);
        let count = jobs.len();
        for job in jobs {
            let told = |draft: &Result<Draft, Violation>| Fate::Rejected {
                reason: "".into(),
                message: draft.as_ref().unwrap().meter.clone(),
            };
            *job.outcome = Some(Ok(job.drafts.iter().map(told).collect()));
        }
        count
    }

    fn told(fates: &[Fate]) -> Vec<String> {
        let told = |fate: &Fate| match fate {
            Fate::Rejected { reason, message } if reason.is_empty() => message.clone(),
            Fate::Rejected { reason, .. } => reason.to_string(),
            Fate::Unavailable { reason, .. } => format!("again: {reason}"),
            other => format!("{other:?}"),
        };
        fates.iter().map(told).collect()
    }

    fn overloaded() -> Error {
        Error::Overloaded { reason: "FULL", message: "", retry_after: std::time::Duration::ZERO }
    }

    #[test]
    fn every_event_gets_the_fate_of_its_place() {
        let mut parcel = parcel("a", &["", "b", "a", "c", "b", "a-by-id"]);
        assert_eq!(parcel.open().collect::<Vec<_>>(), ["a", "b", "c", "a-by-id"]);
        let answers =
            vec![Ok(permitted(1)), Ok(permitted(2)), Err(Error::not_found("organization", "c")), Ok(permitted(1))];
        assert_eq!(settle(&mut parcel, answers), 2, "two names of one organization are one job");
        assert_eq!(told(&parcel.fates().unwrap()), ["0", "1", "2", "ORGANIZATION_NOT_FOUND", "4", "5"]);
    }

    #[test]
    fn what_only_the_request_names_is_refused_as_a_request() {
        let mut whole = parcel("a", &["", ""]);
        assert_eq!(settle(&mut whole, vec![Err(Error::not_found("organization", "a"))]), 0);
        assert!(matches!(whole.fates(), Err(Error::NotFound { .. })));
        let mut named = parcel("", &["a", "a"]);
        settle(&mut named, vec![Err(Error::not_found("organization", "a"))]);
        assert_eq!(told(&named.fates().unwrap()), ["ORGANIZATION_NOT_FOUND"; 2]);
    }

    #[test]
    fn one_organizations_failure_is_the_requests_only_when_nothing_was_recorded() {
        for others in [true, false] {
            let mut parcel = parcel("a", &["", "b"]);
            let second = if others { Ok(permitted(2)) } else { Err(Error::not_found("organization", "b")) };
            let mut jobs = parcel.permitted(vec![Ok(permitted(1)), second]);
            if others {
                *jobs[1].outcome = Some(Ok(vec![Fate::Duplicate]));
            }
            *jobs[0].outcome = Some(Err(overloaded()));
            drop(jobs);
            assert!(parcel.is_overloaded());
            assert_eq!(parcel.open().collect::<Vec<_>>(), ["a"], "it alone can be tried again");
            match parcel.fates() {
                Ok(fates) => assert_eq!((told(&fates), others), (vec!["again: FULL".into(), "Duplicate".into()], true)),
                Err(error) => assert!(matches!(error, Error::Overloaded { .. }) && !others),
            }
        }
    }

    #[test]
    fn a_request_names_a_hundred_organizations_at_most() {
        let names =
            |count: usize| (0..count).map(|number| (number.to_string(), Ok(draft("calls")))).collect::<Vec<_>>();
        assert!(Parcel::new(String::new(), names(ORGANIZATIONS)).is_ok());
        let refused = Parcel::new(String::new(), names(ORGANIZATIONS + 1)).unwrap_err();
        assert_eq!(refused.field, "events");
    }
}
