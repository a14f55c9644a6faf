//! `heddle policy suggest`: policies that allow the callers which sidecars have observed, to be reviewed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use heddle_acceptor::clean;
use heddle_policy_compiler::world::{Labels, PodTemplate, Port, SpiffeId, World, selects};
use heddle_policy_compiler::{Compiled, NamespacedName};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cluster::ClusterArgs;
use crate::edges::graph::Mtls;
use crate::flows::{self, Behind, Flow, Flows};
use crate::out::{self, say};
use crate::sources::Objects;

/// The longest line of a comment, in characters.
const MAX_LINE: usize = 300;
/// The most identities of a rule, by the schema of `AuthPolicy`.
const MAX_IDENTITIES: usize = 64;
/// The most rules of a policy, by the schema of `AuthPolicy`.
const MAX_RULES: usize = 64;
/// The label that tells the revisions of a Deployment apart.
const REVISION: &str = "pod-template-hash";

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
}

/// Runs the command.
pub async fn run(args: &SuggestArgs) -> Result<()> {
    let objects = Objects::from(&args.objects, &args.cluster).await?.compile();
    let flows = match &args.edges {
        Some(path) => Flows::read(path)?,
        None => flows::observed(&args.cluster).await?,
    };
    let known = objects.world.pods().keys();
    let mut known = known.filter(|pod| *pod.namespace == *args.namespace);
    ensure!(
        known.next().is_some(),
        "namespace {:?} has no pods; correct it",
        args.namespace
    );
    let (suggestions, left_out) = suggestions(&objects.world, &objects.compiled, &flows, args);
    let minutes = flows.window_seconds.div_ceil(60);
    eprintln!(
        "observed in {minutes} min at most: callers that call less often are missing, such as nightly jobs and operators; \
         begin with --audit"
    );
    match args.output {
        Output::Yaml => out::text(format_args!(
            "{}",
            yaml(&suggestions, &left_out, &flows, args)?
        )),
        Output::Json => {
            let document = json!({
                "windowSeconds": flows.window_seconds, "suggestions": suggestions, "leftOut": left_out,
            });
            say!("{}", serde_json::to_string_pretty(&document)?);
        }
    }
    Ok(())
}

/// Whether a flow is evidence, and the reason if it is not.
fn doubt(flow: &Flow) -> Option<&'static str> {
    if flow.identity.is_empty() {
        return Some(
            "without a certificate: no policy can name the caller, and a rule without callers would open the port",
        );
    }
    if flow.answered_by_sidecar {
        return Some("answered by the caller's own sidecar: no server has seen it");
    }
    if flow.forbidden_percent.is_some_and(|share| share >= 100.0) {
        return Some("every request was answered with 403");
    }
    match flow.mtls {
        Mtls::Yes => None,
        Mtls::No | Mtls::Unknown => {
            Some("a claim of the caller: no server reports its certificate")
        }
    }
}

/// The ports that a caller called, and how often a second.
type Calls = (BTreeSet<Port>, f64);

/// The flows to a namespace, by the workload that is called.
#[derive(Default)]
struct Collected {
    /// The callers to allow.
    callers: BTreeMap<NamespacedName, BTreeMap<SpiffeId, Calls>>,
    /// The flows that are no evidence.
    doubtful: BTreeMap<NamespacedName, Vec<String>>,
    /// The flows that lead to no pod.
    nowhere: Vec<String>,
}

impl Collected {
    fn take(&mut self, flow: &Flow, behind: &Behind, flows: &Flows) {
        let line = |reason: &str| {
            let caller = match (&*flow.identity, &*flow.source.name) {
                ("", "") => "a caller outside the mesh",
                ("", name) => name,
                (identity, _) => identity,
            };
            let count = count(flow.rate(), flows);
            clean(&format!("{caller}, {count} times: {reason}"), MAX_LINE)
        };
        let mut targets = behind.of_flow(flow).peekable();
        if targets.peek().is_none() {
            let to = flow.answering();
            let reason = format!("{}/{} leads to no known pod", to.namespace, to.name);
            self.nowhere.push(line(&reason));
        }
        let identity = SpiffeId::parse(&flow.identity);
        for (workload, port) in targets {
            match (doubt(flow), &identity) {
                (None, Some(identity)) => {
                    let callers = self.callers.entry(workload).or_default();
                    let (ports, rate) = callers.entry(identity.clone()).or_default();
                    // One flow can lead to several ports.
                    *rate += if ports.is_empty() { flow.rate() } else { 0.0 };
                    ports.insert(port);
                }
                (doubt, _) => {
                    let line = line(doubt.unwrap_or("the identity is not a SPIFFE id"));
                    let of_workload = self.doubtful.entry(workload).or_default();
                    if !of_workload.contains(&line) {
                        of_workload.push(line);
                    }
                }
            }
        }
    }
}

/// The suggestions by workload, and the flows to the namespace that lead to none.
fn suggestions(
    world: &World,
    compiled: &Compiled,
    flows: &Flows,
    args: &SuggestArgs,
) -> (Vec<Suggestion>, Vec<String>) {
    let behind = Behind::of(world);
    let mut collected = Collected::default();
    let own = flows.all.iter();
    for flow in own.filter(|flow| flow.answering().namespace == args.namespace) {
        collected.take(flow, &behind, flows);
    }
    let Collected {
        mut callers,
        mut doubtful,
        nowhere,
    } = collected;
    let workloads: BTreeSet<NamespacedName> =
        callers.keys().chain(doubtful.keys()).cloned().collect();
    let all = workloads.into_iter().map(|workload| {
        let of = callers.remove(&workload).unwrap_or_default().into_iter();
        let of = of.map(|(identity, (ports, rate))| (identity, ports, count(rate, flows)));
        let doubtful = doubtful.remove(&workload).unwrap_or_default();
        suggestion(
            (world, compiled),
            args.audit,
            workload,
            of.collect(),
            doubtful,
        )
    });
    (all.collect(), nowhere)
}

/// Requests and connections in the window.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)]
fn count(rate: f64, flows: &Flows) -> u64 {
    (rate * flows.window_seconds as f64).round() as u64
}

type Callers = Vec<(SpiffeId, BTreeSet<Port>, u64)>;

fn suggestion(
    (world, compiled): (&World, &Compiled),
    audit: bool,
    workload: NamespacedName,
    callers: Callers,
    left_out: Vec<String>,
) -> Suggestion {
    let mut notes: Vec<String> = left_out
        .into_iter()
        .map(|line| format!("left out: {line}"))
        .collect();
    let template = template(world, &workload);
    let policy = match template {
        None => None,
        Some(template) if !template.meshed => {
            notes.push("the workload has no sidecar, so that no policy would decide".to_owned());
            None
        }
        Some(_) if callers.is_empty() => None,
        Some(template) => policy((world, compiled), audit, template, &callers, &mut notes),
    };
    if template.is_some() {
        notes.extend(existing(compiled, &workload));
    }
    let callers = callers.into_iter().map(|(identity, ports, count)| Seen {
        identity: identity.as_str().to_owned(),
        ports: ports.into_iter().map(Port::get).collect(),
        count,
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

/// The policy: a rule for each set of ports.
fn policy(
    (world, compiled): (&World, &Compiled),
    audit: bool,
    template: &PodTemplate,
    callers: &Callers,
    notes: &mut Vec<String>,
) -> Option<Value> {
    let trust_domain = &compiled.mesh().trust_domain;
    let mut by_ports = BTreeMap::<&BTreeSet<Port>, Vec<String>>::new();
    for (identity, ports, _) in callers {
        by_ports
            .entry(ports)
            .or_default()
            .push(short(identity, trust_domain));
    }
    let rules = by_ports.into_iter().flat_map(|(ports, identities)| {
        let ports: Vec<u16> = ports.iter().map(|port| port.get()).collect();
        let rule = |identities: &[String]| {
            json!({"from": {"identities": identities}, "to": {"ports": &ports}})
        };
        identities.chunks(MAX_IDENTITIES).map(rule).collect::<Vec<_>>()
    });
    let mut rules: Vec<Value> = rules.collect();
    let silent = silent(compiled, template, callers);
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
    let labels = labels(world, template, notes)?;
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
    let called: BTreeSet<Port> = callers.iter().flat_map(|of| &of.1).copied().collect();
    let ports = compiled.served_ports();
    let own = ports.filter(|port| port.template.workload() == template.workload());
    let named: BTreeSet<Port> = own.filter_map(|port| port.port).collect();
    let silent = named
        .difference(&called)
        .filter(|port| **port != Port::METRICS);
    silent.map(|port| port.get()).collect()
}

/// `namespace/account` for an identity of the mesh.
fn short(identity: &SpiffeId, trust_domain: &str) -> String {
    let text = identity.as_str();
    let own = text.strip_prefix(&*format!("spiffe://{trust_domain}/ns/"));
    let parts = own.and_then(|path| path.split_once("/sa/"));
    parts.map_or_else(
        || text.to_owned(),
        |(namespace, account)| format!("{namespace}/{account}"),
    )
}

/// Labels that select the pods of the workload: one, if it selects no others, else all.
fn labels(world: &World, template: &PodTemplate, notes: &mut Vec<String>) -> Option<Labels> {
    let pods = world.pods().values().filter(|pod| pod.alive);
    let others: Vec<&PodTemplate> = pods
        .map(|pod| &*pod.template)
        .filter(|other| other.namespace == template.namespace && other.owner != template.owner)
        .collect();
    let own: Labels = template
        .labels
        .iter()
        .filter(|(key, _)| &***key != REVISION)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let alone = |labels: &Labels| !others.iter().any(|other| selects(labels, &other.labels));
    let usual = ["app.kubernetes.io/name", "app"];
    let first = usual.iter().filter_map(|key| own.get_key_value(*key));
    let each = first
        .chain(own.iter())
        .map(|(key, value)| Labels::from([(key.clone(), value.clone())]));
    if let Some(one) = each.into_iter().find(alone) {
        return Some(one);
    }
    if own.is_empty() {
        notes.push("its pods have no labels that a policy could select".to_owned());
        return None;
    }
    if !alone(&own) {
        notes.push("its labels select pods of other workloads, too".to_owned());
    }
    Some(own)
}

/// The policies as a file for review.
fn yaml(
    suggestions: &[Suggestion],
    left_out: &[String],
    flows: &Flows,
    args: &SuggestArgs,
) -> Result<String> {
    let mut text = String::new();
    let mut comment = |line: &str| {
        text.push_str("# ");
        text.push_str(&clean(line, MAX_LINE));
        text.push('\n');
    };
    comment(&format!(
        "Callers of namespace {}, observed over {} s. Review each rule before you apply it:",
        args.namespace, flows.window_seconds
    ));
    comment(
        "callers that did not call in that time are denied once a policy with an Allow rule selects the workload.",
    );
    comment("Methods and paths are not observed, so that all are allowed to these callers.");
    for line in left_out {
        comment(&format!("Left out: {line}"));
    }
    if suggestions.is_empty() {
        comment("Nothing was observed.");
    }
    for suggestion in suggestions {
        text.push_str("---\n");
        let mut comment = |line: &str| {
            text.push_str("# ");
            text.push_str(&clean(line, MAX_LINE));
            text.push('\n');
        };
        comment(&suggestion.workload);
        for seen in &suggestion.callers {
            let ports: Vec<String> = seen.ports.iter().map(ToString::to_string).collect();
            let ports = ports.join(", ");
            comment(&format!(
                "{} called port {ports} {} times",
                seen.identity, seen.count
            ));
        }
        for note in &suggestion.notes {
            comment(note);
        }
        if let Some(policy) = &suggestion.policy {
            text.push_str(&serde_saphyr::to_string(policy)?);
        }
    }
    Ok(text)
}
