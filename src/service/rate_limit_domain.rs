//! `RateLimitDomainService`.

use tonic::{Request, Response, Status};

use crate::model::etag;
use crate::model::rate_limit_domain::{self as rules, RateLimitDomain};
use crate::page::Page;
use crate::proto::v1;
use crate::proto::v1::rate_limit_domain_service_server::RateLimitDomainService;
use crate::repository::rate_limit_domain;
use crate::repository::scope::Purpose;
use crate::service::convert::{mask, rate_limit_domain as convert};
use crate::service::{Shared, idempotency, open};

/// The service.
#[derive(Clone, Debug)]
pub struct RateLimitDomains {
    /// What it works with.
    pub shared: Shared,
}

#[tonic::async_trait]
impl RateLimitDomainService for RateLimitDomains {
    async fn create_rate_limit_domain(
        &self,
        request: Request<v1::CreateRateLimitDomainRequest>,
    ) -> Result<Response<v1::CreateRateLimitDomainResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let repeatable = idempotency::read(&std::mem::take(&mut request.request_id), &request)?;
        let (domain, rules) = convert::read(request.rate_limit_domain.unwrap_or_default())?;

        let permitted = self.shared.gate.whole_platform(&caller)?;
        let mut scope = self.shared.database.platform(&permitted, Purpose::RateLimits).await?;
        let now = self.shared.clock.now();
        if let Some(reply) = idempotency::replayed(&mut scope, repeatable, now).await? {
            return Ok(Response::new(reply));
        }
        let rule_count = rules::count(&rules);
        let created = RateLimitDomain { domain, rules, rule_count, revision: 1, create_time: now, update_time: now };
        rate_limit_domain::create(&mut scope, &created).await?;
        let reply = v1::CreateRateLimitDomainResponse { rate_limit_domain: Some(convert::to_proto(created)) };
        if request.validate_only {
            scope.rollback().await?;
            return Ok(Response::new(reply));
        }
        idempotency::remember(&mut scope, repeatable, &reply).await?;
        scope.commit().await?;
        Ok(Response::new(reply))
    }

    async fn get_rate_limit_domain(
        &self,
        request: Request<v1::GetRateLimitDomainRequest>,
    ) -> Result<Response<v1::GetRateLimitDomainResponse>, Status> {
        let (caller, request) = open(request)?;
        let permitted = self.shared.gate.whole_platform(&caller)?;
        let mut scope = self.shared.database.platform(&permitted, Purpose::RateLimits).await?;
        let found = rate_limit_domain::get(&mut scope, &request.domain).await?;
        let reply = v1::GetRateLimitDomainResponse { rate_limit_domain: Some(convert::to_proto(found)) };
        Ok(Response::new(reply))
    }

    async fn list_rate_limit_domains(
        &self,
        request: Request<v1::ListRateLimitDomainsRequest>,
    ) -> Result<Response<v1::ListRateLimitDomainsResponse>, Status> {
        let (caller, mut request) = open(request)?;
        let (size, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
        let page = Page::read(caller.method(), &request, size, &token)?;
        let permitted = self.shared.gate.whole_platform(&caller)?;
        let mut scope = self.shared.database.platform(&permitted, Purpose::RateLimits).await?;
        let mut found = rate_limit_domain::list(&mut scope, &page).await?;
        let next_page_token = page.finish(&mut found, rate_limit_domain::cursor);
        let rate_limit_domains = found.into_iter().map(convert::to_proto).collect();
        Ok(Response::new(v1::ListRateLimitDomainsResponse { rate_limit_domains, next_page_token }))
    }

    async fn update_rate_limit_domain(
        &self,
        request: Request<v1::UpdateRateLimitDomainRequest>,
    ) -> Result<Response<v1::UpdateRateLimitDomainResponse>, Status> {
        let (caller, request) = open(request)?;
        let message = request.rate_limit_domain.unwrap_or_default();
        // No rules are rules, so an empty mask is no question of what is set.
        mask::fields_or_set(request.update_mask, convert::FIELDS, |_| true)?;
        let given = message.etag.clone();
        let (domain, rules) = convert::read(message)?;

        let permitted = self.shared.gate.whole_platform(&caller)?;
        let mut scope = self.shared.database.platform(&permitted, Purpose::RateLimits).await?;
        let before = rate_limit_domain::lock(&mut scope, &domain).await?;
        etag::check(rate_limit_domain::RESOURCE, &given, before.revision)?;
        let saved = rate_limit_domain::save(&mut scope, &before, rules, self.shared.clock.now()).await?;
        if request.validate_only {
            scope.rollback().await?;
        } else {
            scope.commit().await?;
        }
        let reply = v1::UpdateRateLimitDomainResponse { rate_limit_domain: Some(convert::to_proto(saved)) };
        Ok(Response::new(reply))
    }

    async fn delete_rate_limit_domain(
        &self,
        request: Request<v1::DeleteRateLimitDomainRequest>,
    ) -> Result<Response<v1::DeleteRateLimitDomainResponse>, Status> {
        let (caller, request) = open(request)?;
        let permitted = self.shared.gate.whole_platform(&caller)?;
        let mut scope = self.shared.database.platform(&permitted, Purpose::RateLimits).await?;
        let before = rate_limit_domain::lock(&mut scope, &request.domain).await?;
        etag::check(rate_limit_domain::RESOURCE, &request.etag, before.revision)?;
        rate_limit_domain::delete(&mut scope, &before, self.shared.clock.now()).await?;
        scope.commit().await?;
        Ok(Response::new(v1::DeleteRateLimitDomainResponse {}))
    }
}
