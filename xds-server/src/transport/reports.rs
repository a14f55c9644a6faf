//! Streams of reports: loads, the traffic of edges, the ends of pods, and taps. The first report of a stream names its subscriber.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use futures::stream::{self, Stream};
use heddle_acceptor::Link;
use prost::Message;
use tokio::time::{Instant, Sleep};
use tonic::Status;

use crate::progress::counters::add;
use crate::source::{ResourceSource, SubscriberId};

use super::admission::{self, FIRST_REQUEST};
use super::grpc::Requests;
use super::newest::NewestStream;
use super::shared::Shared;

/// A client that a report of an agent names by its id alone.
pub(crate) fn node(id: &str) -> Node {
    Node {
        id: id.to_owned(),
        ..Node::default()
    }
}

/// A kind of report.
pub(crate) trait Report: Message + Default + Send + 'static {
    /// The name of the stream in log lines.
    const STREAM: &'static str;
    /// State of the stream, kept between two reports.
    type Kept: Default + Send;

    /// The client, in the first report.
    fn node(&self) -> Option<Node>;

    /// Refuses a report that is out of bounds.
    ///
    /// # Errors
    /// The status to end the stream with.
    fn check<S>(&self, shared: &Shared<S>) -> Result<(), Status>;

    /// The frame that answers the first report.
    fn answer<S>(shared: &Shared<S>) -> Option<Bytes>;

    /// Hands the report to the source.
    ///
    /// # Errors
    /// The status to end the stream with.
    fn deliver<S: ResourceSource>(
        self,
        shared: &Shared<S>,
        who: &SubscriberId,
        kept: &mut Self::Kept,
    ) -> Result<(), Status>;

    /// Waits for the next frame for the client, beside the answer. Most streams have none.
    fn news(_: &mut Self::Kept) -> impl Future<Output = Bytes> + Send {
        std::future::pending()
    }
}

/// The frames that answer a stream of reports.
pub(crate) fn responses<R: Report, S: ResourceSource>(
    shared: Arc<Shared<S>>,
    link: Arc<Link>,
    inbound: Requests<R>,
) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static {
    let reports = Reports {
        shared,
        link,
        inbound,
        who: None,
        newest: None,
        kept: R::Kept::default(),
        timer: Box::pin(tokio::time::sleep(FIRST_REQUEST)),
        over: false,
    };
    stream::unfold(Box::new(reports), |mut reports| async move {
        let item = reports.next().await?;
        Some((item, reports))
    })
}

/// Returns once a newer stream has taken the place.
async fn replaced(newest: Option<&NewestStream>) {
    match newest {
        Some(newest) => newest.ended.cancelled().await,
        None => std::future::pending().await,
    }
}

struct Reports<R: Report, S> {
    shared: Arc<Shared<S>>,
    link: Arc<Link>,
    inbound: Requests<R>,
    who: Option<SubscriberId>,
    /// From the first report on.
    newest: Option<NewestStream>,
    kept: R::Kept,
    /// Until the first request, then until the certificate runs out.
    timer: Pin<Box<Sleep>>,
    over: bool,
}

impl<R: Report, S: ResourceSource> Reports<R, S> {
    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        while !self.over {
            let request = tokio::select! {
                request = self.inbound.next() => request,
                frame = R::news(&mut self.kept) => return Some(Ok(frame)),
                () = self.link.closing.cancelled() => return self.end(self.shared.sent_away()),
                () = replaced(self.newest.as_ref()) => {
                    let text = "a newer stream of the same client takes the reports";
                    return self.end(Status::aborted(text));
                }
                () = self.timer.as_mut() => {
                    let status = match self.who {
                        Some(_) => admission::expired(),
                        None => Status::deadline_exceeded("no request on the stream"),
                    };
                    return self.end(status);
                }
            };
            match request {
                Ok(Some(report)) => match self.take(report) {
                    Ok(None) => {}
                    Ok(Some(response)) => return Some(Ok(response)),
                    Err(status) => return self.end(status),
                },
                Ok(None) => return None,
                Err(broken) => {
                    let status = admission::broken(&self.shared, R::STREAM, &broken)?;
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

    /// Takes a report; the first one is answered.
    fn take(&mut self, report: R) -> Result<Option<Bytes>, Status> {
        report.check(&self.shared).inspect_err(|_| {
            add(&self.shared.counters.streams_refused, 1);
        })?;
        let response = match &self.who {
            Some(_) => None,
            None => self.admit(&report)?,
        };
        if let Some(who) = &self.who {
            report.deliver(&self.shared, who, &mut self.kept)?;
        }
        Ok(response)
    }

    fn admit(&mut self, report: &R) -> Result<Option<Bytes>, Status> {
        let admission = admission::admit(&self.shared, &self.link, report.node().as_ref())?;
        let newest = self.shared.reporting.enter(R::STREAM, &admission.who);
        self.newest = Some(newest);
        self.who = Some(admission.who);
        let never = Instant::now() + Duration::from_secs(u64::from(u32::MAX));
        let end = admission.expires.unwrap_or(never);
        self.timer.as_mut().reset(end);
        Ok(R::answer(&self.shared))
    }
}
