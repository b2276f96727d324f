//! Rows of teams: one call each, below teams that are looked up by their names.

use std::collections::{BTreeMap, HashMap};
use std::sync::PoisonError;

use crate::cli::import::foreseen::Thing;
use crate::cli::import::importer::{Importer, Lane, done, refusal, refused, refused_by};
use crate::cli::import::report::{Done, Fate};
use crate::cli::import::row::{Kind, Team};
use crate::model::team::{name_key, names};
use crate::proto::v1;
use crate::proto::v1::team_service_client::TeamServiceClient;

const KIND: Kind = Kind::Team;

/// How many teams are kept in memory, of all organizations; an organization has 10,000 at most.
const KEPT: usize = 100_000;

/// How many teams are read at once, and what they take at the most: each has up to 64 labels.
const PAGE: (i32, usize) = (200, 32 << 20);

/// The teams of an organization, by what is unique of their names from the root down.
#[derive(Clone, Debug, Default)]
pub struct Tree(HashMap<Vec<String>, Known>);

/// What is known of a team.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Empty for one that a dry run would create.
    team_id: String,
    description: String,
    labels: BTreeMap<String, String>,
}

impl Importer<'_> {
    pub(super) async fn teams(&self, organization: String, rows: Lane<Team>) -> Result<Vec<Fate>, String> {
        let known = self.trees.lock().unwrap_or_else(PoisonError::into_inner).remove(&organization);
        let mut tree = match known {
            Some(tree) => tree,
            None => match self.tree(&organization).await? {
                Ok(tree) => tree,
                Err(status) => return Ok(rows.iter().map(|(line, _)| refused_by(*line, KIND, &status)).collect()),
            },
        };
        let mut fates = Vec::with_capacity(rows.len());
        for (line, row) in rows {
            fates.push(self.team(&mut tree, line, row).await?);
        }
        let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        if trees.values().map(|tree| tree.0.len()).sum::<usize>() + tree.0.len() > KEPT {
            trees.clear();
        }
        trees.insert(organization, tree);
        Ok(fates)
    }

    async fn team(&self, tree: &mut Tree, line: u64, row: Team) -> Result<Fate, String> {
        let names = match names("path", &row.path) {
            Ok(names) => names,
            Err(wrong) => return Ok(refused(line, KIND, "INVALID_FIELD", format!("path {}", wrong.description))),
        };
        let keys: Vec<String> = names.iter().map(|name| name_key(name)).collect();
        let is_foreseen = |keys: &[String]| {
            self.foreseen.as_ref().is_some_and(|foreseen| foreseen.has(Thing::Team(&row.organization, keys)))
        };
        if is_foreseen(&keys) {
            return Ok(done(KIND, Done::Unchanged));
        }
        if let Some(known) = tree.0.get(&keys) {
            let differs = !row.description.is_empty() && row.description != known.description
                || !row.labels.is_empty() && row.labels != known.labels;
            if differs {
                let message = format!("the team {} exists with another description or other labels", row.path);
                return Ok(refused(line, KIND, "TEAM_NAME_TAKEN", message));
            }
            return Ok(done(KIND, Done::Unchanged));
        }
        let above = match keys.split_last() {
            Some((_, [])) | None => Known::default(),
            Some((_, above)) => match tree.0.get(above) {
                Some(known) => known.clone(),
                None if is_foreseen(above) => Known::default(),
                None => {
                    let message = format!("there is no team above {}: its row has to come before", row.path);
                    return Ok(refused(line, KIND, "TEAM_NOT_FOUND", message));
                }
            },
        };
        let is_root = keys.len() == 1;
        let mut created = Known { description: row.description, labels: row.labels, ..Known::default() };
        let team = v1::Team {
            organization_id: row.organization.clone(),
            parent_team_id: above.team_id,
            display_name: names.into_iter().next_back().unwrap_or_default(),
            description: created.description.clone(),
            labels: created.labels.clone(),
            ..v1::Team::default()
        };
        let is_below_foreseen = !is_root && team.parent_team_id.is_empty();
        let is_in_foreseen =
            self.foreseen.as_ref().is_some_and(|foreseen| foreseen.has(Thing::Organization(&row.organization)));
        if is_below_foreseen || is_in_foreseen {
            *self.unjudged.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        } else {
            let client = TeamServiceClient::new(self.service.channel.clone());
            let request =
                v1::CreateTeamRequest { team: Some(team), validate_only: self.is_dry(), ..Default::default() };
            match self.service.call(&request, async |r| client.clone().create_team(r).await).await {
                Ok(reply) => created.team_id = reply.team.unwrap_or_default().team_id,
                Err(failure) => return Ok(refused_by(line, KIND, &*refusal(failure)?)),
            }
        }
        if let Some(foreseen) = &self.foreseen {
            foreseen.add(Thing::Team(&row.organization, &keys));
            // It is known by its names alone, as nobody else knows of it.
            return Ok(done(KIND, Done::Created));
        }
        tree.0.insert(keys, created);
        Ok(done(KIND, Done::Created))
    }

    /// All teams of an organization; none of one that a dry run would create.
    async fn tree(&self, organization: &str) -> Result<Result<Tree, Box<tonic::Status>>, String> {
        if let Some(foreseen) = &self.foreseen
            && foreseen.has(Thing::Organization(organization))
        {
            return Ok(Ok(Tree::default()));
        }
        let client = TeamServiceClient::new(self.service.channel.clone()).max_decoding_message_size(PAGE.1);
        let mut request = v1::ListTeamsRequest {
            organization_id: organization.to_owned(),
            subtree: true,
            page_size: PAGE.0,
            ..Default::default()
        };
        let mut tree = Tree::default();
        let mut paths: HashMap<String, Vec<String>> = HashMap::new();
        loop {
            let reply = match self.service.call(&request, async |r| client.clone().list_teams(r).await).await {
                Ok(reply) => reply,
                Err(failure) => return Ok(Err(refusal(failure)?)),
            };
            for team in reply.teams {
                // Those above come first.
                let mut path = paths.get(&team.parent_team_id).cloned().unwrap_or_default();
                path.push(name_key(&team.display_name));
                paths.insert(team.team_id.clone(), path.clone());
                let known = Known { team_id: team.team_id, description: team.description, labels: team.labels };
                tree.0.insert(path, known);
            }
            if reply.next_page_token.is_empty() {
                return Ok(Ok(tree));
            }
            request.page_token = reply.next_page_token;
        }
    }
}
