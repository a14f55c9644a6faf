//! `heddle mesh`: settings of the mesh that are switched while it runs.

mod bypass;
mod effect;
pub mod wait;

use anyhow::Result;
use clap::Subcommand;

use bypass::BypassArgs;

/// The commands on the settings of the mesh.
#[derive(Subcommand, Debug)]
pub enum MeshCommand {
    /// Take a namespace out of the way of the mesh, or put it back, while it runs.
    #[command(
        long_about = "Adds a namespace to spec.bypassedNamespaces of the Mesh, or takes it away (--off), and waits until every sidecar of the \
                      namespace has acknowledged that. Sidecars of a bypassed namespace enforce nothing: no AuthPolicy, no route, no split, \
                      no retry, limit or fault of a TrafficPolicy. They accept plain text beside mTLS, and go on reporting. Calls between \
                      sidecars stay mutual TLS, so that no other namespace is weakened. No pod restarts, and no connection is closed, but for \
                      ports with a TLSRoute; after --off, ports with the mode Strict end their connections in plain text. Callers there send \
                      plain text to endpoints without a sidecar, also under Strict.\n\n\
                      Takes the right to `patch` the Mesh, which belongs to the cluster, and the rights of `heddle proxy status`; the change \
                      is announced by those of `heddle analyze`.\n\n\
                      Exit codes: 0 every sidecar has acknowledged, 1 an error, or not within --timeout (the change stays).",
        after_long_help = "Examples:\n  heddle mesh bypass shop --dry-run\n  heddle mesh bypass shop\n  heddle mesh bypass shop --off\n  \
                           heddle mesh bypass shop -o json | jq .pending"
    )]
    Bypass(BypassArgs),
}

/// Runs the command.
///
/// # Errors
/// The bypass cannot be written, or not every sidecar acknowledges it in time.
pub async fn run(command: &MeshCommand) -> Result<()> {
    let MeshCommand::Bypass(args) = command;
    bypass::run(args).await
}

/// Its output for a test of all printers.
#[cfg(test)]
pub fn printed(of: &crate::hostile::Hostile) -> String {
    bypass::printed(of)
}
