//! Calls without a pause, every answer checked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::{Answer, Client, Http};

/// The outcomes of calls.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// All.
    pub calls: u64,
    /// Answers by the pod that gave them.
    pub apps: BTreeMap<String, u64>,
    /// Failures, with the seconds since the start; the first hundred.
    pub failures: Vec<String>,
}

/// Calls to one address, one after the other, until stopped: half of them on connections of their own, half on one that
/// stays as long as its peer lets it.
#[derive(Debug)]
pub struct Load {
    task: JoinHandle<Tally>,
    stop: watch::Sender<bool>,
}

impl Load {
    /// Begins. A call that fails is a failure, and so is an answer that `is_right` does not like.
    pub fn start(
        client: &Client,
        to: SocketAddr,
        pause: Duration,
        is_right: impl Fn(&Answer) -> bool + Send + 'static,
    ) -> Self {
        Self::judged(client, to, pause, move |result| {
            result.as_ref().is_ok_and(&is_right)
        })
    }

    /// Begins. An answer that `is_right` rejects is a failure.
    pub fn judged(
        client: &Client,
        to: SocketAddr,
        pause: Duration,
        is_right: impl Fn(&Result<Answer>) -> bool + Send + 'static,
    ) -> Self {
        let (stop, stopped) = watch::channel(false);
        let caller = Caller {
            client: client.clone(),
            to,
            kept: None,
        };
        let task = tokio::spawn(caller.go_on(pause, stopped, is_right));
        Self { task, stop }
    }

    /// Ends.
    ///
    /// # Errors
    /// When the calls had ended by themselves.
    pub async fn stop(self) -> Result<Tally> {
        self.stop.send(true)?;
        Ok(self.task.await?)
    }

    /// Ends, and fails if any call did, or if there were none.
    ///
    /// # Errors
    /// Lists the failures.
    pub async fn stop_without_failure(self) -> Result<Tally> {
        let tally = self.stop().await?;
        if tally.calls == 0 || !tally.failures.is_empty() {
            bail!(
                "{} calls, {} failed: {:#?}",
                tally.calls,
                tally.failures.len(),
                tally.failures
            );
        }
        Ok(tally)
    }
}

struct Caller {
    client: Client,
    to: SocketAddr,
    kept: Option<Http>,
}

impl Caller {
    async fn go_on(
        mut self,
        pause: Duration,
        stopped: watch::Receiver<bool>,
        is_right: impl Fn(&Result<Answer>) -> bool,
    ) -> Tally {
        let start = Instant::now();
        let mut tally = Tally::default();
        while !*stopped.borrow() {
            tally.calls += 1;
            let path = format!("/{}", tally.calls);
            let result = self.call(&path, tally.calls.is_multiple_of(2)).await;
            let is_own = result.as_ref().map_or(true, |answer| answer.path == path);
            if !(is_own && is_right(&result)) && tally.failures.len() < 100 {
                let at = start.elapsed().as_secs_f64();
                let what = match &result {
                    Ok(answer) => format!("{answer:?}"),
                    Err(error) => format!("{error:#}"),
                };
                tally
                    .failures
                    .push(format!("{at:.3} s, {}: {what}", self.to));
            }
            if let Ok(answer) = result {
                *tally.apps.entry(answer.app).or_default() += 1;
            }
            tokio::time::sleep(pause).await;
        }
        tally
    }

    async fn call(&mut self, path: &str, keep: bool) -> Result<Answer> {
        if !keep {
            let mut http = self.client.http(self.to).await?;
            return http.get(path, "app").await.context("on a new connection");
        }
        // A peer may close a connection between two requests: a request without any answer is sent again, as any client does.
        if let Some(mut kept) = self.kept.take_if(|kept| !kept.is_closed()) {
            match kept.get(path, "app").await {
                Ok(answer) => {
                    self.kept = Some(kept);
                    return Ok(answer);
                }
                Err(error) if is_unanswered(&error) => {}
                Err(error) => return Err(error.context("on the kept connection")),
            }
        }
        let mut http = self.client.http(self.to).await?;
        let answer = http
            .get(path, "app")
            .await
            .context("on a new connection to keep")?;
        self.kept = Some(http);
        Ok(answer)
    }
}

/// Whether the connection went before a byte of the response came.
fn is_unanswered(error: &anyhow::Error) -> bool {
    error.downcast_ref::<hyper::Error>().is_some_and(|error| {
        error.is_canceled() || error.is_closed() || error.is_incomplete_message()
    })
}
