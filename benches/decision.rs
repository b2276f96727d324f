//! `cargo bench --bench decision`: the decision itself, on one thread, with everything in memory: the arithmetic that a
//! call costs besides its transport, its caller and its reply.

#[path = "quota/held.rs"]
mod held;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use tenancy::model::limit::{MOST, MOST_RATE, SubjectKind, Unit, Window};
use tenancy::quota::book::{Book, Verdict};
use tenancy::quota::decision::{AccountKey, Applied, Mode, Source};
use tenancy::quota::policy::Resolved;
use uuid::Uuid;

use crate::held::{Ledger, NOW, question, terms};

const MONTH: Window = Window::Calendar(Unit::Month);
const MINUTE: Window = Window::Rolling(Unit::Minute);
/// What is granted before, so that no decision of the bench waits for more.
const GRANTED: u64 = 100_000_000;

fn main() {
    let mut criterion = Criterion::default()
        .configure_from_args()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    let organization = |window, amount| of(&limit(SubjectKind::Organization, window, amount), Uuid::from_u128(10));
    let api_key = of(&limit(SubjectKind::ApiKey, MONTH, MOST), Uuid::from_u128(11));
    admitted(&mut criterion, "one limit", &[organization(MONTH, MOST)], Mode::All);
    admitted(&mut criterion, "one limit, a check", &[organization(MONTH, MOST)], Mode::Check);
    admitted(&mut criterion, "two limits", &[api_key, organization(MONTH, MOST)], Mode::All);
    admitted(&mut criterion, "a rolling minute", &[organization(MINUTE, MOST_RATE)], Mode::All);

    let limits = [organization(MONTH, 10)];
    let (mut book, mut ledger) = (Book::default(), Ledger::default());
    assert!(ledger.supply(&mut book, &limits, 10, Mode::All), "ten are there");
    assert!(!ledger.supply(&mut book, &limits, 1, Mode::All), "and no more");
    criterion.bench_function("a denial", |bencher| {
        let mut asked = Vec::new();
        // At the moment of the ledger's answer: it stands for a while.
        bencher.iter(|| book.decide(NOW, question(black_box(&limits), 1, Mode::All), &mut asked));
        assert!(asked.is_empty(), "the ledger was asked");
    });
    criterion.final_summary();
}

/// A limit for subjects of a kind.
fn limit(subject_kind: SubjectKind, window: Window, amount: u64) -> Arc<Applied> {
    Arc::new(Applied {
        limit_id: Uuid::from_u128(1).into(),
        source: Source::Plan,
        meter: "calls".into(),
        meter_id: Uuid::from_u128(2).into(),
        subject_kind,
        window,
        terms: terms(amount),
    })
}

/// It, for one of them.
fn of(applied: &Arc<Applied>, subject_id: Uuid) -> Resolved {
    let Applied { subject_kind, meter_id, window, .. } = **applied;
    Resolved { account: AccountKey { subject_kind, subject_id, meter_id, window }, applied: Arc::clone(applied) }
}

fn admitted(criterion: &mut Criterion, name: &str, limits: &[Resolved], mode: Mode) {
    let (mut book, mut ledger) = (Book::default(), Ledger::default());
    assert!(ledger.supply(&mut book, limits, GRANTED, Mode::Check), "so much is there");
    let mut now = NOW;
    criterion.bench_function(name, |bencher| {
        let mut asked = Vec::new();
        bencher.iter(|| {
            // A million a second.
            now += 1;
            book.decide(now, question(black_box(limits), 1, mode), &mut asked)
        });
        let last = book.decide(now, question(limits, 1, mode), &mut asked);
        assert!(matches!(last, Verdict::Decided(decision) if decision.denial.is_none()), "it was not admitted");
    });
}
