//! `PermissionService`: what users may do, for backends that ask. From memory, where the user was asked about before.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tonic::{Request, Response, Status};

use crate::auth::gate;
use crate::auth::permission::{Audience, Permission};
use crate::auth::principal::Permitted;
use crate::error::{Error, Violations};
use crate::ids::UserId;
use crate::model::role::{Standing, Verdict};
use crate::proto::v1;
use crate::proto::v1::permission_service_server::PermissionService;
use crate::service::{Shared, open};

/// The most questions of one request.
const QUESTIONS: usize = 1000;

/// How many users are looked up at once of those who are not in memory: a part of the connections there are.
const LOOK_UPS: usize = 4;

/// The service.
#[derive(Clone, Debug)]
pub struct PermissionsOf {
    /// What it works with.
    pub shared: Shared,
}

/// A question that was understood.
struct Question {
    /// `None`: the caller.
    user: Option<UserId>,
    permission: Permission,
}

#[tonic::async_trait]
impl PermissionService for PermissionsOf {
    async fn check_permission(
        &self,
        request: Request<v1::CheckPermissionRequest>,
    ) -> Result<Response<v1::CheckPermissionResponse>, Status> {
        let (caller, request) = open(request)?;
        let questions = questions(&request.questions)?;
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        let is_closed = self.shared.gate.is_closed(&permitted).await?;
        let standings = self.standings(&permitted, &questions).await?;
        let answers = questions.iter().map(|question| {
            let verdict = match question.user {
                None => gate::verdict(&caller, &permitted, question.permission),
                Some(user) => {
                    let standing = standings.get(&user).and_then(Option::as_deref);
                    of_user(standing, is_closed, question.permission)
                }
            };
            v1::PermissionAnswer { allowed: verdict == Verdict::Allowed, verdict: to_proto(verdict).into() }
        });
        Ok(Response::new(v1::CheckPermissionResponse { answers: answers.collect() }))
    }

    async fn list_permissions(
        &self,
        request: Request<v1::ListPermissionsRequest>,
    ) -> Result<Response<v1::ListPermissionsResponse>, Status> {
        let (caller, request) = open(request)?;
        let user = match request.user_id.as_str() {
            "" => None,
            id => Some(id.parse::<UserId>()?),
        };
        let permitted = self.shared.gate.tenant(&caller, &request.organization_id).await?;
        let reply = match user {
            None => {
                let role = permitted.role().map(ToString::to_string).unwrap_or_default();
                vocabulary(role, |permission| gate::verdict(&caller, &permitted, permission))
            }
            Some(user) => {
                let is_closed = self.shared.gate.is_closed(&permitted).await?;
                let standing = self.shared.gate.standing(&permitted, user).await?;
                let standing = standing.ok_or_else(|| Error::not_found("member", user))?;
                vocabulary(standing.role.to_string(), |permission| of_user(Some(&*standing), is_closed, permission))
            }
        };
        Ok(Response::new(reply))
    }
}

impl PermissionsOf {
    /// Where those stand whom the questions name.
    async fn standings(
        &self,
        permitted: &Permitted,
        questions: &[Question],
    ) -> Result<HashMap<UserId, Option<Arc<Standing>>>, Error> {
        let named: HashSet<UserId> = questions.iter().filter_map(|question| question.user).collect();
        let found = stream::iter(named).map(|user| async move {
            let standing = self.shared.gate.standing(permitted, user).await?;
            Ok::<_, Error>((user, standing))
        });
        found.buffer_unordered(LOOK_UPS).try_collect().await
    }
}

fn questions(asked: &[v1::PermissionQuestion]) -> Result<Vec<Question>, Error> {
    let mut wrong = Violations::default();
    if !(1..=QUESTIONS).contains(&asked.len()) {
        wrong.add("questions", format!("must be 1 to {QUESTIONS} questions"));
        wrong.finish()?;
        return Ok(Vec::new());
    }
    let mut questions = Vec::with_capacity(asked.len());
    for (position, question) in asked.iter().enumerate() {
        let mut note = |field: &str, rule: &str| wrong.add(format!("questions[{position}].{field}"), rule);
        let user = match question.user_id.as_str() {
            "" => Some(None),
            id => id.parse().ok().map(Some),
        };
        let permission = question.permission.parse::<Permission>().ok();
        if user.is_none() {
            note("user_id", "must be a UUID");
        }
        if permission.is_none() {
            note("permission", "is not a permission; ListPermissions has them");
        }
        questions.extend(user.zip(permission).map(|(user, permission)| Question { user, permission }));
    }
    wrong.finish()?;
    Ok(questions)
}

fn of_user(standing: Option<&Standing>, is_closed: bool, permission: Permission) -> Verdict {
    match standing {
        None => Verdict::NotAMember,
        Some(_) if is_closed => Verdict::OrganizationSuspended,
        Some(standing) => standing.verdict(permission),
    }
}

fn vocabulary(role: String, verdict: impl Fn(Permission) -> Verdict) -> v1::ListPermissionsResponse {
    let permissions = Permission::ALL.iter().map(|permission| {
        let verdict = verdict(*permission);
        v1::Permission {
            name: permission.as_str().into(),
            description: permission.description().into(),
            audience: audience(permission.audience()).into(),
            publishable: permission.for_publishable_keys(),
            allowed: verdict == Verdict::Allowed,
            verdict: to_proto(verdict).into(),
        }
    });
    v1::ListPermissionsResponse { permissions: permissions.collect(), role }
}

const fn audience(audience: Audience) -> v1::PermissionAudience {
    match audience {
        Audience::Platform => v1::PermissionAudience::Platform,
        Audience::Owner => v1::PermissionAudience::Owner,
        Audience::Admin => v1::PermissionAudience::Admin,
        Audience::Member => v1::PermissionAudience::Member,
        Audience::Viewer => v1::PermissionAudience::Viewer,
    }
}

const fn to_proto(verdict: Verdict) -> v1::PermissionVerdict {
    match verdict {
        Verdict::Allowed => v1::PermissionVerdict::Allowed,
        Verdict::NotAMember => v1::PermissionVerdict::NotAMember,
        Verdict::OrganizationSuspended => v1::PermissionVerdict::OrganizationSuspended,
        Verdict::UserDeactivated => v1::PermissionVerdict::UserDeactivated,
        Verdict::MemberSuspended => v1::PermissionVerdict::MemberSuspended,
        Verdict::Denied => v1::PermissionVerdict::Denied,
        Verdict::NotGranted => v1::PermissionVerdict::NotGranted,
        Verdict::NotInScopes => v1::PermissionVerdict::NotInScopes,
    }
}
