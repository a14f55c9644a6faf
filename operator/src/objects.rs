//! Where objects come from, as a trait: Kubernetes and a directory are two implementations.

use std::time::Instant;

use heddle_policy_compiler::{Finding, KubeObject, ObjectRef};
use tokio::sync::watch;

/// The changes of the objects since the last batch. Of several changes of one object it contains the last one.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Each object that changed, with `metadata.generation`, and with `status.lastGood` where there is one; `None`: it is gone.
    pub changes: Vec<(ObjectRef, Option<KubeObject>)>,
    /// The present findings of the source about all objects.
    pub findings: Vec<Finding>,
    /// When the oldest of the changes was seen.
    pub since: Option<Instant>,
    /// Whether the source has read all objects. Until then nothing is compiled, because objects not yet read would look
    /// deleted.
    pub complete: bool,
}

/// Gives objects.
pub trait ObjectSource: Send + Sync + 'static {
    /// Returns the changes since the last call; the first call returns all objects. There is one reader.
    fn take(&self) -> Batch;

    /// Ticks whenever there is something to take. Several changes may be one tick.
    fn changes(&self) -> watch::Receiver<u64>;
}
