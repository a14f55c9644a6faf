//! `heddle policy suggest`: policies that allow the callers which sidecars have observed, to be reviewed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use heddle_acceptor::clean;
use heddle_policy_compiler::world::{Labels, PodTemplate, Port, World, selects};
use heddle_policy_compiler::{Compiled, NamespacedName};
use serde::Serialize;
use serde_json::{Value, json};

use super::evidence::Evidence;
use super::requests::Requests;
use super::rules::{Callers, Look, MAX_RULES};
use crate::cluster::ClusterArgs;
use crate::flows::{Caller, Flows};
use crate::out::{self};
use crate::sources::Objects;

/// The longest line of a comment, in characters.
const MAX_LINE: usize = 300;
/// Labels that tell the pods or revisions of a workload apart. Those of `*.kubernetes.io` that do are left out beside them.
const VOLATILE: [&str; 6] = [
    "pod-template-hash",
    "rollouts-pod-template-hash",
    "controller-revision-hash",
    "controller-uid",
    "job-name",
    "pod-template-generation",
];

/// Options of `heddle policy suggest`.
#[derive(Args, Debug)]
pub struct SuggestArgs {
    /// The namespace of the workloads that are called.
    namespace: String,
    /// Write `mode: Audit`: the policies report their decisions, and deny nothing.
    #[arg(long)]
    audit: bool,
    /// Files or folders with the objects, in place of the cluster; takes --edges.
    #[arg(short = 'd', long = "dir", value_name = "PATH", requires = "edges")]
    objects: Vec<PathBuf>,
    /// A file with observed flows, written by `heddle edges -o json`; without it, the control plane is asked.
    #[arg(long, value_name = "FILE")]
    edges: Option<PathBuf>,
    /// A file with tapped requests, written by `heddle tap NAMESPACE -o json`; without it, all methods and paths are allowed.
    #[arg(long, value_name = "FILE")]
    requests: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Yaml)]
    output: Output,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Policies with comments, for a file.
    Yaml,
    /// For programs: one JSON document.
    Json,
}

/// The suggestion for one workload.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Suggestion {
    workload: String,
    /// None: there is no caller to allow.
    policy: Option<Value>,
    callers: Vec<Seen>,
    /// Reasons to look twice.
    notes: Vec<String>,
}

/// An observed caller.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    identity: String,
    ports: Vec<u16>,
    /// Requests and connections in the window.
    count: u64,
    /// The tapped requests, by port.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    requests: BTreeMap<u16, u64>,
}

/// Runs the command.
///
/// # Errors
/// The objects, flows or requests cannot be read, the namespace has no pods, or the file of flows is of a version without callers.
pub async fn run(args: &SuggestArgs) -> Result<()> {
    let objects = Objects::from(&args.objects, &args.cluster).await?.compile();
    let flows = Flows::from(args.edges.as_deref(), &args.cluster).await?;
    objects.require_pods(&args.namespace)?;
    let callers = flows.callers()?;
    let requests = args.requests.as_deref().map(Requests::read).transpose()?;
    let requests = requests.as_ref();
    let evidence = (&flows, callers, requests);
    let (suggestions, left_out) = suggestions(&objects.world, &objects.compiled, evidence, args);
    let minutes = flows.observed_seconds().div_ceil(60);
    crate::out::note!(
        "observed in {minutes} min at most: callers that call less often are missing, such as nightly jobs and operators; \
         begin with --audit"
    );
    match args.output {
        Output::Yaml => out::text(format_args!(
            "{}",
            yaml(&suggestions, &left_out, &heading(args, &flows, requests))?
        )),
        Output::Json => {
            out::json(&json!({
                "windowSeconds": flows.window_seconds, "coveredSeconds": flows.covered_seconds, "suggestions": suggestions, "leftOut": left_out,
            }))?;
        }
    }
    Ok(())
}

/// The suggestions for all workloads of the namespace, and the calls to the namespace that lead to none.
fn suggestions(
    world: &World,
    compiled: &Compiled,
    (flows, callers, requests): (&Flows, &[Caller], Option<&Requests>),
    args: &SuggestArgs,
) -> (Vec<Suggestion>, Vec<String>) {
    let Evidence {
        mut allowed,
        mut doubtful,
        nowhere,
    } = Evidence::of(world, compiled, (flows, callers), &args.namespace);
    let pods = world.pods().values().filter(|pod| pod.alive);
    let workloads: BTreeSet<NamespacedName> = pods
        .map(|pod| pod.template.workload())
        .filter(|workload| *workload.namespace == *args.namespace)
        .collect();
    let all = workloads.into_iter().map(|workload| {
        let callers = allowed.remove(&workload).unwrap_or_default();
        let doubtful = doubtful.remove(&workload).unwrap_or_default();
        let look = Look {
            compiled,
            workload: &workload,
            callers: &callers,
            requests,
        };
        suggestion(world, args.audit, &look, doubtful)
    });
    (all.collect(), nowhere)
}

fn suggestion(world: &World, audit: bool, look: &Look<'_>, left_out: Vec<String>) -> Suggestion {
    let (workload, callers) = (look.workload, look.callers);
    let mut notes: Vec<String> = left_out
        .into_iter()
        .map(|line| format!("left out: {line}"))
        .collect();
    let template = template(world, workload);
    let policy = match template {
        None => None,
        Some(template) if !template.meshed => {
            notes.push("the workload has no sidecar, so that no policy would decide".to_owned());
            None
        }
        Some(_) if callers.is_empty() => {
            notes.push("no policy: no caller to allow; what it accepts stays as it is".to_owned());
            None
        }
        Some(template) => policy(world, audit, template, look, &mut notes),
    };
    for (identity, of) in callers {
        let mut ports = of.chosen.clone();
        // A tap names the port that the server's sidecar has seen.
        ports.retain(|port| look.tapped(identity, *port) == 0);
        if ports.is_empty() {
            continue;
        }
        let ports = list(&ports);
        notes.push(format!(
            "port {ports} of {}: only the caller names it; its service has several ports, and servers report none",
            identity.as_str()
        ));
    }
    if template.is_some() {
        notes.extend(existing(look.compiled, workload));
    }
    let callers = callers.iter().map(|(identity, of)| {
        let tapped = of.ports.iter();
        let tapped = tapped.map(|port| (port.get(), look.tapped(identity, *port)));
        Seen {
            identity: identity.as_str().to_owned(),
            ports: of.ports.iter().map(|port| port.get()).collect(),
            count: of.count,
            requests: tapped.filter(|(_, count)| *count > 0).collect(),
        }
    });
    Suggestion {
        workload: workload.to_string(),
        policy,
        callers: callers.collect(),
        notes,
    }
}

/// The template of a living pod of the workload.
fn template<'a>(world: &'a World, workload: &NamespacedName) -> Option<&'a PodTemplate> {
    let pods = world.pods().values().filter(|pod| pod.alive);
    let mut templates = pods.map(|pod| &*pod.template);
    templates.find(|template| template.workload() == *workload)
}

/// The policies with Allow rules that the workload has.
fn existing(compiled: &Compiled, workload: &NamespacedName) -> Option<String> {
    let ports = compiled.served_ports();
    let own = ports.filter(|port| port.template.workload() == *workload);
    let rules = own.flat_map(|port| &port.authz.rules);
    let rules =
        rules.filter(|rule| rule.action == heddle_policy_compiler::authz::RuleAction::Allow);
    let policies: BTreeSet<&str> = rules
        .filter_map(|rule| Some(rule.id.rsplit_once('/')?.0))
        .collect();
    let policies: Vec<&str> = policies.into_iter().collect();
    (!policies.is_empty()).then(|| {
        let policies = policies.join(", ");
        format!("Allow rules of {policies} hold for it already; what they allow stays allowed")
    })
}

/// The policy of a workload.
fn policy(
    world: &World,
    audit: bool,
    template: &PodTemplate,
    look: &Look<'_>,
    notes: &mut Vec<String>,
) -> Option<Value> {
    let mut rules = look.rules(notes);
    let silent = silent(look.compiled, template, look.callers);
    if !silent.is_empty() {
        // An Allow rule closes the ports that it names only.
        rules.push(json!({"action": "Deny", "to": {"ports": &silent}}));
        let ports: Vec<String> = silent.iter().map(ToString::to_string).collect();
        let ports = ports.join(", ");
        notes.push(format!("port {ports}: no caller to allow, so it is closed; without the Deny rule it stays as it is"));
    }
    if rules.len() > MAX_RULES {
        notes.push(format!(
            "{} rules would be needed, a policy has at most {MAX_RULES}",
            rules.len()
        ));
        return None;
    }
    let labels = match labels(world, template) {
        Ok(labels) => labels,
        Err(reason) => {
            notes.push(format!("no policy: {reason}"));
            return None;
        }
    };
    let labels: BTreeMap<&str, &str> = labels
        .iter()
        .map(|(key, value)| (&**key, &**value))
        .collect();
    let name = format!("observed-callers-{}", template.owner);
    let mut spec = json!({"selector": {"matchLabels": labels}, "rules": rules});
    if audit && let Some(spec) = spec.as_object_mut() {
        spec.insert("mode".to_owned(), json!("Audit"));
    }
    Some(json!({
        "apiVersion": "heddle.dev/v1alpha1", "kind": "AuthPolicy",
        "metadata": {"name": name, "namespace": &*template.namespace}, "spec": spec,
    }))
}

/// The ports of the workload that no caller has called.
fn silent(compiled: &Compiled, template: &PodTemplate, callers: &Callers) -> Vec<u16> {
    let called: BTreeSet<Port> = callers.values().flat_map(|of| &of.ports).copied().collect();
    let ports = compiled.served_ports();
    let own = ports.filter(|port| port.template.workload() == template.workload());
    let named: BTreeSet<Port> = own.filter_map(|port| port.port).collect();
    let silent = named
        .difference(&called)
        .filter(|port| **port != Port::METRICS);
    silent.map(|port| port.get()).collect()
}

/// Whether a label stays the same for all pods of a workload and all its revisions.
fn is_lasting(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let of_kubernetes = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    let of_app = domain == "app.kubernetes.io" && key != "app.kubernetes.io/version";
    (of_app || !of_kubernetes) && !VOLATILE.contains(&key)
}

/// Labels that select all pods of the workload and no others: one, if it does so alone, else all that its pods have in common.
fn labels(world: &World, template: &PodTemplate) -> Result<Labels, &'static str> {
    let pods = world.pods().values().filter(|pod| pod.alive);
    let (own, others): (Vec<&PodTemplate>, Vec<&PodTemplate>) = pods
        .map(|pod| &*pod.template)
        .filter(|other| other.namespace == template.namespace)
        .partition(|other| other.owner == template.owner);
    let common: Labels = template
        .labels
        .iter()
        .filter(|(key, value)| {
            is_lasting(key) && own.iter().all(|of| of.labels.get(*key) == Some(*value))
        })
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if common.is_empty() {
        return Err("its pods have no labels in common that stay when it is rolled out");
    }
    let alone = |labels: &Labels| !others.iter().any(|other| selects(labels, &other.labels));
    let usual = ["app.kubernetes.io/name", "app"];
    let first = usual.iter().filter_map(|key| common.get_key_value(*key));
    let each = first
        .chain(common.iter())
        .map(|(key, value)| Labels::from([(key.clone(), value.clone())]));
    if let Some(one) = each.into_iter().find(alone) {
        return Ok(one);
    }
    match alone(&common) {
        true => Ok(common),
        false => Err("the labels that its pods have in common select pods of other workloads, too"),
    }
}

fn list(ports: &BTreeSet<Port>) -> String {
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    ports.join(", ")
}

/// The evidence of all policies, in lines.
fn heading(args: &SuggestArgs, flows: &Flows, requests: Option<&Requests>) -> Vec<String> {
    let mut lines = vec![
        format!(
            "Callers of namespace {}, observed over {} s. Review each rule before you apply it:",
            args.namespace,
            flows.observed_seconds()
        ),
        "callers that did not call in that time are denied once a policy with an Allow rule selects the workload.".to_owned(),
    ];
    lines.extend(flows.gaps());
    lines.push(match requests {
        None => "Methods and paths are not observed, so that all are allowed to these callers (--requests takes tapped ones).".to_owned(),
        Some(of) => format!(
            "Methods and paths are those of {} tapped requests, of {} s. A busy sidecar reports only some of its requests: others would be denied.",
            of.count, of.seconds
        ),
    });
    lines
}

/// The policies as a file for review.
fn yaml(suggestions: &[Suggestion], left_out: &[String], heading: &[String]) -> Result<String> {
    let mut text = String::new();
    for line in heading {
        comment(&mut text, line);
    }
    for line in left_out {
        comment(&mut text, &format!("Left out: {line}"));
    }
    for suggestion in suggestions {
        text.push_str("---\n");
        comment(&mut text, &suggestion.workload);
        for seen in &suggestion.callers {
            let ports: Vec<String> = seen.ports.iter().map(ToString::to_string).collect();
            let tapped: u64 = seen.requests.values().sum();
            let tapped = match tapped {
                0 => String::new(),
                tapped => format!("; {tapped} requests were tapped"),
            };
            let (identity, ports, count) = (&seen.identity, ports.join(", "), seen.count);
            let line = format!("{identity} called port {ports} {count} times{tapped}");
            comment(&mut text, &line);
        }
        for note in &suggestion.notes {
            comment(&mut text, note);
        }
        if let Some(policy) = &suggestion.policy {
            text.push_str(&out::as_yaml(policy)?);
        }
    }
    Ok(text)
}

fn comment(text: &mut String, line: &str) {
    text.push_str("# ");
    text.push_str(&clean(line, MAX_LINE));
    text.push('\n');
}

/// Its output for a test of all printers.
#[cfg(test)]
pub fn printed(of: &crate::hostile::Hostile) -> String {
    let suggestion = Suggestion {
        workload: of.text.clone(),
        policy: Some(json!({"metadata": {"name": of.text}, "spec": {of.text.clone(): of.texts()}})),
        callers: vec![Seen {
            identity: of.text.clone(),
            ports: vec![80],
            count: 1,
            requests: BTreeMap::new(),
        }],
        notes: of.texts(),
    };
    yaml(&[suggestion], &of.texts(), &of.texts()).unwrap_or_default()
}
