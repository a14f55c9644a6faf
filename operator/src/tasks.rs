//! Tasks with an owner: the end of any of them is the end of the process, said aloud.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Tasks may take this long to end once they are told to.
const GRACE: Duration = Duration::from_secs(10);

/// How a task fails: the sentence for the log.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The result of a task.
pub type Ended = Result<(), Failure>;

/// A task ended without a request to end.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// It returned, with an error or without.
    #[error("the task `{task}` ended: {why}")]
    Ended {
        /// Which task.
        task: &'static str,
        /// Its error.
        why: String,
    },
    /// It panicked.
    #[error("a task panicked: {0}")]
    Died(#[from] tokio::task::JoinError),
}

/// The tasks of one process.
#[derive(Debug, Default)]
pub struct Tasks {
    set: JoinSet<(&'static str, Ended)>,
    stop: CancellationToken,
}

impl Tasks {
    /// Tasks that end when `stop` is cancelled.
    #[must_use]
    pub fn new(stop: CancellationToken) -> Self {
        Self {
            set: JoinSet::new(),
            stop,
        }
    }

    /// The token that ends every task.
    #[must_use]
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task. It has to end soon after [`Tasks::stop`] is cancelled, and not before.
    pub fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Ended> + Send + 'static,
    ) {
        self.set.spawn(async move { (name, task.await) });
    }

    /// Waits for something beside the tasks; `None` if all were told to end before it came.
    ///
    /// # Errors
    /// When a task ends before it is told to.
    pub async fn during<T>(
        &mut self,
        something: impl Future<Output = T>,
    ) -> Result<Option<T>, TaskError> {
        tokio::select! {
            value = something => Ok(Some(value)),
            () = self.stop.cancelled() => Ok(None),
            Some(ended) = self.set.join_next() => {
                early(ended, &self.stop)?;
                Ok(None)
            }
        }
    }

    /// Waits until the stop token is cancelled, then for all tasks to end.
    ///
    /// # Errors
    /// When a task ends before it is told to. The others are told to end then, too.
    pub async fn run(mut self) -> Result<(), TaskError> {
        let first = tokio::select! {
            () = self.stop.cancelled() => Ok(()),
            Some(ended) = self.set.join_next() => early(ended, &self.stop),
        };
        self.stop.cancel();
        let rest = async { while self.set.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, rest).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
        first
    }
}

/// A task that ends in the moment in which all are told to is not a failure.
fn early(
    ended: Result<(&'static str, Ended), tokio::task::JoinError>,
    stop: &CancellationToken,
) -> Result<(), TaskError> {
    let (task, result) = ended?;
    match result {
        Ok(()) if stop.is_cancelled() => Ok(()),
        Ok(()) => Err(TaskError::Ended {
            task,
            why: "it was not told to".to_owned(),
        }),
        Err(error) => Err(TaskError::Ended {
            task,
            why: chain(&*error),
        }),
    }
}

/// An error with all that caused it, on one line.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_one_is_the_end_of_all() {
        let mut tasks = Tasks::default();
        let stop = tasks.stop();
        tasks.spawn("waits", async move {
            stop.cancelled().await;
            Ok(())
        });
        tasks.spawn("fails", async { Err("no more disk".into()) });
        let error = tasks.run().await.unwrap_err().to_string();
        assert_eq!(error, "the task `fails` ended: no more disk");
    }

    #[tokio::test]
    async fn told_to_end_they_end() {
        let mut tasks = Tasks::default();
        let stop = tasks.stop();
        let waiting = stop.clone();
        tasks.spawn("waits", async move {
            waiting.cancelled().await;
            Ok(())
        });
        stop.cancel();
        tasks.run().await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_is_seen() {
        let mut tasks = Tasks::default();
        tasks.spawn("dies", async { panic!("on purpose") });
        assert!(matches!(tasks.run().await, Err(TaskError::Died(_))));
    }
}
