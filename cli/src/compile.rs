//! `heddle compile`: the configuration of every sidecar, offline.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use heddle_policy_compiler::{Compiled, PodRef, Resource, Scope, print};
use serde_json::{Value, json};

use crate::findings;
use crate::out;
use crate::sources::{Objects, Outcome};

/// The longest name of a pod, in characters.
const MAX_NAME: usize = 600;

/// Options of `heddle compile`.
#[derive(Args, Debug)]
pub struct CompileArgs {
    /// Files or folders of YAML; `-` is standard input.
    #[arg(short = 'f', long = "filename", value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Only this sidecar: a pod, or all pods of a workload.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    proxy: Option<String>,
    /// Also the answers to on-demand requests of a sidecar with capture, for every destination of the mesh.
    #[arg(long)]
    outbound: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Yaml)]
    output: Output,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// One document per sidecar.
    Yaml,
    /// One object, by sidecar.
    Json,
}

/// The time bucket in the names of on-demand clusters, in place of an hour.
const OFFLINE: &str = "offline";

/// Runs the command; gives the number of errors.
///
/// # Errors
/// A path cannot be read, or `--proxy` names neither a pod with a sidecar nor a workload of such pods.
pub fn run(args: &CompileArgs) -> Result<usize> {
    let outcome = Objects::from_paths(&args.paths)?.compile();
    let Outcome {
        compiled,
        findings: found,
        ..
    } = &outcome;
    findings::report(found);
    let pods = selected(compiled, args.proxy.as_deref())?;
    let wanted = if args.outbound {
        on_demand(compiled)
    } else {
        BTreeSet::new()
    };
    let views: BTreeMap<String, Value> = pods
        .iter()
        .map(|pod| (pod.to_string(), view(compiled, pod, &wanted)))
        .collect();
    match args.output {
        Output::Json => out::json(&views)?,
        Output::Yaml => {
            for (pod, view) in views {
                out::text(format_args!("{}", head(&pod)));
                out::yaml(&view)?;
            }
        }
    }
    crate::out::note!(
        "{}: {}",
        findings::plural(pods.len(), "sidecar"),
        findings::summary(found)
    );
    Ok(findings::errors(found))
}

/// The pods that a name means: the pod of that name, else those of the workload of that name.
fn selected(compiled: &Compiled, wanted: Option<&str>) -> Result<Vec<PodRef>> {
    let all = || compiled.proxies.keys();
    let Some(wanted) = wanted else {
        return Ok(all().cloned().collect());
    };
    let exact: Vec<PodRef> = all()
        .filter(|pod| pod.to_string() == wanted)
        .cloned()
        .collect();
    if !exact.is_empty() {
        return Ok(exact);
    }
    let of_workload: Vec<PodRef> = compiled
        .proxies
        .values()
        .filter(|proxy| proxy.workload().to_string() == wanted)
        .map(|proxy| proxy.pod.clone())
        .collect();
    if of_workload.is_empty() {
        let known: Vec<String> = all().map(ToString::to_string).collect();
        bail!(
            "no sidecar {wanted}; there are: {}",
            if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            }
        );
    }
    Ok(of_workload)
}

fn on_demand(compiled: &Compiled) -> BTreeSet<Arc<str>> {
    compiled
        .destinations()
        .map(|at| Compiled::on_demand_name(at, OFFLINE))
        .collect()
}

/// Everything about one sidecar: each resource with its objects, and with the resources that must be acknowledged before it.
fn view(compiled: &Compiled, pod: &PodRef, wanted: &BTreeSet<Arc<str>>) -> Value {
    let nothing = BTreeSet::new();
    let scope = Scope {
        active: &nothing,
        draining: &nothing,
        granted: wanted,
        retired: &BTreeSet::new(),
        denied: &BTreeSet::new(),
        tapped: false,
    };
    let view = compiled.view(pod, &scope).unwrap_or_default();
    let identity = compiled
        .proxies
        .get(pod)
        .map(|proxy| proxy.identity.to_string());
    json!({"identity": identity, "resources": view.resources().values().map(|one| resource(one)).collect::<Vec<_>>()})
}

fn resource(resource: &Resource) -> Value {
    json!({
        "name": resource.key.name.as_ref(),
        "type": resource.key.kind.message(),
        "version": resource.version.as_ref(),
        "origins": resource.origins.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "requires": resource.requires.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "resource": print::to_json(resource),
    })
}

/// The first lines of the document of a pod. Its name may be of a file.
fn head(pod: &str) -> String {
    format!("---\n# {}\n", heddle_acceptor::clean(pod, MAX_NAME))
}

/// Its output for a test of all printers.
#[cfg(test)]
pub fn printed(of: &crate::hostile::Hostile) -> String {
    let pods = of.outcome.compiled.proxies.keys();
    let heads = pods.map(|pod| head(&pod.to_string()));
    heads.chain([head(&of.text)]).collect()
}
