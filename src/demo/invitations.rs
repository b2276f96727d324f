//! The invitation of the demo: to an address, so that loading it again changes nothing, whatever became of it. Nobody is told
//! its token; resending it makes another one.

use crate::auth::invitation::Token;
use crate::auth::principal::Permitted;
use crate::clock::Clock;
use crate::demo::{one_page, teams};
use crate::error::Error;
use crate::ids::InvitationId;
use crate::model::invitation::{DEFAULT_TTL, Invitation, InvitationStatus, InvitedTeam};
use crate::model::member::Role;
use crate::model::team::TeamRole;
use crate::repository::database::Database;
use crate::repository::invitation::{self, Narrow};
use crate::repository::{member, organization};

/// Whom the organization invites, and into which team.
const INVITED: (&str, &str) = ("new.engineer@techcorp.example.com", "Frontend Squad");

/// Invites who was never invited and is no member.
pub(super) async fn load(database: &Database, clock: &Clock, permitted: &Permitted) -> Result<(), Error> {
    let (email, team) = INVITED;
    let mut scope = database.tenant(permitted).await?;
    organization::lock(&mut scope).await?;
    let now = clock.now();
    let narrow = Narrow { email: Some(email.to_owned()), ..Narrow::default() };
    let known = invitation::list(&mut scope, &narrow, now, &one_page()?).await?;
    if !known.is_empty() || !member::with_addresses(&mut scope, &[email.to_owned()]).await?.is_empty() {
        return Ok(());
    }
    let teams = teams::all(&mut scope).await?.into_iter().filter(|known| known.profile.display_name == team);
    let teams = teams.map(|team| InvitedTeam {
        team_id: team.team_id,
        role: TeamRole::Member,
        display_name: team.profile.display_name,
    });
    let invitation = Invitation {
        organization_id: permitted.organization_id(),
        invitation_id: InvitationId::new(now),
        email: email.to_owned(),
        role: Role::Member.into(),
        teams: teams.collect(),
        status: InvitationStatus::Pending,
        expire_time: now + DEFAULT_TTL,
        inviter: invitation::inviter(&scope),
        accept_user_id: None,
        revision: 1,
        create_time: now,
        update_time: now,
    };
    let token = Token::generate(invitation.organization_id, invitation.invitation_id)?;
    invitation::create(&mut scope, &[(invitation, token.hash())]).await?;
    scope.commit().await
}
