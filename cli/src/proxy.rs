//! `heddle proxy status`: which sidecar runs what.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use kube::Client;
use kube::api::DynamicObject;
use serde::Deserialize;
use serde_json::Value;

use crate::cluster::{self, ClusterArgs, NAMESPACE};
use crate::out::say;
use crate::table;

/// The ConfigMaps in which each replica of the control plane publishes what it knows.
const REPLICA_PREFIX: &str = "heddle-replica-";
const REPORT_KEY: &str = "report.json";
const PROXY: &str = heddle_policy_compiler::ingest::PROXY_CONTAINER;

/// What to look at.
#[derive(Subcommand, Debug)]
pub enum ProxyCommand {
    /// Every sidecar: whether it is connected, and whether it runs what it should.
    #[command(
        long_about = "Prints every sidecar: whether it is connected, whether it runs all that it should, and what its Envoy refused. \
                      Exits with 1 if one of them is not connected, behind, or refuses something.",
        after_long_help = "Examples:\n  heddle proxy status\n  heddle proxy status --runtime-dir /tmp/heddle-demo-1/run"
    )]
    Status(StatusArgs),
}

/// Options of `heddle proxy status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// The runtime folder of a standalone control plane, in place of the cluster.
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// One sidecar as the standalone control plane writes it to `proxies.json`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProxyState {
    proxy: String,
    connected: bool,
    behind: usize,
    resources: usize,
    #[serde(default)]
    refused: Vec<String>,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    version: String,
    #[serde(default)]
    identity: String,
}

/// What a replica publishes, in one key of its ConfigMap.
#[derive(Deserialize)]
struct Word {
    report: Report,
}

/// A replica's own proxies, and how far each object is on them.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Report {
    connected: BTreeSet<String>,
    objects: BTreeMap<String, Tally>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Tally {
    waiting: Vec<String>,
    refused: Vec<Refused>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refused {
    proxy: String,
    text: String,
}

/// Runs the command.
pub async fn run(command: &ProxyCommand) -> Result<()> {
    let ProxyCommand::Status(args) = command;
    let amiss = match &args.runtime_dir {
        Some(folder) => standalone(folder)?,
        None => in_cluster(&args.cluster.client().await?).await?,
    };
    match amiss {
        0 => Ok(()),
        1 => bail!("1 sidecar is not as it should be"),
        n => bail!("{n} sidecars are not as they should be"),
    }
}

/// Prints the proxies of a standalone control plane; gives the number of those amiss.
fn standalone(folder: &Path) -> Result<usize> {
    let path = folder.join("proxies.json");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let proxies: Vec<ProxyState> = serde_json::from_str(&text)
        .with_context(|| format!("{} cannot be read", path.display()))?;
    let row = |proxy: &ProxyState| {
        let state = if !proxy.connected {
            "not connected".to_owned()
        } else if !proxy.refused.is_empty() {
            format!("refuses {}", proxy.refused.join("; "))
        } else if proxy.behind > 0 {
            format!("behind by {} of {}", proxy.behind, proxy.resources)
        } else {
            format!("runs all {}", proxy.resources)
        };
        vec![
            proxy.proxy.clone(),
            state,
            kilobytes(proxy.bytes),
            proxy.version.clone(),
            proxy.identity.clone(),
        ]
    };
    say!(
        "{}",
        table::render(
            &["PROXY", "RESOURCES", "SENT", "ENVOY", "IDENTITY"],
            &proxies.iter().map(row).collect::<Vec<_>>()
        )
    );
    Ok(proxies
        .iter()
        .filter(|proxy| !proxy.connected || proxy.behind > 0 || !proxy.refused.is_empty())
        .count())
}

fn kilobytes(bytes: u64) -> String {
    format!("{} kB", bytes.div_ceil(1000))
}

/// What is known of one sidecar of the cluster.
#[derive(Default)]
struct Known {
    replica: Option<String>,
    waiting: Vec<String>,
    refused: Vec<String>,
}

async fn in_cluster(client: &Client) -> Result<usize> {
    let mut known = meshed_pods(client).await?;
    let maps = cluster::list(client, "v1", "ConfigMap", Some(NAMESPACE)).await?;
    let mut replicas = 0;
    for map in &maps {
        let Some(replica) = map
            .metadata
            .name
            .as_deref()
            .and_then(|name| name.strip_prefix(REPLICA_PREFIX))
        else {
            continue;
        };
        replicas += 1;
        take(replica, &report(map)?, &mut known);
    }
    if replicas == 0 {
        bail!("no replica of the control plane has reported yet (fix: heddle check)");
    }
    let rows: Vec<Vec<String>> = known.iter().map(|(pod, known)| row(pod, known)).collect();
    say!("{}", table::render(&["PROXY", "REPLICA", "STATE"], &rows));
    Ok(known
        .values()
        .filter(|known| {
            known.replica.is_none() || !known.waiting.is_empty() || !known.refused.is_empty()
        })
        .count())
}

fn row(pod: &str, known: &Known) -> Vec<String> {
    let state = if known.replica.is_none() {
        "not connected".to_owned()
    } else if !known.refused.is_empty() {
        format!("refuses {}", known.refused.join("; "))
    } else if !known.waiting.is_empty() {
        format!("waits for {}", known.waiting.join(", "))
    } else {
        "runs all that is known of it".to_owned()
    };
    vec![
        pod.to_owned(),
        known.replica.clone().unwrap_or_else(|| "-".to_owned()),
        state,
    ]
}

/// The pods that have a sidecar and are not over.
async fn meshed_pods(client: &Client) -> Result<BTreeMap<String, Known>> {
    let mut found = BTreeMap::new();
    for pod in cluster::list(client, "v1", "Pod", None).await? {
        let containers = ["/spec/initContainers", "/spec/containers"]
            .into_iter()
            .filter_map(|path| pod.data.pointer(path)?.as_array())
            .flatten();
        let meshed = containers
            .filter_map(|container| container.get("name")?.as_str())
            .any(|name| name == PROXY);
        let over = matches!(
            pod.data.pointer("/status/phase").and_then(Value::as_str),
            Some("Succeeded" | "Failed")
        );
        if let (true, false, Some(namespace), Some(name)) =
            (meshed, over, &pod.metadata.namespace, &pod.metadata.name)
        {
            found.insert(format!("{namespace}/{name}"), Known::default());
        }
    }
    Ok(found)
}

/// The report in a replica's ConfigMap.
fn report(map: &DynamicObject) -> Result<Report> {
    let text = map
        .data
        .get("data")
        .and_then(|data| data.get(REPORT_KEY)?.as_str());
    let text = text.with_context(|| format!("{} holds no {REPORT_KEY}", cluster::describe(map)))?;
    let word: Word = serde_json::from_str(text)
        .with_context(|| format!("{} cannot be read", cluster::describe(map)))?;
    Ok(word.report)
}

fn take(replica: &str, report: &Report, known: &mut BTreeMap<String, Known>) {
    for proxy in &report.connected {
        if let Some(known) = known.get_mut(proxy) {
            known.replica = Some(replica.to_owned());
        }
    }
    for (object, tally) in &report.objects {
        for waiting in &tally.waiting {
            // `<namespace>/<pod>`, and perhaps a remark.
            let proxy = waiting.split(' ').next().unwrap_or(waiting);
            if let Some(known) = known
                .get_mut(proxy)
                .filter(|_| report.connected.contains(proxy))
            {
                known.waiting.push(object.clone());
            }
        }
        for refused in &tally.refused {
            if let Some(known) = known.get_mut(&refused.proxy) {
                known.refused.push(format!("{object}: {}", refused.text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_who_waits_and_who_refuses() {
        let text = r#"{"report": {"connected": ["a/b", "a/c"], "objects": {"AuthPolicy/a/p": {"generation": 1, "programmed": 0, "total": 2,
            "waiting": ["a/b"], "refused": [{"proxy": "a/c", "resource": "r", "text": "no"}]}}}, "refusals": []}"#;
        let map = serde_json::json!({"metadata": {"name": "heddle-replica-one"}, "data": {"report.json": text}});
        let map: DynamicObject = serde_json::from_value(map).unwrap();
        let mut known: BTreeMap<String, Known> = ["a/b", "a/c", "a/d"]
            .into_iter()
            .map(|pod| (pod.to_owned(), Known::default()))
            .collect();
        take("one", &report(&map).unwrap(), &mut known);
        let states: Vec<Vec<String>> = known.iter().map(|(pod, known)| row(pod, known)).collect();
        assert_eq!(states[0], ["a/b", "one", "waits for AuthPolicy/a/p"]);
        assert_eq!(states[1], ["a/c", "one", "refuses AuthPolicy/a/p: no"]);
        assert_eq!(states[2], ["a/d", "-", "not connected"]);
    }
}
