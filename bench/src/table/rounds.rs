//! The same change again and again: how long each took to reach every proxy concerned.

use std::collections::BTreeSet;

use anyhow::Result;

use super::plan::{CHANGE, REST};
use super::stage::Ground;
use crate::change::Change;
use crate::cluster::api::{Written, group};
use crate::machine::cpu_seconds;
use crate::mesh::{ROUTED, namespace_of, resource_part, service_name};
use crate::objects::{self, Ready};
use crate::probe::{Probe, milliseconds};
use crate::sim::Fleet;
use crate::sim::proxy::Tally;
use crate::stats::Sample;

/// All changes of one kind in one run.
#[derive(Debug)]
pub struct Rounds {
    /// Milliseconds from the API server's acknowledgment, one for each change and proxy.
    pub acknowledged: Sample,
    /// The same from when the write was sent.
    pub sent: Sample,
    /// CPU milliseconds of the control plane for each change.
    pub cpu: f64,
    /// Message bytes for each change and proxy concerned.
    pub bytes: f64,
    /// CPU microseconds of the load program for each response.
    pub client: f64,
}

/// The kind of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The readiness of an endpoint of this service.
    Endpoint(usize),
    /// The split's weights.
    Split,
    /// The policy's rules.
    Policy,
}

/// Makes so many changes, one after another, and one before that is not counted: caches and connections are cold. In the
/// end all endpoints are ready again.
///
/// # Errors
/// When one does not arrive.
pub async fn run(
    ground: &Ground,
    fleet: &Fleet,
    pid: u32,
    changes: impl IntoIterator<Item = (Kind, usize)>,
) -> Result<Rounds> {
    let (mut acknowledged, mut sent) = (Vec::new(), Vec::new());
    let (mut count, mut concerned, mut before) = (0_usize, 0_usize, None);
    let mut touched = BTreeSet::new();
    for (round, (kind, expected)) in changes.into_iter().enumerate() {
        tokio::time::sleep(REST).await;
        if round == 1 {
            before = Some(Spent::now(fleet, pid)?);
        }
        if let Kind::Endpoint(service) = kind {
            touched.insert(service);
        }
        let (ack, all) = one(ground, fleet, (kind, expected), round).await?;
        if round > 0 {
            count += 1;
            concerned += expected;
            acknowledged.extend(milliseconds(&all, ack.acknowledged));
            sent.extend(milliseconds(&all, ack.sent));
        }
        fleet.all_up()?;
    }
    // The consequences of the last change belong to it.
    tokio::time::sleep(REST).await;
    let (before, after) = (before.unwrap_or_default(), Spent::now(fleet, pid)?);
    let responses = (after.total.responses - before.total.responses).max(1);
    let bytes = after.total.bytes - before.total.bytes;
    for service in touched {
        ground.set_ready(service, Ready::all()).await?;
    }
    Ok(Rounds {
        acknowledged: Sample::new(acknowledged),
        sent: Sample::new(sent),
        cpu: (after.cpu - before.cpu) * 1e3 / count.max(1) as f64,
        bytes: bytes as f64 / concerned.max(1) as f64,
        client: (after.client - before.client) * 1e6 / responses as f64,
    })
}

/// The CPU time and messages spent up to a moment.
#[derive(Debug, Default)]
struct Spent {
    cpu: f64,
    client: f64,
    total: Tally,
}

impl Spent {
    fn now(fleet: &Fleet, pid: u32) -> Result<Self> {
        Ok(Self {
            cpu: cpu_seconds(pid)?,
            client: fleet.cpu_seconds()?,
            total: fleet.observer().total(),
        })
    }
}

async fn one(
    ground: &Ground,
    fleet: &Fleet,
    (kind, expected): (Kind, usize),
    round: usize,
) -> Result<(Written, Vec<std::time::Instant>)> {
    let probe = |change| Probe::arm(fleet, change, expected);
    let (namespace, name) = (namespace_of(ROUTED), service_name(ROUTED));
    let path = |plural| group("heddle.dev/v1alpha1", &namespace, plural) + "/" + &name;
    let (probe, written) = match kind {
        Kind::Endpoint(service) => {
            let ready = if round.is_multiple_of(2) {
                Ready::all_but_one()
            } else {
                Ready::all()
            };
            let change = Change::Endpoints {
                name: resource_part(service),
                healthy: ready.count(),
            };
            (probe(change), ground.set_ready(service, ready).await?)
        }
        Kind::Split => {
            let first = 50 + u32::try_from(round % 40)?;
            let weights = [first, 100 - first];
            let change = Change::Weights {
                name: resource_part(ROUTED),
                weights: weights.to_vec(),
            };
            let probe = probe(change);
            let split = objects::split(weights);
            (
                probe,
                ground.api.patch(&path("trafficsplits"), &split).await?,
            )
        }
        Kind::Policy => {
            // With an end of its own, for no mark may be the beginning of another.
            let mark = format!("/mark-{}-{round}-", std::process::id());
            let probe = probe(Change::Text(mark.clone()));
            let policy = objects::policy(&mark);
            (
                probe,
                ground.api.patch(&path("authpolicies"), &policy).await?,
            )
        }
    };
    let arrivals = probe.arrivals(CHANGE).await?;
    Ok((written, arrivals))
}
