//! Answers at the same time, on two replicas, against what must hold whoever is first.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tenancy::proto::v1;
use tokio::runtime::Handle;

use super::{accept, accept_as, decline, get, invited, person, resend, revoke, user};
use crate::harness::{Client, Tenant, World, refused};

/// What somebody does with an invitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// As a user who is there.
    Accept,
    /// As one who is created.
    Join,
    Decline,
    Revoke,
    Resend,
    /// Another invitation to the address.
    Replace,
}

fn steps() -> impl Strategy<Value = (bool, Vec<(Step, bool)>)> {
    let step = prop_oneof![
        6 => Just(Step::Accept),
        4 => Just(Step::Join),
        1 => Just(Step::Decline),
        1 => Just(Step::Revoke),
        1 => Just(Step::Resend),
        1 => Just(Step::Replace),
    ];
    // Whether the user is there already; and each step with the replica it goes to.
    (any::<bool>(), prop::collection::vec((step, any::<bool>()), 2..9))
}

/// One round: an address, the invitation to it, and the user with it where there is one.
struct Round<'a> {
    tenant: &'a Tenant,
    email: String,
    user: Option<String>,
    invitation_id: String,
    token: String,
}

impl Round<'_> {
    /// What came of a step: the reason of its refusal, or nothing.
    async fn take(&self, step: Step, tenant: &Client, platform: &Client) -> String {
        let nobody = super::NOBODY.to_owned();
        let outcome = match step {
            Step::Accept => accept(platform, &self.token, self.user.as_ref().unwrap_or(&nobody)).await.map(drop),
            Step::Join => accept_as(platform, &self.token, person(&self.email)).await.map(drop),
            Step::Decline => decline(platform, &self.token).await.map(drop),
            Step::Revoke => revoke(tenant, &self.invitation_id).await.map(drop),
            Step::Resend => resend(tenant, &self.invitation_id).await.map(drop),
            Step::Replace => super::invite(tenant, super::new(&self.email, "viewer")).await.map(drop),
        };
        outcome.map_or_else(|status| refused::<()>(Err(status)).reason, |()| String::new())
    }

    async fn members(&self, world: &World) -> Vec<(String, String)> {
        sqlx::query_as(
            "SELECT u.user_id::text, m.role FROM tenancy.members m JOIN tenancy.users u USING (user_id)
             WHERE m.organization_id = $1::uuid AND u.email_key = $2",
        )
        .bind(&self.tenant.id)
        .bind(&self.email)
        .fetch_all(&world.database.superuser)
        .await
        .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_first_one_acceptance_wins() {
    let flags = ["--invitations-per-hour", "0"];
    let world = World::start_with(&flags).await;
    let replica = World::on(world.database.clone(), &flags).await;
    let tenant = world.tenant("acme").await;
    let clients = [tenant.client.clone(), replica.client(&tenant.key)];
    let platforms = [world.operator(), replica.client(world.operator_key())];
    let (number, seen) = (Cell::new(0), RefCell::new(BTreeMap::<String, usize>::new()));
    let check = async |known: bool, steps: Vec<(Step, bool)>| {
        number.set(number.get() + 1);
        let email = format!("p{}@example.com", number.get());
        let user = if known { Some(user(&world, &email).await) } else { None };
        let (invitation, token) = invited(&tenant.client, &email, "admin").await;
        let invitation_id = invitation.invitation_id;
        let round = Round { tenant: &tenant, email, user, invitation_id, token };
        let take = |(step, at): &(Step, bool)| {
            let (client, platform) = (&clients[usize::from(*at)], &platforms[usize::from(*at)]);
            round.take(*step, client, platform)
        };
        let outcomes = join_all(steps.iter().map(take)).await;

        let after = get(&tenant.client, &round.invitation_id).await.unwrap();
        let accepted: Vec<Step> = steps
            .iter()
            .zip(&outcomes)
            .filter(|((step, _), reason)| matches!(step, Step::Accept | Step::Join) && reason.is_empty())
            .map(|((step, _), _)| *step)
            .collect();
        let members = round.members(&world).await;
        if after.status() == v1::InvitationStatus::Accepted {
            assert_eq!(accepted.len(), 1, "{steps:?} {outcomes:?}");
            assert_eq!(members, [(after.accept_user_id.clone(), "admin".to_owned())], "{steps:?} {outcomes:?}");
            assert_eq!(round.user.clone().unwrap_or(after.accept_user_id), members[0].0);
        } else {
            assert!(accepted.is_empty() && members.is_empty(), "{steps:?} {outcomes:?}");
        }
        // Who lost was told what it was that won; and nobody was left half done.
        let told = |reason: &String| {
            matches!(
                reason.as_str(),
                "" | "INVITATION_ACCEPTED"
                    | "INVITATION_DECLINED"
                    | "INVITATION_REVOKED"
                    | "INVITATION_REPLACED"
                    | "INVITATION_NOT_FOUND"
                    | "EMAIL_TAKEN"
                    | "USER_NOT_FOUND"
                    | "ALREADY_MEMBER"
            )
        };
        assert!(outcomes.iter().all(told), "{steps:?} {outcomes:?}");
        let sql = "SELECT count(*) FROM tenancy.users u WHERE NOT EXISTS (SELECT FROM tenancy.members m
                   WHERE m.user_id = u.user_id) AND u.email_key = $1";
        let alone: i64 = sqlx::query_scalar(sql).bind(&round.email).fetch_one(&world.database.superuser).await.unwrap();
        assert_eq!(alone, i64::from(known && members.is_empty()), "{steps:?} {outcomes:?}");
        for reason in outcomes {
            *seen.borrow_mut().entry(reason).or_default() += 1;
        }
    };
    let config = Config { cases: 60, max_shrink_iters: 40, failure_persistence: None, ..Config::default() };
    tokio::task::block_in_place(|| {
        TestRunner::new(config).run(&steps(), |(known, steps)| {
            Handle::current().block_on(check(known, steps));
            Ok(())
        })
    })
    .unwrap();
    let seen = seen.into_inner();
    // Or it proved little.
    for reason in ["", "INVITATION_ACCEPTED", "INVITATION_REVOKED", "EMAIL_TAKEN"] {
        assert!(seen.contains_key(reason), "{reason} never came up: {seen:?}");
    }
}
