//! `heddle mtls strict`: the flip to mutual TLS alone, guarded by the plan.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use heddle_acceptor::clean;
use heddle_crds::MeshMode;
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
/// So many ports that keep plain text are printed.
const PORTS: usize = 200;

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
    /// With --dry-run: a file with observed flows, written by `heddle edges -o json`; without it, the control plane is asked.
    #[arg(long, value_name = "FILE", requires = "dry_run")]
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
    /// It is written, and it is not known that every sidecar has acknowledged it.
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
    /// The plans of the namespaces. Their ports that stay accept plain text after the flip, too.
    plans: Vec<Report>,
}

/// The flip as the objects and the observed callers judge it.
struct Planned {
    plans: Vec<Report>,
    /// The reasons against it.
    reasons: Vec<String>,
    /// The mode of the Mesh before it.
    mode: MeshMode,
}

/// Runs the command; returns whether the flip is refused.
///
/// # Errors
/// The target is not a namespace or has no sidecar, the objects or flows cannot be read, the flip would not be in force, the API server
/// refuses the write, or not every sidecar acknowledges it in time.
pub async fn run(args: &MtlsStrictArgs) -> Result<bool> {
    let target = Target::of(args.namespace.as_deref())?;
    let planned = judged(args, &target).await?;
    let mut flip = Flip {
        outcome: Outcome::Refused,
        object: target.object(),
        changed: None,
        forced: args.force && !planned.reasons.is_empty(),
        reasons: planned.reasons,
        pending: Vec::new(),
        undo: target.undo(planned.mode),
        plans: planned.plans,
    };
    let refused = !flip.reasons.is_empty() && !args.force;
    if !refused {
        write(args, &target, &mut flip).await?;
    }
    args.output.print(&flip, || text(&flip, &target))?;
    if flip.outcome == Outcome::NotInForce {
        bail!(
            "{} is written, and not every sidecar has acknowledged it in {} s, and the change stays; run heddle proxy status, repeat the \
             command to wait on, or take it back: {}",
            target.object_name(),
            args.timeout,
            flip.undo
        );
    }
    Ok(refused)
}

/// The plan with the reasons in the sidecars.
async fn judged(args: &MtlsStrictArgs, target: &Target) -> Result<Planned> {
    let mut planned = planned(args, target).await?;
    if !args.objects.is_empty() {
        return Ok(planned);
    }
    let mut found = look(args, &planned.plans).await;
    let waits = !args.force && planned.reasons.is_empty() && found.is_empty();
    let longest = match waits {
        true => Duration::from_secs(args.timeout),
        false => Duration::ZERO,
    };
    found.extend(unsettled(args, longest).await);
    if waits && found.is_empty() {
        // Callers and objects may have come during the wait.
        planned = self::planned(args, target).await?;
        found = look(args, &planned.plans).await;
    }
    planned.reasons.extend(found);
    Ok(planned)
}

/// The plans of all namespaces, and the reasons against the flip by them.
async fn planned(args: &MtlsStrictArgs, target: &Target) -> Result<Planned> {
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
    Ok(Planned {
        plans,
        reasons,
        mode: before.compiled.mesh().mode,
    })
}

/// The reasons in the sidecars by one look. One that fails, or that has not every replica, is a reason: pods that cannot report may be missing.
async fn look(args: &MtlsStrictArgs, plans: &[Report]) -> Vec<String> {
    let source = Source::Cluster(args.cluster.clone());
    match proxy::report(&source).await {
        Ok(report) => {
            let states = || report.proxies.iter().map(|placed| &placed.state);
            let mute = guard::mute(states(), plans);
            mute.into_iter()
                .chain(guard::unconnected(states(), plans))
                .chain(guard::unasked(report.unasked()))
                .collect()
        }
        Err(error) => vec![format!(
            "the sidecars are not known ({}); run heddle proxy status",
            cluster::explain(&error)
        )],
    }
}

/// Waits for all sidecars. Servers accept plain text until every client has acknowledged the configuration that it has now.
async fn unsettled(args: &MtlsStrictArgs, longest: Duration) -> Option<String> {
    let look = wait(&args.cluster, Awaited::Settled, longest).await;
    guard::unsettled(&look.pending)
}

/// Writes the object, and waits until it is in force.
async fn write(args: &MtlsStrictArgs, target: &Target, flip: &mut Flip) -> Result<()> {
    flip.outcome = Outcome::WouldBeWritten;
    if !args.objects.is_empty() {
        return Ok(());
    }
    let client = args.cluster.client().await?;
    let written = target.write(&client, args.dry_run, args.force_conflicts, &flip.undo);
    let written = written.await?;
    flip.changed = Some(written.changed);
    if args.dry_run {
        return Ok(());
    }
    let longest = Duration::from_secs(args.timeout);
    let waiting = target.in_force(&client, &args.cluster, written.generation, longest);
    flip.pending = waiting.await;
    flip.outcome = match flip.pending.is_empty() {
        true => Outcome::InForce,
        false => Outcome::NotInForce,
    };
    Ok(())
}

fn text(flip: &Flip, target: &Target) -> String {
    let written = flip.outcome != Outcome::Refused;
    let kept: Vec<String> = match written {
        true => guard::kept(&flip.plans).collect(),
        false => Vec::new(),
    };
    let mut lines = vec![headline(flip, target, !kept.is_empty())];
    let (first, others) = kept.split_at(kept.len().min(PORTS));
    lines.extend(
        first
            .iter()
            .map(|port| format!("  keeps plain text: {port}")),
    );
    if let [_, ..] = others {
        let others = plural(others.len(), "more port");
        lines.push(format!("  keeps plain text: {others} (all with -o json)"));
    }
    if flip.reasons.is_empty() {
        lines.push("  no caller in plain text was seen that it refuses".to_owned());
    }
    let reasons = flip.reasons.iter();
    lines.extend(reasons.map(|reason| format!("  against it: {reason}")));
    if flip.forced && written {
        let cut = guard::cut_off(&flip.plans);
        lines.extend(cut.map(|caller| format!("  cut off: {caller}")));
    }
    let pending = flip.pending.iter();
    lines.extend(pending.map(|of| format!("  pending: {}: {}", of.proxy, of.reason)));
    lines.extend(match flip.outcome {
        Outcome::Refused => {
            let fix = match guard::cut_off(&flip.plans).next() {
                Some(_) => {
                    "give these callers a sidecar, or repeat with --force, which cuts them off"
                }
                None => {
                    "repeat when nothing is against it, or with --force, which flips in any case"
                }
            };
            vec![format!("  nothing was changed; {fix}")]
        }
        Outcome::WouldBeWritten => vec![format!("  undo: {}", flip.undo)],
        Outcome::InForce | Outcome::NotInForce => vec![
            format!("  written: {}", target.object_name()),
            format!("  undo: {}", flip.undo),
        ],
    });
    let lines = lines.iter().map(|line| {
        let indent = if line.starts_with("  ") { "  " } else { "" };
        format!("{indent}{}", clean(line.trim_start(), MAX_LINE))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The first line. `kept`: some ports accept plain text after the flip, too.
fn headline(flip: &Flip, target: &Target, kept: bool) -> String {
    let name = target.name();
    let object = flip.object.get("kind").and_then(Value::as_str);
    let object = object.unwrap_or_default();
    let except = if kept { " except for these ports," } else { "" };
    let unchanged = match flip.changed {
        Some(false) => ", as before",
        Some(true) | None => "",
    };
    match flip.outcome {
        Outcome::Refused => format!("refused: {name} does not become Strict"),
        Outcome::WouldBeWritten => {
            format!("{name} would become Strict{except} by its {object}{unchanged}")
        }
        Outcome::InForce => format!(
            "{name} is Strict{except} by its {object}{unchanged}; every sidecar that needs it has acknowledged it"
        ),
        Outcome::NotInForce => format!("{name} becomes Strict{except} by its {object}{unchanged}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::OpenPort;
    use super::*;

    #[test]
    fn the_result_names_ports_that_keep_plain_text_and_the_written_object() {
        let target = Target::Namespace("shop".to_owned());
        let port = |port, stays| OpenPort {
            workload: "shop/db".to_owned(),
            port,
            protocol: "tcp",
            reason: "AuthPolicy shop/db, spec.mtls is Permissive".to_owned(),
            stays,
        };
        let mut flip = Flip {
            outcome: Outcome::InForce,
            object: target.object(),
            changed: Some(true),
            forced: true,
            reasons: vec!["a reason".to_owned()],
            pending: Vec::new(),
            undo: target.undo(MeshMode::Permissive),
            plans: vec![Report {
                open_ports: vec![port(Some(5000), true), port(Some(80), false)],
                ..Report::default()
            }],
        };
        let kept =
            "  keeps plain text: shop/db port 5000 (AuthPolicy shop/db, spec.mtls is Permissive)\n";
        for (outcome, first) in [
            (
                Outcome::InForce,
                "namespace shop is Strict except for these ports, by its AuthPolicy;",
            ),
            (
                Outcome::NotInForce,
                "namespace shop becomes Strict except for these ports, by its AuthPolicy\n",
            ),
        ] {
            flip.outcome = outcome;
            let text = text(&flip, &target);
            assert!(text.starts_with(first), "{text}");
            assert!(text.contains(kept) && !text.contains("port 80 "), "{text}");
            let end = format!(
                "\n  written: AuthPolicy shop/zz-mtls-strict\n  undo: {}",
                flip.undo
            );
            assert!(text.ends_with(&end), "{text}");
        }
        flip.outcome = Outcome::InForce;
        flip.plans.clear();
        let text = text(&flip, &target);
        assert!(
            text.starts_with("namespace shop is Strict by its AuthPolicy; every sidecar"),
            "{text}"
        );
    }
}
