//! The store of a replica, with as many edges as it keeps.

use std::sync::Arc;

use anyhow::Result;
use heddle_operator::edges::{EdgeStore, LONGEST_WINDOW, ReportingSidecar};
use heddle_policy_compiler::WorkloadRef;
use heddle_xds_server::EdgeTraffic;

use super::reports::{SECONDS, counts, name};
use crate::{machine, memory};

/// The edges of one sidecar.
const OF_SIDECAR: usize = 20;

/// The figures of the store.
#[derive(Debug)]
pub struct Store {
    /// Its edges.
    pub edges: usize,
    /// The memory that it takes, in MB.
    pub megabytes: f64,
    /// The share of a core that its reports take.
    pub cpu_percent: f64,
    /// The CPU time of an answer over the longest window.
    pub answer_ms: f64,
    /// The size of that answer in JSON.
    pub answer_megabytes: f64,
}

/// Fills a store for the longest window.
///
/// # Errors
/// When the kernel does not tell memory or times, or the answer has not all edges.
#[allow(clippy::cast_precision_loss)]
pub fn measure(edges: usize) -> Result<Store> {
    let pid = std::process::id();
    let sidecars: Vec<ReportingSidecar> = (0..edges / OF_SIDECAR).map(sidecar).collect();
    // The names are in the memory that counts: the control plane decodes them for each stream.
    let empty = memory::of(pid)?.anonymous;
    let store = EdgeStore::new(Arc::default());
    let mut traffic: Vec<Vec<EdgeTraffic>> = (0..sidecars.len()).map(of_sidecar).collect();
    let from = machine::cpu_seconds(pid)?;
    let rounds = LONGEST_WINDOW / SECONDS as u64;
    for round in 0..=rounds {
        for (sidecar, traffic) in sidecars.iter().zip(&mut traffic) {
            for of in traffic.iter_mut() {
                of.counts = counts(u32::try_from(round).unwrap_or(u32::MAX));
            }
            store.take_at(round * SECONDS as u64, sidecar, traffic, 0);
        }
    }
    let taking = machine::cpu_seconds(pid)? - from;
    let full = memory::of(pid)?.anonymous;
    let from = machine::cpu_seconds(pid)?;
    let report = store.report_at(LONGEST_WINDOW, LONGEST_WINDOW);
    let text = serde_json::to_string(&report)?;
    let answering = machine::cpu_seconds(pid)? - from;
    anyhow::ensure!(report.edges.len() == edges, "{} edges", report.edges.len());
    Ok(Store {
        edges,
        megabytes: full - empty,
        cpu_percent: 100.0 * taking / LONGEST_WINDOW as f64,
        answer_ms: 1000.0 * answering,
        answer_megabytes: text.len() as f64 / f64::from(1 << 20),
    })
}

fn sidecar(number: usize) -> ReportingSidecar {
    let (namespace, name) = (
        format!("team-{}", number / 10),
        format!("service-{number:04}"),
    );
    ReportingSidecar {
        id: format!("{namespace}/{name}-1").as_str().into(),
        workload: WorkloadRef::new(&namespace, &name),
        identity: format!("spiffe://cluster.local/ns/{namespace}/sa/{name}"),
    }
}

fn of_sidecar(number: usize) -> Vec<EdgeTraffic> {
    let edges = (0..OF_SIDECAR).map(|edge| EdgeTraffic {
        name: Arc::new(name(number * OF_SIDECAR + edge)),
        counts: counts(0),
    });
    edges.collect()
}
