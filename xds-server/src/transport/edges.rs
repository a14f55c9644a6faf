//! Reports on edges: the traffic of each neighbor of a sidecar, as its agent counts it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use heddle_xds_types::edges::{
    EdgeName, EdgeReport, MAX_EDGES_OF_REPORT, MAX_EDGES_OF_SIDECAR, MAX_TEXT,
};
use tonic::Status;

use crate::source::{EdgeTraffic, ResourceSource, SubscriberId};

use super::reports::{Report, node};
use super::shared::Shared;

/// The names of a stream's edges, by the number that stands for them.
#[derive(Default)]
pub(crate) struct EdgeNames(HashMap<u32, Arc<EdgeName>>);

impl Report for EdgeReport {
    const STREAM: &'static str = "edge reports";
    type Kept = EdgeNames;

    fn node(&self) -> Option<Node> {
        Some(node(&self.node))
    }

    fn check<S>(&self, _: &Shared<S>) -> Result<(), Status> {
        let count = self.edges.len();
        if count > MAX_EDGES_OF_REPORT {
            return Err(Status::resource_exhausted(format!(
                "{count} edges are too many; send at most {MAX_EDGES_OF_REPORT} in a report"
            )));
        }
        let mut names = self.edges.iter().filter_map(|edge| edge.name.as_ref());
        if names.any(|name| !name.fits()) {
            return Err(Status::resource_exhausted(format!(
                "a text of an edge is not a name; use at most {MAX_TEXT} bytes of letters, digits and -._:/|[]"
            )));
        }
        Ok(())
    }

    fn answer<S>(_: &Shared<S>) -> Option<Bytes> {
        None
    }

    fn deliver<S: ResourceSource>(
        self,
        shared: &Shared<S>,
        who: &SubscriberId,
        names: &mut EdgeNames,
    ) -> Result<(), Status> {
        let mut traffic = Vec::with_capacity(self.edges.len());
        for mut edge in self.edges {
            if let Some(name) = edge.name.take() {
                names.0.insert(edge.id, Arc::new(name));
                if names.0.len() > MAX_EDGES_OF_SIDECAR {
                    return Err(Status::resource_exhausted("too many edges"));
                }
            }
            let Some(name) = names.0.get(&edge.id) else {
                let text = "an edge without a name; send the name with its first delta";
                return Err(Status::invalid_argument(text));
            };
            traffic.push(EdgeTraffic {
                name: Arc::clone(name),
                counts: edge.counts(),
            });
        }
        shared.source.edges(who, &traffic, self.lost);
        Ok(())
    }
}
