//! Waits until every sidecar of a namespace has acknowledged a change.

use std::time::{Duration, Instant};

use anyhow::Result;
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

/// The sidecars that have acknowledged.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Acknowledged {
    /// How many of them.
    pub(super) acknowledged: usize,
    /// The others.
    pub(super) pending: Vec<Pending>,
}

/// A sidecar, or a replica with sidecars that are not known, that has not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Pending {
    /// `<namespace>/<pod>`, or the replica.
    pub(super) proxy: String,
    /// Why it counts as pending.
    pub(super) reason: String,
}

/// Waits until all sidecars of a namespace enforce nothing, or enforce again. Shows the progress.
pub(super) async fn wait(
    cluster: &ClusterArgs,
    namespace: &str,
    bypassed: bool,
    longest: Duration,
) -> Result<Acknowledged> {
    let (source, until) = (Source::Cluster(cluster.clone()), Instant::now() + longest);
    let (mut shown, mut good) = (None, 0);
    loop {
        let look = match proxy::report(&source).await {
            Ok(report) => acknowledged(&report, namespace, bypassed),
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
            eprintln!("{} of {all} acknowledged", state.0);
        }
        good = if look.pending.is_empty() { good + 1 } else { 0 };
        if good >= LOOKS || Instant::now() + POLL >= until {
            return Ok(look);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The sidecars of a namespace by a report.
fn acknowledged(report: &MeshReport, namespace: &str, bypassed: bool) -> Acknowledged {
    let mut all = Acknowledged::default();
    let states = report.proxies.iter().map(|placed| &placed.state);
    for state in states.filter(|state| is_of(state, namespace)) {
        match pending(state, bypassed) {
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

fn is_of(state: &ProxyState, namespace: &str) -> bool {
    let of = state.proxy.split_once('/').map(|(of, _)| of);
    // A pod that is not ready and has no stream gets the newest configuration first.
    of == Some(namespace) && (state.connected || state.ready)
}

/// Why a sidecar has not acknowledged the change.
fn pending(state: &ProxyState, bypassed: bool) -> Option<String> {
    if !state.connected {
        return Some("it is not connected, and keeps its last configuration".to_owned());
    }
    match state.bypassed {
        None => return Some("its replica of the control plane is of an older version".to_owned()),
        Some(now) if now != bypassed => {
            return Some("the control plane has not compiled the change".to_owned());
        }
        Some(_) => {}
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
            ..ProxyState::default()
        }
    }

    #[test]
    fn a_sidecar_has_acknowledged_if_its_replica_compiled_the_change_and_nothing_is_open() {
        let well = state("shop/a");
        assert_eq!(pending(&well, true), None);
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
            assert!(pending(&other, true).is_some(), "{case}");
        }
        assert!(pending(&well, false).is_some());
    }

    #[test]
    fn pods_of_other_namespaces_and_pods_without_a_stream_that_are_not_ready_do_not_count() {
        assert!(is_of(&state("shop/a"), "shop"));
        assert!(!is_of(&state("shopping/a"), "shop"));
        let starting = ProxyState {
            connected: false,
            ready: false,
            ..state("shop/b")
        };
        assert!(!is_of(&starting, "shop"));
        let lost = ProxyState {
            connected: false,
            ..state("shop/b")
        };
        assert!(is_of(&lost, "shop"));
    }
}
