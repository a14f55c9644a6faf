//! Gets the workload's certificate, and the next one in time.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use heddle_identity::wire::{IdentityClient, IssueRequest, set_bearer};
use heddle_identity::{Credential, RotationPlan, WorkloadKey};
use tokio::sync::watch;
use tonic::{Code, Request, Status};

use crate::backoff::{backoff, chance};
use crate::control_plane::{self, TIMEOUT};
use crate::secrets::Publisher;
use crate::settings::Settings;

/// The part of an answer that others may see.
#[derive(Clone, Debug)]
pub(crate) struct Certified {
    /// The zone of the pod's node.
    pub(crate) zone: Option<String>,
}

/// Announces a certificate. None: there is none yet.
pub(crate) type CertifiedSender = watch::Sender<Option<Certified>>;

/// Renews for ever; only a fault of our own ends it.
pub(crate) async fn keep_certified(
    settings: &Settings,
    publisher: &Publisher,
    certified: &CertifiedSender,
) -> Result<()> {
    let mut trust = settings.trust_bundle.clone();
    let mut plan: Option<RotationPlan> = None;
    loop {
        let credential = until_issued(settings, publisher, &trust, plan.as_ref()).await?;
        let now = SystemTime::now();
        let expires = now
            .checked_add(credential.lifetime)
            .context("the certificate's end is beyond all time")?;
        let next = RotationPlan::new(now, expires);
        tracing::info!(id = %settings.id, lifetime_s = credential.lifetime.as_secs(), "certificate issued");
        trust = credential.trust_bundle;
        let zone = credential.zone;
        certified.send_replace(Some(Certified { zone }));
        plan = Some(next);
        let jitter = chance();
        while let Some(sleep) = next.sleep(SystemTime::now(), jitter) {
            tokio::time::sleep(sleep).await;
        }
    }
}

async fn until_issued(
    settings: &Settings,
    publisher: &Publisher,
    trust: &str,
    plan: Option<&RotationPlan>,
) -> Result<Credential> {
    let mut attempt = 0;
    loop {
        match issue(settings, trust).await {
            Ok((credential, key)) => {
                publisher.publish(
                    &credential.chain_pem(),
                    &key.private_key_pem(),
                    &credential.trust_bundle,
                );
                return Ok(credential);
            }
            Err(error) => {
                let pause = backoff(attempt, chance());
                tell(&error, pause, plan);
                attempt += 1;
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// One attempt: a fresh key, the token as it is now, a fresh connection, so that nothing stale outlives a failure.
async fn issue(settings: &Settings, trust: &str) -> Result<(Credential, WorkloadKey)> {
    let key = WorkloadKey::generate()?;
    let csr = key.csr(&settings.id)?;
    let token = tokio::fs::read_to_string(&settings.token_file)
        .await
        .with_context(|| {
            format!(
                "the pod's token {} can't be read",
                settings.token_file.display()
            )
        })?;
    let mut request = Request::new(IssueRequest {
        csr,
        lifetime_seconds: 0,
    });
    set_bearer(request.metadata_mut(), &token).context("the pod's token is not text")?;
    request.set_timeout(TIMEOUT);
    let port = settings.ca_port;
    let endpoint = control_plane::endpoint(settings, port, control_plane::tls(settings, trust))?;
    let channel = endpoint.timeout(TIMEOUT).connect().await;
    let channel = channel.with_context(|| {
        let authority = control_plane::authority(settings, port);
        format!("the control plane {authority} can't be reached")
    })?;
    let answer = tokio::time::timeout(TIMEOUT, IdentityClient::new(channel).issue(request))
        .await
        .context("the control plane does not answer")?
        .map_err(issue_error)?;
    let credential = Credential::accept(answer.into_inner(), &key, &settings.id)?;
    Ok((credential, key))
}

/// The error with the message of the control plane. The metadata of a status does not belong into a log.
fn issue_error(status: Status) -> anyhow::Error {
    let message = status.message().to_owned();
    match status.code() {
        Code::Unauthenticated => {
            anyhow::anyhow!("the control plane does not accept the pod's token: {message}")
        }
        Code::PermissionDenied | Code::InvalidArgument => {
            anyhow::anyhow!("the control plane refuses the certificate: {message}")
        }
        code => anyhow::anyhow!("the control plane failed ({code:?}): {message}"),
    }
}

fn tell(error: &anyhow::Error, pause: Duration, plan: Option<&RotationPlan>) {
    let state = match plan {
        None => "there is none yet",
        Some(plan) if plan.expired(SystemTime::now()) => {
            "the one in use has expired: every connection of the mesh fails"
        }
        Some(_) => "the one in use still holds",
    };
    tracing::error!(
        error = format!("{error:#}"),
        retry_in_s = pause.as_secs_f32(),
        state,
        "no certificate could be had"
    );
}
