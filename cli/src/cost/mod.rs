//! `heddle cost`: the resources that sidecars request and use.

mod added;
mod quantity;
mod usage;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use heddle_acceptor::clean;
use heddle_policy_compiler::injection::names::{PROXY, PROXY_RESOURCES};
use heddle_policy_compiler::{KubeObject, NamespacedName, World};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;

use crate::cluster::{self, ClusterArgs};
use crate::edges::live::Source;
use crate::findings::plural;
use crate::out::Format;
use crate::sources::Objects;
use crate::table;
use added::Added;
use quantity::{Amount, cpu, memory};
use usage::Usage;

/// The seconds of traffic to look at: all that the control plane keeps.
const WINDOW: u64 = 900;
/// The longest note, in characters.
const MAX_NOTE: usize = 2000;

/// Options of `heddle cost`.
#[derive(Args, Debug)]
pub struct CostArgs {
    /// Only the workloads of this namespace.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Watch the use for so many seconds, and take the highest.
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=86400))]
    seconds: u64,
    /// Files or folders of YAML in place of the cluster: requests and limits only.
    #[arg(
        short = 'f',
        long = "filename",
        value_name = "PATH",
        conflicts_with = "seconds"
    )]
    paths: Vec<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// The sidecars of a workload.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Cost {
    workload: String,
    /// Its living pods with a sidecar.
    sidecars: usize,
    /// The largest request of one sidecar.
    requests: Amount,
    /// The largest limit of one sidecar; zero: none.
    limits: Amount,
    /// The highest use of one sidecar. `None`: not known.
    used: Option<Amount>,
    /// Requests for one sidecar. `None`: the use is not known.
    proposal: Option<Amount>,
    /// The milliseconds by which the call of a service takes longer, for the sidecars and the network between them. `None`: not known.
    adds_ms: Option<f64>,
    /// The annotation of the pod template that sets the proposal, if it differs from the requests. It has the other entries of the
    /// newest pod's annotation too.
    annotation: Option<String>,
    /// The time of the newest pod, and its annotation.
    #[serde(skip)]
    newest: Option<(Option<Time>, String)>,
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    workloads: Vec<Cost>,
    /// All sidecars together.
    requested: Amount,
    proposed: Option<Amount>,
    notes: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// The objects cannot be read, or the kubeconfig is not usable.
pub async fn run(args: &CostArgs) -> Result<()> {
    let objects = Objects::from(&args.paths, &args.cluster).await?;
    let pods = objects.all().iter().filter_map(|object| match object {
        KubeObject::Pod(pod) => Some(std::sync::Arc::clone(pod)),
        KubeObject::Namespace(_)
        | KubeObject::Service(_)
        | KubeObject::EndpointSlice(_)
        | KubeObject::Template(_)
        | KubeObject::Declared(_) => None,
    });
    let pods: Vec<_> = pods.collect();
    let world = objects.compile().world;
    let usage = match args.paths.is_empty() {
        true => Usage::observe(&args.cluster.client().await?, args.seconds).await,
        false => Usage::unknown("files have no use"),
    };
    let mut report = report(&world, &pods, &usage, args.namespace.as_deref());
    if args.paths.is_empty() {
        measure(&mut report, &Source::Cluster(args.cluster.clone())).await;
    }
    args.output.print(&report, || text(&report))
}

/// Adds the times that sidecars add to calls, by the traffic that they have counted.
async fn measure(report: &mut Report, source: &Source) {
    match source.read(WINDOW).await {
        Ok(graph) => {
            let added = Added::of(&graph.reports);
            report.adds(&added);
            if !graph.complete {
                let note = "a replica of the control plane could not be asked: times that sidecars add are not of all calls";
                report.notes.push(note.to_owned());
            }
        }
        Err(error) => report.notes.push(format!(
            "the times that sidecars add are not known: {}",
            cluster::explain(&error)
        )),
    }
}

impl Report {
    fn adds(&mut self, added: &Added) {
        for cost in &mut self.workloads {
            let workload = cost.workload.split_once('/');
            let workload = workload.map(|(namespace, name)| NamespacedName::new(namespace, name));
            cost.adds_ms = workload.and_then(|of| added.ms(&of));
        }
    }
}

fn report<P: AsRef<core::Pod>>(
    world: &World,
    pods: &[P],
    usage: &Usage,
    namespace: Option<&str>,
) -> Report {
    let mut costs = BTreeMap::<NamespacedName, Cost>::new();
    for pod in pods.iter().map(AsRef::as_ref) {
        let own = pod.metadata.namespace.as_deref().unwrap_or("default");
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let name = NamespacedName::new(own, name);
        let known = world.pods().get(&name);
        let known = known.filter(|pod| pod.proxied());
        let (Some(known), Some(sidecar)) = (known, sidecar(pod)) else {
            continue;
        };
        if namespace.is_some_and(|wanted| wanted != own) {
            continue;
        }
        let cost = costs.entry(known.template.workload()).or_default();
        let resources = sidecar.resources.as_ref();
        cost.sidecars += 1;
        cost.requests
            .raise(Amount::of(resources.and_then(|of| of.requests.as_ref())));
        cost.limits
            .raise(Amount::of(resources.and_then(|of| of.limits.as_ref())));
        cost.newest = cost.newest.take().max(Some(annotation(pod)));
        if let Some(used) = usage.of(&name) {
            cost.used.get_or_insert_default().raise(used);
        }
    }
    let mut report = Report {
        notes: usage.notes(),
        ..Report::default()
    };
    for (workload, mut cost) in costs {
        cost.workload = workload.to_string();
        // A request above the limit is not admitted.
        cost.proposal = cost.used.map(|used| used.proposal().within(cost.limits));
        let differs = cost.proposal.filter(|of| *of != cost.requests);
        let own = cost
            .newest
            .as_ref()
            .map_or("", |(_, annotation)| annotation);
        cost.annotation = differs.map(|of| of.annotation(own));
        let count = cost.sidecars as u64;
        report.requested.add(cost.requests, count);
        let proposal = cost.proposal.unwrap_or(cost.requests);
        if usage.is_known() {
            report.proposed.get_or_insert_default().add(proposal, count);
        }
        report.workloads.push(cost);
    }
    report
}

/// The age of a pod, and its own annotation about the resources of the sidecar.
fn annotation(pod: &core::Pod) -> (Option<Time>, String) {
    let annotations = pod.metadata.annotations.as_ref();
    let annotation = annotations.and_then(|all| all.get(PROXY_RESOURCES));
    let created = pod.metadata.creation_timestamp.clone();
    (created, annotation.cloned().unwrap_or_default())
}

/// The container of the sidecar.
fn sidecar(pod: &core::Pod) -> Option<&core::Container> {
    let spec = pod.spec.as_ref()?;
    let all = spec.init_containers.iter().flatten();
    let mut all = all.chain(&spec.containers);
    all.find(|container| container.name == PROXY)
}

fn text(report: &Report) -> String {
    let rows = report.workloads.iter().map(|of| {
        let known = |amount: Option<Amount>, text: fn(u64) -> String, part: fn(Amount) -> u64| {
            amount.map_or_else(|| "-".to_owned(), |amount| text(part(amount)))
        };
        let limit = match of.limits.memory {
            0 => "-".to_owned(),
            bytes => memory(bytes),
        };
        vec![
            of.workload.clone(),
            of.sidecars.to_string(),
            cpu(of.requests.cpu),
            known(of.used, cpu, |of| of.cpu),
            known(of.proposal, cpu, |of| of.cpu),
            memory(of.requests.memory),
            known(of.used, memory, |of| of.memory),
            known(of.proposal, memory, |of| of.memory),
            limit,
            of.adds_ms
                .map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms")),
        ]
    });
    let head = [
        "WORKLOAD", "SIDECARS", "CPU", "USED", "PROPOSED", "MEMORY", "USED", "PROPOSED", "LIMIT",
        "ADDS",
    ];
    let sidecars = report.workloads.iter().map(|of| of.sidecars).sum();
    let mut text = table::render(&head, &rows.collect::<Vec<_>>());
    text.push_str(&format!(
        "\n{} request {} CPU and {}",
        plural(sidecars, "sidecar"),
        cpu(report.requested.cpu),
        memory(report.requested.memory)
    ));
    if let Some(proposed) = report.proposed {
        let (cpu, memory) = (cpu(proposed.cpu), memory(proposed.memory));
        text.push_str(&format!("; by the proposal {cpu} and {memory}"));
    }
    for note in &report.notes {
        text.push_str(&format!("\nnote: {}", clean(note, MAX_NOTE)));
    }
    text
}

/// Its output for a test of all printers.
#[cfg(test)]
pub fn printed(of: &crate::hostile::Hostile) -> String {
    text(&Report {
        workloads: vec![Cost {
            workload: of.text.clone(),
            annotation: Some(of.text.clone()),
            ..Cost::default()
        }],
        notes: of.texts(),
        ..Report::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use std::sync::Arc;

    use super::*;

    fn pod(name: &str, memory: &str) -> core::Pod {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {
                "initContainers": [{"name": PROXY, "image": "heddle/sidecar", "restartPolicy": "Always",
                    "resources": {"requests": {"cpu": "10m", "memory": memory}, "limits": {"memory": "256Mi"}}}],
                "containers": [{"name": "app", "image": "app", "resources": {"requests": {"cpu": "4"}}}]},
            "status": {"phase": "Running"},
        }))
        .unwrap()
    }

    #[test]
    fn sidecars_are_added_up_and_the_highest_use_makes_the_proposal() {
        let pods = [Arc::new(pod("cart", "64Mi")), Arc::new(pod("db", "32Mi"))];
        let mut world = World::builder();
        for pod in &pods {
            world.apply(KubeObject::Pod(Arc::clone(pod)));
        }
        let world = world.world();
        let sample = |cpu: &str, memory: &str| {
            json!({"metadata": {"name": "cart", "namespace": "shop"}, "containers": [
                {"name": "app", "usage": {"cpu": "3", "memory": "3Gi"}},
                {"name": PROXY, "usage": {"cpu": cpu, "memory": memory}}]})
        };
        let mut usage = Usage::default();
        usage.take(&[sample("7500000n", "100Mi")]);
        usage.take(&[sample("33m", "20Mi")]);
        let report = report(&world, &pods, &usage, None);
        let [cart, db] = &*report.workloads else {
            panic!("{report:?}");
        };
        assert_eq!((&*cart.workload, cart.sidecars), ("shop/cart", 1));
        assert_eq!(
            cart.annotation.as_deref(),
            Some("heddle.dev/proxy-resources: requests.cpu=45m,requests.memory=128Mi")
        );
        assert_eq!((db.used, db.proposal), (None, None));
        let text = text(&report);
        assert!(
            text.ends_with("\n2 sidecars request 20m CPU and 96Mi; by the proposal 55m and 160Mi"),
            "{text}"
        );
        let own = "limits.memory=96Mi, requests.memory=16Mi";
        let mut annotated = pod("cart", "16Mi");
        annotated.metadata.annotations = Some([(PROXY_RESOURCES.into(), own.into())].into());
        let limit = json!({"memory": "96Mi"});
        let sidecar = annotated.spec.as_mut().unwrap().init_containers.as_mut();
        let resources = sidecar.unwrap()[0].resources.as_mut().unwrap();
        resources.limits = serde_json::from_value(limit).unwrap();
        let merged = super::report(&world, &[Arc::new(annotated)], &usage, None);
        assert_eq!(
            merged.workloads[0].annotation.as_deref(),
            Some(
                "heddle.dev/proxy-resources: requests.cpu=45m,requests.memory=96Mi,limits.memory=96Mi"
            )
        );
        let none = super::report(&world, &pods, &Usage::unknown("no API"), Some("bank"));
        assert!(none.workloads.is_empty() && none.proposed.is_none());
        assert!(none.notes[0].contains("no API"));
    }
}
