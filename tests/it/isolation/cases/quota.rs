//! The cases of `QuotaService`.

use tenancy::proto::v1;

use crate::isolation::cases::{Case, Furnished, case};

pub fn cases(victim: &Furnished) -> Vec<Case> {
    let organization_id = || victim.tenant.id.clone();
    let meter = || format!("{}.calls", victim.tenant.slug);
    vec![
        case("/tenancy.v1.QuotaService/CheckQuota")
            .organization(v1::CheckQuotaRequest {
                organization_id: organization_id(),
                meter: meter(),
                ..Default::default()
            })
            .resource(v1::CheckQuotaRequest { meter: meter(), ..Default::default() }, "METER_NOT_FOUND"),
        case("/tenancy.v1.QuotaService/ConsumeQuota")
            .organization(v1::ConsumeQuotaRequest {
                organization_id: organization_id(),
                meter: meter(),
                amount: 1,
                ..Default::default()
            })
            .resource(v1::ConsumeQuotaRequest { meter: meter(), amount: 1, ..Default::default() }, "METER_NOT_FOUND"),
        case("/tenancy.v1.QuotaService/ReserveQuota")
            .organization(v1::ReserveQuotaRequest {
                organization_id: organization_id(),
                meter: meter(),
                amount: 1,
                ..Default::default()
            })
            .resource(v1::ReserveQuotaRequest { meter: meter(), amount: 1, ..Default::default() }, "METER_NOT_FOUND"),
        // That of another organization is no reservation: quota/reservations.rs.
        case("/tenancy.v1.QuotaService/CommitQuota").organization(v1::CommitQuotaRequest {
            organization_id: organization_id(),
            reservation_id: "x".into(),
            amount: 1,
        }),
        case("/tenancy.v1.QuotaService/ReleaseQuota")
            .organization(v1::ReleaseQuotaRequest { organization_id: organization_id(), reservation_id: "x".into() }),
        case("/tenancy.v1.QuotaService/RefundQuota")
            .organization(v1::RefundQuotaRequest {
                organization_id: organization_id(),
                meter: meter(),
                amount: 1,
                operation_id: "taken".into(),
                ..Default::default()
            })
            .resource(
                v1::RefundQuotaRequest {
                    meter: meter(),
                    amount: 1,
                    operation_id: "taken".into(),
                    ..Default::default()
                },
                "METER_NOT_FOUND",
            ),
        case("/tenancy.v1.QuotaService/GetQuota")
            .organization(v1::GetQuotaRequest { organization_id: organization_id(), meter: meter(), subject: None })
            .resource(v1::GetQuotaRequest { meter: meter(), ..Default::default() }, "METER_NOT_FOUND"),
        case("/tenancy.v1.QuotaService/ListQuotas")
            .organization(v1::ListQuotasRequest { organization_id: organization_id(), subject: None }),
        // Each request of a batch has its own answer: quota/batches.rs.
        case("/tenancy.v1.QuotaService/BatchCheckQuota"),
        case("/tenancy.v1.QuotaService/BatchConsumeQuota"),
        case("/tenancy.v1.QuotaService/BatchReserveQuota"),
        case("/tenancy.v1.QuotaService/BatchCommitQuota"),
    ]
}
