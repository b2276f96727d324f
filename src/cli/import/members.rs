//! Rows of members, in batches of one organization.

use std::sync::PoisonError;

use crate::cli::import::foreseen::{Foreseen, Thing};
use crate::cli::import::importer::{BATCH, Importer, Lane, done, refusal, refused, refused_by};
use crate::cli::import::report::{Done, Fate};
use crate::cli::import::row::{Kind, Member};
use crate::model::user::email_key;
use crate::proto::v1;
use crate::proto::v1::member_service_client::MemberServiceClient;
use crate::proto::v1::user_service_client::UserServiceClient;
use crate::service::convert;
use crate::service::convert::member::new_member;

const KIND: Kind = Kind::Member;

impl Importer<'_> {
    pub(super) async fn members(&self, organization: String, rows: Lane<Member>) -> Result<Vec<Fate>, String> {
        let mut fates = Vec::with_capacity(rows.len());
        for rows in rows.chunks(BATCH) {
            if self.creates_users {
                let users: Vec<v1::User> = rows.iter().filter_map(|(_, row)| row.user()).collect();
                if !users.is_empty() {
                    // What is wrong with an address shows in the row of the member.
                    let _ = self.create_users(&users).await?;
                }
            }
            if let Some(foreseen) = &self.foreseen {
                self.foresee(foreseen, &organization, rows, &mut fates).await?;
                continue;
            }
            let lines = rows.iter().map(|(line, _)| *line);
            match self.add(&organization, rows.iter().map(|(_, row)| row.message()).collect()).await? {
                Ok(results) => fates.extend(lines.zip(results).map(|(line, result)| fate(line, result))),
                Err(status) => fates.extend(lines.map(|line| refused_by(line, KIND, &status))),
            }
        }
        Ok(fates)
    }

    async fn add(
        &self,
        organization: &str,
        members: Vec<v1::NewMember>,
    ) -> Result<Result<Vec<v1::NewMemberResult>, Box<tonic::Status>>, String> {
        let client = MemberServiceClient::new(self.service.channel.clone());
        let sent = members.len();
        let request = v1::BatchAddMembersRequest {
            organization_id: organization.to_owned(),
            members,
            validate_only: self.is_dry(),
            ..Default::default()
        };
        match self.service.call(&request, async |r| client.clone().batch_add_members(r).await).await {
            Ok(reply) if reply.results.len() == sent => Ok(Ok(reply.results)),
            Ok(_) => Err("the service answered for other rows than were sent".into()),
            Err(failure) => Ok(Err(refusal(failure)?)),
        }
    }

    /// Tells what would become of rows, as far as what they refer to is there, or would be by the rows before.
    async fn foresee(
        &self,
        foreseen: &Foreseen,
        organization: &str,
        rows: &[(u64, Member)],
        fates: &mut Vec<Fate>,
    ) -> Result<(), String> {
        let unjudged = || *self.unjudged.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let is_new = foreseen.has(Thing::Organization(organization));
        let (mut sent, mut messages) = (Vec::new(), Vec::new());
        for (line, row) in rows {
            let who = if row.user_id.is_empty() { email_key(&row.email) } else { row.user_id.clone() };
            if let Some(fate) = foreseen.member(*line, organization, &who, &row.role) {
                fates.push(fate);
                continue;
            }
            let mut message = row.message();
            message.teams.retain(|team| !foreseen.has_team(organization, team));
            if !is_new {
                sent.push((*line, row, who));
                messages.push(message);
            } else if let Err(error) = new_member(&row.message()) {
                fates.push(refused(*line, KIND, error.reason(), convert::told(&error)));
            } else if let Some(team) = message.teams.first() {
                fates.push(refused(*line, KIND, "TEAM_NOT_FOUND", format!("team {team:?} was not found")));
            } else if !foreseen.has(Thing::User(&who))
                && let Some(fate) = self.missing(*line, row).await?
            {
                fates.push(fate);
            } else {
                unjudged();
                foreseen.add_member(organization, &who, &row.role);
                fates.push(done(KIND, Done::Created));
            }
        }
        if messages.is_empty() {
            return Ok(());
        }
        let results = match self.add(organization, messages).await? {
            Ok(results) => results,
            Err(status) => {
                fates.extend(sent.iter().map(|(line, ..)| refused_by(*line, KIND, &status)));
                return Ok(());
            }
        };
        for ((line, row, who), result) in sent.into_iter().zip(results) {
            let is_to_be = result.reason == "USER_NOT_FOUND" && foreseen.has(Thing::User(&who));
            let fate = match foreseen.member(line, organization, &who, &row.role) {
                // A row before in the same batch.
                Some(fate) if is_to_be => fate,
                // All that is asked before is in order, or the service had said so.
                None if is_to_be => {
                    unjudged();
                    done(KIND, Done::Created)
                }
                _ => fate(line, result),
            };
            if let Fate::Done(_, Done::Created) = fate {
                foreseen.add_member(organization, &who, &row.role);
            }
            fates.push(fate);
        }
        Ok(())
    }
}

impl Importer<'_> {
    /// The refusal of a row whose user is not there: of one for an organization that is not either, or the service had said so.
    async fn missing(&self, line: u64, row: &Member) -> Result<Option<Fate>, String> {
        let client = UserServiceClient::new(self.service.channel.clone());
        let found = if row.user_id.is_empty() {
            let filter = format!("email = \"{}\"", row.email);
            let request = v1::ListUsersRequest { filter, page_size: 1, ..Default::default() };
            let called = self.service.call(&request, async |r| client.clone().list_users(r).await).await;
            called.map(|reply| reply.users.into_iter().next())
        } else {
            let request = v1::GetUserRequest { user_id: row.user_id.clone(), ..Default::default() };
            self.service.call(&request, async |r| client.clone().get_user(r).await).await.map(|reply| reply.user)
        };
        let (reason, message) = match found {
            Ok(Some(user)) if user.status() == v1::UserStatus::Active => return Ok(None),
            Ok(Some(_)) => ("USER_DEACTIVATED", "a deactivated or erased user cannot be added".to_owned()),
            Ok(None) => ("USER_NOT_FOUND", format!("user {:?} was not found", row.email)),
            Err(failure) => return Ok(Some(refused_by(line, KIND, &*refusal(failure)?))),
        };
        Ok(Some(refused(line, KIND, reason, message)))
    }
}

impl Foreseen {
    /// What becomes of a row about somebody whom a row before would make a member.
    fn member(&self, line: u64, organization: &str, who: &str, role: &str) -> Option<Fate> {
        if !self.has(Thing::Member(organization, who)) {
            return None;
        }
        if self.has(Thing::Role(organization, who, role)) {
            return Some(done(KIND, Done::Unchanged));
        }
        Some(refused(line, KIND, "ALREADY_MEMBER", "a row before makes them a member in another role"))
    }

    fn add_member(&self, organization: &str, who: &str, role: &str) {
        self.add(Thing::Member(organization, who));
        self.add(Thing::Role(organization, who, role));
    }
}

fn fate(line: u64, result: v1::NewMemberResult) -> Fate {
    match result.status() {
        v1::NewMemberStatus::Added => done(KIND, Done::Created),
        v1::NewMemberStatus::Joined => done(KIND, Done::Joined),
        v1::NewMemberStatus::Exists => done(KIND, Done::Unchanged),
        v1::NewMemberStatus::Refused | v1::NewMemberStatus::Unspecified => {
            refused(line, KIND, result.reason, result.message)
        }
    }
}
