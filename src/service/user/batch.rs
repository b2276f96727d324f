//! Many users in one transaction, each with its own fate.

use chrono::{DateTime, Utc};

use crate::error::Error;
use crate::ids::UserId;
use crate::proto::v1;
use crate::repository::scope::PlatformScope;
use crate::repository::user::batch::{self, Created, New};
use crate::service::convert::user as convert;
use crate::service::user::new_user;

/// Creates the users of the messages; what became of each, in their order.
pub async fn create(
    scope: &mut PlatformScope,
    messages: Vec<v1::User>,
    now: DateTime<Utc>,
) -> Result<Vec<v1::NewUserResult>, Error> {
    let mut new = Vec::with_capacity(messages.len());
    let mut results: Vec<Option<v1::NewUserResult>> = Vec::with_capacity(messages.len());
    for message in messages {
        match new_user(message) {
            Ok((profile, private)) => {
                new.push(New { user_id: UserId::new(now), profile, private });
                results.push(None);
            }
            Err(error) => results.push(Some(convert::refused(&error))),
        }
    }
    let fates = batch::create(scope, &new, now).await?;
    let mut fates = new.into_iter().zip(fates).map(|(new, fate)| match fate {
        Ok(Created::New(user)) => convert::new_user_result(Ok(convert::whole_to_proto(user, new.private))),
        Ok(Created::Exists(user_id)) => convert::new_user_result(Err(user_id)),
        Err(error) => convert::refused(&error),
    });
    let results = results.into_iter().map(|refused| refused.or_else(|| fates.next()));
    results.map(|result| result.ok_or_else(|| Error::internal("a row without a fate"))).collect()
}
