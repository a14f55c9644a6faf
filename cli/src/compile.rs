//! `heddle compile`: what every sidecar would get, offline.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use heddle_policy_compiler::{Compiled, PodRef};
use serde_json::Value;

use crate::findings;
use crate::sources::Objects;

/// Options of `heddle compile`.
#[derive(Args, Debug)]
pub struct CompileArgs {
    /// Files or folders of YAML; `-` is standard input.
    #[arg(short = 'f', long = "filename", value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Only this sidecar: a pod, or a workload, whose pods are all printed.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    proxy: Option<String>,
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

/// Runs the command; gives the number of errors.
pub fn run(args: &CompileArgs) -> Result<usize> {
    let (compiled, found) = Objects::from_paths(&args.paths)?.compile();
    findings::report(&found);
    let pods = selected(&compiled, args.proxy.as_deref())?;
    let views: BTreeMap<String, Value> = pods.iter().map(|pod| (pod.to_string(), view(&compiled, pod))).collect();
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&views)?),
        Output::Yaml => {
            for (pod, view) in views {
                print!("---\n# {pod}\n{}", serde_saphyr::to_string(&view)?);
            }
        }
    }
    eprintln!("{} sidecars: {}", pods.len(), findings::summary(&found));
    Ok(findings::errors(&found))
}

/// The pods that a name means: the pod of that name, else those whose name starts with the workload's.
fn selected(compiled: &Compiled, wanted: Option<&str>) -> Result<Vec<PodRef>> {
    let Some(wanted) = wanted else { return Ok(compiled.proxies.keys().cloned().collect()) };
    let all = || compiled.proxies.keys();
    let exact: Vec<PodRef> = all().filter(|pod| pod.to_string() == wanted).cloned().collect();
    if !exact.is_empty() {
        return Ok(exact);
    }
    let of_workload: Vec<PodRef> = all().filter(|pod| pod.to_string().strip_prefix(wanted).is_some_and(|rest| rest.starts_with('-'))).cloned().collect();
    if of_workload.is_empty() {
        let known: Vec<String> = all().map(ToString::to_string).collect();
        bail!("no sidecar {wanted}; there are: {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") });
    }
    Ok(of_workload)
}

fn view(compiled: &Compiled, pod: &PodRef) -> Value {
    let view = compiled.view(pod, &BTreeSet::new()).unwrap_or_default();
    serde_json::json!({"resources": view.resources.keys().map(ToString::to_string).collect::<Vec<_>>()})
}
