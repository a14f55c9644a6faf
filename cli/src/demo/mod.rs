//! `heddle demo`: the mesh at work on one machine. The real control plane, real agents, stock Envoys; only the services are toys.

mod apps;
mod children;
mod client;
mod edges;
mod load;
mod mesh;
mod status;
mod steps;
mod term;
mod world;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

pub use children::{CHILD, become_program};

use crate::dashboard::Dashboard;
use crate::edges::live::Source;
use crate::stop;
use children::Children;
use mesh::Mesh;
use term::Term;
use world::WorkDir;

/// Options of `heddle demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Leave everything running at the end, until Ctrl-C, and name the files to edit.
    #[arg(long)]
    keep: bool,
    /// Where to write objects, logs and sockets; a temporary folder without it. Keep the path short: Unix sockets go in here.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where heddle-operator and heddle-agent are; beside this binary without it.
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// The Envoy to use; without it the one on PATH, else the one that `make envoy` fetched.
    #[arg(long, value_name = "FILE", env = "HEDDLE_ENVOY")]
    envoy: Option<PathBuf>,
}

/// Runs the command. All processes end with it, also after an error.
///
/// # Errors
/// A program is missing, cannot be run or ends, no addresses are free, the folder cannot be written, or an expectation failed.
pub async fn run(args: &DemoArgs) -> Result<()> {
    let binaries = mesh::Binaries::find(args.bin_dir.as_deref(), args.envoy.as_deref())?;
    let seed = random();
    let net = apps::free_net(seed)?;
    let root = root(args, seed)?;
    let dir = WorkDir::create(root.clone(), net.clone())?;
    let mut children = Children::new(dir.logs());
    let mut term = Term::new();
    let stopped = stop::stopped()?;
    let outcome = tokio::select! {
        outcome = play(args, &mut term, &mut children, &dir, &net, &binaries) => outcome,
        () = stopped => Err(anyhow::anyhow!("stopped")),
    };
    children.stop().await;
    finish(args, &term, outcome, root)
}

async fn play(
    args: &DemoArgs,
    term: &mut Term,
    children: &mut Children,
    dir: &WorkDir,
    net: &apps::Net,
    binaries: &mesh::Binaries,
) -> Result<()> {
    let apps = apps::start(net).await?;
    let mut mesh = Mesh::start(term, children, dir, net, binaries).await?;
    let dashboard =
        Dashboard::bind(Source::Standalone(dir.runtime()), vec![dir.world()], 0).await?;
    term.note(&format!("the live graph: {}", dashboard.url()));
    let shown = async {
        steps::all(term, &mut mesh).await?;
        if args.keep {
            mesh.say_what_to_play_with(term);
            let _load = (steps::load(&mesh), steps::refused_load(&mesh));
            std::future::pending::<()>().await;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        outcome = shown => outcome?,
        ended = dashboard.serve() => ended?,
    }
    drop(apps);
    Ok(())
}

/// The verdict; after a failure the folder stays for inspection.
fn finish(args: &DemoArgs, term: &Term, outcome: Result<()>, root: PathBuf) -> Result<()> {
    let (held, failed) = term.verdict();
    // After --keep, Ctrl-C is how it ends.
    let kept_and_ended = args.keep && held > 0;
    let errors = failed.len();
    if errors == 0 && (outcome.is_ok() || kept_and_ended) {
        term.note("");
        term.note(&format!(
            "{} {held} expectations held, in {:.0} s.",
            term.paint("1;32", "All well:"),
            term.elapsed()
        ));
        if args.dir.is_none() && !args.keep {
            // Files that cannot be deleted in a temporary folder do no harm.
            let _ = std::fs::remove_dir_all(root);
        }
        return Ok(());
    }
    let logs = root.join("logs");
    outcome.with_context(|| format!("the demo broke off; logs are in {}", logs.display()))?;
    bail!(
        "{errors} of {} expectations failed; logs are in {}",
        usize::try_from(held).unwrap_or(0) + errors,
        logs.display()
    )
}

fn root(args: &DemoArgs, seed: u64) -> Result<PathBuf> {
    let root = args
        .dir
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("heddle-demo-{:08x}", seed >> 32)));
    // Tokens and Envoy's admin sockets are in here: only for this user.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&root)
        .with_context(|| format!("cannot make {}", root.display()))?;
    root.canonicalize()
        .with_context(|| format!("cannot find {}", root.display()))
}

/// The standard library seeds its hashers at random, which is random enough to pick a block of addresses.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
