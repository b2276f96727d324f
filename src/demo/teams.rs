//! The teams of the demo: found by their names, so that loading it again changes nothing.

use crate::auth::principal::Permitted;
use crate::clock::Clock;
use crate::demo::JOB;
use crate::error::Error;
use crate::ids::UserId;
use crate::model::team::{Profile, Team, TeamRole};
use crate::page::tree::TreePage;
use crate::repository::database::Database;
use crate::repository::scope::TenantScope;
use crate::repository::team::member;
use crate::repository::{organization, team};

struct DemoTeam {
    name: &'static str,
    /// Comes before it in the list.
    parent: Option<&'static str>,
    description: &'static str,
    /// Members of the organization, by their places among the people.
    members: &'static [(usize, TeamRole)],
}

const TEAMS: &[DemoTeam] = &[
    DemoTeam { name: "Engineering", parent: None, description: "Builds it", members: &[(0, TeamRole::Lead)] },
    DemoTeam {
        name: "Frontend Squad",
        parent: Some("Engineering"),
        description: "What people see",
        members: &[(1, TeamRole::Lead), (2, TeamRole::Member)],
    },
    DemoTeam {
        name: "Backend Squad",
        parent: Some("Engineering"),
        description: "What programs see",
        members: &[(2, TeamRole::Lead), (0, TeamRole::Member)],
    },
    DemoTeam { name: "Product Team", parent: None, description: "Says what to build", members: &[(1, TeamRole::Lead)] },
];

/// Makes the teams that an organization lacks, with their members; who is in a team that is there is left alone.
pub(super) async fn load(
    database: &Database,
    clock: &Clock,
    permitted: &Permitted,
    people: &[UserId],
) -> Result<(), Error> {
    let mut scope = database.tenant(permitted).await?;
    organization::lock(&mut scope).await?;
    let mut known = all(&mut scope).await?;
    for demo in TEAMS {
        let profile = Profile {
            display_name: demo.name.to_owned(),
            description: demo.description.to_owned(),
            ..Profile::default()
        };
        let parent = known.iter().find(|team| Some(team.profile.display_name.as_str()) == demo.parent).cloned();
        let above = parent.as_ref().map(|parent| parent.team_id);
        let is_same = |team: &Team| team.parent() == above && team.profile.name_key() == profile.name_key();
        if demo.parent.is_some() != above.is_some() || known.iter().any(is_same) {
            continue;
        }
        let now = clock.now();
        let created = team::create(&mut scope, parent.as_ref(), profile, now).await?;
        for (person, role) in demo.members {
            member::add(&mut scope, created.team_id, people[*person], *role, now).await?;
        }
        known.push(created);
    }
    scope.commit().await
}

/// All teams, depth first.
pub(super) async fn all(scope: &mut TenantScope) -> Result<Vec<Team>, Error> {
    let mut all = Vec::new();
    let mut token = String::new();
    loop {
        let page = TreePage::read(JOB, &(), 1000, &token)?;
        let mut found = team::list(scope, &[], true, &page).await?;
        token = page.finish(&mut found, team::key);
        all.append(&mut found);
        if token.is_empty() {
            return Ok(all);
        }
    }
}
