//! Where objects come from, as a trait: Kubernetes and a directory are two implementations.

use std::time::Instant;

use heddle_policy_compiler::{Finding, KubeObject, ObjectRef};
use tokio::sync::watch;

/// What happened to the objects since the last batch. Of several changes of one object the last one is in it.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Each object that changed, with `metadata.generation`, and with `status.lastGood` where there is one; `None`: it is gone.
    pub changes: Vec<(ObjectRef, Option<KubeObject>)>,
    /// What reading found that still stands, of all objects.
    pub findings: Vec<Finding>,
    /// When the oldest of the changes was seen.
    pub since: Option<Instant>,
    /// Whether all has been read by now. Until then nothing is compiled, for what is not read yet would look deleted.
    pub complete: bool,
}

/// Gives objects.
pub trait ObjectSource: Send + Sync + 'static {
    /// What changed since the last call; at the first, everything. There is one reader.
    fn take(&self) -> Batch;

    /// Ticks whenever there is something to take. Several changes may be one tick.
    fn changes(&self) -> watch::Receiver<u64>;
}
