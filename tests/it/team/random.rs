//! Random sequences of calls, against a model that is so simple that it is right: who is below whom, by parent.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use tenancy::proto::v1;
use tokio::runtime::Handle;

use super::{add, assert_is_a_tree, create, delete, reparent, subtree};
use crate::harness::{Tenant, World, refused};

/// Where a team is created or moved to.
#[derive(Clone, Debug)]
enum Place {
    Root,
    Below(Index),
    /// So that the depth has its end.
    Deepest,
}

#[derive(Clone, Debug)]
enum Step {
    Create(Place, u8),
    Move(Index, Place),
    Delete(Index, bool),
    Join(Index),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = || {
        prop_oneof![
            2 => Just(Place::Root),
            4 => any::<Index>().prop_map(Place::Below),
            4 => Just(Place::Deepest)
        ]
    };
    let step = prop_oneof![
        8 => (place(), 0_u8..6).prop_map(|(place, name)| Step::Create(place, name)),
        6 => (any::<Index>(), place()).prop_map(|(team, place)| Step::Move(team, place)),
        2 => (any::<Index>(), any::<bool>()).prop_map(|(team, cascade)| Step::Delete(team, cascade)),
        1 => any::<Index>().prop_map(Step::Join),
    ];
    prop::collection::vec(step, 20..70)
}

/// A team of the model.
#[derive(Debug)]
struct Node {
    parent: String,
    name: u8,
    joined: bool,
}

#[derive(Debug, Default)]
struct Model(BTreeMap<String, Node>);

impl Model {
    fn path(&self, team: &str) -> Vec<String> {
        if team.is_empty() {
            return Vec::new();
        }
        let mut path = self.path(&self.0[team].parent);
        path.push(team.to_owned());
        path
    }

    /// The team and all below it.
    fn within(&self, team: &str) -> Vec<String> {
        self.0.keys().filter(|other| self.path(other).iter().any(|above| above == team)).cloned().collect()
    }

    fn place(&self, place: &Place) -> String {
        match place {
            _ if self.0.is_empty() => String::new(),
            Place::Root => String::new(),
            Place::Below(index) => self.pick(*index),
            Place::Deepest => self.0.keys().max_by_key(|team| self.path(team).len()).cloned().unwrap_or_default(),
        }
    }

    fn pick(&self, index: Index) -> String {
        self.0.keys().nth(index.index(self.0.len())).cloned().unwrap_or_default()
    }

    fn is_taken(&self, parent: &str, name: u8) -> bool {
        self.0.values().any(|node| node.parent == parent && node.name == name)
    }
}

/// Takes the step in the service and in the model, which have to agree on what comes of it. Returns the refusal.
async fn take(tenant: &Tenant, user: &str, model: &mut Model, step: &Step) -> String {
    let client = &tenant.client;
    if model.0.is_empty() && !matches!(step, Step::Create(..)) {
        return String::new();
    }
    // All that is wrong with the step: the service may name any of it.
    let mut wrong = BTreeSet::new();
    let refusal = match step {
        Step::Create(place, name) => {
            let parent = model.place(place);
            if model.path(&parent).len() >= 10 {
                wrong.insert("TEAM_TOO_DEEP");
            }
            if model.is_taken(&parent, *name) {
                wrong.insert("TEAM_NAME_TAKEN");
            }
            let outcome = create(client, &parent, &format!("Name {name}")).await;
            outcome.map(|team| drop(model.0.insert(team.team_id, Node { parent, name: *name, joined: false })))
        }
        Step::Move(index, place) => {
            let (team, parent) = (model.pick(*index), model.place(place));
            let node = &model.0[&team];
            if node.parent != parent {
                let above = model.path(&parent);
                let height = model.within(&team).iter().map(|below| model.path(below).len()).max().unwrap_or_default();
                if above.contains(&team) {
                    wrong.insert("TEAM_CYCLE");
                } else if above.len() + 1 + height - model.path(&team).len() > 10 {
                    wrong.insert("TEAM_TOO_DEEP");
                }
                if model.is_taken(&parent, node.name) {
                    wrong.insert("TEAM_NAME_TAKEN");
                }
            }
            let outcome = reparent(client, &team, &parent).await;
            outcome.map(|moved| {
                model.0.get_mut(&team).unwrap().parent = parent;
                assert_eq!(moved.path, model.path(&team));
            })
        }
        Step::Delete(index, cascade) => {
            let team = model.pick(*index);
            let within = model.within(&team);
            let joined = within.iter().filter(|below| model.0[*below].joined).count();
            if !cascade && (within.len() > 1 || joined > 0) {
                wrong.insert("TEAM_NOT_EMPTY");
            }
            let mode = if *cascade { v1::DeleteTeamMode::Cascade } else { v1::DeleteTeamMode::Refuse };
            delete(client, &team, mode).await.map(|(teams, members)| {
                assert_eq!((usize::try_from(teams), usize::try_from(members)), (Ok(within.len()), Ok(joined)));
                model.0.retain(|team, _| !within.contains(team));
            })
        }
        Step::Join(index) => {
            let team = model.pick(*index);
            if model.0[&team].joined {
                wrong.insert("ALREADY_TEAM_MEMBER");
            }
            let outcome = add(client, &team, user, v1::TeamRole::Member).await;
            outcome.map(|_| model.0.get_mut(&team).unwrap().joined = true)
        }
    };
    let reason = refusal.map_or_else(|status| refused::<()>(Err(status)).reason, |()| String::new());
    assert!(if wrong.is_empty() { reason.is_empty() } else { wrong.contains(&*reason) }, "{reason:?}, not {wrong:?}");
    reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tree_is_what_a_naive_model_says() {
    let world = World::start().await;
    let (number, seen) = (Cell::new(0), RefCell::new(BTreeMap::<String, usize>::new()));
    let config = Config { cases: 12, max_shrink_iters: 40, failure_persistence: None, ..Config::default() };
    let check = async |steps: Vec<Step>| {
        number.set(number.get() + 1);
        let tenant = world.tenant(&format!("acme-{}", number.get())).await;
        let user = tenant.member(&world, "ida", "viewer").await;
        let mut model = Model::default();
        for step in &steps {
            let reason = take(&tenant, &user, &mut model, step).await;
            *seen.borrow_mut().entry(reason).or_default() += 1;
        }
        let all = subtree(&tenant.client, "").await;
        assert_is_a_tree(&all);
        let paths: BTreeSet<Vec<String>> = model.0.keys().map(|team| model.path(team)).collect();
        assert!(all.iter().map(|team| &team.path).eq(&paths), "{all:?}\n{model:?}");
    };
    tokio::task::block_in_place(|| {
        TestRunner::new(config).run(&steps(), |steps| {
            Handle::current().block_on(check(steps));
            Ok(())
        })
    })
    .unwrap();
    let seen = seen.into_inner();
    // Or it proved little.
    for reason in ["", "TEAM_CYCLE", "TEAM_TOO_DEEP", "TEAM_NAME_TAKEN", "TEAM_NOT_EMPTY"] {
        assert!(seen.contains_key(reason), "{reason} never came up: {seen:?}");
    }
}
