//! The answer of one replica of the control plane: `/api/v1/edges`, and `edges.json` of a standalone one.

use serde::{Deserialize, Serialize};

use super::counts::EdgeCounts;
use super::wire::{Protocol, Reporter};

/// The version of the format. Fields may be added without a new version; readers ignore fields that they do not know.
pub const VERSION: u32 = 1;

/// The edges of the sidecars that report to one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct EdgesReport {
    /// [`VERSION`].
    pub version: u32,
    /// The seconds up to now that the counts are of.
    pub window_seconds: u64,
    /// The part of the window, in seconds, in which the replica has listened.
    pub covered_seconds: u64,
    /// Every edge with traffic in the window.
    pub edges: Vec<Edge>,
    /// The traffic that is missing, since the start of the replica.
    pub losses: Losses,
}

/// Traffic that was reported and is not in the answer, or could not be reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Losses {
    /// Requests and connections that agents could not report.
    pub by_agents: u64,
    /// Idle edges that made room for others.
    pub evicted: u64,
    /// Edges that found no room.
    pub refused: u64,
    /// The seconds since the last of these losses. `None`: there was none, or the version does not report it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seconds_ago: Option<u64>,
}

impl Losses {
    /// Whether traffic may be missing in the answer.
    #[must_use]
    pub const fn is_some(&self) -> bool {
        self.by_agents > 0 || self.evicted > 0 || self.refused > 0
    }

    /// Whether traffic of the last seconds may be missing in the answer.
    #[must_use]
    pub fn is_within(&self, seconds: u64) -> bool {
        self.is_some() && self.last_seconds_ago.is_none_or(|ago| ago < seconds)
    }

    /// Adds the losses of another replica.
    pub fn add(&mut self, other: &Self) {
        // A version that does not report the time may have lost traffic just now.
        let last = |of: &Self| of.is_some().then(|| of.last_seconds_ago.unwrap_or(0));
        self.last_seconds_ago = [last(self), last(other)].into_iter().flatten().min();
        self.by_agents = self.by_agents.saturating_add(other.by_agents);
        self.evicted = self.evicted.saturating_add(other.evicted);
        self.refused = self.refused.saturating_add(other.refused);
    }
}

/// The traffic of one edge, as the sidecars of one workload see it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    /// The side that counts.
    pub reporter: Reporter,
    /// The namespace of the workload that counts.
    pub namespace: String,
    /// The workload that counts.
    pub workload: String,
    /// Its SPIFFE id.
    pub identity: String,
    /// Destination: the SPIFFE id of the caller; empty if it had no certificate. Source: empty.
    pub peer: String,
    /// The namespace of the service.
    pub service_namespace: String,
    /// The service; `-` or empty if there is none.
    pub service: String,
    /// Source: the cluster that answered; empty if none did. Destination: empty.
    pub backend: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The seconds since the first traffic in the window, to the length of a slot. `None`: not reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_seconds_ago: Option<u64>,
    /// The seconds since the last traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seconds_ago: Option<u64>,
    /// The counts in the window.
    #[serde(flatten)]
    pub counts: EdgeCounts,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_loss_of_all_replicas_counts_and_an_unknown_one_is_recent() {
        let lost = |refused, last_seconds_ago| Losses {
            refused,
            last_seconds_ago,
            ..Losses::default()
        };
        let cases = [
            (lost(0, None), lost(0, None), lost(0, None), false),
            (
                lost(1, Some(1000)),
                lost(0, None),
                lost(1, Some(1000)),
                false,
            ),
            (
                lost(1, Some(1000)),
                lost(2, Some(900)),
                lost(3, Some(900)),
                false,
            ),
            (
                lost(1, Some(1000)),
                lost(2, Some(899)),
                lost(3, Some(899)),
                true,
            ),
            (lost(1, Some(1000)), lost(2, None), lost(3, Some(0)), true),
        ];
        for (mut one, other, sum, within) in cases {
            one.add(&other);
            assert_eq!((one, one.is_within(900)), (sum, within));
        }
    }
}
