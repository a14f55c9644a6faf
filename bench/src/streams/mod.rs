//! The cost of TLS for the streams: the discovery server alone, in this process, pushes the same changes to the same simulated
//! proxies by plain text and by mutual TLS, in turns. Heddle's own binary has no listener without TLS to be measured.

mod source;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use clap::Args;
use heddle_identity::{Ca, SpiffeId, TrustDomain};
use heddle_xds_server::{Options, Security, Server};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::change::Change;
use crate::machine::cpu_seconds;
use crate::mesh::{CHANGING, resource_part};
use crate::objects::Ready;
use crate::probe::{Probe, milliseconds};
use crate::sim::proxy::Proxy;
use crate::sim::{self, Credentials, Fleet, Member, Retry};
use crate::stats::Sample;
use source::{Same, Small};

const NAME: &str = "localhost";
/// Longer than any measurement.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// A fleet has to come up, and a change to arrive everywhere, in this time.
const WITHIN: Duration = Duration::from_secs(120);
/// Between changes: ACKs of the one before are over by then.
const REST: Duration = Duration::from_millis(200);

/// The run's parameters.
#[derive(Debug, Clone, Args)]
#[group(id = "streams")]
pub struct Plan {
    /// Simulated proxies.
    #[arg(
        id = "streams-proxies",
        long = "streams-proxies",
        default_value_t = 1000
    )]
    pub proxies: usize,
    /// Repetitions with TLS, and as many without, each with fresh connections.
    #[arg(id = "streams-turns", long = "streams-turns", default_value_t = 5)]
    pub turns: usize,
    /// Changes in each turn.
    #[arg(id = "streams-rounds", long = "streams-rounds", default_value_t = 20)]
    pub rounds: usize,
}

/// The result of one turn of one way.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// Seconds until all proxies held everything.
    synced: f64,
    /// CPU milliseconds of the server for each proxy until then.
    connect: f64,
    /// Milliseconds from the change to its arrival.
    p50: f64,
    p99: f64,
    /// CPU microseconds of the server for each push.
    push: f64,
}

/// Turns of both ways, in pairs.
#[derive(Debug)]
pub struct Figures {
    turns: Vec<[Turn; 2]>,
}

/// Runs the plan.
///
/// # Errors
/// When a proxy fails, or a change does not arrive.
pub async fn measure(plan: &Plan) -> Result<Figures> {
    let domain: TrustDomain = "cluster.local".parse()?;
    let (root, _) = Ca::create(&domain, SystemTime::now())?;
    let id = SpiffeId::new(domain, "bench", "proxy")?;
    let credentials = Credentials::sign(&root, &id, "proxy")?;
    let config = server_config(&root, &id)?;
    let secured = || {
        Security::mtls({
            let config = Arc::clone(&config);
            move || Arc::clone(&config)
        })
    };
    let mut turns = Vec::new();
    for number in 0..plan.turns {
        eprintln!("streams: turn {} of {}", number + 1, plan.turns);
        let plain = async || turn(plan, Security::Plain, None).await;
        let tls = async || turn(plan, secured(), Some(&credentials)).await;
        // Plain text and TLS take turns to be first.
        turns.push(if number % 2 == 0 {
            let plain = plain().await?;
            [plain, tls().await?]
        } else {
            let tls = tls().await?;
            [plain().await?, tls]
        });
    }
    Ok(Figures { turns })
}

async fn turn(plan: &Plan, security: Security, credentials: Option<&Credentials>) -> Result<Turn> {
    let mut mesh = Small::new();
    let source = Arc::new(Same::new(mesh.view()?));
    let server = Server::new(Arc::clone(&source), Options::default());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let serving =
        tokio::spawn(async move { server.serve(listener, security, stopped.cancelled()).await });
    let member = |index: usize| Member {
        proxy: Proxy::new(&format!("bench/proxy-{index}"), "bench", []),
        credentials: credentials.cloned(),
    };
    let server = sim::Server {
        address,
        server_name: NAME.to_owned(),
    };
    let members = (0..plan.proxies).map(member).collect();
    let mut fleet = Fleet::start(&server, members, Retry::Never)?;
    // The clients have read their keys: that CPU time does not count as the server's.
    let mut own = Own::default();
    own.since(&fleet)?;
    let synced = fleet.synced(WITHIN).await?.took();
    let connect = own.since(&fleet)?;
    let arrivals = changes(plan, &mut mesh, &source, &fleet).await?;
    let push = own.since(&fleet)?;
    fleet.all_up()?;
    drop(fleet);
    stop.cancel();
    serving.await??;
    let proxies = plan.proxies as f64;
    Ok(Turn {
        synced: synced.as_secs_f64(),
        connect: connect * 1e3 / proxies,
        p50: arrivals.median(),
        p99: arrivals.quantile(0.99),
        push: push * 1e6 / proxies / plan.rounds as f64,
    })
}

async fn changes(plan: &Plan, mesh: &mut Small, source: &Same, fleet: &Fleet) -> Result<Sample> {
    let mut all = Vec::new();
    for round in 0..plan.rounds {
        tokio::time::sleep(REST).await;
        let ready = Ready::numbered(round);
        mesh.set_ready(ready);
        let view = mesh.view()?;
        let change = Change::Endpoints {
            name: resource_part(CHANGING),
            healthy: ready.count(),
        };
        let probe = Probe::arm(fleet, change, fleet.size());
        let begun = Instant::now();
        source.show(view);
        let arrivals = probe.arrivals(WITHIN).await?;
        all.extend(milliseconds(&arrivals, begun));
    }
    Ok(Sample::new(all))
}

/// CPU of this process without the fleet's thread.
#[derive(Debug, Default)]
struct Own(f64);

impl Own {
    /// Seconds since the last call.
    fn since(&mut self, fleet: &Fleet) -> Result<f64> {
        let now = cpu_seconds(std::process::id())? - fleet.cpu_seconds()?;
        let since = now - self.0;
        self.0 = now;
        Ok(since)
    }
}

/// As the control plane's: TLS 1.3, a client certificate of the mesh's root, no tickets.
fn server_config(root: &Ca, id: &SpiffeId) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for der in CertificateDer::pem_slice_iter(root.trust_bundle().as_bytes()) {
        roots.add(der?)?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()?;
    let own = root.server_certificate(&[NAME.to_owned()], &[], id, LIFETIME, SystemTime::now())?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(own.issued.chain, own.key.private_key_der())
        .context("the server's certificate")?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The figures as Markdown.
pub fn markdown(plan: &Plan, figures: &Figures) -> String {
    let mut out = format!(
        "\n### What TLS costs the streams\n\n\
         The discovery server alone, in the load program's process, with {} proxies that use 5 services of 10 pods each, by plain text and by mutual TLS; {} turns of each, \
         {} endpoint changes in each, all of which go to all. The ratio is taken turn by turn.\n\n\
         | what | unit | plain text | TLS | TLS to plain text |\n|---|---|---|---|---|\n",
        plan.proxies, plan.turns, plan.rounds
    );
    let mut row = |what: &str, unit: &str, decimals, of: fn(&Turn) -> f64| {
        let over =
            |figure: &dyn Fn(&[Turn; 2]) -> f64| Sample::new(figures.turns.iter().map(figure));
        // Writing to a String can't fail.
        let _ = writeln!(
            out,
            "| {what} | {unit} | {} | {} | {} |",
            over(&|[plain, _]| of(plain)).spread(decimals),
            over(&|[_, tls]| of(tls)).spread(decimals),
            over(&|[plain, tls]| of(tls) / of(plain)).spread(2),
        );
    };
    row("endpoint change, p50", "ms", 1, |turn| turn.p50);
    row("endpoint change, p99", "ms", 1, |turn| turn.p99);
    row("a push: CPU", "µs", 1, |turn| turn.push);
    row("connect at once: all in sync", "s", 2, |turn| turn.synced);
    row("connect at once: CPU each", "ms", 2, |turn| turn.connect);
    out
}
