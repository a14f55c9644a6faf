//! The use of sidecars, by the metrics API of Kubernetes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use heddle_policy_compiler::NamespacedName;
use heddle_policy_compiler::injection::names::PROXY;
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::Value;

use super::quantity::Amount;
use crate::cluster;
use crate::findings::plural;

/// The time between two samples: metrics-server takes one every 15 s.
const INTERVAL: Duration = Duration::from_secs(15);

const NO_API: &str =
    "the cluster has no metrics API; install metrics-server, or another source of metrics.k8s.io";

/// The highest use of each sidecar.
#[derive(Debug, Default)]
pub struct Usage {
    highest: BTreeMap<NamespacedName, Amount>,
    samples: usize,
    /// The samples that could not be taken.
    failed: usize,
    /// Why there are none, or fewer: the latest reason.
    reason: Option<String>,
}

impl Usage {
    /// No use is known.
    pub fn unknown(reason: &str) -> Self {
        Self {
            reason: Some(reason.to_owned()),
            ..Self::default()
        }
    }

    /// Watches for so many seconds; at least one sample is taken.
    pub async fn observe(client: &Client, seconds: u64) -> Self {
        let mut usage = Self::default();
        let time = Duration::from_secs(seconds);
        usage
            .watch(time, INTERVAL, async || sample(client).await)
            .await;
        usage
    }

    /// Takes samples until the time is over. One that fails is counted, and the next one may not fail; without the metrics API
    /// there is none to wait for.
    async fn watch(
        &mut self,
        time: Duration,
        interval: Duration,
        sample: impl AsyncFn() -> Result<Option<Vec<Value>>>,
    ) {
        let began = Instant::now();
        loop {
            match sample().await {
                Ok(Some(pods)) => self.take(&pods),
                Ok(None) if !self.is_known() && self.failed == 0 => {
                    self.reason = Some(NO_API.to_owned());
                    return;
                }
                Ok(None) => self.fail(NO_API.to_owned()),
                Err(error) => self.fail(cluster::explain(&error)),
            }
            if began.elapsed() + interval > time {
                return;
            }
            crate::out::note!(
                "heddle: {} of {} s",
                began.elapsed().as_secs(),
                time.as_secs()
            );
            tokio::time::sleep(interval).await;
        }
    }

    fn fail(&mut self, reason: String) {
        crate::out::note!("heddle: no sample: {reason}");
        self.failed += 1;
        self.reason = Some(reason);
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
        let reason = self.reason.as_ref();
        let missing = reason.map(|reason| match self.is_known() {
            true => format!(
                "{} of {} failed, so that higher use may be missing; the last one: {reason}",
                self.failed,
                plural(self.failed + self.samples, "sample")
            ),
            false => format!("no use is known, and nothing is proposed: {reason}"),
        });
        let short = (self.samples == 1).then(|| {
            "the use is of one moment; watch the busiest hour by --for before you lower a request"
                .to_owned()
        });
        missing.into_iter().chain(short).collect()
    }
}

/// The use of all pods. `None`: the cluster has no metrics API.
async fn sample(client: &Client) -> Result<Option<Vec<Value>>> {
    let gvk = GroupVersionKind::gvk("metrics.k8s.io", "v1beta1", "PodMetrics");
    let resource = ApiResource::from_gvk_with_plural(&gvk, "pods");
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let all = ListParams::default();
    let list = cluster::find("read the metrics API", api.list(&all)).await?;
    let Some(list) = list else {
        return Ok(None);
    };
    let values = list.items.iter().map(serde_json::to_value);
    Ok(Some(values.collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use anyhow::bail;
    use serde_json::json;

    use super::*;

    fn pods() -> Vec<Value> {
        vec![
            json!({"metadata": {"name": "cart", "namespace": "shop"}, "containers": [
            {"name": PROXY, "usage": {"cpu": "7m", "memory": "50Mi"}}]}),
        ]
    }

    #[tokio::test]
    async fn a_failed_sample_does_not_end_the_watch_and_is_named() {
        let (mut usage, asked) = (Usage::default(), AtomicUsize::new(0));
        let (time, interval) = (Duration::from_secs(3600), Duration::from_millis(1));
        let samples = async || match asked.fetch_add(1, Ordering::Relaxed) {
            0 => bail!("no answer"),
            1 | 2 => Ok(Some(pods())),
            _ => std::future::pending().await,
        };
        let watch = usage.watch(time, interval, samples);
        let third = async {
            while asked.load(Ordering::Relaxed) < 4 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = watch => panic!("the watch has ended"),
            () = third => {}
        }
        let name = NamespacedName::new("shop", "cart");
        assert_eq!(usage.of(&name).map(|of| of.cpu), Some(7));
        let notes = usage.notes();
        assert_eq!(
            notes,
            ["1 of 3 samples failed, so that higher use may be missing; the last one: no answer"]
        );
    }

    #[tokio::test]
    async fn without_the_metrics_api_there_is_no_wait() {
        let mut usage = Usage::default();
        let hour = Duration::from_secs(3600);
        usage.watch(hour, hour, async || Ok(None)).await;
        assert!(usage.notes()[0].contains("nothing is proposed: the cluster has no metrics API"));
    }
}
