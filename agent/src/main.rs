//! `heddle-agent`: the sidecar's PID 1, and its init container.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use heddle_agent::{LogFormat, Settings, capture, log_level};

/// The sidecar of Heddle: gets the workload's identity, runs Envoy, and captures the pod's traffic.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the sidecar (the default). All settings come from the environment.
    Run,
    /// Sends the pod's traffic to the sidecar (needs NET_ADMIN), then ends.
    Init,
    /// Becomes Envoy; the agent starts it this way.
    #[command(hide = true)]
    Envoy {
        /// Envoy's binary.
        binary: PathBuf,
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log();
    let result = match arguments.command.unwrap_or(Command::Run) {
        Command::Run => run(),
        Command::Init => init(),
        Command::Envoy { binary, arguments } => Err(heddle_agent::exec_envoy(&binary, &arguments)),
    };
    result.unwrap_or_else(|error| {
        tracing::error!(error = format!("{error:#}"), "heddle-agent can't go on");
        ExitCode::FAILURE
    })
}

fn run() -> Result<ExitCode> {
    let settings = Settings::from_env(env)?;
    // Envoy inherits the limit.
    heddle_acceptor::raise_open_files().context("the limit of open files cannot be raised")?;
    // One thread is plenty, and Envoy is bound to it: the kernel ends Envoy when the thread that started it ends.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    runtime.block_on(heddle_agent::run(settings))
}

fn init() -> Result<ExitCode> {
    let settings = capture::CaptureSettings::read(env)?;
    capture::apply(&settings)?;
    tracing::info!("the pod's traffic goes to the sidecar");
    Ok(ExitCode::SUCCESS)
}

fn log() {
    // The agent's few lines of events are worth more than the silence of Envoy's default.
    let level = env("HEDDLE_LOG_LEVEL").map_or("info", |level| log_level(&level));
    let filter = tracing_subscriber::EnvFilter::new(format!(
        "{level},h2=warn,hyper=warn,tower=warn,rustls=warn"
    ));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| heddle_acceptor::LogLines(std::io::stderr()));
    match LogFormat::from_env(env) {
        LogFormat::Json => lines.json().flatten_event(true).init(),
        LogFormat::Text => lines.with_ansi(false).init(),
    }
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
