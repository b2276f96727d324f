//! What the service consists of while it runs: tasks, and threads with a runtime of their own.

use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinSet};

use crate::app::AppError;

/// Parts that run until they are told to stop, by name. A panic is an end like another, and seen.
#[derive(Default)]
pub struct Parts(JoinSet<(&'static str, Result<(), String>)>);

impl Parts {
    pub fn spawn(&mut self, part: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(async move {
            work.await;
            (part, Ok(()))
        });
    }

    pub fn try_spawn(&mut self, part: &'static str, work: impl Future<Output = std::io::Result<()>> + Send + 'static) {
        self.0.spawn(async move { (part, work.await.map_err(|error| error.to_string())) });
    }

    /// Runs the work on a thread with a runtime of its own: measured, an empty call costs half of what it does on the
    /// multi-threaded runtime, whose workers hand tasks to each other.
    pub fn thread(
        &mut self,
        number: usize,
        work: impl Future<Output = std::io::Result<()>> + Send + 'static,
    ) -> Result<(), AppError> {
        let start = |error: std::io::Error| AppError::Start(error.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // What other threads woke goes first: requests that waited for one commit are answered, by the task that has their
            // answers, before their connections write, which they do together then.
            .global_queue_interval(1)
            .build()
            .map_err(start)?;
        let (ended, end) = oneshot::channel();
        std::thread::Builder::new()
            .name(format!("serve-{number}"))
            .spawn(move || {
                let _ = ended.send(runtime.block_on(work));
            })
            .map_err(start)?;
        self.try_spawn("a serving thread", async move {
            end.await.unwrap_or_else(|_| Err(std::io::Error::other("it panicked")))
        });
        Ok(())
    }

    /// The first part that ends although nobody told it to. A part that has ended well while draining counts too.
    pub async fn first_end(&mut self) -> AppError {
        match self.0.join_next().await {
            Some(ended) => AppError::from_end(ended),
            None => std::future::pending().await,
        }
    }

    /// Waits for all; the first failure counts.
    pub async fn all(&mut self) -> Result<(), AppError> {
        let mut outcome = Ok(());
        while let Some(ended) = self.0.join_next().await {
            if !matches!(ended, Ok((_, Ok(())))) && outcome.is_ok() {
                outcome = Err(AppError::from_end(ended));
            }
        }
        outcome
    }
}

impl AppError {
    fn from_end(ended: Result<(&'static str, Result<(), String>), JoinError>) -> Self {
        match ended {
            Ok((part, Ok(()))) => Self::Stopped { part, why: "it ended".into() },
            Ok((part, Err(why))) => Self::Stopped { part, why },
            Err(error) => Self::Stopped { part: "a part", why: error.to_string() },
        }
    }
}
