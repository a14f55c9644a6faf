//! Waits until sidecars have acknowledged a change.

use std::time::{Duration, Instant};

use heddle_xds_types::ProxyState;
use serde::Serialize;

use crate::cluster::{ClusterArgs, explain};
use crate::edges::live::Source;
use crate::findings::plural;
use crate::proxy::{self, MeshReport};

/// The time between two looks.
const POLL: Duration = Duration::from_secs(1);
/// So many looks one after the other must show the same: a replica may serve a change before it has counted it.
const LOOKS: usize = 2;

/// The state for which sidecars are waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited<'a> {
    /// Every sidecar has acknowledged its configuration.
    Settled,
    /// The sidecars of a namespace enforce nothing, or enforce again.
    Bypass {
        /// The namespace.
        namespace: &'a str,
        /// Whether it is bypassed.
        bypassed: bool,
    },
    /// Every sidecar has acknowledged the configuration by a Mesh of this generation.
    Mesh {
        /// `metadata.generation`.
        generation: i64,
    },
}

/// The sidecars that have acknowledged.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Acknowledged {
    /// How many of them.
    pub acknowledged: usize,
    /// The others.
    pub pending: Vec<Pending>,
}

/// A sidecar, or a replica with sidecars that are not known, that has not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pending {
    /// `<namespace>/<pod>`, or the replica.
    pub proxy: String,
    /// Why it counts as pending.
    pub reason: String,
}

/// Waits for all sidecars that a state is about. Shows the progress. While the API server or the replicas do not answer, the control plane
/// is pending.
pub async fn wait(cluster: &ClusterArgs, awaited: Awaited<'_>, longest: Duration) -> Acknowledged {
    let (source, until) = (Source::Cluster(cluster.clone()), Instant::now() + longest);
    let (mut shown, mut good) = (None, 0);
    loop {
        let look = match proxy::report(&source).await {
            Ok(report) => acknowledged(&report, awaited),
            // The API server, or all replicas, may be away for a while.
            Err(error) => Acknowledged {
                acknowledged: 0,
                pending: vec![Pending {
                    proxy: "control plane".to_owned(),
                    reason: explain(&error),
                }],
            },
        };
        let state = (look.acknowledged, look.pending.len());
        if shown.replace(state) != Some(state) {
            let all = plural(state.0 + state.1, "sidecar");
            crate::out::note!("{} of {all} acknowledged", state.0);
        }
        good = if look.pending.is_empty() { good + 1 } else { 0 };
        if good >= LOOKS || Instant::now() + POLL >= until {
            return look;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The sidecars that a state is about, by a report.
fn acknowledged(report: &MeshReport, awaited: Awaited<'_>) -> Acknowledged {
    let mut all = Acknowledged::default();
    let states = report.proxies.iter().map(|placed| &placed.state);
    for state in states.filter(|state| is_meant(state, awaited)) {
        match pending(state, awaited) {
            None => all.acknowledged += 1,
            Some(reason) => all.pending.push(Pending {
                proxy: state.proxy.clone(),
                reason,
            }),
        }
    }
    // Its sidecars may be missing above.
    all.pending
        .extend(report.unasked().map(|(replica, reason)| Pending {
            proxy: replica.to_owned(),
            reason: format!("this replica of the control plane could not be asked: {reason}"),
        }));
    all
}

fn is_meant(state: &ProxyState, awaited: Awaited<'_>) -> bool {
    let of = state.proxy.split_once('/').map(|(of, _)| of);
    let meant = match awaited {
        Awaited::Bypass { namespace, .. } => of == Some(namespace),
        Awaited::Settled | Awaited::Mesh { .. } => true,
    };
    // A pod that is not ready and has no stream gets the newest configuration first.
    meant && (state.connected || state.ready)
}

/// Why a sidecar has not acknowledged the change.
fn pending(state: &ProxyState, awaited: Awaited<'_>) -> Option<String> {
    if !state.connected {
        return Some("it is not connected, and keeps its last configuration".to_owned());
    }
    // The answer of a replica that does not report it, and whether the replica has compiled the change.
    let compiled = match awaited {
        Awaited::Settled => Some(true),
        Awaited::Bypass { bypassed, .. } => state.bypassed.map(|now| now == bypassed),
        Awaited::Mesh { generation } => state.mesh_generation.map(|now| now >= generation),
    };
    match compiled {
        None => return Some("its replica of the control plane is of an older version".to_owned()),
        Some(false) => return Some("the control plane has not compiled the change".to_owned()),
        Some(true) => {}
    }
    if let Some(text) = state.rejected.first() {
        return Some(format!("it rejects {text}"));
    }
    let open = state.behind > 0 || !state.in_sync;
    open.then(|| plural(state.behind, "resource") + " not acknowledged")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(proxy: &str) -> ProxyState {
        ProxyState {
            proxy: proxy.to_owned(),
            connected: true,
            ready: true,
            in_sync: true,
            bypassed: Some(true),
            mesh_generation: Some(7),
            ..ProxyState::default()
        }
    }

    #[test]
    fn a_sidecar_has_acknowledged_if_its_replica_compiled_the_change_and_nothing_is_open() {
        let well = state("shop/a");
        let bypass = |bypassed| Awaited::Bypass {
            namespace: "shop",
            bypassed,
        };
        let mesh = |generation| Awaited::Mesh { generation };
        for of in [bypass(true), mesh(7), mesh(6), Awaited::Settled] {
            assert_eq!(pending(&well, of), None);
        }
        for of in [bypass(false), mesh(8)] {
            assert!(pending(&well, of).is_some());
        }
        let older = ProxyState {
            mesh_generation: None,
            ..well.clone()
        };
        assert!(pending(&older, mesh(7)).is_some());
        for (case, other) in [
            (
                "not compiled",
                ProxyState {
                    bypassed: Some(false),
                    ..well.clone()
                },
            ),
            (
                "an older replica",
                ProxyState {
                    bypassed: None,
                    ..well.clone()
                },
            ),
            (
                "behind",
                ProxyState {
                    behind: 1,
                    in_sync: false,
                    ..well.clone()
                },
            ),
            (
                "rejects",
                ProxyState {
                    rejected: vec!["Listener x: y".to_owned()],
                    ..well.clone()
                },
            ),
            (
                "away",
                ProxyState {
                    connected: false,
                    ..well.clone()
                },
            ),
        ] {
            assert!(pending(&other, bypass(true)).is_some(), "{case}");
        }
    }

    #[test]
    fn pods_of_other_namespaces_and_pods_without_a_stream_that_are_not_ready_do_not_count() {
        let shop = Awaited::Bypass {
            namespace: "shop",
            bypassed: true,
        };
        assert!(is_meant(&state("shop/a"), shop));
        assert!(!is_meant(&state("shopping/a"), shop));
        assert!(is_meant(&state("shopping/a"), Awaited::Settled));
        let starting = ProxyState {
            connected: false,
            ready: false,
            ..state("shop/b")
        };
        assert!(!is_meant(&starting, shop));
        let lost = ProxyState {
            connected: false,
            ..state("shop/b")
        };
        assert!(is_meant(&lost, shop));
    }
}
