//! Flows that sidecars have observed: the callers that an effect of a change concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use heddle_policy_compiler::NamespacedName;
use heddle_policy_compiler::world::{Port, TargetPort, World, selects};
use heddle_xds_types::edges::{EdgesReport, Losses, Protocol, Reporter};
use serde::Deserialize;
use serde_json::Value;

use crate::cluster::ClusterArgs;
use crate::edges::graph::Graph;
use crate::edges::live::Source;
use crate::replicas::Replica;

/// The seconds of flows to look at: all that the control plane keeps.
pub const WHOLE_WINDOW: u64 = 900;
/// The largest file of flows, in bytes.
const MAX_FILE: u64 = 256 << 20;

/// One end of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(default)]
pub struct End {
    /// The namespace; empty outside the mesh.
    pub namespace: String,
    /// The workload or service.
    pub name: String,
}

/// Observed traffic from a caller to a service, or to a workload behind it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Flow {
    /// The workload that calls, or its service account.
    pub source: End,
    /// The SPIFFE id of the caller; empty: plain text.
    pub identity: String,
    /// The service, or the workload where no service leads to it.
    pub destination: End,
    /// The service of the backend that answered, if it is another one.
    pub backend: Option<End>,
    /// The port of the service that answered. `None`: not known.
    pub port: Option<u16>,
    /// Whether the caller's own sidecar answered.
    pub answered_by_sidecar: bool,
    /// The side that counted. `None`: not known, so that all of it may be a claim of the caller.
    pub reporter: Option<Reporter>,
    /// Requests a second.
    pub requests_per_second: f64,
    /// Ended connections of bytes a second.
    pub connections_per_second: f64,
}

/// A caller of a workload, as the workload's own sidecars count.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Caller {
    /// The SPIFFE id of the certificate that the caller showed; empty if it showed none.
    pub identity: String,
    /// The workload that was called.
    pub workload: End,
    /// A service that leads to the called port; `-` or empty if none does.
    pub service: End,
    /// The protocol. `None`: not known.
    pub protocol: Option<Protocol>,
    /// The seconds since the first call in the window. `None`: not known.
    pub first_seconds_ago: Option<u64>,
    /// The seconds since the last call.
    pub last_seconds_ago: Option<u64>,
    /// The share of requests answered with 403, in percent.
    pub forbidden_percent: Option<f64>,
    /// Requests a second.
    pub requests_per_second: f64,
    /// Ended connections of bytes a second.
    pub connections_per_second: f64,
}

impl Caller {
    /// Requests and connections a second.
    pub fn rate(&self) -> f64 {
        self.requests_per_second + self.connections_per_second
    }
}

/// All observed flows.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Flows {
    /// The seconds up to now that the rates are of.
    pub window_seconds: u64,
    /// The seconds up to now in which every replica has listened. `None`: not known, for the file is of a version without it.
    pub covered_seconds: Option<u64>,
    /// The flows.
    #[serde(rename = "edges")]
    pub all: Vec<Flow>,
    /// The callers by the reports of servers. `None`: the file is of a version without them.
    pub callers: Option<Vec<Caller>>,
    /// Traffic that is missing.
    pub losses: Losses,
    /// Whether every replica was asked. A document without it is not complete: `heddle edges` always writes it.
    pub complete: bool,
}

impl Flow {
    /// The service that answers, or the workload.
    pub fn answering(&self) -> &End {
        self.backend.as_ref().unwrap_or(&self.destination)
    }

    /// Requests and connections a second.
    pub fn rate(&self) -> f64 {
        self.requests_per_second + self.connections_per_second
    }
}

impl Flows {
    /// Reads a file of flows, or asks every replica of the control plane.
    ///
    /// # Errors
    /// The file cannot be read, or a replica could not be asked.
    pub async fn from(file: Option<&Path>, cluster: &ClusterArgs) -> Result<Self> {
        match file {
            Some(path) => Self::read(path),
            None => observed(cluster).await,
        }
    }

    /// The callers by the reports of servers.
    ///
    /// # Errors
    /// The file is of a version without them.
    pub fn callers(&self) -> Result<&[Caller]> {
        self.callers.as_deref().context(
            "the file has no callers as servers report them; write it again by `heddle edges --window 900 -o json`",
        )
    }

    /// The seconds up to now in which no caller can be missing because a replica did not listen yet.
    pub fn observed_seconds(&self) -> u64 {
        self.covered_seconds.unwrap_or(0)
    }

    /// Returns the reasons for which callers may be missing. None: every replica has listened for a quarter of an hour, and nothing was lost.
    pub fn gaps(&self) -> Vec<String> {
        let time = match self.covered_seconds {
            None => Some(
                "the time in which every replica has observed callers is not known (coveredSeconds); take flows of `heddle edges --window \
                 900 -o json`"
                    .to_owned(),
            ),
            Some(few) if few < WHOLE_WINDOW => Some(format!(
                "callers were observed for {few} s, and {WHOLE_WINDOW} s are needed; wait, or take flows of `heddle edges --window 900 -o json`"
            )),
            Some(_) => None,
        };
        let lost = self.losses.is_within(WHOLE_WINDOW).then(|| {
            format!(
                "some traffic of the last {WHOLE_WINDOW} s was not reported, or found no room, so callers may be missing (`heddle edges` has \
                 the counts); wait for {WHOLE_WINDOW} s without a loss"
            )
        });
        time.into_iter().chain(lost).collect()
    }

    /// Takes the flows from a live graph.
    pub fn of(graph: &Graph) -> Self {
        let end = |end: &crate::edges::graph::End| End {
            namespace: end.namespace.clone(),
            name: end.name.clone(),
        };
        let flows = graph.edges.iter().map(|row| Flow {
            source: end(&row.source),
            identity: row.identity.clone(),
            destination: end(&row.destination),
            backend: row.backend.as_ref().map(end),
            port: row.port,
            answered_by_sidecar: row.answered_by_sidecar,
            reporter: Some(row.reporter),
            requests_per_second: row.figures.requests_per_second,
            connections_per_second: row.figures.connections_per_second,
        });
        let callers = graph.callers.iter().map(|caller| Caller {
            identity: caller.identity.clone(),
            workload: end(&caller.workload),
            service: end(&caller.service),
            protocol: Some(caller.protocol),
            first_seconds_ago: caller.first_seconds_ago,
            last_seconds_ago: caller.last_seconds_ago,
            forbidden_percent: caller.figures.forbidden_percent,
            requests_per_second: caller.figures.requests_per_second,
            connections_per_second: caller.figures.connections_per_second,
        });
        Self {
            window_seconds: graph.window_seconds,
            covered_seconds: Some(graph.covered_seconds),
            all: flows.collect(),
            callers: Some(callers.collect()),
            losses: graph.losses,
            complete: graph.complete,
        }
    }

    /// Returns the flows, if all replicas were asked.
    ///
    /// # Errors
    /// A replica was not asked, so that flows may be missing.
    fn whole(self, reason: impl FnOnce() -> String) -> Result<Self> {
        anyhow::ensure!(self.complete, reason());
        Ok(self)
    }

    /// Reads the output of `heddle edges -o json`, or an answer of `/api/v1/edges`.
    ///
    /// # Errors
    /// The file cannot be read, or does not have the flows of every replica.
    pub fn read(path: &Path) -> Result<Self> {
        let about = || format!("cannot read {}", path.display());
        let size = std::fs::metadata(path).with_context(about)?.len();
        anyhow::ensure!(
            size <= MAX_FILE,
            "{} is too large: {size} bytes, at most {MAX_FILE}",
            path.display()
        );
        let text = std::fs::read_to_string(path).with_context(about)?;
        let wrong = || {
            let path = path.display();
            format!("{path} has no observed flows; write them by `heddle edges -o json`")
        };
        let value: Value = serde_json::from_str(&text).with_context(wrong)?;
        if value.get("version").is_none() {
            anyhow::ensure!(value.get("edges").is_some_and(Value::is_array), wrong());
            let flows: Self = serde_json::from_value(value).with_context(wrong)?;
            return flows.whole(|| {
                let path = path.display();
                format!(
                    "{path} does not have the flows of every replica (complete is not true): callers may be missing; write it again \
                     by `heddle edges -o json`, which names the replica that could not be asked"
                )
            });
        }
        let report: EdgesReport = serde_json::from_value(value).with_context(wrong)?;
        let replica = Replica {
            name: "file".to_owned(),
            answer: Ok(report),
        };
        Ok(Self::of(&Graph::of(vec![replica])))
    }
}

/// Asks every replica of the control plane.
///
/// # Errors
/// One of them could not be asked, so that flows may be missing.
pub async fn observed(cluster: &ClusterArgs) -> Result<Flows> {
    let graph = Source::Cluster(cluster.clone()).read(WHOLE_WINDOW).await?;
    Flows::of(&graph).whole(|| {
        "a replica of the control plane could not be asked for its flows (`heddle edges` names it)"
            .to_owned()
    })
}

/// The ports of workloads to which flows lead.
pub struct Servers {
    /// The rate of a caller to a port of a workload, by identity (empty: plain text).
    rates: BTreeMap<(String, NamespacedName, Port), f64>,
}

impl Servers {
    /// Resolves the flows: a service leads to the workloads that it selects.
    pub fn of(flows: &Flows, world: &World) -> Self {
        let behind = Behind::of(world);
        let mut rates = BTreeMap::<_, f64>::new();
        for flow in &flows.all {
            for (workload, port) in behind.of_flow(flow) {
                let key = (flow.identity.clone(), workload, port);
                *rates.entry(key).or_default() += flow.rate();
            }
        }
        Self { rates }
    }

    /// Requests and connections a second of a caller; `None`: it has not been observed there. Without a port: on any port.
    pub fn rate(
        &self,
        identity: &str,
        workload: &NamespacedName,
        port: Option<Port>,
    ) -> Option<f64> {
        let port = port?;
        let key = (identity.to_owned(), workload.clone(), port);
        self.rates.get(&key).copied()
    }
}

/// A port of a workload behind a service, with the port of the service that leads there.
type Target = (Option<Port>, NamespacedName, Port);

/// The ports of the workloads behind services.
pub struct Behind {
    ports: BTreeMap<NamespacedName, BTreeSet<Target>>,
}

impl Behind {
    /// Looks at all services and pods.
    pub fn of(world: &World) -> Self {
        let mut ports = BTreeMap::<_, BTreeSet<_>>::new();
        let mut templates = BTreeMap::<&str, Vec<_>>::new();
        for pod in world.pods().values().filter(|pod| pod.alive) {
            let known = templates.entry(&*pod.template.namespace).or_default();
            if !known.contains(&&pod.template) {
                known.push(&pod.template);
            }
        }
        for (name, service) in world.services() {
            let of_namespace = templates.get(&*name.namespace);
            let chosen = of_namespace.into_iter().flatten();
            let chosen = chosen.filter(|template| {
                !service.selector.is_empty() && selects(&service.selector, &template.labels)
            });
            for template in chosen {
                for port in service.ports.values() {
                    let target = match &port.target {
                        TargetPort::Number(number) => Some(*number),
                        TargetPort::Name(name) => template.port_named(name),
                    };
                    let to = target.map(|target| (Some(port.port), template.workload(), target));
                    ports.entry(name.clone()).or_default().extend(to);
                }
            }
        }
        // A flow without a service names the workload.
        for template in templates.values().flatten() {
            let workload = template.workload();
            if world.services().contains_key(&workload) {
                continue;
            }
            let own = template.ports.iter();
            let own = own.map(|port| (None, workload.clone(), port.port));
            ports.entry(workload.clone()).or_default().extend(own);
        }
        Self { ports }
    }

    /// The workloads and ports behind a service, or the ports of a workload.
    pub fn ports(&self, name: &NamespacedName) -> impl Iterator<Item = (NamespacedName, Port)> {
        let targets = self.ports.get(name).into_iter().flatten();
        targets.map(|(_, workload, port)| (workload.clone(), *port))
    }

    /// The workloads and ports to which a flow leads: at the port that it names, if it names one.
    pub fn of_flow(&self, flow: &Flow) -> impl Iterator<Item = (NamespacedName, Port)> {
        let to = flow.answering();
        let name = NamespacedName::new(&to.namespace, &to.name);
        let named = flow.port;
        let targets = self.ports.get(&name).into_iter().flatten();
        let meant = targets.filter(move |(port, ..)| {
            let port = port.map(Port::get);
            named.is_none() || port.is_none() || port == named
        });
        meant.map(|(_, workload, port)| (workload.clone(), *port))
    }
}
