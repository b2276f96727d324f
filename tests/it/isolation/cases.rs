//! What the generated tests ask of each RPC: the request by which an attacker would reach into the victim's
//! organization. A new RPC without a case here fails the build of trust.

mod invitations;
pub mod plans;
mod quota;
mod roles;
mod sidecar;
mod teams;
mod tokens;

use prost::Message;
use prost_types::{FieldMask, Timestamp};
use tenancy::proto::v1;
use tenancy::worker::last_used;

use crate::harness::{Tenant, World};

/// A tenant with a row in every tenant table.
#[derive(Clone, Debug)]
pub struct Furnished {
    /// The tenant.
    pub tenant: Tenant,
    /// A member of it, an owner.
    pub user_id: String,
    /// A meter of its own.
    pub meter_id: String,
    /// A limit that it made for itself.
    pub limit_id: String,
    /// A team of it, of which the member is a member.
    pub team_id: String,
    /// An invitation into that team.
    pub invitation_id: String,
    /// Its token.
    pub token: String,
    /// When its event `<slug>-event` happened.
    pub occurred_at: Timestamp,
}

impl Furnished {
    /// Makes one by the API.
    pub async fn create(world: &World, slug: &str) -> Self {
        let tenant = world.tenant(slug).await;
        let user_id = tenant.member(world, "owner", "owner").await;
        let create = async |key: String, aggregation: v1::MeterAggregation, request_id: &str| {
            let meter = v1::Meter {
                key,
                display_name: "Calls".into(),
                aggregation: aggregation.into(),
                ..v1::Meter::default()
            };
            let request = v1::CreateMeterRequest { meter: Some(meter), request_id: request_id.into() };
            tenant.client.meters().create_meter(request).await.unwrap().into_inner().meter.unwrap().meter_id
        };
        // With a request id, for the table of repeatable requests.
        let request_id = "018f0000-0000-7000-8000-000000000001";
        let meter_id = create(format!("{slug}.calls"), v1::MeterAggregation::Sum, request_id).await;
        create(format!("{slug}.callers"), v1::MeterAggregation::UniqueCount, "").await;
        // One that stays, one that is voided, and one with a distinct value.
        let occurred_at = Timestamp { seconds: world.clock.now().timestamp(), nanos: 0 };
        let event = |event_id: &str, meter: &str| v1::UsageEvent {
            event_id: event_id.into(),
            occurred_at: Some(occurred_at),
            meter: format!("{slug}.{meter}"),
            subject: "ada".into(),
            ..v1::UsageEvent::default()
        };
        let events =
            vec![event(&format!("{slug}-event"), "calls"), event("voided", "calls"), event("caller", "callers")];
        let request = v1::RecordUsageRequest { events, ..Default::default() };
        let recorded = tenant.client.usage().record_usage(request).await.unwrap().into_inner();
        assert!(recorded.results.iter().all(|result| result.status() == v1::UsageEventStatus::Recorded));
        let request = v1::VoidUsageEventRequest {
            event_id: "voided".into(),
            occurred_at: Some(occurred_at),
            reason: "a row of each table".into(),
            ..Default::default()
        };
        tenant.client.usage().void_usage_event(request).await.unwrap();
        let rule = plans::rule(&format!("{slug}.calls"));
        let limit = v1::Limit { rule: Some(rule), ..v1::Limit::default() };
        let request = v1::CreateLimitRequest { limit: Some(limit), ..Default::default() };
        let created = tenant.client.limits().create_limit(request).await.unwrap().into_inner();
        let limit_id = created.limit.unwrap().limit_id;
        plans::ledger(world, &tenant.id).await;
        roles::create(&tenant).await;
        let team_id = teams::team(&tenant, &user_id).await;
        let (invitation_id, token) = invitations::invitation(&tenant, &team_id).await;
        // Somebody acts for the owner.
        let request = v1::GetUserRequest { user_id: user_id.clone(), ..Default::default() };
        tenant.client.clone().acting(&user_id).users().get_user(request).await.unwrap();
        // Or wait half a minute.
        last_used::run_once(&world.running.last_used, &world.running.database).await.unwrap();
        Self { tenant, user_id, meter_id, limit_id, team_id, invitation_id, token, occurred_at }
    }
}

/// The attacks on one RPC.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its path.
    pub path: &'static str,
    /// The request that names the victim's organization; absent where a request names none.
    pub organization: Option<Vec<u8>>,
    /// The request that names a resource of the victim's inside the attacker's own organization, and the reason of the
    /// refusal; absent where a request names none.
    pub resource: Option<(Vec<u8>, &'static str)>,
}

fn case(path: &'static str) -> Case {
    Case { path, organization: None, resource: None }
}

impl Case {
    fn organization(mut self, request: impl Message) -> Self {
        self.organization = Some(request.encode_to_vec());
        self
    }

    fn resource(mut self, request: impl Message, reason: &'static str) -> Self {
        self.resource = Some((request.encode_to_vec(), reason));
        self
    }
}

/// Every RPC's case, for a victim.
#[expect(clippy::too_many_lines, reason = "one entry an RPC")]
pub fn cases(victim: &Furnished) -> Vec<Case> {
    let organization_id = || victim.tenant.id.clone();
    let user_id = || victim.user_id.clone();
    let api_key_id = || victim.tenant.key_id.clone();
    let mask = |path: &str| Some(FieldMask { paths: vec![path.into()] });
    let organization = || v1::Organization {
        organization_id: organization_id(),
        display_name: "Taken".into(),
        ..v1::Organization::default()
    };
    let api_key = |organization_id: String| v1::ApiKey {
        organization_id,
        api_key_id: api_key_id(),
        display_name: "Taken".into(),
        kind: v1::ApiKeyKind::SecretLive.into(),
        scopes: vec!["usage.read".into()],
        ..v1::ApiKey::default()
    };
    let user = || v1::User { user_id: user_id(), display_name: "Taken".into(), ..v1::User::default() };
    let meter = |organization_id: String| v1::Meter {
        organization_id,
        meter_id: victim.meter_id.clone(),
        key: "taken".into(),
        display_name: "Taken".into(),
        aggregation: v1::MeterAggregation::Sum.into(),
        ..v1::Meter::default()
    };
    let query = |organization_id: String| v1::QueryUsageRequest {
        organization_id,
        meter: victim.meter_id.clone(),
        start_time: Some(Timestamp { seconds: 1_700_000_100, nanos: 0 }),
        end_time: Some(Timestamp { seconds: 1_700_001_000, nanos: 0 }),
        bucket: v1::UsageBucket::Day.into(),
        ..Default::default()
    };
    let void = |organization_id: String| v1::VoidUsageEventRequest {
        organization_id,
        event_id: format!("{}-event", victim.tenant.slug),
        occurred_at: Some(victim.occurred_at),
        reason: "Taken".into(),
    };
    let cases = vec![
        case("/tenancy.v1.ApiKeyService/CreateApiKey")
            .organization(v1::CreateApiKeyRequest { api_key: Some(api_key(organization_id())), ..Default::default() }),
        case("/tenancy.v1.ApiKeyService/GetApiKey")
            .organization(v1::GetApiKeyRequest { organization_id: organization_id(), api_key_id: api_key_id() })
            .resource(v1::GetApiKeyRequest { api_key_id: api_key_id(), ..Default::default() }, "API_KEY_NOT_FOUND"),
        case("/tenancy.v1.ApiKeyService/ListApiKeys")
            .organization(v1::ListApiKeysRequest { organization_id: organization_id(), ..Default::default() }),
        case("/tenancy.v1.ApiKeyService/UpdateApiKey")
            .organization(v1::UpdateApiKeyRequest {
                api_key: Some(api_key(organization_id())),
                update_mask: mask("display_name"),
            })
            .resource(
                v1::UpdateApiKeyRequest { api_key: Some(api_key(String::new())), update_mask: mask("display_name") },
                "API_KEY_NOT_FOUND",
            ),
        case("/tenancy.v1.ApiKeyService/RotateApiKey")
            .organization(v1::RotateApiKeyRequest {
                organization_id: organization_id(),
                api_key_id: api_key_id(),
                ..Default::default()
            })
            .resource(v1::RotateApiKeyRequest { api_key_id: api_key_id(), ..Default::default() }, "API_KEY_NOT_FOUND"),
        case("/tenancy.v1.ApiKeyService/RevokeApiKey")
            .organization(v1::RevokeApiKeyRequest {
                organization_id: organization_id(),
                api_key_id: api_key_id(),
                ..Default::default()
            })
            .resource(v1::RevokeApiKeyRequest { api_key_id: api_key_id(), ..Default::default() }, "API_KEY_NOT_FOUND"),
        // Names no organization, and answers with a code: rpcs.rs has a test of its own.
        case("/tenancy.v1.ApiKeyService/VerifyApiKey"),
        case("/tenancy.v1.AuditService/ListAuditEvents")
            .organization(v1::ListAuditEventsRequest { organization_id: organization_id(), ..Default::default() }),
        case("/tenancy.v1.MemberService/AddMember").organization(v1::AddMemberRequest {
            organization_id: organization_id(),
            user_id: user_id(),
            role: "viewer".into(),
            ..Default::default()
        }),
        case("/tenancy.v1.MemberService/GetMember")
            .organization(v1::GetMemberRequest { organization_id: organization_id(), user_id: user_id() })
            .resource(v1::GetMemberRequest { user_id: user_id(), ..Default::default() }, "MEMBER_NOT_FOUND"),
        case("/tenancy.v1.MemberService/ListMembers")
            .organization(v1::ListMembersRequest { organization_id: organization_id(), ..Default::default() }),
        case("/tenancy.v1.MemberService/UpdateMemberRole")
            .organization(v1::UpdateMemberRoleRequest {
                organization_id: organization_id(),
                user_id: user_id(),
                role: "viewer".into(),
                ..Default::default()
            })
            .resource(
                v1::UpdateMemberRoleRequest { user_id: user_id(), role: "viewer".into(), ..Default::default() },
                "MEMBER_NOT_FOUND",
            ),
        case("/tenancy.v1.MemberService/RemoveMember")
            .organization(v1::RemoveMemberRequest {
                organization_id: organization_id(),
                user_id: user_id(),
                ..Default::default()
            })
            .resource(v1::RemoveMemberRequest { user_id: user_id(), ..Default::default() }, "MEMBER_NOT_FOUND"),
        case("/tenancy.v1.MeterService/CreateMeter")
            .organization(v1::CreateMeterRequest { meter: Some(meter(organization_id())), ..Default::default() }),
        case("/tenancy.v1.MeterService/GetMeter")
            .organization(v1::GetMeterRequest { organization_id: organization_id(), meter: victim.meter_id.clone() })
            .resource(v1::GetMeterRequest { meter: victim.meter_id.clone(), ..Default::default() }, "METER_NOT_FOUND"),
        case("/tenancy.v1.MeterService/ListMeters")
            .organization(v1::ListMetersRequest { organization_id: organization_id(), ..Default::default() }),
        case("/tenancy.v1.MeterService/UpdateMeter")
            .organization(v1::UpdateMeterRequest {
                meter: Some(meter(organization_id())),
                update_mask: mask("display_name"),
            })
            .resource(
                v1::UpdateMeterRequest { meter: Some(meter(String::new())), update_mask: mask("display_name") },
                "METER_NOT_FOUND",
            ),
        case("/tenancy.v1.MeterService/ArchiveMeter")
            .organization(v1::ArchiveMeterRequest {
                organization_id: organization_id(),
                meter: victim.meter_id.clone(),
                ..Default::default()
            })
            .resource(
                v1::ArchiveMeterRequest { meter: victim.meter_id.clone(), ..Default::default() },
                "METER_NOT_FOUND",
            ),
        case("/tenancy.v1.OrganizationService/CreateOrganization"),
        case("/tenancy.v1.OrganizationService/GetOrganization")
            .organization(v1::GetOrganizationRequest { organization_id: organization_id() }),
        case("/tenancy.v1.OrganizationService/ListOrganizations"),
        case("/tenancy.v1.OrganizationService/UpdateOrganization").organization(v1::UpdateOrganizationRequest {
            organization: Some(organization()),
            update_mask: mask("display_name"),
            ..Default::default()
        }),
        case("/tenancy.v1.OrganizationService/SuspendOrganization")
            .organization(v1::SuspendOrganizationRequest { organization_id: organization_id(), ..Default::default() }),
        case("/tenancy.v1.OrganizationService/ResumeOrganization")
            .organization(v1::ResumeOrganizationRequest { organization_id: organization_id(), ..Default::default() }),
        case("/tenancy.v1.OrganizationService/DeleteOrganization")
            .organization(v1::DeleteOrganizationRequest { organization_id: organization_id(), ..Default::default() }),
        case("/tenancy.v1.OrganizationService/UndeleteOrganization")
            .organization(v1::UndeleteOrganizationRequest { organization_id: organization_id(), ..Default::default() }),
        case("/tenancy.v1.UsageService/GetUsageSummary")
            .organization(v1::GetUsageSummaryRequest { organization_id: organization_id(), ..Default::default() }),
        case("/tenancy.v1.UsageService/ListUsageEvents")
            .organization(v1::ListUsageEventsRequest { organization_id: organization_id(), ..Default::default() })
            .resource(
                v1::ListUsageEventsRequest { meter: victim.meter_id.clone(), ..Default::default() },
                "METER_NOT_FOUND",
            ),
        case("/tenancy.v1.UsageService/QueryUsage")
            .organization(query(organization_id()))
            .resource(query(String::new()), "METER_NOT_FOUND"),
        case("/tenancy.v1.UsageService/RecordUsage").organization(v1::RecordUsageRequest {
            organization_id: organization_id(),
            events: vec![v1::UsageEvent { meter: "victim.calls".into(), ..v1::UsageEvent::default() }],
        }),
        // One message and no more: its refusal is the end of the stream.
        case("/tenancy.v1.UsageService/StreamUsage").organization(v1::StreamUsageRequest {
            organization_id: organization_id(),
            sequence: 1,
            events: vec![v1::UsageEvent { meter: "victim.calls".into(), ..v1::UsageEvent::default() }],
        }),
        case("/tenancy.v1.UsageService/VoidUsageEvent")
            .organization(void(organization_id()))
            .resource(void(String::new()), "USAGE_EVENT_NOT_FOUND"),
        case("/tenancy.v1.UserService/BatchCreateUsers"),
        case("/tenancy.v1.UserService/CreateUser"),
        case("/tenancy.v1.UserService/GetUser")
            .organization(v1::GetUserRequest { organization_id: organization_id(), user_id: user_id() })
            .resource(v1::GetUserRequest { user_id: user_id(), ..Default::default() }, "USER_NOT_FOUND"),
        case("/tenancy.v1.UserService/ListUsers")
            .organization(v1::ListUsersRequest { organization_id: organization_id(), ..Default::default() }),
        case("/tenancy.v1.UserService/UpdateUser")
            .organization(v1::UpdateUserRequest {
                organization_id: organization_id(),
                user: Some(user()),
                update_mask: mask("display_name"),
            })
            .resource(
                v1::UpdateUserRequest { user: Some(user()), update_mask: mask("display_name"), ..Default::default() },
                "NOT_THAT_USER",
            ),
        // Take permissions that no tenant can hold, and name no organization.
        case("/tenancy.v1.UserService/DeactivateUser"),
        case("/tenancy.v1.UserService/EraseUser"),
        case("/tenancy.v1.UserService/ListUserOrganizations"),
    ];
    cases
        .into_iter()
        // Before an owner who is acted for hands over what they are (roles): these take an owner.
        .chain(tokens::cases(victim))
        .chain(invitations::cases(victim))
        .chain(plans::cases(victim))
        .chain(quota::cases(victim))
        .chain(roles::cases(victim))
        .chain(sidecar::cases())
        .chain(teams::cases(victim))
        .collect()
}
