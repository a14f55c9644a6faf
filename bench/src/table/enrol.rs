//! Certificates for all proxies at once, as their agents ask for them: a key, a CSR and the pod's token.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};
use heddle_identity::Ca;

use super::figures::{Figure, Ledger};
use super::stage::{Ground, identity};
use crate::children::until;
use crate::cluster::install::pod_token;
use crate::machine::cpu_seconds;
use crate::mesh::{Backend, Pod};
use crate::operator::Operator;
use crate::sim::Credentials;

/// As many as the control plane has in work at a time; more would only be told to come again.
const AT_ONCE: usize = 64;
const EACH: Duration = Duration::from_secs(60);

/// Enrols so many.
///
/// # Errors
/// When one is refused for good.
pub async fn run(
    ground: &Ground,
    operator: &Operator,
    root: &Ca,
    proxies: usize,
    ledger: &mut Ledger,
) -> Result<()> {
    let authority = &ground.launch.authority(root.trust_bundle());
    let tokens: Vec<(Pod, String)> = stream::iter(ground.mesh.pods().take(proxies))
        .map(async |Backend { pod, .. }| {
            let token = pod_token(&ground.api, &pod).await?;
            anyhow::Ok((pod, token))
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let (from, cpu) = (Instant::now(), cpu_seconds(operator.pid())?);
    stream::iter(&tokens)
        .map(async |(pod, token)| {
            let id = identity(pod)?;
            until("a certificate", EACH, &mut [], async || {
                Credentials::enroll(authority, &id, token).await
            })
            .await
        })
        .buffer_unordered(AT_ONCE)
        .try_for_each(async |_| Ok(()))
        .await?;
    let cpu = cpu_seconds(operator.pid())? - cpu;
    ledger.note(Figure::EnrolAll, from.elapsed().as_secs_f64());
    ledger.note(Figure::EnrolCpu, cpu * 1e3 / proxies.max(1) as f64);
    Ok(())
}
