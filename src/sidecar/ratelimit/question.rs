//! What is asked: how much each descriptor takes, and what limit it brings along.

use smallvec::SmallVec;

use crate::error::{Error, Violations};
use crate::model::limit::{MOST, MOST_RATE, Unit, Window};
use crate::model::rate_limit_domain::{self, window};
use crate::proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use crate::proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::{Entry, RateLimitOverride};
use crate::proto::envoy::service::ratelimit::v3::RateLimitRequest;
use crate::proto::envoy::r#type::v3::RateLimitUnit;
use crate::sidecar::ratelimit::taking::USUAL;

/// The most descriptors of a request, and the most entries of one.
const MOST_PARTS: usize = 64;

/// The longest key or value of an entry, in bytes.
const LONGEST: usize = 8 << 10;

/// A descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// What it is made of.
    pub entries: &'a [Entry],
    /// How much; 0: whether there is anything.
    pub amount: u64,
    /// So much is given back.
    pub back: bool,
    /// A limit that it brings along: how much, and in which time.
    pub limit: Option<(u64, Window)>,
}

impl<'a> Question<'a> {
    /// The value of the first entry of a key.
    pub fn value(&self, key: &str) -> Option<&'a str> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str())
    }
}

/// Reads a request. Error: `INVALID_FIELD` with every violation.
pub fn read(request: &RateLimitRequest) -> Result<SmallVec<[Question<'_>; USUAL]>, Error> {
    let mut wrong = Violations::default();
    wrong.take(rate_limit_domain::domain("domain", &request.domain));
    let mut questions = SmallVec::with_capacity(request.descriptors.len().min(MOST_PARTS));
    if (1..=MOST_PARTS).contains(&request.descriptors.len()) {
        for (position, descriptor) in request.descriptors.iter().enumerate() {
            questions.push(read_one(position, descriptor, request.hits_addend, &mut wrong));
        }
    } else {
        wrong.add("descriptors", format!("must be 1 to {MOST_PARTS} descriptors"));
    }
    wrong.finish()?;
    Ok(questions)
}

fn read_one<'a>(
    position: usize,
    descriptor: &'a RateLimitDescriptor,
    hits_addend: u32,
    wrong: &mut Violations,
) -> Question<'a> {
    let field = |name: &str| format!("descriptors[{position}].{name}");
    let RateLimitDescriptor { entries, limit, hits_addend: own, is_negative_hits } = descriptor;
    if !(1..=MOST_PARTS).contains(&entries.len()) {
        wrong.add(field("entries"), format!("must be 1 to {MOST_PARTS} entries"));
    }
    let is_good = |entry: &Entry| !entry.key.is_empty() && entry.key.len() <= LONGEST && entry.value.len() <= LONGEST;
    if !entries.iter().all(is_good) {
        wrong.add(
            field("entries"),
            format!("must each have a key, and neither it nor the value more than {LONGEST} bytes"),
        );
    }
    let amount = own.unwrap_or_else(|| u64::from(hits_addend.max(1)));
    if amount > MOST {
        wrong.add(field("hits_addend"), format!("must be 0 to {MOST}"));
    }
    let limit = match limit.as_ref().map(|limit| read_limit(*limit)) {
        None => None,
        Some(Some(limit)) => Some(limit),
        Some(None) => {
            wrong.add(field("limit.unit"), "must be SECOND, MINUTE, HOUR, DAY or MONTH");
            None
        }
    };
    Question { entries, amount, back: *is_negative_hits, limit }
}

fn read_limit(limit: RateLimitOverride) -> Option<(u64, Window)> {
    let window = window(match limit.unit() {
        RateLimitUnit::Second => Unit::Second,
        RateLimitUnit::Minute => Unit::Minute,
        RateLimitUnit::Hour => Unit::Hour,
        RateLimitUnit::Day => Unit::Day,
        RateLimitUnit::Month => Unit::Month,
        RateLimitUnit::Unknown | RateLimitUnit::Year => return None,
    });
    let requests = u64::from(limit.requests_per_unit);
    // More than that in a second or a minute is as good as no limit, and none that a rate can count.
    Some((if window.is_rate() { requests.min(MOST_RATE) } else { requests }, window))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor() -> RateLimitDescriptor {
        let entries = vec![Entry { key: "a".into(), value: "b".into() }];
        RateLimitDescriptor { entries, ..RateLimitDescriptor::default() }
    }

    fn request(hits_addend: u32, descriptors: Vec<RateLimitDescriptor>) -> RateLimitRequest {
        RateLimitRequest { domain: "edge".into(), descriptors, hits_addend }
    }

    #[test]
    fn a_descriptor_takes_what_it_says_or_what_the_request_says_or_one() {
        let of = |request_hits, own| {
            let request = request(request_hits, vec![RateLimitDescriptor { hits_addend: own, ..descriptor() }]);
            read(&request).unwrap()[0].amount
        };
        assert_eq!([of(0, None), of(1, None), of(7, None)], [1, 1, 7]);
        assert_eq!([of(7, Some(0)), of(7, Some(3)), of(0, Some(MOST))], [0, 3, MOST]);
    }

    #[test]
    fn limits_that_are_brought_along() {
        let of = |requests_per_unit, unit: i32| {
            let limit = Some(RateLimitOverride { requests_per_unit, unit });
            let request = request(1, vec![RateLimitDescriptor { limit, ..descriptor() }]);
            read(&request).ok().and_then(|questions| questions[0].limit)
        };
        assert_eq!(of(5, 1), Some((5, Window::Rolling(Unit::Second))));
        assert_eq!(of(u32::MAX, 2), Some((MOST_RATE, Window::Rolling(Unit::Minute))));
        assert_eq!(of(u32::MAX, 3), Some((u64::from(u32::MAX), Window::Calendar(Unit::Hour))));
        assert_eq!(
            [of(0, 4), of(1, 5)],
            [Some((0, Window::Calendar(Unit::Day))), Some((1, Window::Calendar(Unit::Month)))]
        );
        assert_eq!([of(1, 0), of(1, 6), of(1, 99)], [None; 3]);
    }

    #[test]
    fn every_violation_has_its_path() {
        let fields = |request: &RateLimitRequest| match read(request) {
            Ok(_) => Vec::new(),
            Err(Error::Invalid(violations)) => violations.into_iter().map(|violation| violation.field).collect(),
            Err(error) => vec![error.to_string()],
        };
        assert_eq!(fields(&RateLimitRequest::default()), ["domain", "descriptors"]);
        assert_eq!(fields(&request(1, vec![descriptor(); MOST_PARTS + 1])), ["descriptors"]);
        let year = Some(RateLimitOverride { requests_per_unit: 1, unit: 6 });
        let keyless = vec![Entry::default()];
        let wrong = vec![
            RateLimitDescriptor::default(),
            RateLimitDescriptor { entries: keyless, ..descriptor() },
            RateLimitDescriptor { hits_addend: Some(MOST + 1), limit: year, ..descriptor() },
        ];
        let expected = [
            "descriptors[0].entries",
            "descriptors[1].entries",
            "descriptors[2].hits_addend",
            "descriptors[2].limit.unit",
        ];
        assert_eq!(fields(&request(1, wrong)), expected);
    }
}
