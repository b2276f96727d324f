//! What a million counters take, each in a process that does nothing else, so that nothing was there before: the counters as
//! the engine keeps them, and what is in force in their organizations, without which nothing is decided.

use std::fmt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use tenancy::clock::Clock;
use tenancy::facts::Facts;
use tenancy::ids::{LimitId, OrganizationId};
use tenancy::model::limit::{MOST, MOST_RATE, Rule, SubjectKind, Unit, Window};
use tenancy::model::meter::{Aggregation, Measure, Meter, Profile};
use tenancy::model::plan::{Feature, PlanLimit, PolicyRows};
use tenancy::quota::decision::{Mode, Subjects};
use tenancy::quota::desk::Desks;
use tenancy::quota::policies::CAPACITY;
use tenancy::quota::policy::{Interner, Policy};
use uuid::Uuid;

use crate::held::{Ledger, NOW, terms};
use crate::support::Failure;

/// In the environment of such a process: the number of the spread.
const ASKED: &str = "TENANCY_BENCH_COUNTERS";

/// How counters are spread: over so many organizations, of so many keys each.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// What it is called.
    pub name: &'static str,
    organizations: u128,
    keys: u128,
    window: Window,
}

/// Those that are measured.
pub const SPREADS: [Spread; 3] = [
    Spread { name: "1,000 organizations x 1,000 keys", organizations: 1_000, keys: 1_000, window: MONTH },
    Spread { name: "a million organizations", organizations: 1_000_000, keys: 1, window: MONTH },
    Spread { name: "a million organizations, a rolling minute", organizations: 1_000_000, keys: 1, window: MINUTE },
];
const MONTH: Window = Window::Calendar(Unit::Month);
const MINUTE: Window = Window::Rolling(Unit::Minute);

/// Meters of the platform, of the plan each with a limit for the organization and one for each key. Of the first one the keys
/// use something; nothing is kept of the others but the policy.
const METERS: u128 = 4;

/// What they take, in MiB.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// What is in force.
    pub policies: f64,
    /// The counters.
    pub counters: f64,
}

impl Taken {
    /// All of it.
    pub fn sum(&self) -> f64 {
        self.policies + self.counters
    }
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policies, counters } = self;
        write!(f, "{:.0} MiB: counters {counters:.0}, what is in force {policies:.0}", self.sum())
    }
}

/// Measures it.
pub fn measure(number: usize) -> Result<Taken, Failure> {
    let mut child = Command::new(std::env::current_exe()?);
    let output = child.env(ASKED, number.to_string()).output()?;
    let text = String::from_utf8(output.stdout)?;
    let parsed = text.trim().split_once(' ').map(|(policies, counters)| (policies.parse(), counters.parse()));
    match parsed {
        Some((Ok(policies), Ok(counters))) => Ok(Taken { policies, counters }),
        _ => Err(format!("no figure: {text} {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// Measures and prints it, if this is such a process.
pub fn answer() -> Result<bool, Failure> {
    let Ok(asked) = std::env::var(ASKED) else { return Ok(false) };
    let spread = SPREADS.get(asked.parse::<usize>()?).ok_or("no such spread")?;
    tokio::runtime::Builder::new_current_thread().build()?.block_on(fill(spread))?;
    Ok(true)
}

async fn fill(spread: &Spread) -> Result<(), Failure> {
    let held = Held::new(spread.window);
    let before = resident_kib()?;
    for organization in 0..spread.organizations {
        held.policy(id(organization)).await?;
    }
    let with_policies = resident_kib()?;
    for organization in 0..spread.organizations {
        held.decide(id(organization), spread.keys).await?;
    }
    let mut counters = 0;
    // As the sweep of each second.
    for desk in held.desks.all() {
        let state = desk.lock();
        counters += state.book.len() as u128;
        let _ = state.book.due(NOW, false, 0);
    }
    held.desks.tidy();
    let after = resident_kib()?;
    if counters != spread.organizations * spread.keys {
        return Err(format!("{counters} counters").into());
    }
    println!("{} {}", (with_policies - before) / 1024.0, (after - with_policies) / 1024.0);
    Ok(())
}

/// Scattered as the ids of organizations are.
fn id(number: u128) -> OrganizationId {
    Uuid::from_u128(number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)).into()
}

/// What the engine holds.
struct Held {
    clock: Clock,
    rows: PolicyRows,
    meters: Vec<Arc<Meter>>,
    interner: Interner,
    policies: Facts<OrganizationId, Policy>,
    desks: Desks,
}

impl Held {
    fn new(window: Window) -> Self {
        Self {
            clock: Clock::system(),
            rows: rows(window),
            meters: (0..METERS).map(meter).map(Arc::new).collect(),
            interner: Interner::default(),
            policies: Facts::new(CAPACITY, Duration::from_hours(24)),
            desks: Desks::default(),
        }
    }

    /// What is in force, as if it were read from the database when it is not here.
    async fn policy(&self, organization: OrganizationId) -> Result<Policy, Failure> {
        let load = || async { Ok(Policy::new(organization, &self.rows, &self.meters, &self.interner)) };
        self.policies.get(&organization, self.clock.instant(), load).await
    }

    async fn decide(&self, organization: OrganizationId, keys: u128) -> Result<(), Failure> {
        let policy = self.policy(organization).await?;
        let desk = self.desks.of(organization);
        let mut ledger = Ledger::default();
        for key in 0..keys {
            let api_key = Some(Uuid::from_u128(organization.uuid().as_u128() ^ key << 64));
            let subjects = Subjects { api_key, ..Subjects::default() };
            let limits = policy.resolve(organization, "meter-0", subjects).ok_or("no such meter")?;
            if !ledger.supply(&mut desk.lock().book, &limits, 1, Mode::All) {
                return Err("it was not admitted".into());
            }
        }
        Ok(())
    }
}

fn meter(number: u128) -> Meter {
    Meter {
        organization_id: None,
        meter_id: Uuid::from_u128(number).into(),
        key: format!("meter-{number}"),
        profile: Profile { display_name: String::new(), description: String::new(), unit: String::new() },
        measure: Measure {
            aggregation: Aggregation::Sum,
            value_property: None,
            group_by: Vec::new(),
            filter: Vec::new(),
        },
        archive_time: None,
        revision: 1,
        create_time: DateTime::UNIX_EPOCH,
        update_time: DateTime::UNIX_EPOCH,
    }
}

fn rows(window: Window) -> PolicyRows {
    let limit = |number: u128, meter: u128, subject_kind| PlanLimit {
        limit_id: LimitId::from(Uuid::from_u128(number)),
        rule: Rule {
            meter_id: Uuid::from_u128(meter).into(),
            subject_kind,
            window,
            terms: terms(if window.is_rate() { MOST_RATE } else { MOST }),
        },
    };
    let of_keys = (0..METERS).map(|meter| limit(meter, meter, SubjectKind::ApiKey));
    let of_organizations = (1..METERS).map(|meter| limit(METERS + meter, meter, SubjectKind::Organization));
    PolicyRows {
        plan: "bench".to_owned(),
        plan_version: 1,
        plan_limits: of_keys.chain(of_organizations).collect(),
        features: [("sso".to_owned(), Feature::Boolean(true))].into(),
        limits: Vec::new(),
        time_zone: chrono_tz::UTC,
        billing_anchor_day: 1,
        as_of: DateTime::UNIX_EPOCH,
    }
}

fn resident_kib() -> Result<f64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().strip_suffix("kB").ok_or("another unit")?.trim().parse()?)
}
