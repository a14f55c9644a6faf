//! `heddle proxy status`: which sidecar runs what.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::cluster::ClusterArgs;

/// What to look at.
#[derive(Subcommand, Debug)]
pub enum ProxyCommand {
    /// Every sidecar: whether it is connected, and whether it runs what it should.
    Status(StatusArgs),
}

/// Options of `heddle proxy status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// The runtime folder of a standalone control plane, in place of the cluster.
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs the command.
pub async fn run(command: &ProxyCommand) -> Result<()> {
    let ProxyCommand::Status(args) = command;
    let _ = args;
    Ok(())
}
