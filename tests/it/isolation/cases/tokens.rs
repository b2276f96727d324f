//! The cases of tokens.

use tenancy::proto::v1;

use super::{Case, Furnished, case};

/// The cases, for a victim.
pub fn cases(victim: &Furnished) -> Vec<Case> {
    let organization_id = || victim.tenant.id.clone();
    let user_id = || victim.user_id.clone();
    vec![
        // That somebody else's user is no member here is a refusal of its own: token/issue.rs has the test.
        case("/tenancy.v1.TokenService/IssueToken").organization(v1::IssueTokenRequest {
            organization_id: organization_id(),
            user_id: user_id(),
            ..Default::default()
        }),
        // Name no organization: token/exchange.rs has another tenant's key.
        case("/tenancy.v1.TokenService/ExchangeApiKey"),
        case("/tenancy.v1.TokenService/GetJsonWebKeySet"),
        case("/tenancy.v1.TokenService/RevokeTokens")
            .organization(v1::RevokeTokensRequest { organization_id: organization_id(), user_id: user_id() })
            .resource(v1::RevokeTokensRequest { user_id: user_id(), ..Default::default() }, "MEMBER_NOT_FOUND"),
    ]
}
