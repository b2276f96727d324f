//! Rows of organizations: one call each, some at once.

use crate::cli::import::foreseen::Thing;
use crate::cli::import::importer::{Importer, Lane, done, refusal, refused, refused_by};
use crate::cli::import::report::{Done, Fate};
use crate::cli::import::row::Kind;
use crate::cli::import::service::reason;
use crate::proto::v1;
use crate::proto::v1::organization_service_client::OrganizationServiceClient;

const KIND: Kind = Kind::Organization;

impl Importer<'_> {
    pub(super) async fn organizations(&self, rows: Lane<v1::Organization>) -> Result<Vec<Fate>, String> {
        let mut fates = Vec::with_capacity(rows.len());
        for (line, row) in rows {
            fates.push(self.organization(line, row).await?);
        }
        Ok(fates)
    }

    async fn organization(&self, line: u64, row: v1::Organization) -> Result<Fate, String> {
        if let Some(foreseen) = &self.foreseen
            && foreseen.has(Thing::Organization(&row.slug))
        {
            return Ok(done(KIND, Done::Unchanged));
        }
        let client = OrganizationServiceClient::new(self.service.channel.clone());
        let create = v1::CreateOrganizationRequest {
            organization: Some(row.clone()),
            validate_only: self.is_dry(),
            ..Default::default()
        };
        let status = match self.service.call(&create, async |r| client.clone().create_organization(r).await).await {
            Ok(_) => {
                if let Some(foreseen) = &self.foreseen {
                    foreseen.add(Thing::Organization(&row.slug));
                }
                return Ok(done(KIND, Done::Created));
            }
            Err(failure) => refusal(failure)?,
        };
        if reason(&status) != "SLUG_TAKEN" {
            return Ok(refused_by(line, KIND, &status));
        }
        let get = v1::GetOrganizationRequest { organization_id: row.slug.clone() };
        let found = match self.service.call(&get, async |r| client.clone().get_organization(r).await).await {
            Ok(reply) => reply.organization.unwrap_or_default(),
            Err(failure) => return Ok(refused_by(line, KIND, &*refusal(failure)?)),
        };
        let fate = match differing(&row, &found).as_slice() {
            [] => done(KIND, Done::Unchanged),
            fields => {
                let message = format!("the organization {} exists with other {}", row.slug, fields.join(", "));
                refused(line, KIND, "SLUG_TAKEN", message)
            }
        };
        Ok(fate)
    }
}

/// What a row says of an organization that is otherwise there.
fn differing(row: &v1::Organization, found: &v1::Organization) -> Vec<&'static str> {
    let text = |asked: &str, has: &str| !asked.is_empty() && asked != has;
    let branding = |of: fn(&v1::Branding) -> &str| {
        let has = found.branding.as_ref().map_or("", of);
        row.branding.as_ref().is_some_and(|asked| text(of(asked), has))
    };
    let fields = [
        ("display_name", text(&row.display_name, &found.display_name)),
        ("plan", text(&row.plan, &found.plan)),
        ("contact_email", text(&row.contact_email, &found.contact_email)),
        ("billing_email", text(&row.billing_email, &found.billing_email)),
        ("time_zone", text(&row.time_zone, &found.time_zone)),
        ("billing_anchor_day", row.billing_anchor_day != 0 && row.billing_anchor_day != found.billing_anchor_day),
        ("currency", text(&row.currency, &found.currency)),
        ("locale", text(&row.locale, &found.locale)),
        ("date_format", text(&row.date_format, &found.date_format)),
        ("branding.logo_uri", branding(|branding| &branding.logo_uri)),
        ("branding.primary_color", branding(|branding| &branding.primary_color)),
        ("labels", !row.labels.is_empty() && row.labels != found.labels),
        ("member_limit", row.member_limit.is_some() && row.member_limit != found.member_limit),
        ("settings", row.settings.is_some() && row.settings != found.settings),
        ("delete_time", found.delete_time.is_some()),
    ];
    fields.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
}
