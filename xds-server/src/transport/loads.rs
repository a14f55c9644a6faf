//! Load reports (LRS): the traffic of the clients, reported at intervals.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterStats;
use envoy_types::pb::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};
use envoy_types::pb::google::protobuf::Duration as Interval;
use futures::stream::{self, Stream};
use heddle_acceptor::Link;
use prost::Message;
use tokio::time::{Instant, Sleep};
use tonic::Status;

use crate::progress::counters::add;
use crate::source::{Load, ResourceSource, SubscriberId};

use super::admission::{self, FIRST_REQUEST};
use super::grpc::Requests;
use super::shared::Shared;
use super::wire::framed;

/// The frames that answer a stream of load reports: one, with the clusters to report and the interval.
pub(crate) fn responses<S: ResourceSource>(
    shared: Arc<Shared<S>>,
    link: Arc<Link>,
    inbound: Requests<LoadStatsRequest>,
) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static {
    let reports = Reports {
        shared,
        link,
        inbound,
        who: None,
        timer: Box::pin(tokio::time::sleep(FIRST_REQUEST)),
        over: false,
    };
    stream::unfold(Box::new(reports), |mut reports| async move {
        let item = reports.next().await?;
        Some((item, reports))
    })
}

struct Reports<S> {
    shared: Arc<Shared<S>>,
    link: Arc<Link>,
    inbound: Requests<LoadStatsRequest>,
    who: Option<SubscriberId>,
    /// Until the first request, then until the certificate runs out.
    timer: Pin<Box<Sleep>>,
    over: bool,
}

impl<S: ResourceSource> Reports<S> {
    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        while !self.over {
            let request = tokio::select! {
                request = self.inbound.next() => request,
                () = self.link.closing.cancelled() => return self.end(self.shared.sent_away()),
                () = self.timer.as_mut() => {
                    let status = match self.who {
                        Some(_) => admission::expired(),
                        None => Status::deadline_exceeded("no request on the stream"),
                    };
                    return self.end(status);
                }
            };
            match request {
                Ok(Some(request)) => match self.take(&request) {
                    Ok(None) => {}
                    Ok(Some(response)) => return Some(Ok(response)),
                    Err(status) => return self.end(status),
                },
                Ok(None) => return None,
                Err(broken) => {
                    let status = admission::broken(&self.shared, "load reports", &broken)?;
                    return self.end(status);
                }
            }
        }
        None
    }

    fn end(&mut self, status: Status) -> Option<Result<Bytes, Status>> {
        self.over = true;
        Some(Err(status))
    }

    /// The first request is answered; all tell loads.
    fn take(&mut self, request: &LoadStatsRequest) -> Result<Option<Bytes>, Status> {
        let limits = &self.shared.limits;
        let stats = &request.cluster_stats;
        let too_long = |s: &ClusterStats| s.cluster_name.len() > limits.max_name_len;
        if stats.len() > limits.max_names || stats.iter().any(too_long) {
            add(&self.shared.counters.streams_refused, 1);
            return Err(Status::resource_exhausted(
                "too many or too long cluster names",
            ));
        }
        let response = match &self.who {
            Some(_) => None,
            None => Some(self.admit(request)?),
        };
        if let (Some(who), false) = (&self.who, stats.is_empty()) {
            let loads: Vec<Load> = stats.iter().map(load).collect();
            add(&self.shared.counters.load_reports, 1);
            self.shared.source.loads(who, &loads);
        }
        Ok(response)
    }

    fn admit(&mut self, request: &LoadStatsRequest) -> Result<Bytes, Status> {
        let admission = admission::admit(&self.shared, &self.link, request.node.as_ref())?;
        self.who = Some(admission.who);
        let never = Instant::now() + Duration::from_secs(u64::from(u32::MAX));
        let end = admission.expires.unwrap_or(never);
        self.timer.as_mut().reset(end);
        let interval = self.shared.load_report_interval;
        let response = LoadStatsResponse {
            send_all_clusters: true,
            load_reporting_interval: Some(Interval {
                seconds: i64::try_from(interval.as_secs()).unwrap_or(i64::MAX),
                nanos: i32::try_from(interval.subsec_nanos()).unwrap_or_default(),
            }),
            ..LoadStatsResponse::default()
        };
        let frame = framed(response.encoded_len(), |out| {
            // The buffer grows as it has to.
            let _ = response.encode(out);
        });
        Ok(frame)
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
