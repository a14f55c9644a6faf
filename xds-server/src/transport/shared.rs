//! The state that all streams share.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::progress::{Counters, Registry};
use crate::session::Limits;

use super::newest::NewestStreams;
use super::open::OpenStreams;

/// The state that all streams share.
pub(crate) struct Shared<S> {
    pub source: Arc<S>,
    pub registry: Arc<Registry>,
    pub counters: Arc<Counters>,
    pub limits: Limits,
    pub max_request_bytes: usize,
    pub load_report_interval: Duration,
    pub open: Arc<OpenStreams>,
    /// The streams of reports.
    pub reporting: Arc<NewestStreams>,
    /// Once cancelled, every stream and connection ends.
    pub stopping: CancellationToken,
}

impl<S> Shared<S> {
    /// The status for a client that is sent away without a fault of its own.
    pub fn sent_away(&self) -> Status {
        Status::unavailable(match self.stopping.is_cancelled() {
            true => "the server is shutting down",
            false => "another server has more room",
        })
    }
}
