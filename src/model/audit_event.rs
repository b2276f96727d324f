//! Audit events: the record of one change.

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::ids::{AuditEventId, OrganizationId, UserId};

/// One change, as it was recorded.
#[derive(Clone, Debug)]
pub struct AuditEvent {
    /// Its id.
    pub audit_event_id: AuditEventId,
    /// The organization it happened in; `None` for changes of the platform.
    pub organization_id: Option<OrganizationId>,
    /// When.
    pub occur_time: DateTime<Utc>,
    /// What sort of actor did it.
    pub actor_type: ActorType,
    /// The id of the key or the user, the SPIFFE id of the workload, or the name of the program.
    pub actor_id: String,
    /// The user for whom the actor acted.
    pub acting_user_id: Option<UserId>,
    /// `<resource>.<verb>`.
    pub action: String,
    /// The type of the resource.
    pub resource_type: String,
    /// Its id.
    pub resource_id: String,
    /// The resource before, without secrets; `None` when it did not exist.
    pub before: Option<Value>,
    /// The resource after, without secrets; `None` when it no longer exists.
    pub after: Option<Value>,
    /// The id of the request; empty for jobs and the command line.
    pub request_id: String,
}

/// What sort of actor, as [`Actor::kind`](crate::auth::principal::Actor::kind) was written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum ActorType {
    /// A tenant's key.
    ApiKey,
    /// A service key of the platform.
    Service,
    /// An operator's key.
    Operator,
    /// The command line or a background job.
    System,
    /// A workload, by its certificate.
    Workload,
    /// A user, by a token of their own.
    User,
}
