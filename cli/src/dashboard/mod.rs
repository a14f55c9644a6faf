//! `heddle dashboard`: the live graph as a page in the browser.
//!
//! The command serves the page on this machine, under a path that cannot be guessed, and asks the control plane and the API
//! server with the rights of its caller. The page has no asset from elsewhere.

mod access;
mod objects;
mod routes;
mod server;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::edges::live::PlaceArgs;
use crate::out::tell;
pub use server::{Dashboard, secret};

/// Options of `heddle dashboard`.
#[derive(Args, Debug)]
pub struct DashboardArgs {
    /// The port on 127.0.0.1; 0 takes a free one.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
    /// The files or folders that a standalone control plane reads, so that rules and callers can be described.
    #[arg(
        short = 'f',
        long = "filename",
        value_name = "PATH",
        requires = "runtime_dir"
    )]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    place: PlaceArgs,
}

/// Serves until Ctrl-C.
///
/// # Errors
/// When the port cannot be used.
pub async fn run(args: &DashboardArgs) -> Result<()> {
    let dashboard = Dashboard::bind(args.place.source(), args.paths.clone(), args.port).await?;
    tell!("{}", dashboard.url());
    tell!("Open it in a browser on this machine. Ctrl-C ends it.");
    dashboard.serve().await
}
