//! The use of sidecars, by the metrics API of Kubernetes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use heddle_policy_compiler::NamespacedName;
use heddle_policy_compiler::injection::names::PROXY;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::Value;

use super::quantity::Amount;
use crate::cluster;

/// The time between two samples: metrics-server takes one every 15 s.
const INTERVAL: Duration = Duration::from_secs(15);

/// The highest use of each sidecar.
#[derive(Debug, Default)]
pub struct Usage {
    highest: BTreeMap<NamespacedName, Amount>,
    samples: usize,
    /// Why there are none, or fewer.
    trouble: Option<String>,
}

impl Usage {
    /// No use is known.
    pub fn unknown(reason: &str) -> Self {
        Self {
            trouble: Some(reason.to_owned()),
            ..Self::default()
        }
    }

    /// Watches for so many seconds; at least one sample is taken.
    pub async fn observe(client: &Client, seconds: u64) -> Self {
        let began = Instant::now();
        let mut usage = Self::default();
        loop {
            match sample(client).await {
                Ok(pods) => usage.take(&pods),
                Err(error) => {
                    usage.trouble = Some(cluster::explain(&error));
                    return usage;
                }
            }
            if began.elapsed() + INTERVAL > Duration::from_secs(seconds) {
                return usage;
            }
            eprintln!("heddle: {} of {seconds} s", began.elapsed().as_secs());
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Takes one sample of all pods.
    pub fn take(&mut self, pods: &[Value]) {
        self.samples += 1;
        for pod in pods {
            let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str);
            let containers = pod.get("containers").and_then(Value::as_array);
            let mut containers = containers.into_iter().flatten();
            let own = containers.find(|of| of.get("name").is_some_and(|name| name == PROXY));
            let (Some(namespace), Some(name), Some(own)) =
                (text("/metadata/namespace"), text("/metadata/name"), own)
            else {
                continue;
            };
            let used = |pointer: &str| own.pointer(pointer).and_then(Value::as_str);
            let used = Amount::parse(used("/usage/cpu"), used("/usage/memory"));
            let name = NamespacedName::new(namespace, name);
            self.highest.entry(name).or_default().raise(used);
        }
    }

    /// The highest use of the sidecar of a pod.
    pub fn of(&self, pod: &NamespacedName) -> Option<Amount> {
        self.highest.get(pod).copied()
    }

    /// Whether there is any sample.
    pub fn is_known(&self) -> bool {
        self.samples > 0
    }

    /// The limits of the figures.
    pub fn notes(&self) -> Vec<String> {
        let trouble = self.trouble.as_ref();
        let trouble = trouble.map(|reason| match self.is_known() {
            true => format!("the use is of a shorter time: {reason}"),
            false => format!("no use is known, and nothing is proposed: {reason}"),
        });
        let short = (self.samples == 1).then(|| {
            "the use is of one moment: watch the busiest hour by --for before you lower a request"
                .to_owned()
        });
        trouble.into_iter().chain(short).collect()
    }
}

async fn sample(client: &Client) -> Result<Vec<Value>> {
    let gvk = GroupVersionKind::gvk("metrics.k8s.io", "v1beta1", "PodMetrics");
    let resource = ApiResource::from_gvk_with_plural(&gvk, "pods");
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let all = ListParams::default();
    let list = cluster::find("read the metrics API", api.list(&all)).await?;
    let list = list.context(
        "the cluster has no metrics API (fix: install metrics-server, or another source of metrics.k8s.io)",
    )?;
    let values = list.items.iter().map(serde_json::to_value);
    Ok(values.collect::<Result<_, _>>()?)
}
