//! `heddle mtls strict`: the flip to mutual TLS alone, guarded by the plan.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use heddle_acceptor::clean;
use serde::Serialize;
use serde_json::Value;
use time::OffsetDateTime;

use super::guard;
use super::plan::Planner;
use super::report::Report;
use super::target::Target;
use crate::cluster::{self, ClusterArgs};
use crate::edges::live::Source;
use crate::findings::plural;
use crate::flows::Flows;
use crate::mesh::wait::{Awaited, Pending, wait};
use crate::out::Format;
use crate::proxy;
use crate::sources::Objects;

/// The longest line of text, in characters.
const MAX_LINE: usize = 4000;

/// Options of `heddle mtls strict`.
#[derive(Args, Debug)]
pub struct MtlsStrictArgs {
    /// The namespace.
    #[arg(required_unless_present = "mesh")]
    namespace: Option<String>,
    /// The whole mesh, by the mode of the Mesh.
    #[arg(long, conflicts_with = "namespace")]
    mesh: bool,
    /// Flip also against the plan; the callers that it cuts off are named.
    #[arg(long)]
    force: bool,
    /// Change nothing; print the verdict and the object. The API server checks the object and your rights.
    #[arg(long)]
    dry_run: bool,
    /// Take over the field from another field manager.
    #[arg(long)]
    force_conflicts: bool,
    /// The longest wait for sidecars before and after the flip, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
    /// With --dry-run: files or folders with the objects, in place of the cluster; takes --edges.
    #[arg(
        short = 'f',
        long = "filename",
        short_alias = 'd',
        alias = "dir",
        value_name = "PATH",
        requires_all = ["edges", "dry_run"]
    )]
    objects: Vec<PathBuf>,
    /// A file with observed flows, written by `heddle edges -o json`; without it, the control plane is asked.
    #[arg(long, value_name = "FILE")]
    edges: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// The result of a flip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Outcome {
    /// The plan is against it, and nothing was changed.
    Refused,
    /// It would be written.
    WouldBeWritten,
    /// Every sidecar has acknowledged it.
    InForce,
    /// It is written, and some sidecar has not acknowledged it.
    NotInForce,
}

/// The flip as one document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Flip {
    outcome: Outcome,
    /// The object that makes the target strict.
    object: Value,
    /// Whether the object was changed, or would be. None: not known.
    changed: Option<bool>,
    forced: bool,
    /// The reasons against the flip.
    reasons: Vec<String>,
    /// The sidecars that have not acknowledged the flip.
    pending: Vec<Pending>,
    /// The command that takes it back.
    undo: String,
    /// The plans of the namespaces.
    plans: Vec<Report>,
}

/// Runs the command; returns whether the flip is refused.
pub async fn run(args: &MtlsStrictArgs) -> Result<bool> {
    let target = Target::of(args.namespace.as_deref())?;
    let (plans, mut reasons) = planned(args, &target).await?;
    if args.objects.is_empty() {
        reasons.extend(sidecars(args, &plans, reasons.is_empty()).await);
    }
    let mut flip = Flip {
        outcome: Outcome::Refused,
        object: target.object(),
        changed: None,
        forced: args.force && !reasons.is_empty(),
        reasons,
        pending: Vec::new(),
        undo: target.undo(),
        plans,
    };
    let refused = !flip.reasons.is_empty() && !args.force;
    if !refused {
        write(args, &target, &mut flip).await?;
    }
    args.output.print(&flip, || text(&flip, &target))?;
    if flip.outcome == Outcome::NotInForce {
        bail!(
            "not every sidecar acknowledged in {} s; the change stays (fix: heddle proxy status, or repeat the command to wait on)",
            args.timeout
        );
    }
    Ok(refused)
}

/// The plans of all namespaces, and the reasons against the flip.
async fn planned(args: &MtlsStrictArgs, target: &Target) -> Result<(Vec<Report>, Vec<String>)> {
    let before = Objects::from(&args.objects, &args.cluster).await?;
    let after = target.after(&before)?.compile().compiled;
    let before = before.compile();
    let namespaces = target.namespaces(&before, &after)?;
    let mut reasons = Vec::new();
    let flows = match Flows::from(args.edges.as_deref(), &args.cluster).await {
        Err(error) if args.force => {
            let error = cluster::explain(&error);
            reasons.push(format!("the callers are not known: {error}"));
            Flows {
                callers: Some(Vec::new()),
                ..Flows::default()
            }
        }
        flows => flows?,
    };
    let now = args.edges.is_none().then(OffsetDateTime::now_utc);
    let planner = Planner::new(&before, &after, &flows, flows.callers()?, now);
    let plans = namespaces.iter().map(|of| planner.plan(of));
    let plans: Vec<Report> = plans.collect();
    reasons.extend(guard::against(&plans, &flows));
    Ok((plans, reasons))
}

/// The reasons in the sidecars. Servers accept plain text until every client has acknowledged the configuration that it has now.
async fn sidecars(args: &MtlsStrictArgs, plans: &[Report], waits: bool) -> Vec<String> {
    let source = Source::Cluster(args.cluster.clone());
    let mute = match proxy::report(&source).await {
        Ok(report) => {
            let states = report.proxies.iter().map(|placed| &placed.state);
            guard::mute(states, plans)
        }
        // The next look reports it.
        Err(_) => None,
    };
    let longest = match waits && !args.force && mute.is_none() {
        true => Duration::from_secs(args.timeout),
        false => Duration::ZERO,
    };
    let look = wait(&args.cluster, Awaited::Settled, longest).await;
    let unsettled = match look {
        Ok(look) => guard::unsettled(&look.pending),
        Err(error) => Some(cluster::explain(&error)),
    };
    mute.into_iter().chain(unsettled).collect()
}

/// Writes the object, and waits until it is in force.
async fn write(args: &MtlsStrictArgs, target: &Target, flip: &mut Flip) -> Result<()> {
    flip.outcome = Outcome::WouldBeWritten;
    if !args.objects.is_empty() {
        return Ok(());
    }
    let client = args.cluster.client().await?;
    let written = target.write(&client, args.dry_run, args.force_conflicts);
    let written = written.await?;
    flip.changed = Some(written.changed);
    if args.dry_run {
        return Ok(());
    }
    let longest = Duration::from_secs(args.timeout);
    let waiting = target.in_force(&client, &args.cluster, written.generation, longest);
    flip.pending = waiting.await?;
    flip.outcome = match flip.pending.is_empty() {
        true => Outcome::InForce,
        false => Outcome::NotInForce,
    };
    Ok(())
}

fn text(flip: &Flip, target: &Target) -> String {
    let name = target.name();
    let object = flip.object.get("kind").and_then(Value::as_str);
    let object = object.unwrap_or_default();
    let unchanged = match flip.changed {
        Some(false) => ", as before",
        Some(true) | None => "",
    };
    let mut lines = vec![match flip.outcome {
        Outcome::Refused => format!("refused: {name} does not become Strict"),
        Outcome::WouldBeWritten => format!("{name} would become Strict by its {object}{unchanged}"),
        Outcome::InForce => format!(
            "{name} is Strict by its {object}{unchanged}; every sidecar that needs it has acknowledged it"
        ),
        Outcome::NotInForce => format!("{name} becomes Strict by its {object}{unchanged}"),
    }];
    if flip.reasons.is_empty() {
        let stay = flip.plans.iter().flat_map(|plan| &plan.open_ports);
        let stay = stay.filter(|port| port.stays).count();
        lines.push(match stay {
            0 => "  no caller in plain text was seen".to_owned(),
            some => format!(
                "  no caller in plain text was seen that it refuses; {} plain text (heddle mtls plan)",
                match some {
                    1 => "1 port keeps".to_owned(),
                    _ => format!("{} keep", plural(some, "port")),
                }
            ),
        });
    }
    let reasons = flip.reasons.iter();
    lines.extend(reasons.map(|reason| format!("  against it: {reason}")));
    if flip.forced && flip.outcome != Outcome::Refused {
        let cut = guard::cut_off(&flip.plans);
        lines.extend(cut.map(|caller| format!("  cut off: {caller}")));
    }
    let pending = flip.pending.iter();
    lines.extend(pending.map(|of| format!("  pending: {}: {}", of.proxy, of.reason)));
    lines.push(match flip.outcome {
        Outcome::Refused => {
            "  nothing was changed; give these callers a sidecar, or repeat with --force, which cuts them off".to_owned()
        }
        Outcome::WouldBeWritten | Outcome::InForce | Outcome::NotInForce => {
            format!("  undo: {}", flip.undo)
        }
    });
    let lines = lines.iter().map(|line| {
        let indent = if line.starts_with("  ") { "  " } else { "" };
        format!("{indent}{}", clean(line.trim_start(), MAX_LINE))
    });
    lines.collect::<Vec<_>>().join("\n")
}
