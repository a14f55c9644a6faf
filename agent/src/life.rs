//! The sidecar's life from start to end.

use std::collections::VecDeque;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use heddle_acceptor::Counters;
use nix::sys::signal::Signal;
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::Admin;
use crate::bootstrap::{Sockets, bootstrap};
use crate::dir::{self, PrivateDir};
use crate::drain::drain;
use crate::envoy::Envoy;
use crate::metrics::Metrics;
use crate::readiness::{self, Readiness};
use crate::release::{self, Hook};
use crate::secrets::Publisher;
use crate::settings::Settings;
use crate::{edges, issuance, memory, metrics, sds, tap};

/// The time for Envoy to end by itself after a request to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the sidecar until it is told to end, or until Envoy or a part of the agent fails.
///
/// # Errors
/// When the sidecar can't start, or a part of the agent fails.
pub async fn run(settings: Settings) -> Result<ExitCode> {
    let mut signals = Signals::new()?;
    let dir = PrivateDir::open(&settings.runtime_dir)?;
    let settings = Arc::new(settings);
    let admin = Admin::new(dir.admin());
    let readiness = Arc::new(Readiness::new(admin.clone()));
    let certified = watch::Sender::new(None);
    let mut first_certificate = certified.subscribe();
    let hook = Arc::new(Hook::new(&settings));
    let mut parts = parts(&settings, &dir, (&readiness, &hook), certified)?;
    // Envoy would ask for secrets that are not there, and back off: it starts when they are.
    let certified = tokio::select! {
        found = first_certificate.wait_for(Option::is_some) => found?.clone(),
        failed = failure(&mut parts) => return Err(failed),
        () = signals.end.come() => return Ok(ExitCode::SUCCESS),
    };
    let zone = certified.and_then(|certified| certified.zone);
    write_bootstrap(&settings, &dir, zone.as_deref())?;
    let mut envoy = start(&settings, &dir)?;
    let mut restarts = Restarts::default();
    let failed = loop {
        tokio::select! {
            ended = envoy.ended() => {
                // At once: the kubelet would ask again only after seconds.
                readiness.restart().await;
                let ended = ended?;
                if !ended.by_signal() || !restarts.allow(Instant::now()) {
                    tracing::error!(?ended, "Envoy ended unasked");
                    return Ok(ExitCode::from(ended.unexpected_exit_code()));
                }
                tracing::error!(?ended, "Envoy ended unasked; starting it again");
                envoy = start(&settings, &dir)?;
            }
            failed = failure(&mut parts) => break Some(failed),
            () = signals.end.come() => break None,
            _ = signals.reopen.recv() => envoy.signal(Signal::SIGUSR1),
        }
    };
    if failed.is_none() {
        tracing::info!("a signal came; connections are drained");
        hook.ended();
        tokio::select! {
            () = drain(&readiness, &admin, settings.drain) => {}
            ended = envoy.ended() => return Ok(ExitCode::from(ended?.unexpected_exit_code())),
            () = signals.end.come() => tracing::info!("a second signal came; connections are not waited for"),
        }
    }
    stop(&mut envoy).await?;
    failed.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// The kubelet takes a second at least to start the container again, ten from the second time on, and the agent would need a new
/// certificate. So the agent restarts an Envoy that was killed or crashed by itself, unless that comes to be the rule: then the
/// end of the container shows it, and the kubelet slows it down.
#[derive(Default)]
struct Restarts(VecDeque<Instant>);

/// So many restarts within [`RESTART_PERIOD`].
const MAX_RESTARTS: usize = 3;
const RESTART_PERIOD: Duration = Duration::from_secs(60);

impl Restarts {
    fn allow(&mut self, now: Instant) -> bool {
        let over = |at: &mut Instant| now.duration_since(*at) >= RESTART_PERIOD;
        while self.0.pop_front_if(over).is_some() {}
        if self.0.len() >= MAX_RESTARTS {
            return false;
        }
        self.0.push_back(now);
        true
    }
}

fn start(settings: &Settings, dir: &PrivateDir) -> Result<Envoy> {
    dir::remove(&dir.admin())?;
    Envoy::start(settings, &dir.bootstrap())
}

type Parts = JoinSet<Result<()>>;

/// The tasks beside Envoy. None of them ever ends well: the first end is the agent's.
fn parts(
    settings: &Arc<Settings>,
    dir: &PrivateDir,
    (readiness, hook): (&Arc<Readiness>, &Arc<Hook>),
    certified: issuance::CertifiedSender,
) -> Result<Parts> {
    let mut parts = Parts::new();
    let connections = Arc::<Counters>::default();
    for listener in readiness::listen(&settings.ready)? {
        let (readiness, hook) = (Arc::clone(readiness), Arc::clone(hook));
        let counters = Arc::clone(&connections);
        parts.spawn(readiness::serve(listener, readiness, hook, counters));
    }
    let publisher = Publisher::new(&settings.trust_bundle);
    let (socket, secrets) = (dir.sds(), publisher.subscribe());
    parts.spawn(async move { sds::serve(&socket, secrets).await });
    let metrics = Metrics::new(Admin::new(dir.admin()), &settings.golden_pod(), connections);
    let socket = dir.metrics();
    parts.spawn(async move { metrics::serve(&socket, metrics).await });
    let (own, secrets) = (Arc::clone(settings), publisher.subscribe());
    let admin = Admin::new(dir.admin());
    parts.spawn(async move { edges::report(&own, admin, secrets).await });
    let (own, secrets) = (Arc::clone(settings), publisher.subscribe());
    let (socket, admin) = (dir.agent(), Admin::new(dir.admin()));
    parts.spawn(async move { tap::serve(&own, &socket, admin, secrets).await });
    let (of_hook, admin) = (Arc::clone(hook), Admin::new(dir.admin()));
    parts.spawn(release::watch_traffic(of_hook, admin));
    let (own, secrets) = (Arc::clone(settings), publisher.subscribe());
    parts.spawn(release::follow(Arc::clone(hook), own, secrets));
    let settings = Arc::clone(settings);
    parts.spawn(async move { issuance::keep_certified(&settings, &publisher, &certified).await });
    Ok(parts)
}

async fn failure(parts: &mut Parts) -> anyhow::Error {
    match parts.join_next().await {
        Some(Ok(Err(error))) => error,
        Some(Err(error)) => anyhow::Error::new(error).context("a part of the agent died"),
        Some(Ok(Ok(()))) | None => anyhow::anyhow!("a part of the agent ended unasked"),
    }
}

async fn stop(envoy: &mut Envoy) -> Result<()> {
    envoy.signal(Signal::SIGTERM);
    if let Ok(ended) = tokio::time::timeout(STOP_TIMEOUT, envoy.ended()).await {
        tracing::info!(ended = ?ended?, "Envoy ended");
        return Ok(());
    }
    tracing::warn!("Envoy does not end; it is killed");
    envoy.signal(Signal::SIGKILL);
    envoy.ended().await.map(|_| ())
}

fn write_bootstrap(settings: &Settings, dir: &PrivateDir, zone: Option<&str>) -> Result<()> {
    let sockets = Sockets {
        sds: &dir.sds(),
        admin: &dir.admin(),
        agent: &dir.agent(),
        metrics: &dir.metrics(),
    };
    let config = bootstrap(settings, &sockets, memory::limit(), zone);
    let text = serde_json::to_vec_pretty(&config)?;
    write_private(&dir.bootstrap(), &text)
        .with_context(|| format!("{} can't be written", dir.bootstrap().display()))
}

fn write_private(path: &Path, text: &[u8]) -> Result<()> {
    dir::remove(path)?;
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?
        .write_all(text)?;
    Ok(())
}

struct Signals {
    end: End,
    /// Envoy opens its logs again.
    reopen: SignalStream,
}

struct End {
    terminate: SignalStream,
    interrupt: SignalStream,
}

impl Signals {
    fn new() -> Result<Self> {
        let end = End {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        };
        Ok(Self {
            end,
            reopen: signal(SignalKind::user_defined1())?,
        })
    }
}

impl End {
    async fn come(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_are_bounded_within_a_period() {
        let (mut restarts, start) = (Restarts::default(), Instant::now());
        let mut at = |seconds| restarts.allow(start + Duration::from_secs(seconds));
        assert_eq!(
            [at(0), at(1), at(59), at(59), at(60), at(60), at(61), at(62)],
            [true, true, true, false, true, false, true, false]
        );
    }
}
