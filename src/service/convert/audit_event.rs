//! Audit events between protobuf and the model.

use crate::model::audit_event::{ActorType, AuditEvent};
use crate::proto::v1;
use crate::service::convert::{timestamp, to_struct};

/// For the wire.
#[must_use]
pub fn to_proto(event: AuditEvent) -> v1::AuditEvent {
    v1::AuditEvent {
        audit_event_id: event.audit_event_id.to_string(),
        organization_id: event.organization_id.map(|id| id.to_string()).unwrap_or_default(),
        occur_time: Some(timestamp(event.occur_time)),
        actor: Some(v1::AuditActor { r#type: actor_type(event.actor_type).into(), id: event.actor_id }),
        acting_user_id: event.acting_user_id.map(|id| id.to_string()).unwrap_or_default(),
        action: event.action,
        resource_type: event.resource_type,
        resource_id: event.resource_id,
        before: event.before.map(to_struct),
        after: event.after.map(to_struct),
        request_id: event.request_id,
    }
}

/// What sort of actor, for the wire.
#[must_use]
pub const fn actor_type(actor_type: ActorType) -> v1::AuditActorType {
    match actor_type {
        ActorType::ApiKey => v1::AuditActorType::ApiKey,
        ActorType::Service => v1::AuditActorType::Service,
        ActorType::Operator => v1::AuditActorType::Operator,
        ActorType::System => v1::AuditActorType::System,
        ActorType::Workload => v1::AuditActorType::Workload,
        ActorType::User => v1::AuditActorType::User,
    }
}
