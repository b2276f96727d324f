//! Rows of users, in batches.

use prost::Message as _;

use crate::cli::import::foreseen::Thing;
use crate::cli::import::importer::{BATCH, Importer, Lane, done, refusal, refused, refused_by};
use crate::cli::import::report::{Done, Fate};
use crate::cli::import::row::Kind;
use crate::model::user::email_key;
use crate::proto::v1;
use crate::proto::v1::user_service_client::UserServiceClient;

const KIND: Kind = Kind::User;

/// The bytes after which a batch is full; the service takes 4 MiB.
const FULL: usize = 1 << 20;

impl Importer<'_> {
    pub(super) async fn users(&self, rows: Lane<v1::User>) -> Result<Vec<Fate>, String> {
        let mut fates = Vec::with_capacity(rows.len());
        let mut rows = rows.into_iter().peekable();
        while rows.peek().is_some() {
            let (mut lines, mut users, mut bytes) = (Vec::new(), Vec::new(), 0);
            while users.len() < BATCH
                && bytes < FULL
                && let Some((line, user)) = rows.next()
            {
                if let Some(foreseen) = &self.foreseen
                    && foreseen.has(Thing::User(&email_key(&user.email)))
                {
                    fates.push(done(KIND, Done::Unchanged));
                    continue;
                }
                bytes += user.encoded_len();
                lines.push(line);
                users.push(user);
            }
            if users.is_empty() {
                continue;
            }
            match self.create_users(&users).await? {
                Ok(results) => fates.extend(lines.into_iter().zip(results).map(|(line, result)| fate(line, result))),
                Err(status) => fates.extend(lines.into_iter().map(|line| refused_by(line, KIND, &status))),
            }
        }
        Ok(fates)
    }

    /// Creates a batch of users, as far as they do not exist.
    pub(super) async fn create_users(
        &self,
        users: &[v1::User],
    ) -> Result<Result<Vec<v1::NewUserResult>, Box<tonic::Status>>, String> {
        let client = UserServiceClient::new(self.service.channel.clone());
        let request =
            v1::BatchCreateUsersRequest { users: users.to_vec(), validate_only: self.is_dry(), ..Default::default() };
        let reply = match self.service.call(&request, async |r| client.clone().batch_create_users(r).await).await {
            Ok(reply) => reply,
            Err(failure) => return Ok(Err(refusal(failure)?)),
        };
        if reply.results.len() != users.len() {
            return Err("the service answered for other rows than were sent".into());
        }
        if let Some(foreseen) = &self.foreseen {
            let created = |result: &v1::NewUserResult| result.status() == v1::NewUserStatus::Created;
            for (user, _) in users.iter().zip(&reply.results).filter(|(_, result)| created(result)) {
                foreseen.add(Thing::User(&email_key(&user.email)));
            }
        }
        Ok(Ok(reply.results))
    }
}

fn fate(line: u64, result: v1::NewUserResult) -> Fate {
    match result.status() {
        v1::NewUserStatus::Created => done(KIND, Done::Created),
        v1::NewUserStatus::Exists => done(KIND, Done::Unchanged),
        v1::NewUserStatus::Refused | v1::NewUserStatus::Unspecified => {
            refused(line, KIND, result.reason, result.message)
        }
    }
}
