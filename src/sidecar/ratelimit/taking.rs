//! Takes what all descriptors of a request ask for, or nothing.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::auth::principal::Caller;
use crate::error::Error;
use crate::ids::{self, OrganizationId};
use crate::quota::decision::{Ask, Charge, Decision, Denial, Mode, Operation};
use crate::quota::engine::Engine;
use crate::quota::engine::given::{Given, refunds};
use crate::quota::policy::Resolved;
use crate::quota::rules::{Matched, RuleSet};
use crate::sidecar::ratelimit::RateLimits;
use crate::sidecar::ratelimit::course::{Closed, Course, Way};
use crate::sidecar::ratelimit::question::Question;

/// How many descriptors a request has mostly.
pub const USUAL: usize = 2;

/// What limits the descriptors of a request.
type Courses<'a> = SmallVec<[Course<'a>; USUAL]>;

/// What came of the descriptors of a request.
pub type Outcomes = SmallVec<[Outcome; USUAL]>;

/// What came of a descriptor.
#[derive(Debug)]
pub struct Outcome {
    /// What was found.
    pub found: Found,
    /// The rule that said so.
    rule: Option<Arc<Matched>>,
    /// Whether it never refuses: the rule only reports, or something was given back.
    pub lenient: bool,
}

/// What was found of a descriptor.
#[derive(Debug)]
pub enum Found {
    Free,
    Unlimited,
    Closed(Closed),
    Decided(Decision),
}

impl Outcome {
    /// The name of the rule's limit; empty where there is none.
    pub fn name(&self) -> &str {
        self.rule.as_ref().map_or("", |rule| &rule.name)
    }

    /// Why it is over its limit, in `UPPER_SNAKE`; `None`: it is not.
    pub fn refusal(&self) -> Option<&'static str> {
        match &self.found {
            Found::Free | Found::Unlimited => None,
            // No rule in shadow mode makes a tenant of who is none.
            Found::Closed(closed) => Some(closed.reason()),
            Found::Decided(_) if self.lenient => None,
            Found::Decided(decision) => decision.denial.map(Denial::reason),
        }
    }
}

/// What was taken so far; given back where it is dropped, as when a later descriptor fails or the caller gives up.
struct Taken<'a> {
    engine: &'a Engine,
    charges: SmallVec<[(OrganizationId, Vec<Charge>); USUAL]>,
}

impl Taken<'_> {
    fn undo(&mut self) {
        for (organization_id, charges) in self.charges.drain(..).rev() {
            self.engine.undo(organization_id, &charges);
        }
    }

    fn keep(mut self) {
        self.charges.clear();
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.undo();
    }
}

/// Who asks, and under which rules.
#[derive(Clone, Copy)]
struct Setting<'a> {
    caller: &'a Caller,
    domain: &'a String,
}

impl RateLimits {
    /// Decides about all descriptors: when one is over its limit, nothing is taken for any.
    ///
    /// Errors: `METER_NOT_FOUND`; `LEDGER_UNAVAILABLE` and `DATABASE_UNAVAILABLE` when what is left is not known. Nothing is
    /// taken then.
    pub async fn take_all(
        &self,
        caller: &Caller,
        domain: &String,
        questions: &[Question<'_>],
    ) -> Result<Outcomes, Error> {
        let setting = Setting { caller, domain };
        let courses = self.courses(setting, questions).await?;
        let mut taken = Taken { engine: self.decisions.engine(), charges: SmallVec::new() };
        let mut outcomes = Outcomes::with_capacity(questions.len());
        let mut is_over = false;
        let mut back = Vec::new();
        for (position, (question, course)) in questions.iter().zip(courses).enumerate() {
            // Once one is over, the others are only asked; and what is to be given back is so when all is taken.
            let mode = if is_over || question.back || question.amount == 0 { Mode::Check } else { Mode::All };
            let asked = if question.back { 0 } else { question.amount };
            let (mut outcome, organization_id) = self.take(setting, question, course, asked, mode).await?;
            outcome.lenient |= question.back;
            if let (Found::Decided(decision), Some(organization_id)) = (&mut outcome.found, organization_id) {
                if decision.denial == Some(Denial::LedgerUnavailable) && !outcome.lenient {
                    return Err(unavailable());
                }
                let charges = std::mem::take(&mut decision.charges);
                if !charges.is_empty() {
                    taken.charges.push((organization_id, charges));
                }
            }
            if question.back && matches!(outcome.found, Found::Decided(_)) {
                back.push(position);
            }
            if outcome.refusal().is_some() {
                is_over = true;
                taken.undo();
            }
            outcomes.push(outcome);
        }
        if !is_over {
            for position in back {
                let (question, outcome) = (&questions[position], &mut outcomes[position]);
                *outcome = Box::pin(self.give_back(setting, question)).await?;
            }
        }
        taken.keep();
        Ok(outcomes)
    }

    /// What limits each descriptor, without those that another one's rule replaces.
    async fn courses<'a>(&self, setting: Setting<'_>, questions: &[Question<'a>]) -> Result<Courses<'a>, Error> {
        let rules = self.rules_of(setting.domain, setting.caller.at().instant).await?;
        let mut courses = Courses::with_capacity(questions.len());
        for question in questions {
            courses.push(self.course(setting.caller, setting.domain, rules.as_deref(), question).await?);
        }
        let has_others = |course: &Course<'_>| course.rule.as_ref().is_some_and(|rule| !rule.replaces.is_empty());
        if courses.iter().any(has_others) {
            let rules: Vec<_> = courses.iter().filter_map(|course| course.rule.clone()).collect();
            let others: HashSet<&str> = rules.iter().flat_map(|rule| &rule.replaces).map(String::as_str).collect();
            for course in &mut courses {
                if course.rule.as_ref().is_some_and(|rule| others.contains(&*rule.name)) {
                    *course = Course { way: Way::Free, rule: None };
                }
            }
        }
        Ok(courses)
    }

    async fn rules_of(&self, domain: &String, now: Instant) -> Result<Option<Arc<RuleSet>>, Error> {
        match self.rules.peek(domain, now) {
            Some(rules) => Ok(rules),
            // Boxed, as it is rare and large.
            None => Box::pin(self.rules.get(domain)).await,
        }
    }

    /// Takes what one descriptor asks for; tells whose it is, where it is counted.
    async fn take(
        &self,
        setting: Setting<'_>,
        question: &Question<'_>,
        mut course: Course<'_>,
        amount: u64,
        mode: Mode,
    ) -> Result<(Outcome, Option<OrganizationId>), Error> {
        let mut waiting = None;
        loop {
            let (found, organization_id) = match &course.way {
                Way::Free => (Some(Found::Free), None),
                Way::Unlimited => (Some(Found::Unlimited), None),
                Way::Closed(closed) => (Some(Found::Closed(*closed)), None),
                Way::Tenant { organization_id, subjects, meter } => {
                    let (organization_id, subjects) = (*organization_id, *subjects);
                    let ask = Ask { organization_id, subjects, meter: meter.as_str(), amount, mode };
                    (Some(Found::Decided(self.decisions.decide(&ask).await?)), Some(organization_id))
                }
                Way::Own { organization_id, limit, as_of } => {
                    let (organization_id, as_of) = (*organization_id, *as_of);
                    let given = Given { organization_id, limits: limit, as_of, amount, mode };
                    let decided = match &mut waiting {
                        None => self.decisions.given(&given).map_err(|begun| waiting = Some(begun)).ok(),
                        Some(waiting) => Box::pin(self.decisions.given_again(&given, waiting)).await,
                    };
                    (decided.map(Found::Decided), Some(organization_id))
                }
            };
            if let Some(found) = found {
                return Ok((outcome(course, found), organization_id));
            }
            // Who waited goes by what is in force now.
            course = Box::pin(self.course_again(setting, question)).await?;
        }
    }

    async fn course_again<'a>(&self, setting: Setting<'_>, question: &Question<'a>) -> Result<Course<'a>, Error> {
        let rules = self.rules_of(setting.domain, self.shared.clock.instant()).await?;
        self.course(setting.caller, setting.domain, rules.as_deref(), question).await
    }

    /// Gives back what a descriptor names: in the ledger, and of rates what this replica has counted. Then asks what is left.
    async fn give_back(&self, setting: Setting<'_>, question: &Question<'_>) -> Result<Outcome, Error> {
        let course = self.course_again(setting, question).await?;
        let (organization_id, limits) = match &course.way {
            Way::Tenant { organization_id, subjects, meter } => {
                let (amount, mode) = (question.amount, Mode::All);
                let (organization_id, subjects) = (*organization_id, *subjects);
                let ask = Ask { organization_id, subjects, meter: meter.as_str(), amount, mode };
                (organization_id, self.decisions.engine().in_force(&ask).await?)
            }
            Way::Own { organization_id, limit, .. } => (*organization_id, limit.to_vec()),
            Way::Free | Way::Unlimited | Way::Closed(_) => (OrganizationId::from(uuid::Uuid::nil()), Vec::new()),
        };
        self.refund(organization_id, &limits, question.amount).await?;
        let (mut outcome, _) = self.take(setting, question, course, 0, Mode::Check).await?;
        outcome.lenient = true;
        Ok(outcome)
    }

    async fn refund(&self, organization_id: OrganizationId, limits: &[Resolved], amount: u64) -> Result<(), Error> {
        let corrections = if amount == 0 { Vec::new() } else { refunds(limits, amount) };
        if !corrections.is_empty() {
            let id = ids::v7(self.shared.clock.now());
            let operation = Operation { id, request_hash: Vec::new(), reply: Vec::new(), corrections };
            self.decisions.engine().record(organization_id, operation).await?;
        }
        self.decisions.engine().give_back_rates(organization_id, limits, amount);
        Ok(())
    }
}

fn outcome(course: Course<'_>, found: Found) -> Outcome {
    let lenient = course.rule.as_ref().is_some_and(|rule| rule.shadow);
    Outcome { found, rule: course.rule, lenient }
}

fn unavailable() -> Error {
    Error::Unavailable {
        reason: "LEDGER_UNAVAILABLE",
        message: "what is left of a limit is not known while the database is away",
        retry_after: Duration::from_secs(1),
    }
}
