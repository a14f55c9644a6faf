//! The ends of pods: an agent reports, and is told how far the removal of its pod is.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use futures::stream::{self, Stream};
use heddle_acceptor::Link;
use heddle_xds_types::rollout::{EndReport, WithdrawalReport};
use prost::Message;
use tokio::sync::watch;
use tokio::time::Sleep;
use tonic::Status;

use crate::source::{ResourceSource, SubscriberId, Withdrawal};

use super::admission::{self, FIRST_REQUEST};
use super::grpc::Requests;
use super::newest::NewestStream;
use super::shared::Shared;
use super::wire::framed;

const STREAM: &str = "ends of pods";

/// The frames that tell of the withdrawal: the first answers the first report, and each change is one more.
pub(crate) fn responses<S: ResourceSource>(
    shared: Arc<Shared<S>>,
    link: Arc<Link>,
    inbound: Requests<EndReport>,
) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static {
    let ends = Ends {
        shared,
        link,
        inbound,
        of: None,
        timer: Box::pin(tokio::time::sleep(FIRST_REQUEST)),
        over: false,
    };
    stream::unfold(Box::new(ends), |mut ends| async move {
        let item = ends.next().await?;
        Some((item, ends))
    })
}

/// The subscriber of a stream, from its first report on.
struct Admitted {
    who: SubscriberId,
    newest: NewestStream,
    withdrawal: watch::Receiver<Withdrawal>,
    expires: bool,
}

struct Ends<S> {
    shared: Arc<Shared<S>>,
    link: Arc<Link>,
    inbound: Requests<EndReport>,
    of: Option<Admitted>,
    /// Until the first request, then until the certificate runs out.
    timer: Pin<Box<Sleep>>,
    over: bool,
}

/// Returns once a newer stream has taken the place, or at the next change of the withdrawal (`true`).
async fn change(of: Option<&mut Admitted>) -> bool {
    let Some(of) = of else {
        return std::future::pending().await;
    };
    tokio::select! {
        () = of.newest.ended.cancelled() => false,
        changed = of.withdrawal.changed() => match changed {
            Ok(()) => true,
            // The source follows no ends of pods.
            Err(_) => std::future::pending().await,
        },
    }
}

impl<S: ResourceSource> Ends<S> {
    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        while !self.over {
            let timed = self.of.as_ref().is_none_or(|of| of.expires);
            tokio::select! {
                request = self.inbound.next() => match request {
                    Ok(Some(report)) => match self.take(&report) {
                        Ok(None) => {}
                        Ok(Some(frame)) => return Some(Ok(frame)),
                        Err(status) => return self.end(status),
                    },
                    Ok(None) => return None,
                    Err(broken) => {
                        let status = admission::broken(&self.shared, STREAM, &broken)?;
                        return self.end(status);
                    }
                },
                changed = change(self.of.as_mut()) => match (changed, self.of.as_mut()) {
                    (true, Some(of)) => return Some(Ok(of.frame())),
                    _ => {
                        let text = "a newer stream of the same client takes the reports";
                        return self.end(Status::aborted(text));
                    }
                },
                () = self.link.closing.cancelled() => return self.end(self.shared.sent_away()),
                () = self.timer.as_mut(), if timed => {
                    let status = match self.of {
                        Some(_) => admission::expired(),
                        None => Status::deadline_exceeded("no request on the stream"),
                    };
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
    fn take(&mut self, report: &EndReport) -> Result<Option<Bytes>, Status> {
        if let Some(of) = &self.of {
            self.shared.source.ends(&of.who, report);
            return Ok(None);
        }
        let node = Node {
            id: report.node.clone(),
            ..Node::default()
        };
        let admission = admission::admit(&self.shared, &self.link, Some(&node))?;
        if let Some(end) = admission.expires {
            self.timer.as_mut().reset(end);
        }
        let mut of = Admitted {
            newest: self.shared.reporting.enter(STREAM, &admission.who),
            withdrawal: self.shared.source.ends(&admission.who, report),
            who: admission.who,
            expires: admission.expires.is_some(),
        };
        let frame = of.frame();
        self.of = Some(of);
        Ok(Some(frame))
    }
}

impl Admitted {
    fn frame(&mut self) -> Bytes {
        let report = report(&self.withdrawal.borrow_and_update(), Instant::now());
        framed(report.encoded_len(), |out| {
            // The buffer grows as it has to.
            let _ = report.encode(out);
        })
    }
}

fn report(withdrawal: &Withdrawal, now: Instant) -> WithdrawalReport {
    let ago = |since: Instant| now.saturating_duration_since(since).as_millis();
    WithdrawalReport {
        terminating: withdrawal.terminating,
        services: withdrawal.services,
        withdrawn_ago_ms: withdrawal
            .withdrawn
            .map(|since| u64::try_from(ago(since)).unwrap_or(u64::MAX)),
        total: withdrawal.total,
        acknowledged: withdrawal.acknowledged,
        away: withdrawal.away,
        complete: withdrawal.complete,
    }
}
