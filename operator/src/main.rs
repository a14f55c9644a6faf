//! `heddle-operator`: the control plane.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use heddle_acceptor::{LogLines, raise_open_files};
use heddle_operator::change_traces::TraceEndpoint;
use heddle_operator::listen::{Listeners, deadlines};
use heddle_operator::{kubernetes, standalone};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// The control plane of the Heddle service mesh. Without a command it runs on Kubernetes.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    /// The log filter, such as `info` or `heddle_operator=debug,info`.
    #[arg(long, env = "HEDDLE_LOG", default_value = "info", global = true)]
    log: String,
    /// The format of log lines. `json`: one object a line, with fields for objects, proxies and errors.
    #[arg(
        long,
        env = "HEDDLE_LOG_FORMAT",
        value_enum,
        default_value_t = LogFormat::Text,
        global = true
    )]
    log_format: LogFormat,
    /// How often proxies report which destinations they use, in seconds.
    #[arg(long, env = "HEDDLE_LOAD_REPORT_SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600), global = true)]
    load_report_seconds: u64,
    /// The time, in milliseconds, that each connection has for its TLS handshake, its first request, each request, and
    /// between requests; for tests.
    #[arg(
        long,
        env = "HEDDLE_CONNECTION_DEADLINE_MS",
        hide = true,
        global = true
    )]
    connection_deadline_ms: Option<u64>,
    /// Callers share one address, as behind a proxy: no source address has a share of the connections.
    #[arg(long, env = "HEDDLE_SHARED_ADDRESS", global = true)]
    shared_address: bool,
    /// The Envoy that verifies the rejections of proxies; default: the one in the operator's image.
    #[arg(long, env = "HEDDLE_ENVOY", global = true)]
    envoy: Option<PathBuf>,
    /// The collector of traces of changes: OTLP over gRPC, `http://HOST:PORT`. Left out: no traces. They have names of objects and
    /// proxies, and travel in plain text.
    #[arg(long, env = "HEDDLE_TRACE_ENDPOINT", global = true)]
    trace_endpoint: Option<TraceEndpoint>,
    #[command(flatten)]
    kubernetes: OnKubernetes,
    #[command(subcommand)]
    command: Option<Command>,
}

/// The format of log lines.
#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// Text, `field=value`.
    Text,
    /// JSON.
    Json,
}

#[derive(Args)]
struct OnKubernetes {
    /// This pod's name.
    #[arg(long, env = "POD_NAME")]
    pod_name: Option<String>,
    /// This pod's namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = "heddle-system")]
    pod_namespace: String,
    /// This pod's address.
    #[arg(long, env = "POD_IP")]
    pod_ip: Option<IpAddr>,
    /// The image that the webhook puts into pods.
    #[arg(long, env = "HEDDLE_SIDECAR_IMAGE")]
    sidecar_image: Option<String>,
    /// The address to listen on.
    #[arg(long, env = "HEDDLE_LISTEN", default_value = "::")]
    listen: IpAddr,
    /// The period of the comparison of served resources with a fresh listing of the API server, in seconds.
    #[arg(long, env = "HEDDLE_AUDIT_SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..))]
    audit_seconds: u64,
    /// How many proxies at a time.
    #[arg(long, env = "HEDDLE_AUDIT_PROXIES", default_value_t = 100)]
    audit_proxies: usize,
}

#[derive(Subcommand)]
enum Command {
    /// Without Kubernetes: reads a directory of YAML files.
    Standalone(Standalone),
}

#[derive(Args)]
struct Standalone {
    /// The directory; every `*.yaml`, `*.yml` and `*.json` in it is read, at any depth, and read again when it changes.
    #[arg(long)]
    dir: PathBuf,
    /// Where the root of trust, tokens, trust bundle and statuses are written.
    #[arg(long)]
    runtime_dir: PathBuf,
    /// Where proxies connect, by mTLS.
    #[arg(long, default_value = "127.0.0.1:15010")]
    ads_address: SocketAddr,
    /// Where agents get certificates, by TLS and their token.
    #[arg(long, default_value = "127.0.0.1:15011")]
    ca_address: SocketAddr,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = start_log(&cli) {
        print(&error);
        return ExitCode::FAILURE;
    }
    let Err(error) = run(cli).await else {
        return ExitCode::SUCCESS;
    };
    if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!(error = format!("{error:#}"), "heddle-operator can't go on");
    } else {
        print(&error);
    }
    ExitCode::FAILURE
}

/// Prints an error for which there is no log, as one line.
fn print(error: &anyhow::Error) {
    let line = format!("Error: {error:#}\n");
    // Without an error stream nothing can be printed.
    let _ = LogLines(io::stderr()).write_all(line.as_bytes());
}

fn start_log(cli: &Cli) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&cli.log).with_context(|| format!("--log {:?}", cli.log))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| LogLines(io::stderr()));
    match cli.log_format {
        LogFormat::Json => lines.json().flatten_event(true).init(),
        // Colors are escape sequences, and no event may hold any.
        LogFormat::Text => lines.with_ansi(false).init(),
    }
    Ok(())
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let stop = until_signalled()?;
    let open_files = raise_open_files().context("the limit of open files cannot be raised")?;
    let deadlines = deadlines(cli.connection_deadline_ms.map(Duration::from_millis));
    let mut listeners = Listeners::new(open_files, deadlines);
    if cli.shared_address || matches!(cli.command, Some(Command::Standalone(_))) {
        listeners = listeners.with_shared_address();
    }
    let listeners = Arc::new(listeners);
    let load_report_interval = Duration::from_secs(cli.load_report_seconds);
    match cli.command {
        Some(Command::Standalone(given)) => {
            let options = standalone::Options {
                directory: given.dir,
                runtime: given.runtime_dir,
                ads: given.ads_address,
                ca: given.ca_address,
                listeners,
                envoy: cli.envoy,
                load_report_interval,
                trace_endpoint: cli.trace_endpoint,
            };
            standalone::run(options, stop)
                .await
                .context("the control plane stops")
        }
        None => {
            let options = kubernetes::Options {
                pod: cli.kubernetes.pod_name.context("POD_NAME is not set: on Kubernetes the manifest does it; without Kubernetes use `standalone`")?,
                namespace: cli.kubernetes.pod_namespace,
                ip: cli.kubernetes.pod_ip,
                sidecar_image: cli.kubernetes.sidecar_image.context("HEDDLE_SIDECAR_IMAGE is not set")?,
                listen: cli.kubernetes.listen,
                listeners,
                envoy: cli.envoy,
                load_report_interval,
                trace_endpoint: cli.trace_endpoint,
                audit: kubernetes::AuditPlan {
                    interval: Duration::from_secs(cli.kubernetes.audit_seconds),
                    proxies: cli.kubernetes.audit_proxies,
                },
            };
            kubernetes::run(options, stop)
                .await
                .context("the control plane stops")
        }
    }
}

/// A token that SIGTERM or SIGINT cancels.
fn until_signalled() -> anyhow::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let stop = CancellationToken::new();
    let cancelled = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stop requested");
        cancelled.cancel();
    });
    Ok(stop)
}
