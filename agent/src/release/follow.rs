//! The stream to the control plane on which the agent reports the end of its pod, and is told how far the removal is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use heddle_xds_types::rollout::{EndReport, METHOD, WithdrawalReport};
use tokio::sync::{mpsc, watch};
use tonic::Streaming;

use super::Hook;
use crate::control_plane;
use crate::secrets::Secrets;
use crate::settings::Settings;

/// The effect of a stream that fails.
const UNTOLD: &str = "the control plane does not tell how far the removal of the pod is";
/// The time of the last request is reported this often at most.
const INTERVAL: Duration = Duration::from_secs(1);
/// Messages on the way to the control plane.
const IN_FLIGHT: usize = 8;

/// Follows the removal while a hook waits or the pod ends, for ever.
pub(crate) async fn follow(
    hook: Arc<Hook>,
    settings: Arc<Settings>,
    secrets: watch::Receiver<Secrets>,
) -> Result<()> {
    loop {
        hook.until_wanted().await;
        let mut attempt = 0;
        while hook.is_wanted() {
            let result = run(&hook, &settings, &secrets).await;
            hook.known.send_modify(|known| {
                known.withdrawal = None;
                known.unreachable = result.is_err();
            });
            let Err(error) = result else { break };
            control_plane::pause(&error, UNTOLD, &mut attempt).await;
        }
    }
}

/// Runs one stream until it is of no interest any more.
async fn run(hook: &Hook, settings: &Settings, secrets: &watch::Receiver<Secrets>) -> Result<()> {
    let (reports, outgoing) = mpsc::channel(IN_FLIGHT);
    let mut sent = hook.report(settings.node_id());
    reports.send(sent.clone()).await?;
    let mut answers: Streaming<WithdrawalReport> =
        control_plane::stream(settings, secrets, METHOD, outgoing).await?;
    let (mut times, mut waiting) = (hook.times.subscribe(), hook.waiting.subscribe());
    let mut ticks = tokio::time::interval(INTERVAL);
    while hook.is_wanted() {
        tokio::select! {
            answer = answers.message() => {
                let answer = answer?.context("the control plane ended the stream")?;
                let known = Some((answer, Instant::now()));
                hook.known.send_modify(|of| of.withdrawal = known);
                continue;
            }
            changed = times.changed() => changed?,
            changed = waiting.changed() => {
                changed?;
                continue;
            }
            _ = ticks.tick() => {}
        }
        let report = hook.report(String::new());
        if is_news(&sent, &report) {
            reports.send(report.clone()).await?;
            sent = report;
        }
    }
    Ok(())
}

/// Whether a time was added, or a request began later: ages of the same time grow.
fn is_news(sent: &EndReport, now: &EndReport) -> bool {
    let added = |before: Option<u64>, now: Option<u64>| before.is_none() && now.is_some();
    let later = |before: Option<u64>, now: Option<u64>| match (before, now) {
        (Some(before), Some(now)) => now < before,
        (before, now) => added(before, now),
    };
    added(sent.released_ago_ms, now.released_ago_ms)
        || added(sent.ended_ago_ms, now.ended_ago_ms)
        || later(sent.last_request_ago_ms, now.last_request_ago_ms)
}
