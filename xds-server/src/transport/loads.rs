//! Load reports (LRS): the traffic of the clients, reported at intervals.

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterStats;
use envoy_types::pb::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};
use envoy_types::pb::google::protobuf::Duration as Interval;
use prost::Message;
use tonic::Status;

use crate::progress::counters::add;
use crate::source::{Load, ResourceSource, SubscriberId};

use super::reports::Report;
use super::shared::Shared;
use super::wire::framed;

impl Report for LoadStatsRequest {
    const STREAM: &'static str = "load reports";
    type Kept = ();

    fn node(&self) -> Option<Node> {
        self.node.clone()
    }

    fn check<S>(&self, shared: &Shared<S>) -> Result<(), Status> {
        let (limits, stats) = (&shared.limits, &self.cluster_stats);
        let too_long = |s: &ClusterStats| s.cluster_name.len() > limits.max_name_len;
        if stats.len() > limits.max_names || stats.iter().any(too_long) {
            let text = "too many or too long cluster names";
            return Err(Status::resource_exhausted(text));
        }
        Ok(())
    }

    /// The clusters to report, and the interval.
    fn answer<S>(shared: &Shared<S>) -> Option<Bytes> {
        let interval = shared.load_report_interval;
        let response = LoadStatsResponse {
            send_all_clusters: true,
            load_reporting_interval: Some(Interval {
                seconds: i64::try_from(interval.as_secs()).unwrap_or(i64::MAX),
                nanos: i32::try_from(interval.subsec_nanos()).unwrap_or_default(),
            }),
            ..LoadStatsResponse::default()
        };
        Some(framed(response.encoded_len(), |out| {
            // The buffer grows as it has to.
            let _ = response.encode(out);
        }))
    }

    fn deliver<S: ResourceSource>(
        self,
        shared: &Shared<S>,
        who: &SubscriberId,
        (): &mut (),
    ) -> Result<(), Status> {
        if !self.cluster_stats.is_empty() {
            let loads: Vec<Load> = self.cluster_stats.iter().map(load).collect();
            add(&shared.counters.load_reports, 1);
            shared.source.loads(who, &loads);
        }
        Ok(())
    }
}

fn load(stats: &ClusterStats) -> Load {
    let localities = &stats.upstream_locality_stats;
    Load {
        cluster: stats.cluster_name.as_str().into(),
        issued: localities
            .iter()
            .fold(0, |sum: u64, l| sum.saturating_add(l.total_issued_requests)),
        active: localities.iter().fold(0, |sum: u64, l| {
            sum.saturating_add(l.total_requests_in_progress)
        }),
    }
}
