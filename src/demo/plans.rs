//! What the plans of the demo limit and entitle to. A plan that somebody gave limits or features is left as it is.

use crate::auth::principal::PermittedPlatform;
use crate::clock::Clock;
use crate::demo::JOB;
use crate::error::Error;
use crate::model::limit::{Enforcement, Rule, SubjectKind, Terms, Unit, Window};
use crate::model::meter::Meter;
use crate::model::plan::{self, Feature, Features, Plan};
use crate::repository;
use crate::repository::database::Database;
use crate::repository::scope::Purpose;

struct DemoPlan {
    key: &'static str,
    description: &'static str,
    /// In a month; `None`: without a limit.
    quizzes: Option<u64>,
    /// In a month; the enterprise pays for more.
    conversations: (u64, Enforcement),
    /// At a time.
    projects: Option<u64>,
    /// In any minute with one key, and the burst.
    requests: (u64, u64),
    sso: bool,
    support: &'static str,
}

const PLANS: &[DemoPlan] = &[
    DemoPlan {
        key: "free",
        description: "To try it",
        quizzes: Some(10),
        conversations: (100, Enforcement::Hard),
        projects: Some(1),
        requests: (60, 0),
        sso: false,
        support: "community",
    },
    DemoPlan {
        key: "starter",
        description: "For a small team",
        quizzes: Some(50),
        conversations: (1_000, Enforcement::Hard),
        projects: Some(5),
        requests: (300, 0),
        sso: false,
        support: "mail",
    },
    DemoPlan {
        key: "pro",
        description: "For a company",
        quizzes: Some(100),
        conversations: (5_000, Enforcement::Hard),
        projects: Some(20),
        requests: (1_200, 0),
        sso: true,
        support: "mail",
    },
    DemoPlan {
        key: "enterprise",
        description: "For many teams",
        quizzes: None,
        conversations: (50_000, Enforcement::Soft),
        projects: None,
        requests: (6_000, 1_000),
        sso: true,
        support: "phone",
    },
];

impl DemoPlan {
    fn rules(&self, meters: &[Meter]) -> Result<Vec<Rule>, Error> {
        let rule = |meter: &str, subject_kind, window, terms| -> Result<Rule, Error> {
            let found = meters.iter().find(|known| known.key == meter);
            let meter_id = found.ok_or_else(|| Error::internal(format!("the demo has no meter {meter}")))?.meter_id;
            Ok(Rule { meter_id, subject_kind, window, terms })
        };
        let hard = |amount| Terms {
            amount,
            burst: 0,
            enforcement: Enforcement::Hard,
            shadow: false,
            fallback: None,
            alert_percents: vec![],
        };
        let (month, minute) = (Window::Calendar(Unit::Month), Window::Rolling(Unit::Minute));
        let (amount, enforcement) = self.conversations;
        let conversations = Terms { enforcement, alert_percents: vec![90], ..hard(Some(amount)) };
        let (amount, burst) = self.requests;
        let requests = Terms { burst, ..hard(Some(amount)) };
        Ok(vec![
            rule("quizzes", SubjectKind::Organization, month, hard(self.quizzes))?,
            rule("conversations", SubjectKind::Organization, month, conversations)?,
            rule("projects", SubjectKind::Organization, Window::Lifetime, hard(self.projects))?,
            rule("api.requests", SubjectKind::ApiKey, minute, requests)?,
        ])
    }

    fn features(&self) -> Features {
        let features = [("sso", Feature::Boolean(self.sso)), ("support", Feature::Text(self.support.to_owned()))];
        features.into_iter().map(|(name, feature)| (name.to_owned(), feature)).collect()
    }
}

/// Gives the plans their limits and features.
pub(super) async fn load(database: &Database, clock: &Clock) -> Result<(), Error> {
    let permitted = PermittedPlatform::system(JOB);
    let mut scope = database.platform(&permitted, Purpose::PlatformMeters).await?;
    let meters = repository::meter::platform_wide(&mut scope).await?;
    scope.rollback().await?;
    let mut scope = database.platform(&permitted, Purpose::Plans).await?;
    for demo in PLANS {
        let before = repository::plan::lock(&mut scope, demo.key).await?;
        if before.version > 1 || !before.limits.is_empty() || !before.features.is_empty() {
            continue;
        }
        let now = clock.now();
        let limits = plan::limits_of(&before.limits, demo.rules(&meters)?, now);
        let profile = plan::Profile { description: demo.description.to_owned(), ..before.profile.clone() };
        let after = Plan { profile, limits, features: demo.features(), ..before.clone() };
        repository::plan::save(&mut scope, "plans.update", &before, after, now).await?;
    }
    scope.commit().await
}
