//! Changes of annotations, and with them of resource versions, that mean nothing to a proxy: nothing may be sent.

use std::time::Duration;

use anyhow::Result;
use heddle_identity::Ca;
use serde_json::{Value, json};

use super::figures::{Figure, Ledger};
use super::stage::Ground;
use crate::cluster::api::{core, slice};
use crate::mesh::{CHANGING, namespace_of, pod_name, service_name};
use crate::metrics::{Metrics, RECOMPILED};
use crate::objects::NODE;
use crate::sim::Fleet;

/// All consequences of a change have come by then.
const SETTLE: Duration = Duration::from_secs(2);

/// Makes so many changes of each kind.
///
/// # Errors
/// When the API server refuses one.
pub async fn run(
    ground: &Ground,
    fleet: &Fleet,
    root: &Ca,
    rounds: usize,
    ledger: &mut Ledger,
) -> Result<()> {
    tokio::time::sleep(SETTLE).await;
    let scraper = ground.scraper(root);
    let scrape = async || match scraper.scrape().await {
        Ok(metrics) => metrics,
        Err(error) => {
            eprintln!("no metrics: {error:#}");
            Metrics::default()
        }
    };
    let (before, metrics) = (fleet.observer().total(), scrape().await);
    for round in 0..rounds {
        for (path, patch) in changes(round) {
            ground.api.patch(&path, &patch).await?;
        }
    }
    tokio::time::sleep(SETTLE).await;
    let after = fleet.observer().total();
    ledger.note(Figure::MetadataBytes, (after.bytes - before.bytes) as f64);
    if let Some(units) = scrape().await.since(&metrics, RECOMPILED) {
        ledger.note(Figure::MetadataUnits, units);
    }
    Ok(())
}

fn changes(round: usize) -> Vec<(String, Value)> {
    let namespace = namespace_of(CHANGING);
    let note = json!({"metadata": {"annotations": {"bench.heddle.dev/round": round.to_string()}}});
    let beat = format!("2026-01-01T00:{:02}:{:02}Z", round / 60 % 60, round % 60);
    // As the kubelet does all the time; a merge replaces the whole list.
    let heartbeat = json!({"status": {"conditions": [{"type": "Ready", "status": "True",
        "lastTransitionTime": "2026-01-01T00:00:00Z", "lastHeartbeatTime": beat,
        "reason": "KubeletReady", "message": "kubelet is posting ready status"}]}});
    let service = format!(
        "{}/{}",
        core(&namespace, "services"),
        service_name(CHANGING)
    );
    let pod = format!("{}/{}", core(&namespace, "pods"), pod_name(CHANGING, 0));
    let node = format!("/api/v1/nodes/{NODE}");
    let mut all: Vec<(String, Value)> = [service, slice(CHANGING), pod, node.clone()]
        .map(|path| (path, note.clone()))
        .into();
    all.push((format!("{node}/status"), heartbeat));
    all
}
