//! `AuditService`.

use tonic::{Request, Response, Status};

use crate::auth::gate::Reach;
use crate::filter::Filter;
use crate::page::{Cursor, Page};
use crate::proto::v1;
use crate::proto::v1::audit_service_server::AuditService;
use crate::repository::audit_event::{self, Narrow};
use crate::repository::scope::Purpose;
use crate::service::convert::audit_event as convert;
use crate::service::{Shared, open};

/// The service.
#[derive(Clone, Debug)]
pub struct Audit {
    /// What it works with.
    pub shared: Shared,
}

/// What a list can be narrowed by.
const FILTERS: &[&str] = &["action", "resource_type", "resource_id", "actor_id", "acting_user_id", "request_id"];

#[tonic::async_trait]
impl AuditService for Audit {
    async fn list_audit_events(
        &self,
        request: Request<v1::ListAuditEventsRequest>,
    ) -> Result<Response<v1::ListAuditEventsResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let (size, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
        let page = Page::read(caller.method(), &request, size, &token)?;
        let filter = Filter::parse(&request.filter, FILTERS)?;
        let text = |field| filter.get(field).map(str::to_owned);
        let narrow = Narrow {
            action: text("action"),
            resource_type: text("resource_type"),
            resource_id: text("resource_id"),
            actor_id: text("actor_id"),
            acting_user_id: filter.get_as("acting_user_id", |user| user.parse().ok())?,
            request_id: text("request_id"),
        };

        let mut found = match self.shared.gate.reach(&caller, &request.organization_id).await? {
            Reach::Tenant(permitted) => {
                let mut scope = self.shared.database.tenant(&permitted).await?;
                audit_event::list(&mut scope, &narrow, &page).await?
            }
            Reach::Platform(permitted) => {
                let mut scope = self.shared.database.platform(&permitted, Purpose::PlatformAudit).await?;
                audit_event::list_of_platform(&mut scope, &narrow, &page).await?
            }
        };
        let next_page_token =
            page.finish(&mut found, |last| Cursor { time: last.occur_time, id: last.audit_event_id.uuid() });
        let audit_events = found.into_iter().map(convert::to_proto).collect();
        Ok(Response::new(v1::ListAuditEventsResponse { audit_events, next_page_token }))
    }
}
