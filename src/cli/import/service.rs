//! Calls the service, again where that may help, until patience is over or somebody wants to stop.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use tonic_types::StatusExt as _;

use crate::cli::CliError;
use crate::cli::client::progress::Progress;
use crate::cli::client::{BACK_OFF, Credential, endpoint, told};
use crate::cli::import::Import;

/// Why a call has no reply.
#[derive(Debug)]
pub enum Failure {
    /// Its message is refused; others may not be.
    Refused(Box<Status>),
    /// Nothing more can be done.
    Ended(String),
}

/// The service, and the key to it.
#[derive(Debug)]
pub struct Service<'a> {
    /// The connection, made anew whenever it broke.
    pub channel: Channel,
    credential: Credential,
    patience: Duration,
    stop: CancellationToken,
    progress: &'a Progress,
}

impl<'a> Service<'a> {
    /// With nothing called yet; `stop` ends it early.
    pub fn new(command: &Import, key: &str, stop: CancellationToken, progress: &'a Progress) -> Result<Self, CliError> {
        Ok(Self {
            channel: endpoint(&command.url)?.connect_lazy(),
            credential: Credential::new(key)?,
            patience: command.patience,
            stop,
            progress,
        })
    }

    /// Calls with a message, which is safe to send again.
    pub async fn call<Q: Clone, R>(
        &self,
        message: &Q,
        call: impl AsyncFn(Request<Q>) -> Result<Response<R>, Status>,
    ) -> Result<R, Failure> {
        let began = Instant::now();
        let mut wait = BACK_OFF.0;
        loop {
            if self.stop.is_cancelled() {
                return Err(Failure::Ended("interrupted".into()));
            }
            let status = match call(self.credential.request(message.clone())).await {
                Ok(reply) => return Ok(reply.into_inner()),
                Err(status) => status,
            };
            match Verdict::on(&status) {
                Verdict::Refused => return Err(Failure::Refused(Box::new(status))),
                Verdict::Ended => return Err(Failure::Ended(told(&status))),
                Verdict::Again if began.elapsed() >= self.patience => {
                    return Err(Failure::Ended(format!(
                        "nothing succeeded for {:.0?}: {}",
                        self.patience,
                        told(&status)
                    )));
                }
                Verdict::Again => {}
            }
            // As long as it asks for, if that is longer.
            let asked = status.get_details_retry_info().and_then(|info| info.retry_delay).unwrap_or_default();
            let pause = wait.max(asked).min(self.patience);
            if status.code() != Code::Aborted {
                self.progress.tell(&format!("{}; trying again in {pause:.1?}", told(&status)));
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = self.stop.cancelled() => {}
            }
            wait = (wait * 2).min(BACK_OFF.1);
        }
    }
}

enum Verdict {
    Again,
    Refused,
    Ended,
}

impl Verdict {
    fn on(status: &Status) -> Self {
        match status.code() {
            Code::NotFound | Code::AlreadyExists | Code::InvalidArgument | Code::FailedPrecondition => Self::Refused,
            // Of the key, or of the service: every row would be refused the same way.
            Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented => Self::Ended,
            // Too much for now says when to come again; otherwise the message is too large.
            Code::ResourceExhausted if status.get_details_retry_info().is_none() => Self::Refused,
            _ => Self::Again,
        }
    }
}

/// The reason in the `ErrorInfo` of a refusal.
pub fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map_or_else(|| format!("{:?}", status.code()).to_uppercase(), |info| info.reason)
}
